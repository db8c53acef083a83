package engine

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// ClearSpaceCache removes what the file system in an image remembers of its free space, which may be damaged in any way:
// version 1 is the cache in files of the root tree, version 2 the free-space tree. It returns how many caches, or trees,
// there were. The kernel makes the cache anew at its next mount, if it is to use one. A file system with a block-group
// tree must have a free-space tree, so that one is made anew here, from the extent tree.
//
// All is done in one transaction, but for version 1 in one for each block group. Errors are those of Open and of a
// commit.
func ClearSpaceCache(ctx context.Context, path string, version int, o OpenOptions) (n int, err error) {
	if version != 1 && version != 2 {
		return 0, fmt.Errorf("space cache version %d: %w, there are 1 and 2", version, fserr.ErrInvalid)
	}
	o.ReadOnly, o.ForceReadonly, o.BackupRoot = false, false, nil
	o.forClearing, o.noFreeSpaceTree = true, version == 2
	fs, err := Open(ctx, path, o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	if version == 1 {
		return fs.clearCacheFiles(ctx)
	}
	had, err := fs.db.ClearFreeSpaceTree(ctx)
	if had {
		n = 1
	}
	return n, err
}

// cacheFile is a FREE_SPACE header: which inode of the root tree holds the cache of a block group.
type cacheFile struct {
	key ondisk.Key
	ino ondisk.ObjectID
}

func (fs *FS) clearCacheFiles(ctx context.Context) (int, error) {
	var files []cacheFile
	from := ondisk.Key{ObjectID: ondisk.FreeSpaceObjectID, Type: ondisk.UntypedKey}
	to := ondisk.Key{ObjectID: ondisk.FreeSpaceObjectID, Type: ondisk.UntypedKey, Offset: ^uint64(0)}
	err := fs.db.RootTree().Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		f := cacheFile{key: k}
		if len(item) >= ondisk.KeySize {
			f.ino = ondisk.GetKey(item).ObjectID
		}
		files = append(files, f)
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	for i, f := range files {
		if err := fs.clearCacheFile(ctx, f); err != nil {
			return i, fmt.Errorf("cache of block group %d: %w", f.key.Offset, err)
		}
	}
	if sb := fs.Super(); len(files) == 0 && (sb.CacheGeneration() == 0 || sb.CacheGeneration() == ^uint64(0)) {
		return 0, nil
	}
	if sb := fs.Super(); !sb.HasCompatRO(ondisk.CompatROFreeSpaceTree) {
		fs.db.Extents().VoidCache(^uint64(0)) // as btrfs-progs does: used, and void
	}
	h, err := fs.db.Join(ctx)
	if err != nil {
		return len(files), err
	}
	return len(files), h.EndAndCommit(ctx)
}

// clearCacheFile removes a header, the inode that it names and that inode's extents.
func (fs *FS) clearCacheFile(ctx context.Context, f cacheFile) error {
	h, err := fs.db.StartFreeing(ctx, 4)
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	root := fs.db.RootTree()
	err = root.Delete(ctx, h, f.key)
	if err == nil {
		from := ondisk.Key{ObjectID: f.ino}
		to := ondisk.Key{ObjectID: f.ino, Type: 255, Offset: ^uint64(0)}
		err = root.DeleteRange(ctx, h, from, to, func(k ondisk.Key, item []byte) (bool, bool, error) {
			// Subvolumes have their numbers out of the same range: a wrong header must not take their items along.
			if k.Type != ondisk.InodeItemKey && k.Type != ondisk.ExtentDataKey {
				return false, true, nil
			}
			return true, true, fs.dropCacheExtent(h, k, item)
		})
	}
	if err != nil {
		h.Abort(err)
	}
	return errors.Join(err, h.End(ctx))
}

// dropCacheExtent gives up the space that an item of a cache's inode refers to.
func (fs *FS) dropCacheExtent(h *txn.Handle, k ondisk.Key, item []byte) error {
	if k.Type != ondisk.ExtentDataKey || len(item) < ondisk.FileExtentItemSize {
		return nil
	}
	e := ondisk.AsFileExtentItem(item)
	if e.Type() == ondisk.FileExtentInline || e.DiskBytenr() == 0 {
		return nil
	}
	return fs.db.Extents().DropDataRef(h, e.DiskBytenr(), e.DiskNumBytes(), ondisk.RootTree, k.ObjectID, k.Offset-e.Offset())
}
