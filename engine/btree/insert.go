package btree

import (
	"context"
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Insert adds an item. It returns fserr.ErrExist when the key is taken.
func (t *Tree) Insert(ctx context.Context, tx Txn, key ondisk.Key, data []byte) error {
	gen := tx.Generation()
	leaf, err := t.lockLeafInPlace(ctx, gen, &key)
	if err != nil {
		return err
	}
	if leaf != nil {
		b := leaf.Block()
		slot, found := search(b, &key)
		fits := slot > 0 && b.LeafFree() >= ondisk.ItemSize+len(data)
		if fits && !found {
			copy(leafInsert(b, slot, key, len(data)), data)
		}
		leaf.Unlock()
		leaf.Release()
		switch {
		case found:
			return fserr.ErrExist
		case fits:
			return nil
		}
	}
	p := path{t: t, ctx: ctx, tx: tx, gen: gen}
	defer p.release()
	if err := p.descend(&key, toInsert); err != nil {
		return err
	}
	slot, found := search(p.leaf(), &key)
	if found {
		return fserr.ErrExist
	}
	return p.put(change{key: key, slot: slot, size: len(data)}, data)
}

// InsertBatch adds items whose keys ascend, filling leaf after leaf with one descent each. When it fails, the items
// before the one that failed have been inserted; fserr.ErrExist when that one's key is taken.
func (t *Tree) InsertBatch(ctx context.Context, tx Txn, items []Item) error {
	p := path{t: t, ctx: ctx, tx: tx, gen: tx.Generation()}
	defer p.release()
	for i := range items {
		it := &items[i]
		switch {
		case i == 0:
		case !items[i-1].Key.Less(it.Key):
			return fmt.Errorf("%w: batch for tree %d is not in order: %v after %v",
				fserr.ErrInvalid, int64(t.cfg.ID), it.Key, items[i-1].Key)
		case p.nodes[0] != nil && !(p.bounds && !it.Key.Less(p.bound)) && fits(p.leaf(), it):
			// Still this leaf. Behind a split the parent may have no room for another one: see fits.
		default:
			p.release()
		}
		if p.nodes[0] == nil {
			if err := p.descend(&it.Key, toInsert); err != nil {
				return err
			}
		}
		slot, found := search(p.leaf(), &it.Key)
		if found {
			return fserr.ErrExist
		}
		if err := p.put(change{key: it.Key, slot: slot, size: len(it.Data)}, it.Data); err != nil {
			return err
		}
	}
	return nil
}

// fits reports whether a leaf has room for an item.
func fits(b ondisk.Block, it *Item) bool { return b.LeafFree() >= ondisk.ItemSize+len(it.Data) }

// put makes the change and fills in the data.
func (p *path) put(c change, data []byte) error {
	dst, err := p.place(c)
	if err != nil {
		return err
	}
	copy(dst, data)
	return nil
}

// place makes the change to the leaf of the path, by moving or splitting if it has to, and returns the data of the
// changed item for the caller to fill. No item has changed when it fails.
func (p *path) place(c change) ([]byte, error) {
	b := p.leaf()
	if most := ondisk.MaxItemSize(len(b)); c.size > most {
		return nil, fmt.Errorf("%w: item %v of %d bytes in tree %d, the limit is %d",
			fserr.ErrOverflow, c.key, c.size, int64(p.t.cfg.ID), most)
	}
	if c.replace {
		if b.LeafFree() >= c.size-b.ItemSize(c.slot) {
			return leafResize(b, c.slot, c.size), nil
		}
	} else if b.LeafFree() >= ondisk.ItemSize+c.size {
		data := leafInsert(b, c.slot, c.key, c.size)
		if c.slot == 0 {
			p.carryFirstKey(0)
		}
		return data, nil
	}
	if data, done := p.pushLeaf(c); done {
		return data, nil
	}
	return p.splitLeaf(c)
}

// lockLeafInPlace returns the leaf where key is or belongs, write-locked and referenced, if it may be changed in place
// as it is, else nil. On its way it takes read locks only, so writers in different leaves do not meet; and since it
// leaves the parents alone, the caller may change neither the leaf's first key nor its bounds.
func (t *Tree) lockLeafInPlace(ctx context.Context, gen ondisk.Generation, key *ondisk.Key) (*extbuf.Buffer, error) {
	b, err := t.lockRoot(ctx, false)
	if err != nil {
		return nil, err
	}
	for level := b.Level(); ; level-- {
		if level == 0 { // the root is a leaf: the caller's full descent is as short
			b.RUnlock()
			b.Release()
			return nil, nil
		}
		nb := b.Block()
		slot := childSlot(nb, key)
		if level == 1 && nb.PtrGeneration(slot) != gen {
			b.RUnlock()
			b.Release()
			return nil, nil
		}
		c, err := t.lockChild(ctx, nb, slot, level == 1)
		b.RUnlock()
		b.Release()
		if err != nil {
			return nil, err
		}
		if level == 1 {
			if t.mustCOW(c, gen) {
				c.Unlock()
				c.Release()
				return nil, nil
			}
			return c, nil
		}
		b = c
	}
}
