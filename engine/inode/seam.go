package inode

import (
	"context"

	"imgtool/engine/btree"
	"imgtool/engine/extent"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// Txn is the proof of a live handle.
type Txn = btree.Txn

// Item is a key with its data, for batches of insertions.
type Item = btree.Item

// Handle is one operation's share in the running transaction.
type Handle interface {
	Txn
	// End lets go of the handle; an error means that the transaction has been aborted.
	End(ctx context.Context) error
	// Abort makes the file system read-only with err as first cause. End is still due.
	Abort(err error)
}

// Tree is the current tree of a subvolume; *btree.Tree implements it. Functions passed in run under a leaf's lock: they
// neither touch a tree nor block, and keep nothing of the item.
type Tree interface {
	ID() ondisk.TreeID
	LastSnapshot() ondisk.Generation
	Get(ctx context.Context, key ondisk.Key) ([]byte, error)
	View(ctx context.Context, key ondisk.Key, fn func(item []byte) error) error
	SeekGE(ctx context.Context, key ondisk.Key) (ondisk.Key, []byte, bool, error)
	SeekLE(ctx context.Context, key ondisk.Key) (ondisk.Key, []byte, bool, error)
	Scan(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error
	Insert(ctx context.Context, tx Txn, key ondisk.Key, data []byte) error
	InsertBatch(ctx context.Context, tx Txn, items []Item) error
	Update(ctx context.Context, tx Txn, key ondisk.Key, fn func(item []byte) error) error
	Modify(ctx context.Context, tx Txn, key ondisk.Key, fn func(old []byte) ([]byte, error)) error
	Put(ctx context.Context, tx Txn, key ondisk.Key, data []byte) error
	Delete(ctx context.Context, tx Txn, key ondisk.Key) error
	DeleteRange(ctx context.Context, tx Txn, from, to ondisk.Key,
		fn func(k ondisk.Key, item []byte) (del, more bool, err error)) error
}

// DataIO moves file data; *volume.Volume implements it.
type DataIO interface {
	// Copies is how many copies of the data at addr there are.
	Copies(addr ondisk.Logical) int
	// ReadCopy fills p from one copy, counted from 0.
	ReadCopy(ctx context.Context, addr ondisk.Logical, p []byte, copy int) error
}

var _ Tree = (*btree.Tree)(nil)

// CsumReader looks up data checksums.
type CsumReader interface {
	// LookupCsums returns the checksums of the n bytes at addr, both multiples of the sector size, one after the
	// other, and which of them exist; where one does not, its bytes are zero.
	LookupCsums(ctx context.Context, addr ondisk.Logical, n uint64) (sums []byte, have []bool, err error)
}

// Store is what a FileTree needs of the file system beneath it: handles, data extents, references, checksums, I/O.
type Store interface {
	DataIO
	CsumReader
	// Start joins the running transaction with room for changes to that many items.
	Start(ctx context.Context, items int) (Handle, error)
	// StartFreeing is Start for an operation that gives space back.
	StartFreeing(ctx context.Context, items int) (Handle, error)
	// ReserveData promises n bytes of data space, if need be by waiting for a commit that gives space back; so it is
	// called before the handle. The promise ends when AllocData has given the space.
	ReserveData(ctx context.Context, n uint64) (extent.Reservation, error)
	// AllocData takes between min and max bytes (multiples of the sector size), near hint if that is not 0. Nothing is
	// recorded until AddDataRef.
	AllocData(ctx context.Context, tx Txn, min, max uint64, hint ondisk.Logical) (ondisk.Logical, uint64, error)
	// UnallocData gives back what AllocData gave and nothing refers to.
	UnallocData(addr ondisk.Logical, n uint64)
	// AddDataRef adds one reference of (root, ino, offset) on the extent; isNew with its first.
	AddDataRef(tx Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64, isNew bool) error
	// DropDataRef drops one. The checksums go with the last.
	DropDataRef(tx Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64) error
	// SoleDataRef reports whether the extent has no references but (root, ino, offset), is younger than generation after
	// and may be written in place. The handle and the inode's lock keep it so.
	SoleDataRef(ctx context.Context, tx Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64,
		after ondisk.Generation) (bool, error)
	// AddCsums records the checksums of consecutive sectors from addr on.
	AddCsums(ctx context.Context, tx Txn, addr ondisk.Logical, sums []byte) error
	// WriteBatch writes to every copy. It may return before the devices have the data, but does not need ws any more
	// then: ReadCopy waits for what it reads, and a commit for all of it before its Switch. A device that fails later
	// aborts the running transaction.
	WriteBatch(ctx context.Context, ws []volume.Write) error
}
