package subvol

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// createItems is how many tree items the creation of a subvolume or snapshot touches at most: root item, two root
// refs, two directory entries, the parent's inode, the UUID items, and the new tree's own.
const createItems = 12

// CreateOptions are the attributes of a new subvolume's root directory.
type CreateOptions struct {
	Mode     uint32 // permission bits; zero means 0755
	UID, GID uint32
}

// Create makes an empty subvolume at p and returns its id. Errors: EEXIST, ENOENT, ENOSPC, EROFS for a read-only
// parent. It is durable after the next commit.
func (m *Manager) Create(ctx context.Context, p Place, o CreateOptions) (ondisk.TreeID, error) {
	parent, err := m.trees(ctx, p.Tree)
	if err != nil {
		return 0, err
	}
	done, err := parent.Change(p.Dir)
	if err != nil {
		return 0, err
	}
	defer done()
	if err := parent.CheckNewEntry(ctx, p.Dir, p.Name); err != nil {
		return 0, err
	}
	id, err := m.db.NextSubvolID()
	if err != nil {
		return 0, err
	}
	h, err := m.db.Start(ctx, createItems)
	if err != nil {
		return 0, err
	}
	err = m.create(context.WithoutCancel(ctx), h, parent, p, id, o)
	if err != nil {
		err = fmt.Errorf("create subvolume %s: %w", p.Name, err)
		h.Abort(err)
	}
	return id, errors.Join(err, h.End(ctx))
}

func (m *Manager) create(ctx context.Context, h *txn.Handle, parent *inode.FileTree, p Place, id ondisk.TreeID, o CreateOptions) error {
	item := m.newItem(h)
	root, err := m.db.NewRoot(ctx, h, id, *item)
	if err != nil {
		return err
	}
	mode := o.Mode
	if mode == 0 {
		mode = 0o755
	}
	attr := inode.Attr{Mode: mode, UID: o.UID, GID: o.GID}
	if err := inode.InitRoot(ctx, h, parent.Config(), root.Tree, attr); err != nil {
		return err
	}
	index, err := parent.AddSubvolEntry(ctx, h, p.Dir, p.Name, id)
	if err != nil {
		return err
	}
	if err := m.addRootRef(ctx, h, p, id, index); err != nil {
		return err
	}
	return m.addUUID(ctx, h, item.UUID(), ondisk.UUIDKeySubvol, id)
}

// newItem is the root item of a new, empty subvolume.
func (m *Manager) newItem(h *txn.Handle) *ondisk.RootItem {
	now := ondisk.TimeOf(m.db.Now())
	item := ondisk.NewRootItem(m.db.Cache().NodeSize())
	item.Inode().SetFlags(ondisk.InodeRootInit)
	item.SetRootDirID(ondisk.FirstFreeObjectID)
	item.SetUUID(ondisk.NewUUID())
	item.SetCTransID(h.Generation())
	item.SetOTransID(h.Generation())
	item.SetCTime(now)
	item.SetOTime(now)
	item.SetBytesUsed(0) // NewRoot counts the first leaf
	return item
}
