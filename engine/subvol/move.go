package subvol

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// Move tells a subvolume's ROOT_REF and ROOT_BACKREF that its entry has another place in its parent, on the handle of
// the rename that has moved it. It is inode.Config.MoveSubvol; both items keep their keys, for the parent is the same.
func (m *Manager) Move(ctx context.Context, tx inode.Txn, mv inode.SubvolMove) error {
	b := rootRef(mv.NewDir, mv.NewIndex, mv.NewName)
	ref, back := refKeys(mv.Parent, mv.Subvol)
	for _, k := range []ondisk.Key{back, ref} {
		if err := m.db.RootTree().Put(ctx, tx, k, b); err != nil {
			return fmt.Errorf("move subvolume %d to %q: root ref %v: %w", mv.Subvol, mv.NewName, k, err)
		}
	}
	return nil
}

// MayMove returns what stands against a Move; it is inode.Config.MayMoveSubvol. An entry that does not lead to its
// subvolume, as a snapshot has for those nested in its source, stays where it is (ErrNotEmpty, the kernel's answer). A
// read-only subvolume may get another name but no other directory (ErrReadOnly), since its ".." would change.
func (m *Manager) MayMove(ctx context.Context, mv inode.SubvolMove) error {
	place, _, ok, err := m.backref(ctx, mv.Subvol)
	if err != nil {
		return err
	}
	if !ok || place != (Place{mv.Parent, mv.OldDir, mv.OldName}) {
		return fmt.Errorf("%q only stands for subvolume %d, which is elsewhere or gone: %w", mv.OldName, mv.Subvol, fserr.ErrNotEmpty)
	}
	root, err := m.db.Root(ctx, mv.Subvol)
	if err != nil {
		return err
	}
	item := root.Snapshot()
	if mv.OldDir != mv.NewDir && item.Flags()&ondisk.RootSubvolReadonly != 0 {
		return fmt.Errorf("subvolume %d is read-only and stays in its directory: %w", mv.Subvol, fserr.ErrReadOnly)
	}
	return nil
}
