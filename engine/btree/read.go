package btree

import (
	"bytes"
	"context"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// leafRef is where a reading descent ended: a leaf, read-locked and referenced, and what its keys are below.
type leafRef struct {
	buf     *extbuf.Buffer
	bound   ondisk.Key // first key of what comes behind the leaf
	bounded bool       // false: the leaf is the last one
}

func (l *leafRef) block() ondisk.Block { return l.buf.Block() }

func (l *leafRef) release() {
	l.buf.RUnlock()
	l.buf.Release()
}

// readAhead is how many leaves a scan of a tree that is not in memory has under way.
const readAhead = 16

// prefetch starts reading the leaves behind a slot of node b that hold keys up to to, if the one at the slot is not in
// memory: a scan that comes from there will want them.
func prefetch(ctx context.Context, c *extbuf.Cache, b ondisk.Block, slot int, to *ondisk.Key) {
	if buf := c.Lookup(b.BlockPtr(slot)); buf != nil {
		buf.Release()
		return
	}
	var wants []extbuf.Want
	for i := slot + 1; i < min(slot+readAhead, b.NrItems()) && !to.Less(b.Key(i)); i++ {
		k := b.Key(i)
		wants = append(wants, extbuf.Want{Addr: b.BlockPtr(i), Expect: extbuf.Expect{Gen: b.PtrGeneration(i), FirstKey: &k}})
	}
	c.Prefetch(ctx, wants)
}

// readLeaf goes down to the leaf where key is or belongs. to, if not nil, says how far the caller is going to read on.
func (t *Tree) readLeaf(ctx context.Context, key, to *ondisk.Key) (l leafRef, err error) {
	b, err := t.lockRoot(ctx, false)
	if err != nil {
		return l, err
	}
	for {
		nb := b.Block()
		if nb.IsLeaf() {
			l.buf = b
			return l, nil
		}
		slot := childSlot(nb, key)
		if slot+1 < nb.NrItems() {
			l.bound, l.bounded = nb.Key(slot+1), true
		}
		if to != nil && nb.Level() == 1 {
			prefetch(ctx, t.cfg.Cache, nb, slot, to)
		}
		c, err := t.lockChild(ctx, nb, slot, false)
		b.RUnlock()
		b.Release()
		if err != nil {
			return l, err
		}
		b = c
	}
}

// View calls fn with an item's bytes under the leaf's read lock. It returns fserr.ErrNotFound when there is none. fn
// must neither keep nor change the bytes, nor touch a tree, nor block.
func (t *Tree) View(ctx context.Context, key ondisk.Key, fn func(item []byte) error) error {
	l, err := t.readLeaf(ctx, &key, nil)
	if err != nil {
		return err
	}
	defer l.release()
	slot, found := search(l.block(), &key)
	if !found {
		return fserr.ErrNotFound
	}
	return fn(l.block().Item(slot))
}

// Get returns a copy of an item, or fserr.ErrNotFound.
func (t *Tree) Get(ctx context.Context, key ondisk.Key) ([]byte, error) {
	return t.AppendItem(ctx, nil, key)
}

// AppendItem appends an item to buf, or returns buf and fserr.ErrNotFound.
func (t *Tree) AppendItem(ctx context.Context, buf []byte, key ondisk.Key) ([]byte, error) {
	l, err := t.readLeaf(ctx, &key, nil)
	if err != nil {
		return buf, err
	}
	slot, found := search(l.block(), &key)
	if !found {
		l.release()
		return buf, fserr.ErrNotFound
	}
	buf = append(buf, l.block().Item(slot)...)
	if buf == nil {
		buf = []byte{} // an item without data
	}
	l.release()
	return buf, nil
}

// SeekGE returns the first item whose key is not below key; ok is false if there is none.
func (t *Tree) SeekGE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	l, slot, ok, err := t.leafGE(ctx, key)
	if !ok {
		return k, nil, false, err
	}
	k, item = l.block().Key(slot), bytes.Clone(l.block().Item(slot))
	l.release()
	return k, item, true, nil
}

// leafGE finds the first item whose key is not below key.
func (t *Tree) leafGE(ctx context.Context, key ondisk.Key) (l leafRef, slot int, ok bool, err error) {
	for {
		if l, err = t.readLeaf(ctx, &key, nil); err != nil {
			return l, 0, false, err
		}
		if slot, _ = search(l.block(), &key); slot < l.block().NrItems() {
			return l, slot, true, nil
		}
		l.release()
		if !l.bounded {
			return l, 0, false, nil
		}
		key = l.bound // above the old one, so this ends
	}
}

// SeekLE returns the last item whose key is not above key; ok is false if there is none.
func (t *Tree) SeekLE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	l, slot, ok, err := t.leafLE(ctx, key)
	if !ok {
		return k, nil, false, err
	}
	k, item = l.block().Key(slot), bytes.Clone(l.block().Item(slot))
	l.release()
	return k, item, true, nil
}

// KeyLE is SeekLE for those who want the key only: items of checksums fill a leaf.
func (t *Tree) KeyLE(ctx context.Context, key ondisk.Key) (k ondisk.Key, ok bool, err error) {
	l, slot, ok, err := t.leafLE(ctx, key)
	if !ok {
		return k, false, err
	}
	k = l.block().Key(slot)
	l.release()
	return k, true, nil
}

// leafLE finds the last item whose key is not above key. Since key i of a node is the first key of child i, it is in
// the leaf that the search leads to, or nowhere.
func (t *Tree) leafLE(ctx context.Context, key ondisk.Key) (l leafRef, slot int, ok bool, err error) {
	if l, err = t.readLeaf(ctx, &key, nil); err != nil {
		return l, 0, false, err
	}
	slot, found := search(l.block(), &key)
	if !found {
		slot--
	}
	if slot < 0 {
		l.release()
		return l, 0, false, nil
	}
	return l, slot, true, nil
}
