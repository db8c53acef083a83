package btree

import (
	"context"
	"errors"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Delete removes an item. It returns fserr.ErrNotFound when there is none of that key.
func (t *Tree) Delete(ctx context.Context, tx Txn, key ondisk.Key) error {
	gen := tx.Generation()
	leaf, err := t.lockLeafInPlace(ctx, gen, &key)
	if err != nil {
		return err
	}
	if leaf != nil {
		b := leaf.Block()
		slot, found := search(b, &key)
		stays := found && slot > 0 && !t.sparseLeaf(b, ondisk.ItemSize+b.ItemSize(slot))
		if stays {
			leafDelete(b, slot, slot+1)
		}
		leaf.Unlock()
		leaf.Release()
		switch {
		case !found:
			return fserr.ErrNotFound
		case stays:
			return nil
		}
	}
	p := path{t: t, ctx: ctx, tx: tx, gen: gen}
	defer p.release()
	if err := p.descend(&key, toDelete); err != nil {
		return err
	}
	slot, found := search(p.leaf(), &key)
	if !found {
		return fserr.ErrNotFound
	}
	leafDelete(p.leaf(), slot, slot+1)
	return p.deleted(slot == 0)
}

// sparseLeaf reports whether a leaf, less some bytes, is to be merged with a neighbour: when it is less than a third
// full, as in the kernel (fs/btrfs/ctree.c, btrfs_del_items). Where space is tight half full will do, since otherwise
// deleting every other file of a full file system makes room for none.
func (t *Tree) sparseLeaf(b ondisk.Block, less int) bool {
	used := leafUsed(b) - less
	return used < leafCap(b)/3 || used <= leafCap(b)/2 && t.cfg.Tight != nil && t.cfg.Tight()
}

// DeleteRange calls fn for the items with from <= key <= to in ascending order and removes those for which it answers
// del, until it answers no more. fn is called once an item, under the leaf's write lock; once it has answered del
// without an error the item is gone, so fn may record what goes with it. An error of fn ends the operation and keeps
// the item it was called for. With a nil fn all go. The work is done leaf by leaf; other operations may come between.
func (t *Tree) DeleteRange(ctx context.Context, tx Txn, from, to ondisk.Key,
	fn func(k ondisk.Key, item []byte) (del, more bool, err error)) error {
	p := path{t: t, ctx: ctx, tx: tx, gen: tx.Generation()}
	defer p.release()
	for more := true; more && !to.Less(from); {
		if err := p.descend(&from, toDelete); err != nil {
			return err
		}
		bound, bounded := p.bound, p.bounds
		var first, gone int
		var err error
		first, gone, more, err = p.deleteInLeaf(&from, &to, fn)
		if gone > 0 {
			if derr := p.deleted(first == 0); derr != nil {
				return errors.Join(derr, err)
			}
		}
		p.release()
		if err != nil || !bounded {
			return err
		}
		from = bound
	}
	return nil
}

// deleteInLeaf does DeleteRange in the leaf of the path: first is the first slot of the range, gone how many items
// went, more whether to go on with the next leaf.
func (p *path) deleteInLeaf(from, to *ondisk.Key, fn func(ondisk.Key, []byte) (bool, bool, error)) (first, gone int, more bool, err error) {
	b := p.leaf()
	first, _ = search(b, from)
	run, i := first, first // items [run, i) are to go, all at once
	for more = true; more && err == nil && i < b.NrItems(); {
		k := b.Key(i)
		if to.Less(k) {
			more = false
			break
		}
		del := true
		if fn != nil {
			del, more, err = fn(k, b.Item(i))
		}
		if del && err == nil {
			i++
			continue
		}
		leafDelete(b, run, i)
		gone += i - run
		run++ // the item that stays
		i = run
	}
	leafDelete(b, run, i)
	return first, gone + i - run, more, err
}
