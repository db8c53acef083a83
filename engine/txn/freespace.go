package txn

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// errNotIgnored is why only ClearFreeSpaceTree may change a file system that was opened with Options.NoFreeSpaceTree.
var errNotIgnored = errors.New("internal: the free-space tree is in use")

// ClearFreeSpaceTree drops the free-space tree, which may be damaged in any way, in one transaction. The database was
// opened with Options.NoFreeSpaceTree, and nothing has been changed since; nobody else uses it. had says whether there
// was one.
//
// A block-group tree demands a free-space tree, so there a new one is made from the extent tree in the same transaction;
// otherwise the features are taken out of the superblock.
func (db *DB) ClearFreeSpaceTree(ctx context.Context) (had bool, err error) {
	if db.system[ondisk.FreeSpaceTree] != nil {
		return false, errNotIgnored
	}
	old, err := db.extents.OwnedBlocks(ctx, ondisk.FreeSpaceTree)
	if err != nil {
		return false, err
	}
	key, _, err := db.findRootItem(ctx, ondisk.FreeSpaceTree)
	if err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return false, err
	}
	had = err == nil || len(old) > 0
	if !had && !db.features.BlockGroupTree {
		return false, nil
	}
	items, err := db.extents.FreeSpaceItems(ctx)
	if err != nil {
		return had, err
	}
	h, err := db.StartFreeing(ctx, 16+items/64) // they are inserted leaf by leaf
	if err != nil {
		return had, err
	}
	ctx = context.WithoutCancel(ctx)
	if err == nil && key.Type != 0 && had {
		if err = db.rootTree.Delete(ctx, h, key); errors.Is(err, fserr.ErrNotFound) {
			err = nil
		}
	}
	if err == nil && db.features.BlockGroupTree {
		err = db.newFreeSpaceTree(ctx, h)
	}
	for i := 0; err == nil && i < len(old); i++ {
		err = db.extents.DropOwned(ctx, h, ondisk.FreeSpaceTree, old[i])
	}
	if err == nil {
		err = db.UpdateSuper(h, func(sb *ondisk.SuperBlock) error {
			const bits = ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid
			if db.features.FreeSpaceTree {
				sb.SetCompatROFlags(sb.CompatROFlags() | bits)
			} else {
				sb.SetCompatROFlags(sb.CompatROFlags() &^ bits)
			}
			return nil
		})
	}
	if err != nil {
		err = fmt.Errorf("free-space tree: %w", err)
		h.Abort(err)
		return had, errors.Join(err, h.End(ctx))
	}
	return had, h.EndAndCommit(ctx)
}

// newFreeSpaceTree makes the tree, before any delayed ref of h's transaction has run.
func (db *DB) newFreeSpaceTree(ctx context.Context, h *Handle) error {
	r, err := db.NewRoot(ctx, h, ondisk.FreeSpaceTree, *ondisk.NewRootItem(int(db.super.NodeSize())))
	if err != nil {
		return err
	}
	if err := db.extents.FillFreeSpaceTree(ctx, h, r.Tree); err != nil {
		return err
	}
	db.system[ondisk.FreeSpaceTree] = r // nobody else is here yet who could look
	db.features.FreeSpaceTree = true
	return nil
}
