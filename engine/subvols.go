package engine

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// place finds where a new subvolume shall stand.
func (fs *FS) place(ctx context.Context, path string) (subvol.Place, error) {
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		return subvol.Place{}, err
	}
	dir, name, err := ns.WalkParent(ctx, path)
	if err != nil {
		return subvol.Place{}, err
	}
	if dir.IsPlaceholder() {
		return subvol.Place{}, fmt.Errorf("%s: lies in the place of a subvolume that is not there: %w", path, fserr.ErrNotFound)
	}
	return subvol.Place{Tree: dir.Tree.ID(), Dir: dir.Ino, Name: name}, nil
}

// SubvolumeAt returns the id of the subvolume whose top directory a path names. fserr.ErrInvalid if the path names
// something else.
func (fs *FS) SubvolumeAt(ctx context.Context, path string) (ondisk.TreeID, error) {
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		return 0, err
	}
	n, err := ns.Walk(ctx, path, true)
	if err != nil {
		return 0, err
	}
	if n.Ino != inode.RootDir {
		return 0, fmt.Errorf("%s: not a subvolume: %w", path, fserr.ErrInvalid)
	}
	return n.Tree.ID(), nil
}

// CreateSubvolume makes an empty subvolume and returns its id. It is durable after the next Commit.
func (fs *FS) CreateSubvolume(ctx context.Context, path string, o subvol.CreateOptions) (ondisk.TreeID, error) {
	p, err := fs.place(ctx, path)
	if err != nil {
		return 0, err
	}
	id, err := fs.subvols.Create(ctx, p, o)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return id, nil
}

// SnapshotPath asks for one snapshot, by paths from the top of the file system.
type SnapshotPath struct {
	Source, Dest string
	Readonly     bool
}

// Snapshot takes one snapshot and commits.
func (fs *FS) Snapshot(ctx context.Context, source, dest string, readonly bool) (ondisk.TreeID, error) {
	ids, err := fs.Snapshots(ctx, []SnapshotPath{{source, dest, readonly}})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// Snapshots takes several snapshots in one commit, in the order given; see subvol.Manager.Snapshots.
func (fs *FS) Snapshots(ctx context.Context, list []SnapshotPath) ([]ondisk.TreeID, error) {
	specs := make([]subvol.SnapshotSpec, len(list))
	for i, s := range list {
		src, err := fs.SubvolumeAt(ctx, s.Source)
		if err != nil {
			return nil, err
		}
		dest, err := fs.place(ctx, s.Dest)
		if err != nil {
			return nil, err
		}
		specs[i] = subvol.SnapshotSpec{Source: src, Dest: dest, Readonly: s.Readonly}
	}
	return fs.subvols.Snapshots(ctx, specs)
}

// DeleteSubvolume takes a subvolume out of the tree. What it held is dropped by CleanSubvolumes, or when the image is
// next opened for writing.
func (fs *FS) DeleteSubvolume(ctx context.Context, path string) error {
	id, err := fs.SubvolumeAt(ctx, path)
	if err != nil {
		return err
	}
	return fs.DeleteSubvolumeID(ctx, id)
}

// DeleteSubvolumeID is DeleteSubvolume by id.
func (fs *FS) DeleteSubvolumeID(ctx context.Context, id ondisk.TreeID) error {
	if err := fs.subvols.Delete(ctx, id); err != nil {
		return err
	}
	fs.forgetTree(id)
	return nil
}

// rmdirSubvol is inode.Config.RmdirSubvol.
func (fs *FS) rmdirSubvol(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, name string, id ondisk.TreeID) error {
	if err := fs.subvols.Rmdir(ctx, id, subvol.Place{Tree: parent, Dir: dir, Name: name}); err != nil {
		return err
	}
	fs.forgetTree(id)
	return nil
}

// Rename moves a name: within a subvolume anything (inode.FileTree.Rename), between two of them subvolumes only
// (subvol.Manager.Rename, fserr.ErrCrossDevice for all else).
func (fs *FS) Rename(ctx context.Context, from, to subvol.Place, mode inode.RenameMode) error {
	if from.Tree != to.Tree {
		return fs.subvols.Rename(ctx, from, to, mode)
	}
	tree, err := fs.Subvolume(ctx, from.Tree)
	if err != nil {
		return err
	}
	return tree.Rename(ctx, from.Dir, from.Name, to.Dir, to.Name, mode)
}

// CleanSubvolumes drops the trees of deleted subvolumes, in as many transactions as it takes.
func (fs *FS) CleanSubvolumes(ctx context.Context) error { return fs.subvols.Clean(ctx) }

// Subvolumes lists all subvolumes but FS_TREE, by id.
func (fs *FS) Subvolumes(ctx context.Context) ([]subvol.Info, error) { return fs.subvols.List(ctx) }

// SubvolumeInfo describes the subvolume at a path, with its snapshots.
func (fs *FS) SubvolumeInfo(ctx context.Context, path string) (subvol.Info, error) {
	id, err := fs.SubvolumeAt(ctx, path)
	if err != nil {
		return subvol.Info{}, err
	}
	return fs.subvols.Show(ctx, id)
}

// DefaultSubvolume is the one that a mount without options shows.
func (fs *FS) DefaultSubvolume(ctx context.Context) (ondisk.TreeID, error) {
	return fs.subvols.Default(ctx)
}

// SetDefaultSubvolume chooses it.
func (fs *FS) SetDefaultSubvolume(ctx context.Context, id ondisk.TreeID) error {
	return fs.subvols.SetDefault(ctx, id)
}

// SetReadonly turns a subvolume's read-only flag on or off. When it becomes writable it loses its received UUID, and files
// that a crash left without a name are removed.
func (fs *FS) SetReadonly(ctx context.Context, id ondisk.TreeID, readonly bool) error {
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	if err := fs.subvols.SetReadonly(ctx, id, readonly); err != nil {
		return err
	}
	tree.SetReadOnly(readonly)
	if readonly {
		return nil
	}
	_, err = tree.CleanOrphans(ctx)
	return err
}
