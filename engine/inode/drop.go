package inode

import (
	"context"

	"imgtool/engine/ondisk"
)

// apply carries out a plan.
func (o *op) apply(ctx context.Context, ino ondisk.ObjectID, p *dropPlan) error {
	if err := o.applyItems(ctx, ino, p, noKeep); err != nil {
		return err
	}
	return o.applyRefs(ino, p)
}

// applyItems changes a plan's items. keep is the offset of an item that is about to be replaced by another with the same
// key, which saves a deletion; noKeep for none.
func (o *op) applyItems(ctx context.Context, ino ondisk.ObjectID, p *dropPlan, keep uint64) error {
	t := o.t
	del := p.deletes
	if len(del) > 0 && del[0] == keep {
		del = del[1:]
	}
	if err := o.deleteExtents(ctx, ino, del); err != nil {
		return err
	}
	for i := range p.shorten {
		if err := o.rewrite(ctx, ino, p.shorten[i].Start, &p.shorten[i]); err != nil {
			return err
		}
	}
	for i := range p.move {
		m := &p.move[i]
		if err := t.tree.Delete(ctx, o.tx, typeKey(ino, ondisk.ExtentDataKey, m.from)); err != nil {
			return t.at(ino, err)
		}
		if err := o.insertExtent(ctx, ino, &m.ext); err != nil {
			return err
		}
	}
	for i := range p.inserts {
		if err := o.insertExtent(ctx, ino, &p.inserts[i]); err != nil {
			return err
		}
	}
	return nil
}

// applyRefs queues a plan's reference changes, when all its items, kept ones included, have been changed: a reference in
// this tree's name may be there only since the leaf was copied for that, and what drops it may run at once.
func (o *op) applyRefs(ino ondisk.ObjectID, p *dropPlan) error {
	t := o.t
	// References come before others go: an extent that is cut in two never looks unreferenced.
	for _, r := range p.adds {
		if err := t.cfg.Store.AddDataRef(o.tx, r.addr, r.n, t.id, ino, r.offset, false); err != nil {
			return t.at(ino, err)
		}
	}
	for _, r := range p.drops {
		if err := t.cfg.Store.DropDataRef(o.tx, r.addr, r.n, t.id, ino, r.offset); err != nil {
			return t.at(ino, err)
		}
	}
	return nil
}

const noKeep = ^uint64(0)

// deleteExtents deletes EXTENT_DATA items that are neighbours.
func (o *op) deleteExtents(ctx context.Context, ino ondisk.ObjectID, at []uint64) error {
	switch len(at) {
	case 0:
		return nil
	case 1:
		return o.t.at(ino, o.t.tree.Delete(ctx, o.tx, typeKey(ino, ondisk.ExtentDataKey, at[0])))
	}
	n := 0
	err := o.t.tree.DeleteRange(ctx, o.tx, typeKey(ino, ondisk.ExtentDataKey, at[0]), typeKey(ino, ondisk.ExtentDataKey, at[len(at)-1]),
		func(ondisk.Key, []byte) (del, more bool, err error) { n++; return true, true, nil })
	if err == nil && n != len(at) {
		return o.t.corrupt(ino, "%d file extents between %d and %d, expected %d", n, at[0], at[len(at)-1], len(at))
	}
	return o.t.at(ino, err)
}

// rewrite replaces the fields of an item in place; the item keeps its generation, which says when its data was written.
func (o *op) rewrite(ctx context.Context, ino ondisk.ObjectID, at uint64, e *Extent) error {
	err := o.t.tree.Update(ctx, o.tx, typeKey(ino, ondisk.ExtentDataKey, at), func(item []byte) error {
		f := ondisk.AsFileExtentItem(item)
		f.SetNumBytes(e.Len)
		f.SetOffset(e.Offset)
		f.SetRAMBytes(e.RAMBytes)
		return nil
	})
	return o.t.at(ino, err)
}

// insertExtent inserts an item with the generation that it has; a generation of 0 becomes the transaction's.
func (o *op) insertExtent(ctx context.Context, ino ondisk.ObjectID, e *Extent) error {
	return o.t.at(ino, o.t.tree.Insert(ctx, o.tx, typeKey(ino, ondisk.ExtentDataKey, e.Start), o.extentItem(e)))
}

func (o *op) extentItem(e *Extent) []byte {
	gen := e.Generation
	if gen == 0 {
		gen = o.tx.Generation()
	}
	var b [ondisk.FileExtentItemSize]byte
	return e.put(&b, gen)
}

// replace frees [start, end) of a file of its old extents, given as exts, and puts the new ones there, which cover no
// more than that. References on the new ones are the caller's. It returns by how much the inode's nbytes changes.
func (o *op) replace(ctx context.Context, ino ondisk.ObjectID, exts []Extent, start, end uint64, with []Extent) (int64, error) {
	p := planDrop(exts, start, end)
	keep := uint64(noKeep)
	if len(with) > 0 && len(p.deletes) > 0 && p.deletes[0] == with[0].Start {
		keep = with[0].Start
	}
	if err := o.applyItems(ctx, ino, &p, keep); err != nil {
		return 0, err
	}
	delta := -int64(p.bytes)
	for i := range with {
		e := &with[i]
		delta += int64(e.bytes())
		key := typeKey(ino, ondisk.ExtentDataKey, e.Start)
		item := e.Inline
		if e.Type != ondisk.FileExtentInline {
			item = o.extentItem(e)
		} else {
			item = o.inlineItem(item)
		}
		var err error
		if e.Start == keep {
			err = o.t.tree.Put(ctx, o.tx, key, item)
		} else {
			err = o.t.tree.Insert(ctx, o.tx, key, item)
		}
		if err != nil {
			return 0, o.t.at(ino, err)
		}
	}
	return delta, o.applyRefs(ino, &p)
}
