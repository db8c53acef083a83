package extent

import (
	"context"
	"errors"
	"fmt"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// AddDataRef queues one more reference to the data extent [addr, addr+n): of inode ino in tree root, at offset (file
// offset minus the offset into the extent, modulo 2^64). isNew with the first one after AllocData. An error means that
// the engine contradicts itself: abort.
func (m *Manager) AddDataRef(_ btree.Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64, isNew bool) error {
	return m.refs.Load().Add(uint64(addr), n, dataRef(root, ino, offset, 0), delayedref.AddOptions{New: isNew, Owner: uint64(root)})
}

// DropDataRef queues one reference less. The extent's space and checksums go with the last one. parent, where given and
// not 0, means the shared reference of that leaf instead. Errors are those of AddDataRef.
func (m *Manager) DropDataRef(_ btree.Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64, parent ...ondisk.Logical) error {
	var p ondisk.Logical
	if len(parent) > 0 {
		p = parent[0]
	}
	return m.refs.Load().Drop(uint64(addr), n, dataRef(root, ino, offset, p), delayedref.DropOptions{})
}

func dataRef(root ondisk.TreeID, ino ondisk.ObjectID, offset uint64, parent ondisk.Logical) delayedref.Ref {
	if parent != 0 {
		return delayedref.Ref{Kind: delayedref.SharedData, Parent: uint64(parent)}
	}
	return delayedref.Ref{Kind: delayedref.ExtentData, Root: uint64(root), Objectid: uint64(ino), Offset: offset}
}

// SetBlockFlags implements btree.Allocator.
func (m *Manager) SetBlockFlags(_ btree.Txn, addr ondisk.Logical, level uint8, firstKey ondisk.Key, flags uint64) error {
	op := delayedref.ExtentOp{UpdateFlags: true, Flags: flags, UpdateKey: true, Level: level}
	op.Key.Objectid, op.Key.Type, op.Key.Offset = uint64(firstKey.ObjectID), uint8(firstKey.Type), firstKey.Offset
	return m.refs.Load().SetFlags(uint64(addr), m.nodesize, op)
}

// ModChildRefs implements btree.Allocator: one reference more or less for everything that b points to. In a leaf these
// are the regular and preallocated extents of EXTENT_DATA items that are no holes.
func (m *Manager) ModChildRefs(_ context.Context, _ btree.Txn, owner ondisk.TreeID, b ondisk.Block, add, full bool) error {
	set, parent := m.refs.Load(), ondisk.Logical(0)
	if full {
		parent = b.Header().Bytenr()
	}
	if b.IsLeaf() {
		return modLeafRefs(set, owner, parent, b, add)
	}
	level := b.Level() - 1
	for i := range b.NrItems() {
		addr, ref := uint64(b.BlockPtr(i)), treeRef(owner, parent, level)
		var err error
		if add {
			err = set.Add(addr, m.nodesize, ref, delayedref.AddOptions{})
		} else {
			err = set.Drop(addr, m.nodesize, ref, delayedref.DropOptions{Born: uint64(b.PtrGeneration(i))})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func modLeafRefs(set *delayedref.Set, owner ondisk.TreeID, parent ondisk.Logical, b ondisk.Block, add bool) error {
	for i := range b.NrItems() {
		k := b.Key(i)
		if k.Type != ondisk.ExtentDataKey {
			continue
		}
		item := b.Item(i)
		if len(item) < ondisk.FileExtentItemSize {
			continue // inline
		}
		e := ondisk.AsFileExtentItem(item)
		if e.Type() == ondisk.FileExtentInline || e.DiskBytenr() == 0 {
			continue
		}
		ref := dataRef(owner, k.ObjectID, k.Offset-e.Offset(), parent)
		var err error
		if add {
			err = set.Add(uint64(e.DiskBytenr()), e.DiskNumBytes(), ref, delayedref.AddOptions{})
		} else {
			err = set.Drop(uint64(e.DiskBytenr()), e.DiskNumBytes(), ref, delayedref.DropOptions{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// infoTries bounds the search for an extent item that is neither on disk nor pending. Each try but the last has seen
// another state than the one before, so more than two or three need a runner that overtakes us every time.
const infoTries = 64

// ExtentInfo implements btree.Allocator: the true number of references to a tree block, and its flags (I6). It waits
// while a runner is changing the extent's items; runners need no lock of the trees for which this is asked.
func (m *Manager) ExtentInfo(ctx context.Context, _ btree.Txn, addr ondisk.Logical, level uint8) (refs, flags uint64, err error) {
	set := m.refs.Load()
	for range infoTries {
		var st delayedref.State
		var info extentInfo
		found, err := m.viewExtent(ctx, uint64(addr), level, func(item []byte) error {
			// Under the leaf's lock: no runner can finish changing the item now.
			st = set.Pending(uint64(addr))
			return info.read(item, addr)
		})
		if err != nil {
			return 0, 0, err
		}
		if !found {
			st = set.Pending(uint64(addr))
		}
		if st.Busy {
			if err := st.Wait(ctx); err != nil {
				return 0, 0, err
			}
			continue
		}
		if !found && !st.New {
			continue // a runner may have inserted it since; look again
		}
		if n := int64(info.refs) + int64(st.RefMod); n >= 0 {
			return uint64(n), info.flags | st.Flags, nil
		}
		return 0, 0, corruptExtent(ondisk.ObjectID(addr), "refs %d, %+d pending", info.refs, st.RefMod)
	}
	return 0, 0, corruptExtent(ondisk.ObjectID(addr), "no extent item for the tree block of level %d", level)
}

type extentInfo struct{ refs, flags uint64 }

func (i *extentInfo) read(item []byte, addr ondisk.Logical) error {
	if len(item) < ondisk.ExtentItemSize {
		return corruptExtent(ondisk.ObjectID(addr), "extent item of %d bytes", len(item))
	}
	e := ondisk.AsExtentItem(item)
	i.refs, i.flags = e.Refs(), e.Flags()
	return nil
}

// viewExtent shows fn the extent item of a tree block, whichever kind it has. found is false when there is none.
func (m *Manager) viewExtent(ctx context.Context, addr uint64, level uint8, fn func(item []byte) error) (found bool, err error) {
	for _, k := range m.blockKeys(addr, level) {
		err := m.trees.Extent().View(ctx, k, fn)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fserr.ErrNotFound) {
			return false, fmt.Errorf("extent item %v: %w", k, err)
		}
	}
	return false, nil
}

// blockKeys are the keys under which a tree block's extent item may stand, the likelier first: blocks from before
// skinny metadata was switched on keep their EXTENT_ITEM.
func (m *Manager) blockKeys(addr uint64, level uint8) []ondisk.Key {
	fat := ondisk.Key{ObjectID: ondisk.ObjectID(addr), Type: ondisk.ExtentItemKey, Offset: m.nodesize}
	if !m.skinny {
		return []ondisk.Key{fat}
	}
	return []ondisk.Key{{ObjectID: ondisk.ObjectID(addr), Type: ondisk.MetadataItemKey, Offset: uint64(level)}, fat}
}
