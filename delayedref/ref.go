package delayedref

import (
	"cmp"
	"fmt"
)

// Kind is the kind of a reference, in the numbers of the on-disk item types.
type Kind uint8

// The four kinds (BTRFS_*_REF_KEY of the kernel's uapi/linux/btrfs_tree.h).
const (
	TreeBlock   Kind = 176 // from a tree block of Root
	ExtentData  Kind = 178 // from the inode Objectid of Root, at Offset
	SharedBlock Kind = 182 // from the tree block at Parent
	SharedData  Kind = 184 // from the leaf at Parent
)

func (k Kind) String() string {
	switch k {
	case TreeBlock:
		return "TREE_BLOCK_REF"
	case ExtentData:
		return "EXTENT_DATA_REF"
	case SharedBlock:
		return "SHARED_BLOCK_REF"
	case SharedData:
		return "SHARED_DATA_REF"
	}
	return fmt.Sprintf("ref kind %d", uint8(k))
}

func (k Kind) data() bool { return k == ExtentData || k == SharedData }

// Ref is one reference to an extent. Which fields make it up depends on its
// Kind; the others are ignored and come back as zero.
type Ref struct {
	Kind     Kind
	Level    uint8  // of the referenced tree block (tree kinds); no part of the identity
	Root     uint64 // TreeBlock, ExtentData: id of the tree that refers
	Parent   uint64 // SharedBlock, SharedData: address of the block that refers
	Objectid uint64 // ExtentData: inode number
	Offset   uint64 // ExtentData: file offset minus the offset into the extent (modulo 2^64)
}

// canonical returns the reference with the fields that are no part of its
// identity cleared, so that equal references compare equal.
func (r Ref) canonical() Ref {
	switch r.Kind {
	case TreeBlock:
		return Ref{Kind: r.Kind, Root: r.Root}
	case ExtentData:
		return Ref{Kind: r.Kind, Root: r.Root, Objectid: r.Objectid, Offset: r.Offset}
	default:
		return Ref{Kind: r.Kind, Parent: r.Parent}
	}
}

// Compare orders references by kind, root or parent, inode, offset.
func (r Ref) Compare(o Ref) int {
	return cmp.Or(
		cmp.Compare(r.Kind, o.Kind),
		cmp.Compare(r.Root, o.Root),
		cmp.Compare(r.Parent, o.Parent),
		cmp.Compare(r.Objectid, o.Objectid),
		cmp.Compare(r.Offset, o.Offset),
	)
}

func (r Ref) String() string {
	switch r.Kind {
	case TreeBlock:
		return fmt.Sprintf("%v root %d level %d", r.Kind, r.Root, r.Level)
	case ExtentData:
		return fmt.Sprintf("%v root %d ino %d offset %d", r.Kind, r.Root, r.Objectid, int64(r.Offset))
	}
	return fmt.Sprintf("%v parent %d", r.Kind, r.Parent)
}

// RefCount is a reference and by how much its count changes: never 0.
type RefCount struct {
	Ref
	Count int
}

// ExtentOp is a change to the extent item of a tree block beside its
// references.
type ExtentOp struct {
	Key struct { // first key of the block, for tree_block_info (without skinny metadata)
		Objectid uint64
		Type     uint8
		Offset   uint64
	}
	UpdateKey   bool
	Flags       uint64 // to be or'ed into the item's flags (FULL_BACKREF)
	UpdateFlags bool
	Level       uint8
}

// merge lets a later operation take effect after op, as one.
func (op *ExtentOp) merge(later ExtentOp) {
	if later.UpdateKey {
		op.Key, op.UpdateKey = later.Key, true
	}
	if later.UpdateFlags {
		op.Flags |= later.Flags
		op.UpdateFlags = true
	}
	op.Level = later.Level
}
