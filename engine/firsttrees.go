package engine

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// completeItems is how many tree items the first transaction touches.
const completeItems = 16

// complete gives a new file system what mkfs.Seed leaves to an ordinary transaction: the root tree's directory with its
// "default" entry, the UUID tree, the data-reloc tree. It commits.
func (fs *FS) complete(ctx context.Context, o *mkfs.Options) error {
	h, err := fs.db.Start(ctx, completeItems)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	for _, step := range []func(context.Context, *txn.Handle, *mkfs.Options) error{
		fs.addRootTreeDir, fs.addUUIDTree, fs.addDataReloc,
	} {
		if err := step(ctx, h, o); err != nil {
			h.Abort(err)
			return errors.Join(err, h.End(ctx))
		}
	}
	return h.EndAndCommit(ctx)
}

// addRootTreeDir makes directory 6 of the root tree. Its one entry names the subvolume that a mount without options
// shows; the entry's other half is an INODE_REF of the FS_TREE in the root tree.
func (fs *FS) addRootTreeDir(ctx context.Context, h *txn.Handle, o *mkfs.Options) error {
	const name = "default"
	dir, root := ondisk.RootTreeDirObjectID, fs.db.RootTree()
	item, ref := mkfs.RootDir(o.Now, h.Generation())
	entry := make([]byte, ondisk.DirItemSize+len(name))
	location := ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.FSTree), Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	ondisk.PutDirEntry(entry, location, h.Generation(), ondisk.FTDir, []byte(name), nil)
	back := make([]byte, ondisk.InodeRefSize+len(name))
	ondisk.AsInodeRef(back).SetNameLen(uint16(len(name)))
	copy(back[ondisk.InodeRefSize:], name)
	for _, it := range []struct {
		key  ondisk.Key
		data []byte
	}{
		{ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.FSTree), Type: ondisk.InodeRefKey, Offset: uint64(dir)}, back},
		{ondisk.Key{ObjectID: dir, Type: ondisk.InodeItemKey}, item},
		{ondisk.Key{ObjectID: dir, Type: ondisk.InodeRefKey, Offset: uint64(dir)}, ref},
		{ondisk.Key{ObjectID: dir, Type: ondisk.DirItemKey, Offset: ondisk.NameHash([]byte(name))}, entry},
	} {
		if err := root.Insert(ctx, h, it.key, it.data); err != nil {
			return fmt.Errorf("directory of the root tree: %w", err)
		}
	}
	return nil
}

// addUUIDTree makes the tree that finds subvolumes by UUID, with the FS_TREE in it.
func (fs *FS) addUUIDTree(ctx context.Context, h *txn.Handle, o *mkfs.Options) error {
	tree, err := fs.newSystemTree(ctx, h, ondisk.UUIDTree, 0, o)
	if err != nil {
		return err
	}
	top, err := fs.db.Root(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	item := top.Snapshot()
	if err := tree.Tree.Insert(ctx, h, uuidKey(item.UUID()), le(8, uint64(ondisk.FSTree))); err != nil {
		return fmt.Errorf("UUID tree: %w", err)
	}
	return nil
}

// uuidKey is the UUID tree's key of a subvolume: the UUID's two halves around the type.
func uuidKey(u ondisk.UUID) ondisk.Key {
	k := ondisk.GetKey(append(append(append(make([]byte, 0, ondisk.KeySize), u[:8]...), byte(ondisk.UUIDKeySubvol)), u[8:]...))
	return k
}

// addDataReloc makes the tree whose directory holds what relocation moves.
func (fs *FS) addDataReloc(ctx context.Context, h *txn.Handle, o *mkfs.Options) error {
	r, err := fs.newSystemTree(ctx, h, ondisk.DataRelocTree, ondisk.FirstFreeObjectID, o)
	if err != nil {
		return err
	}
	item, ref := mkfs.RootDir(o.Now, h.Generation())
	dir := ondisk.FirstFreeObjectID
	if err := r.Tree.Insert(ctx, h, ondisk.Key{ObjectID: dir, Type: ondisk.InodeItemKey}, item); err != nil {
		return fmt.Errorf("data relocation tree: %w", err)
	}
	if err := r.Tree.Insert(ctx, h, ondisk.Key{ObjectID: dir, Type: ondisk.InodeRefKey, Offset: uint64(dir)}, ref); err != nil {
		return fmt.Errorf("data relocation tree: %w", err)
	}
	return nil
}

func (fs *FS) newSystemTree(ctx context.Context, h *txn.Handle, id ondisk.TreeID, dir ondisk.ObjectID, o *mkfs.Options) (*txn.Root, error) {
	item := ondisk.NewRootItem(o.NodeSize)
	item.SetRootDirID(dir)
	r, err := fs.db.NewRoot(ctx, h, id, *item)
	if err != nil {
		return nil, fmt.Errorf("create %v: %w", id, err)
	}
	return r, nil
}
