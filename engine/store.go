package engine

import (
	"context"

	"imgtool/engine/extent"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
	"imgtool/engine/volume"
)

// store is what package inode needs of the layers beneath it.
type store struct {
	*volume.Volume  // Copies, ReadCopy, WriteBatch
	*extent.Manager // data extents, their references and checksums
	db              *txn.DB
}

var _ inode.Store = store{}

func newStore(fs *FS) store { return store{fs.volume, fs.db.Extents(), fs.db} }

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
