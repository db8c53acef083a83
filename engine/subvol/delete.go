package subvol

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// Delete takes the subvolume with the given id out of its parent and leaves its tree to Drop (or Clean). Errors: EPERM
// for the default subvolume and for one that is being sent, ENOTEMPTY for one that holds other subvolumes, EROFS, ENOENT.
func (m *Manager) Delete(ctx context.Context, id ondisk.TreeID) error { return m.delete(ctx, id, nil) }

// Rmdir is Delete of an empty subvolume by the name that it has at p, as rmdir(2) does it; ENOTEMPTY for one that has
// entries. It is inode.Config.RmdirSubvol.
func (m *Manager) Rmdir(ctx context.Context, id ondisk.TreeID, p Place) error {
	return m.delete(ctx, id, &p)
}

// delete does both; at is where an empty subvolume must be, nil for one that need not be empty.
func (m *Manager) delete(ctx context.Context, id ondisk.TreeID, at *Place) error {
	place, index, parent, unlock, err := m.lockPlace(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if at != nil && *at != place {
		return fmt.Errorf("subvolume %d at %q has just moved: %w", id, at.Name, fserr.ErrNotFound)
	}
	sendable, err := m.sends.close(id, "deleted")
	if err != nil {
		return err
	}
	defer sendable() // when it has no references any more, or still has them
	root, err := m.db.Root(ctx, id)
	if err != nil {
		return err
	}
	tree, err := m.trees(ctx, id)
	if err != nil {
		return err
	}
	// Nobody may change a tree that is being taken apart, and no subvolume may appear in it behind our check.
	before := tree.ReadOnly()
	tree.SetReadOnly(true)
	if at != nil {
		err = tree.CheckEmpty(ctx, inode.RootDir)
	}
	if err == nil {
		err = m.mayDelete(ctx, id)
	}
	if err != nil {
		tree.SetReadOnly(before)
		return err
	}
	h, err := m.db.StartFreeing(ctx, createItems)
	if err != nil {
		tree.SetReadOnly(before)
		return err
	}
	wctx := context.WithoutCancel(ctx)
	err = parent.RemoveSubvolEntry(wctx, h, place.Dir, place.Name, index)
	if err == nil {
		err = m.unlink(wctx, h, root, place.Tree)
	}
	if err != nil {
		err = fmt.Errorf("delete subvolume %d: %w", id, err)
		h.Abort(err)
		return errors.Join(err, h.End(ctx))
	}
	return h.End(ctx)
}

// lockPlace finds the directory entry of a subvolume and locks its directory; a rename meanwhile makes it look again.
func (m *Manager) lockPlace(ctx context.Context, id ondisk.TreeID) (p Place, index uint64, parent *inode.FileTree, unlock func(), err error) {
	for {
		place, _, ok, err := m.backref(ctx, id)
		if err != nil {
			return Place{}, 0, nil, nil, err
		}
		if !ok {
			return Place{}, 0, nil, nil, fmt.Errorf("subvolume %d has no place in the tree and cannot be deleted: %w", id, fserr.ErrPerm)
		}
		parent, err := m.trees(ctx, place.Tree)
		if err != nil {
			return Place{}, 0, nil, nil, err
		}
		unlock, err := parent.Change(place.Dir)
		if err != nil {
			return Place{}, 0, nil, nil, err
		}
		now, index, ok, err := m.backref(ctx, id)
		if err == nil && ok && now == place {
			return place, index, parent, unlock, nil
		}
		unlock()
	}
}

// mayDelete refuses the default subvolume and one with subvolumes inside.
func (m *Manager) mayDelete(ctx context.Context, id ondisk.TreeID) error {
	def, err := m.Default(ctx)
	if err != nil {
		return err
	}
	if def == id {
		return fmt.Errorf("subvolume %d is the default subvolume, set another one first: %w", id, fserr.ErrPerm)
	}
	first := ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootRefKey}
	k, _, ok, err := m.db.RootTree().SeekGE(ctx, first)
	if err != nil {
		return err
	}
	if ok && k.ObjectID == first.ObjectID && k.Type == ondisk.RootRefKey {
		return fmt.Errorf("subvolume %d holds subvolume %d, delete that first: %w", id, k.Offset, fserr.ErrNotEmpty)
	}
	return nil
}

// unlink makes the tree a dead one: no references, an orphan item, no UUID.
func (m *Manager) unlink(ctx context.Context, h *txn.Handle, root *txn.Root, parent ondisk.TreeID) error {
	id := root.ID()
	if err := m.removeRootRef(ctx, h, parent, id); err != nil {
		return err
	}
	root.Update(h, func(it *ondisk.RootItem) {
		it.SetRefs(0)
		it.SetFlags(it.Flags() | ondisk.RootSubvolDead)
		it.SetDropProgress(ondisk.Key{})
		it.SetDropLevel(0)
	})
	if err := m.db.RootTree().Put(ctx, h, orphanKey(id), nil); err != nil {
		return err
	}
	it := root.Snapshot()
	if err := m.removeUUID(ctx, h, it.UUID(), ondisk.UUIDKeySubvol, id); err != nil {
		return err
	}
	return m.removeUUID(ctx, h, it.ReceivedUUID(), ondisk.UUIDKeyReceived, id)
}

// Clean drops every dead tree that an orphan item names: those deleted just now, and those whose deletion a crash or a
// close interrupted. Of calls at the same time one does the work and the others wait for it.
func (m *Manager) Clean(ctx context.Context) error {
	done, err := m.lockDropping(ctx)
	if err != nil {
		return err
	}
	defer done()
	ids, err := m.orphans(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := Drop(ctx, m.db, id); err != nil {
			return err
		}
	}
	return nil
}

// orphans lists the dead trees, and removes orphan items that name no tree.
func (m *Manager) orphans(ctx context.Context) ([]ondisk.TreeID, error) {
	var named, dead []ondisk.TreeID
	first, last := orphanKey(0), orphanKey(^ondisk.TreeID(0))
	err := m.db.RootTree().Scan(ctx, first, last, func(k ondisk.Key, _ []byte) (bool, error) {
		named = append(named, ondisk.TreeID(k.Offset))
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	for _, id := range named {
		if m.incoming.get(id) != notIncoming {
			continue // not dead but unborn, or hidden
		}
		root, err := m.db.AnyRoot(ctx, id)
		if errors.Is(err, fserr.ErrNotFound) {
			err = m.removeOrphan(ctx, id)
		} else if err == nil {
			if it := root.Snapshot(); it.Refs() == 0 {
				dead = append(dead, id)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return dead, nil
}

func (m *Manager) removeOrphan(ctx context.Context, id ondisk.TreeID) error {
	h, err := m.db.StartFreeing(ctx, 1)
	if err != nil {
		return err
	}
	err = m.db.RootTree().Delete(ctx, h, orphanKey(id))
	return errors.Join(err, h.End(ctx))
}
