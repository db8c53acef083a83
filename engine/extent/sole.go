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

// SoleDataRef reports whether the data extent [addr, addr+n) belongs to inode ino of tree root alone, so that it may be
// written in place: every reference to it, on disk or pending, is that one (of several pieces of one item, maybe), it is
// younger than generation after, the tree's last snapshot, and its block group is not read-only. The answer holds as long
// as the caller keeps its handle, so that no snapshot is taken, and the inode's lock. When in doubt it is no (the rules
// are those of fs/btrfs/extent-tree.c, btrfs_cross_ref_exist).
func (m *Manager) SoleDataRef(ctx context.Context, _ btree.Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID,
	offset uint64, after ondisk.Generation) (bool, error) {
	g := m.groupOf(uint64(addr))
	if g == nil || g.isReadOnly() {
		return false, nil
	}
	set, ref := m.refs.Load(), dataRef(root, ino, offset, 0)
	key := ondisk.Key{ObjectID: ondisk.ObjectID(addr), Type: ondisk.ExtentItemKey, Offset: n}
	for range infoTries {
		var pending []delayedref.RefCount
		var st delayedref.State
		alone, found := true, true
		err := m.trees.Extent().View(ctx, key, func(item []byte) error {
			pending, st = set.Refs(uint64(addr)) // under the leaf's lock: no runner can finish changing the item now
			e, err := parseExtentItem(item, key)
			if err != nil {
				return err
			}
			alone = e.gen > after && e.flags&ondisk.ExtentFlagData != 0 && len(e.refsV) == 1 && e.refsV[0].ref == ref && e.refsV[0].count == e.refs
			return nil
		})
		if errors.Is(err, fserr.ErrNotFound) {
			found, err = false, nil
			pending, st = set.Refs(uint64(addr))
		}
		if err != nil {
			return false, fmt.Errorf("extent item %v: %w", key, err)
		}
		if st.Busy {
			if err := st.Wait(ctx); err != nil {
				return false, err
			}
			continue
		}
		if !found && !st.New {
			continue // a runner may have inserted it since; look again
		}
		for i := range pending {
			alone = alone && pending[i].Ref == ref
		}
		return alone, nil
	}
	return false, corruptExtent(ondisk.ObjectID(addr), "no extent item for %d bytes of data", n)
}

func (g *group) isReadOnly() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.readOnly
}
