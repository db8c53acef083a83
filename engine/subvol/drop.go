package subvol

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/btree"
	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// dropBatch is how many tree blocks of a deleted subvolume one handle lets go of, before it notes its progress and
// makes room for other writers.
const dropBatch = 512

// dropper takes a dead tree apart, block by block (the algorithm is that of btrfs_drop_snapshot).
//
// A block that only this tree refers to is read, its children are dropped, and then the block. A block that others
// refer to as well only loses this tree's reference; but if it was born in this tree, the references on what it points
// to are in this tree's name and must first be rewritten into shared ones (convert), all the way down.
//
// Progress is a stack of nodes, each with the next slot. What it says is kept in the root item as drop_progress (the
// key in that slot) and drop_level (the level of the node), so that a crash, or a close, is resumed. Nodes on the stack
// have one reference and belong to a dead tree: nobody else reads or changes them.
type dropper struct {
	db    *txn.DB
	root  *txn.Root
	h     *txn.Handle
	stack []frame // from the root node down
	left  int     // blocks that the current handle may still take
}

type frame struct {
	buf  *extbuf.Buffer
	slot int
	full bool // its children's references are shared ones
}

// place is how a block is reached.
type place struct {
	addr   ondisk.Logical
	level  uint8
	gen    ondisk.Generation
	first  *ondisk.Key
	parent ondisk.Logical // not 0: the reference is a shared one of this parent
}

// Drop takes the tree of a deleted subvolume apart and removes its root item and its orphan item. It uses handles of
// its own, as many as it takes; after a cancellation or a crash another call goes on where it stopped. Nobody else may
// drop the same tree meanwhile (Manager.lockDropping).
func Drop(ctx context.Context, db *txn.DB, id ondisk.TreeID) error {
	root, err := db.AnyRoot(ctx, id)
	if err != nil {
		return err
	}
	if it := root.Snapshot(); it.Refs() != 0 {
		return fmt.Errorf("internal: subvolume %d is alive and cannot be dropped", id)
	}
	root.Tree.Retire() // who still reads it must not write back what is about to be free
	d := &dropper{db: db, root: root}
	defer d.close()
	for done := false; !done; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if done, err = d.batch(ctx); err != nil {
			return fmt.Errorf("drop subvolume %d: %w", id, err)
		}
	}
	return nil
}

func (d *dropper) close() {
	for _, f := range d.stack {
		f.buf.Release()
	}
	d.stack = nil
}

// batch is one handle's work. From its first change on the caller's context is not looked at any more.
func (d *dropper) batch(ctx context.Context) (bool, error) {
	h, err := d.db.StartFreeing(ctx, 16)
	if err != nil {
		return false, err
	}
	ctx = context.WithoutCancel(ctx)
	d.h, d.left = h, dropBatch
	done, err := d.work(ctx)
	if err == nil {
		if done {
			err = d.finish(ctx)
		} else {
			d.saveProgress()
		}
	}
	if err != nil {
		h.Abort(err)
	}
	return done, errors.Join(err, h.End(ctx))
}

// work drops blocks until the batch is full or the tree is gone.
func (d *dropper) work(ctx context.Context) (bool, error) {
	if len(d.stack) == 0 {
		if err := d.begin(ctx); err != nil {
			return false, err
		}
	}
	for len(d.stack) > 0 {
		f := &d.stack[len(d.stack)-1]
		b := f.buf.Block()
		if f.slot >= b.NrItems() {
			if err := d.pop(ctx); err != nil {
				return false, err
			}
			continue
		}
		if d.left <= 0 {
			return false, nil
		}
		key := b.Key(f.slot)
		p := place{addr: b.BlockPtr(f.slot), level: b.Level() - 1, gen: b.PtrGeneration(f.slot), first: &key}
		if f.full {
			p.parent = f.buf.Addr()
		}
		f.slot++
		if err := d.block(ctx, p); err != nil {
			return false, err
		}
	}
	return true, nil
}

// begin looks at the root node, and after an interruption goes down to where drop_progress points.
func (d *dropper) begin(ctx context.Context) error {
	addr, level, gen := d.root.Tree.Root()
	item := d.root.Snapshot()
	progress, stop := item.DropProgress(), item.DropLevel()
	if progress == (ondisk.Key{}) && stop == 0 {
		return d.block(ctx, place{addr: addr, level: level, gen: gen})
	}
	if stop == 0 || stop > level {
		return fserr.Corruptf("root item", uint64(d.root.ID()), 0, "invalid drop_level, have %d expect 1 to %d", stop, level)
	}
	p := place{addr: addr, level: level, gen: gen}
	for {
		buf, err := d.read(ctx, p)
		if err != nil {
			return err
		}
		_, flags, err := d.db.Extents().ExtentInfo(ctx, d.h, p.addr, p.level)
		if err != nil {
			buf.Release()
			return err
		}
		b := buf.Block()
		slot, found := b.Search(progress)
		if !found && p.level > stop && slot > 0 {
			slot-- // the child that holds the key
		}
		d.stack = append(d.stack, frame{buf: buf, slot: slot, full: flags&ondisk.ExtentFlagFullBackref != 0})
		if p.level == stop || slot >= b.NrItems() {
			return nil
		}
		key := b.Key(slot)
		p = place{addr: b.BlockPtr(slot), level: p.level - 1, gen: b.PtrGeneration(slot), first: &key}
		d.stack[len(d.stack)-1].slot++
	}
}

func (d *dropper) read(ctx context.Context, p place) (*extbuf.Buffer, error) {
	return d.db.Cache().Read(ctx, p.addr, extbuf.Expect{Level: p.level, Gen: p.gen, FirstKey: p.first})
}

// block drops one reference of the tree: a shared block loses it, one of our own is opened (a node) or emptied and
// dropped (a leaf).
func (d *dropper) block(ctx context.Context, p place) error {
	d.left--
	refs, flags, err := d.db.Extents().ExtentInfo(ctx, d.h, p.addr, p.level)
	if err != nil {
		return err
	}
	full := flags&ondisk.ExtentFlagFullBackref != 0
	if refs > 1 {
		return d.shared(ctx, p)
	}
	buf, err := d.read(ctx, p)
	if err != nil {
		return err
	}
	if p.level > 0 {
		d.stack = append(d.stack, frame{buf: buf, full: full})
		return nil
	}
	defer buf.Release()
	if err := d.db.Extents().ModChildRefs(ctx, d.h, d.root.ID(), buf.Block(), false, full); err != nil {
		return err
	}
	return d.free(ctx, p, buf, true)
}

// shared lets go of a block that others refer to as well. The block is locked from the look at its references until ours
// is dropped, as a COW by the others has it locked: whoever goes last must see that he does, since he drops what the
// block points to.
func (d *dropper) shared(ctx context.Context, p place) error {
	buf, err := d.read(ctx, p)
	if err != nil {
		return err
	}
	defer buf.Release()
	last, err := d.leave(ctx, p, buf)
	if err == nil && last { // the others went meanwhile: it is ours alone now
		err = d.block(ctx, p)
	}
	return err
}

// leave drops the reference on a shared block, unless it is the last one.
func (d *dropper) leave(ctx context.Context, p place, buf *extbuf.Buffer) (last bool, err error) {
	buf.Lock()
	defer buf.Unlock()
	refs, flags, err := d.db.Extents().ExtentInfo(ctx, d.h, p.addr, p.level)
	if err != nil || refs <= 1 {
		return true, err
	}
	full := flags&ondisk.ExtentFlagFullBackref != 0
	if p.gen > ondisk.Generation(d.root.Key.Offset) && (p.level > 0 || !full) {
		if err := d.convert(ctx, buf); err != nil {
			return false, err
		}
	}
	return false, d.free(ctx, p, nil, false)
}

// convert rewrites the references that a shared block of this tree's making holds on its children into shared ones,
// and does the same to those of its children that are of this tree's making. buf is write-locked.
func (d *dropper) convert(ctx context.Context, buf *extbuf.Buffer) error {
	b, id := buf.Block(), d.root.ID()
	if b.Header().Owner() != id {
		return nil
	}
	ext, level := d.db.Extents(), b.Level()
	_, flags, err := ext.ExtentInfo(ctx, d.h, buf.Addr(), level)
	if err != nil {
		return err
	}
	if flags&ondisk.ExtentFlagFullBackref == 0 {
		d.left--
		if err := ext.ModChildRefs(ctx, d.h, id, b, true, true); err != nil {
			return err
		}
		if err := ext.ModChildRefs(ctx, d.h, id, b, false, false); err != nil {
			return err
		}
		if err := ext.SetBlockFlags(d.h, buf.Addr(), level, b.Key(0), ondisk.ExtentFlagFullBackref); err != nil {
			return err
		}
	}
	if level == 0 {
		return nil
	}
	for i := range b.NrItems() {
		if err := d.convertChild(ctx, b, i); err != nil {
			return err
		}
	}
	return nil
}

func (d *dropper) convertChild(ctx context.Context, b ondisk.Block, i int) error {
	// What is older than the snapshot that this tree began as was never in this tree's name.
	if b.PtrGeneration(i) <= ondisk.Generation(d.root.Key.Offset) {
		return nil
	}
	key := b.Key(i)
	p := place{addr: b.BlockPtr(i), level: b.Level() - 1, gen: b.PtrGeneration(i), first: &key}
	if p.level == 0 {
		_, flags, err := d.db.Extents().ExtentInfo(ctx, d.h, p.addr, 0)
		if err != nil || flags&ondisk.ExtentFlagFullBackref != 0 {
			return err
		}
	}
	child, err := d.read(ctx, p)
	if err != nil {
		return err
	}
	defer child.Release()
	child.Lock()
	defer child.Unlock()
	return d.convert(ctx, child)
}

// pop drops the node on top of the stack, whose children are all gone.
func (d *dropper) pop(ctx context.Context) error {
	f := d.stack[len(d.stack)-1]
	d.stack = d.stack[:len(d.stack)-1]
	defer f.buf.Release()
	b := f.buf.Block()
	p := place{addr: f.buf.Addr(), level: b.Level(), gen: b.Header().Generation()}
	if n := len(d.stack); n > 0 && d.stack[n-1].full {
		p.parent = d.stack[n-1].buf.Addr()
	}
	d.left--
	return d.free(ctx, p, f.buf, true)
}

// free queues the drop of the tree's reference on a block; buf is nil when others keep the block.
func (d *dropper) free(ctx context.Context, p place, buf *extbuf.Buffer, last bool) error {
	written := buf == nil || buf.Written()
	freed, err := d.db.Extents().DropTreeBlock(ctx, d.h, btree.DropReq{
		Addr: p.addr, Born: p.gen, Owner: d.root.ID(), Level: p.level, Parent: p.parent, Written: written, Last: last,
	})
	if err == nil && freed && buf != nil {
		d.db.Cache().Forget(buf)
	}
	return err
}

// saveProgress notes the next slot of the lowest open node; work stops only where there is one.
func (d *dropper) saveProgress() {
	f := d.stack[len(d.stack)-1]
	b := f.buf.Block()
	key, level := b.Key(f.slot), b.Level()
	d.root.Update(d.h, func(it *ondisk.RootItem) {
		it.SetDropProgress(key)
		it.SetDropLevel(level)
	})
}

// finish removes what is left of a tree without blocks.
func (d *dropper) finish(ctx context.Context) error {
	rt := d.db.RootTree()
	if err := rt.Delete(ctx, d.h, d.root.Key); err != nil {
		return fmt.Errorf("root item: %w", err)
	}
	err := rt.Delete(ctx, d.h, orphanKey(d.root.ID()))
	if err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return fmt.Errorf("orphan item: %w", err)
	}
	d.db.ForgetRoot(d.h, d.root.ID())
	return nil
}

func orphanKey(id ondisk.TreeID) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: uint64(id)}
}
