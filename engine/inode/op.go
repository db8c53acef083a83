package inode

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Items that operations reserve: tree items inserted, changed or deleted, each of which may dirty one path.
const (
	itemsCreate = 6 // inode with its ref (and xattrs beside), dir item, dir index, parent
	itemsUnlink = 6 // the same and an orphan item
	itemsRename = 14
	itemsAttr   = 2
	itemsExtent = 4 // extent item, checksum, inode, neighbour
	itemsEvict  = 4
)

// op is one operation under one handle.
type op struct {
	t       *FileTree
	tx      Txn
	h       Handle // nil when the handle is the caller's
	now     ondisk.Timespec
	changed bool // something has been changed: an error from now on aborts the transaction
}

// begin starts an operation; the caller holds the inode locks. freeing says that it gives space back, and so may dip
// into the reserve of a full file system.
func (t *FileTree) begin(ctx context.Context, items int, freeing bool) (op, error) {
	if ctx.Err() != nil {
		return op{}, context.Cause(ctx)
	}
	t.gate.RLock() // until end
	if t.readOnly.Load() {
		t.gate.RUnlock()
		return op{}, fmt.Errorf("subvolume %v is read-only: %w", t.id, fserr.ErrReadOnly)
	}
	start := t.cfg.Store.Start
	if freeing {
		start = t.cfg.Store.StartFreeing
	}
	h, err := start(ctx, items)
	if err != nil {
		t.gate.RUnlock()
		return op{}, err
	}
	return op{t: t, tx: h, h: h, now: t.cfg.now()}, nil
}

// with makes an operation on the caller's handle.
func (t *FileTree) with(tx Txn) *op { return &op{t: t, tx: tx, now: t.cfg.now(), changed: true} }

// end ends the handle. err is the operation's result; if it comes after the first change the transaction is aborted.
func (o *op) end(ctx context.Context, err error) error {
	if err != nil && o.changed {
		o.h.Abort(err)
	}
	// The handle goes back whatever the caller's context says by now (I12).
	if e := o.h.End(context.WithoutCancel(ctx)); err == nil {
		err = e
	}
	o.t.gate.RUnlock()
	return err
}

// start notes that the first change has been made or is about to be, and returns the context for the rest: what has
// begun is finished.
func (o *op) start(ctx context.Context) context.Context {
	o.changed = true
	if ctx.Done() == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// updateInode changes an inode item in place and stamps it with the transaction. fn runs under the leaf's lock.
func (o *op) updateInode(ctx context.Context, ino ondisk.ObjectID, fn func(it *ondisk.InodeItem)) error {
	gen := o.tx.Generation()
	err := o.t.tree.Update(ctx, o.tx, inodeKey(ino), func(item []byte) error {
		if len(item) < ondisk.InodeItemSize {
			return o.t.corrupt(ino, "inode item of %d bytes", len(item))
		}
		it := ondisk.AsInodeItem(item)
		it.SetTransID(gen)
		it.SetSequence(it.Sequence() + 1)
		fn(it)
		return nil
	})
	return o.t.at(ino, err)
}

// touch sets an inode's change time.
func (o *op) touch(ctx context.Context, ino ondisk.ObjectID) error {
	return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) { it.SetCTime(o.now) })
}
