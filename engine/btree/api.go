package btree

import (
	"context"
	"errors"

	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Txn is the proof of a live handle on the running transaction. *txn.Handle satisfies it.
type Txn interface {
	// Generation is the running transaction's id; it never changes while the handle lives.
	Generation() ondisk.Generation
}

// ErrInconsistent matches errors that left the references of blocks or extents other than what the trees say. The
// transaction has to be aborted.
var ErrInconsistent = errors.New("references of a changed tree block were not recorded, the transaction must be aborted")

// AllocReq asks for the space of one tree block.
type AllocReq struct {
	Owner    ondisk.TreeID
	Level    uint8
	Hint     ondisk.Logical // near here, if possible
	FirstKey ondisk.Key     // first key of the block, for the extent item of a file system without skinny metadata
	Parent   ondisk.Logical // parent block of a full back reference, 0 for the usual one by owner
}

// DropReq gives up one reference to a tree block.
type DropReq struct {
	Addr    ondisk.Logical
	Born    ondisk.Generation // generation in the block's header
	Owner   ondisk.TreeID     // tree that gives it up (not necessarily the header's owner)
	Level   uint8
	Parent  ondisk.Logical // parent block whose shared reference is meant, 0 for the reference by Owner
	Written bool           // the block has been written to the devices
	Last    bool           // no other reference is known
}

// Allocator gives and takes the space of tree blocks and keeps references. It is called while block locks of the tree
// are held; it may take read locks in the extent tree, no others. Safe for concurrent use.
type Allocator interface {
	// AllocTreeBlock takes space of one node and queues its reference. ENOSPC when there is none.
	AllocTreeBlock(ctx context.Context, tx Txn, r AllocReq) (ondisk.Logical, error)
	// DropTreeBlock queues the drop of a reference. freed reports that the block was born in this transaction, never
	// written and known to nobody else, so that its space is free again at once (I2).
	DropTreeBlock(ctx context.Context, tx Txn, d DropReq) (freed bool, err error)
	// ExtentInfo returns the number of references to a tree block and its extent flags, from the extent tree and what
	// is pending for it (I6).
	ExtentInfo(ctx context.Context, tx Txn, addr ondisk.Logical, level uint8) (refs, flags uint64, err error)
	// ModChildRefs adds or drops one reference for each child of a node, or each data extent of a leaf, that b points
	// to: with full as shared references of parent b, else as references of owner.
	ModChildRefs(ctx context.Context, tx Txn, owner ondisk.TreeID, b ondisk.Block, add, full bool) error
	// SetBlockFlags sets extent flags of a tree block, in addition to those that it has.
	SetBlockFlags(tx Txn, addr ondisk.Logical, level uint8, firstKey ondisk.Key, flags uint64) error
}

// Config is what a tree needs to know; it does not change.
type Config struct {
	ID        ondisk.TreeID
	Cache     *extbuf.Cache
	Alloc     Allocator // may be nil for a tree that is only read
	Tracer    trace.Tracer
	Shareable bool // a file tree, whose blocks snapshots and relocation may share

	// Tight reports that space for tree blocks is short: deletions then merge leaves as soon as two fit into one, which
	// costs a split when they grow again, and in a shareable tree maybe a copy of the neighbour. Called under block
	// locks; must not block. May be nil.
	Tight func() bool

	// OnDirty is called whenever the root gets another address or level, so the root item has to be written again.
	// It runs under the root's write lock: it must not block nor touch the tree. May be nil.
	OnDirty func(*Tree, Txn)
}

// Item is one item to insert.
type Item struct {
	Key  ondisk.Key
	Data []byte
}
