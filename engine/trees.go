package engine

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

var _ inode.Resolver = (*FS)(nil)

// Tree implements inode.Resolver: the current tree of a subvolume.
func (fs *FS) Tree(ctx context.Context, id ondisk.TreeID) (inode.FileReader, error) {
	t, err := fs.Subvolume(ctx, id)
	if err != nil {
		return nil, err // no nil *FileTree in an interface
	}
	return t, nil
}

// Leads implements inode.Resolver. The entry leads into the subvolume if its directory's ROOT_REF says so, too.
func (fs *FS) Leads(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, name string, id ondisk.TreeID) (bool, error) {
	leads := false
	key := ondisk.Key{ObjectID: ondisk.ObjectID(parent), Type: ondisk.RootRefKey, Offset: uint64(id)}
	err := fs.db.RootTree().View(ctx, key, func(item []byte) error {
		leads = len(item) >= ondisk.RootRefSize && ondisk.AsRootRef(item).DirID() == dir && string(item[ondisk.RootRefSize:]) == name
		return nil
	})
	if err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return false, err
	}
	if !leads {
		return false, nil
	}
	_, err = fs.db.Root(ctx, id)
	if errors.Is(err, fserr.ErrNotFound) {
		return false, nil // it is being deleted
	}
	return err == nil, err
}

// Above implements inode.Resolver, by the subvolume's ROOT_BACKREF.
func (fs *FS) Above(ctx context.Context, id ondisk.TreeID) (parent ondisk.TreeID, dir ondisk.ObjectID, name string, err error) {
	k, item, ok, err := fs.db.RootTree().SeekGE(ctx, ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootBackrefKey})
	if err != nil {
		return 0, 0, "", err
	}
	if !ok || k.ObjectID != ondisk.ObjectID(id) || k.Type != ondisk.RootBackrefKey || len(item) < ondisk.RootRefSize {
		return 0, 0, "", fmt.Errorf("place of subvolume %v: %w", id, fserr.ErrNotFound)
	}
	return ondisk.TreeID(k.Offset), ondisk.AsRootRef(item).DirID(), string(item[ondisk.RootRefSize:]), nil
}

// Namespace returns the namespace of a subvolume, as a mount of it shows it; with ondisk.FSTree it is the whole file
// system.
func (fs *FS) Namespace(ctx context.Context, subvol ondisk.TreeID) (*inode.Namespace, error) {
	return inode.NewNamespace(ctx, fs, subvol)
}
