package commitview

import (
	"cmp"
	"context"
	"slices"

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
			w.prefetchBehind(ctx, &w.steps[w.n-2], ahead)
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

// Prefetch begins to read the blocks that slots of a copied node point to, in ascending order and at most MaxPrefetch of
// them, for a reader that comes to one after the other. It does nothing while half of them are there or on their way:
// so that they are asked for by the half, and neighbours on the disk are read at once. It is advice; a block that is
// not what the pointer promises any more does not get into the cache.
func (v *View) Prefetch(ctx context.Context, node ondisk.Block, slots []int) {
	if v.Policy() != Shared {
		prefetch(ctx, v.db.Cache(), node, slots)
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

// MaxPrefetch bounds the reads that one Prefetch begins.
const MaxPrefetch = 32

func prefetch(ctx context.Context, cache *extbuf.Cache, node ondisk.Block, slots []int) {
	slots = slots[:min(len(slots), MaxPrefetch)]
	if len(slots) == 0 || cache.Knows(node.BlockPtr(slots[len(slots)/2])) {
		return
	}
	var wants [MaxPrefetch]extbuf.Want
	var firsts [MaxPrefetch]ondisk.Key
	for n, i := range slots {
		p := ofPointer(node, i)
		firsts[n] = p.first
		wants[n] = extbuf.Want{Addr: p.addr, Expect: extbuf.Expect{Level: p.level, Gen: p.gen, FirstKey: &firsts[n]}}
	}
	list := wants[:len(slots)]
	slices.SortFunc(list, func(a, b extbuf.Want) int { return cmp.Compare(a.Addr, b.Addr) })
	cache.Prefetch(ctx, list)
}

// readAround begins to read the leaf that the path goes to from the node at its end, and those behind it, if it has to be
// read at all.
func (w *walk) readAround(ctx context.Context) {
	s := w.leaf()
	if s.block.Level() == 1 && !w.db.cache.Knows(s.block.BlockPtr(s.slot)) {
		before := *s
		before.slot--
		w.prefetchBehind(ctx, &before, w.ahead)
	}
}

// prefetchBehind is prefetch for the n blocks behind the one that the path goes to from a node.
func (w *walk) prefetchBehind(ctx context.Context, node *step, n int) {
	var slots [MaxPrefetch]int
	first := node.slot + 1
	n = min(n, MaxPrefetch, items(node.block)-first)
	for i := range n {
		slots[i] = first + i
	}
	prefetch(ctx, w.db.cache, node.block, slots[:max(n, 0)])
}
