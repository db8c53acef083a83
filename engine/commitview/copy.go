package commitview

import (
	"context"

	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
)

// CopyLeaf copies the leaf with the first item whose key is not less than key into dst, which has the size of a node,
// and returns that item's slot; ok is false when there is none. A reader that goes through a whole tree takes one copy
// a leaf and then holds neither path nor buffer. ahead is how many of the following leaves are read ahead.
func (v *View) CopyLeaf(ctx context.Context, key ondisk.Key, dst ondisk.Block, ahead int) (slot int, ok bool, err error) {
	var r Result
	err = v.run(ctx, &key, &r, func(w *walk) error {
		var err error
		if ok, err = w.atOrAfter(ctx); !ok || err != nil {
			return err
		}
		slot = w.leaf().slot
		copy(dst, w.leaf().block)
		if w.n > 1 && ahead > 0 && w.policy != Shared {
			up := &w.steps[w.n-2]
			prefetch(ctx, w.db.cache, up.block, up.slot+1, ahead, 0)
		}
		return nil
	})
	return slot, ok && err == nil, err
}

// CopyBlock copies the block of the given level on the way to key into dst, which has the size of a node; of a tree that
// is not that high, its root. The caller compares and descends two trees with it: it holds keys and copies only, so
// that every step is a quiescent point, and each step is a search that begins at the commit root.
func (v *View) CopyBlock(ctx context.Context, level uint8, key ondisk.Key, dst ondisk.Block) error {
	var r Result
	return v.runTo(ctx, level, &key, &r, func(w *walk) error {
		copy(dst, w.leaf().block)
		return nil
	})
}

// Prefetch begins to read at most n of the blocks that a copied node points to, from a slot on: those newer than a
// generation. It is advice; a block that is not what the pointer promises any more does not get into the cache.
func (v *View) Prefetch(ctx context.Context, node ondisk.Block, slot, n int, newer ondisk.Generation) {
	if v.Policy() != Shared {
		prefetch(ctx, v.db.Cache(), node, slot, n, newer)
	}
}

// Leave gives the ticket up, for a reader that is going to wait for something: what only it held back is let go. The
// next operation returns fserr.ErrViewExpired; Quiesce takes a new ticket. As Quiesce it is called at a quiescent
// point. Policies without tickets hold nothing.
func (v *View) Leave() {
	if v.Policy() == Epoch {
		v.dropCapture(nil)
	}
}

// maxPrefetch bounds the reads that one call begins.
const maxPrefetch = 16

func prefetch(ctx context.Context, cache *extbuf.Cache, node ondisk.Block, slot, n int, newer ondisk.Generation) {
	var wants [maxPrefetch]extbuf.Want
	var firsts [maxPrefetch]ondisk.Key
	list := wants[:0]
	for i := slot; i < items(node) && len(list) < min(n, maxPrefetch); i++ {
		p := ofPointer(node, i)
		if p.gen <= newer {
			continue
		}
		k := &firsts[len(list)]
		*k = p.first
		list = append(list, extbuf.Want{Addr: p.addr, Expect: extbuf.Expect{Level: p.level, Gen: p.gen, FirstKey: k}})
	}
	cache.Prefetch(ctx, list)
}
