package engine

import (
	"context"
	"fmt"

	"imgtool/engine/extent"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/ordered"
	"imgtool/engine/txn"
	"imgtool/engine/volume"
)

// store is what package inode needs of the layers beneath it.
type store struct {
	*volume.Volume  // Copies, ReadCopy, WriteBatch
	*extent.Manager // data extents, their references and checksums
	db              *txn.DB
	ordered         *ordered.Queue // small pieces of data on their way to the devices
}

// smallData is up to how many bytes a write goes through the queue: its writer does not wait for the devices. Larger
// ones have a queue depth of their own, and are not copied.
const smallData = 128 << 10

var _ inode.Store = store{}

func newStore(fs *FS) store { return store{fs.volume, fs.db.Extents(), fs.db, fs.ordered} }

// Start joins the running transaction.
func (s store) Start(ctx context.Context, items int) (inode.Handle, error) {
	h, err := s.db.Start(ctx, items)
	if err != nil {
		return nil, err // not a nil *Handle in an interface
	}
	return h, nil
}

// StartFreeing joins it for an operation that gives space back.
func (s store) StartFreeing(ctx context.Context, items int) (inode.Handle, error) {
	h, err := s.db.StartFreeing(ctx, items)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// DropDataRef drops a reference that is no shared one.
func (s store) DropDataRef(tx inode.Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64) error {
	return s.Manager.DropDataRef(tx, addr, n, root, ino, offset)
}

// WriteBatch writes file data: small pieces are queued, see package ordered. A device that fails to write ends the file
// system's writable life, here as there: what it took of the next write would be as uncertain.
func (s store) WriteBatch(ctx context.Context, ws []volume.Write) error {
	total := 0
	for _, w := range ws {
		total += len(w.Buf)
	}
	if total > smallData {
		err := s.Volume.WriteBatch(ctx, ws)
		if err != nil && ctx.Err() == nil {
			s.db.Abort(fmt.Errorf("write file data: %w", err))
		}
		return err
	}
	for _, w := range ws {
		if err := s.ordered.Write(ctx, w.Addr, w.Buf); err != nil {
			return err
		}
	}
	return nil
}

// ReadCopy reads file data, when it has been written.
func (s store) ReadCopy(ctx context.Context, addr ondisk.Logical, p []byte, mirror int) error {
	if err := s.ordered.Wait(ctx, addr, len(p)); err != nil {
		return err
	}
	return s.Volume.ReadCopy(ctx, addr, p, mirror)
}

// UnallocData gives space back that nothing refers to, once nothing is written there any more.
func (s store) UnallocData(addr ondisk.Logical, n uint64) {
	_ = s.ordered.Wait(context.Background(), addr, int(n)) // a failed queue writes nothing any more either
	s.Manager.UnallocData(addr, n)
}
