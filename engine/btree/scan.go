package btree

import (
	"context"

	"imgtool/engine/ondisk"
)

// Scan calls fn for the items with from <= key <= to in ascending order, under the read lock of their leaf, until fn
// answers no more or an error. Between leaves no lock is held, so the items are those of one moment only leaf by leaf.
// fn must not keep or change the item, touch this tree, or wait for somebody who does.
func (t *Tree) Scan(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	for !to.Less(from) {
		l, err := t.readLeaf(ctx, &from, &to)
		if err != nil {
			return err
		}
		b := l.block()
		more := true
		for i, _ := search(b, &from); i < b.NrItems() && more && err == nil; i++ {
			k := b.Key(i)
			if to.Less(k) {
				more = false
				break
			}
			more, err = fn(k, b.Item(i))
		}
		l.release()
		if err != nil || !more || !l.bounded {
			return err
		}
		from = l.bound
	}
	return nil
}

// ScanRev is Scan in descending order, from the largest key not above to.
func (t *Tree) ScanRev(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	for !to.Less(from) {
		l, slot, ok, err := t.leafLE(ctx, to)
		if !ok {
			return err
		}
		b := l.block()
		first := b.Key(0)
		more := true
		for ; slot >= 0 && more && err == nil; slot-- {
			k := b.Key(slot)
			if k.Less(from) {
				more = false
				break
			}
			more, err = fn(k, b.Item(slot))
		}
		l.release()
		if err != nil || !more {
			return err
		}
		if to, ok = prevKey(first); !ok {
			return nil
		}
	}
	return nil
}

// Cursor walks the current tree item by item. It keeps the leaf that it stands in read-locked, also between calls: its
// user must not write to the tree, nor wait for one who does, before Close. Not safe for concurrent use.
type Cursor struct {
	t    *Tree
	ctx  context.Context
	leaf leafRef
	slot int // -1: nowhere
}

// NewCursor returns a cursor that stands nowhere.
func NewCursor(ctx context.Context, t *Tree) *Cursor { return &Cursor{t: t, ctx: ctx, slot: -1} }

// Close lets go of the leaf. It may be called again, and Seek after it.
func (c *Cursor) Close() {
	if c.slot >= 0 {
		c.leaf.release()
		c.slot = -1
	}
}

// Seek goes to the first item whose key is not below key; ok is false, and the cursor nowhere, if there is none.
func (c *Cursor) Seek(key ondisk.Key) (ok bool, err error) {
	c.Close()
	return c.stand(c.t.leafGE(c.ctx, key))
}

// SeekLE goes to the last item whose key is not above key.
func (c *Cursor) SeekLE(key ondisk.Key) (ok bool, err error) {
	c.Close()
	return c.stand(c.t.leafLE(c.ctx, key))
}

func (c *Cursor) stand(l leafRef, slot int, ok bool, err error) (bool, error) {
	if ok {
		c.leaf, c.slot = l, slot
	}
	return ok, err
}

// Next goes to the next item. At the end, or from nowhere, ok is false and the cursor nowhere.
func (c *Cursor) Next() (ok bool, err error) {
	switch {
	case c.slot < 0:
		return false, nil
	case c.slot+1 < c.leaf.block().NrItems():
		c.slot++
		return true, nil
	}
	bound, bounded := c.leaf.bound, c.leaf.bounded
	c.Close()
	if !bounded {
		return false, nil
	}
	return c.stand(c.t.leafGE(c.ctx, bound))
}

// Prev goes to the item before.
func (c *Cursor) Prev() (ok bool, err error) {
	if c.slot < 0 {
		return false, nil
	}
	if c.slot > 0 {
		c.slot--
		return true, nil
	}
	before, ok := prevKey(c.Key())
	c.Close()
	if !ok {
		return false, nil
	}
	return c.stand(c.t.leafLE(c.ctx, before))
}

// Valid reports whether the cursor stands on an item.
func (c *Cursor) Valid() bool { return c.slot >= 0 }

// Key returns the key of the item that the cursor stands on.
func (c *Cursor) Key() ondisk.Key { return c.leaf.block().Key(c.slot) }

// Item returns the item's bytes, which are good until the next call that moves the cursor.
func (c *Cursor) Item() []byte { return c.leaf.block().Item(c.slot) }
