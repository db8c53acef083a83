package engine_test

import (
	"context"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// runsAtOnce is a Store beside which the delayed refs run as early as can be: as soon as a reference is dropped. Other
// writers may do so at any time, when theirs have become too many.
type runsAtOnce struct {
	inode.Store
	fs *engine.FS
}

func (r runsAtOnce) DropDataRef(tx inode.Txn, addr ondisk.Logical, n uint64, root ondisk.TreeID, ino ondisk.ObjectID, offset uint64) error {
	if err := r.Store.DropDataRef(tx, addr, n, root, ino, offset); err != nil {
		return err
	}
	return r.fs.DB().Extents().RunDelayedRefs(context.Background(), tx, 1<<20)
}

// TestDropsFollowCopies changes the extents of files whose leaf a snapshot shares. The references in the changed tree's
// name come with the copy of the leaf, so one that goes must not be dropped before that: not even where the new item
// takes the place of the old one.
func TestDropsFollowCopies(t *testing.T) {
	ctx := t.Context()
	block := make([]byte, 3*4096)
	for i := range block {
		block[i] = byte(i) | 1
	}
	changes := map[string]func(tree *inode.FileTree, ino ondisk.ObjectID) error{
		"overwrite whole": func(tree *inode.FileTree, ino ondisk.ObjectID) error {
			_, err := tree.WriteAt(ctx, ino, block, 0)
			return err
		},
		"overwrite its end": func(tree *inode.FileTree, ino ondisk.ObjectID) error {
			_, err := tree.WriteAt(ctx, ino, block[:5000], 4096)
			return err
		},
		"overwrite a part": func(tree *inode.FileTree, ino ondisk.ObjectID) error {
			_, err := tree.WriteAt(ctx, ino, block[:100], 5000)
			return err
		},
		"grow over it": func(tree *inode.FileTree, ino ondisk.ObjectID) error {
			_, err := tree.WriteAt(ctx, ino, block, 100)
			return err
		},
		"truncate":         func(tree *inode.FileTree, ino ondisk.ObjectID) error { return tree.Truncate(ctx, ino, 4097) },
		"truncate to none": func(tree *inode.FileTree, ino ondisk.ObjectID) error { return tree.Truncate(ctx, ino, 0) },
		"punch":            func(tree *inode.FileTree, ino ondisk.ObjectID) error { return tree.PunchHole(ctx, ino, 4096, 4096) },
		"clone over it": func(tree *inode.FileTree, ino ondisk.ObjectID) error {
			other, err := tree.Lookup(ctx, inode.RootDir, "other")
			if err != nil {
				return err
			}
			return tree.CloneRange(ctx, inode.Clone{Src: tree, SrcIno: other.Ino(), N: 8192, Ino: ino})
		},
		"unlink": func(tree *inode.FileTree, _ ondisk.ObjectID) error { return tree.Unlink(ctx, inode.RootDir, "file") },
	}
	for name, change := range changes {
		for _, inSnapshot := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				img := filepath.Join(t.TempDir(), "img")
				o := mkfs.Default()
				o.NodeSize = 4096
				fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: o, Size: 200 << 20})
				must(t, err)
				tree, err := fs.Subvolume(ctx, ondisk.FSTree)
				must(t, err)
				for _, f := range []string{"file", "other"} {
					ino, err := tree.Create(ctx, inode.RootDir, f, inode.Attr{Mode: 0o644})
					must(t, err)
					// These keep the extent's item out of the leaf of the inode's, which other steps copy first.
					for _, x := range []string{"user.a", "user.b", "user.c"} {
						must(t, tree.SetXattr(ctx, ino, x, block[:2500], inode.XattrAny))
					}
					_, err = tree.WriteAt(ctx, ino, block, 0)
					must(t, err)
				}
				id, err := fs.Snapshot(ctx, "/", "/snap", false)
				must(t, err)
				if inSnapshot {
					tree, err = fs.Subvolume(ctx, id)
					must(t, err)
				}
				cfg := tree.Config()
				cfg.Store = runsAtOnce{cfg.Store, fs}
				e, err := tree.Lookup(ctx, inode.RootDir, "file")
				must(t, err)
				must(t, change(tree, e.Ino()))
				must(t, fs.Commit(ctx))
				must(t, fs.Close())
				oracle.Check(t, img)
			})
		}
	}
}
