package engine_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/extent"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// TestClearSpaceCache clears caches of both versions, whole and smashed, on images that the kernel has filled in pieces:
// files, snapshots, holes in the space. Afterwards `btrfs check` agrees, the kernel mounts for writing, shows what was
// there and makes its cache anew, and the engine opens for writing.
func TestClearSpaceCache(t *testing.T) {
	oracle.NeedRoot(t)
	for _, c := range []struct {
		name     string
		version  int
		features string
		opts     string // of the mounts
		smash    bool   // all blocks of the free-space tree
		found    int    // at least
	}{
		{"v2", 2, "^block-group-tree", "space_cache=v2", false, 1},
		{"v2 smashed", 2, "^block-group-tree", "space_cache=v2", true, 1},
		{"v2, block-group tree", 2, "block-group-tree", "space_cache=v2", false, 1},
		{"v2 smashed, block-group tree", 2, "block-group-tree", "space_cache=v2", true, 1},
		{"v2 absent", 2, "^free-space-tree,^block-group-tree", "nospace_cache", false, 0},
		{"v1", 1, "^free-space-tree,^block-group-tree", "space_cache=v1", false, 1},
		{"v1 absent", 1, "block-group-tree", "space_cache=v2", false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, img := t.Context(), filepath.Join(t.TempDir(), "img")
			size, opts := int64(400<<20), []oracle.MountOption{oracle.Opts(c.opts)}
			if c.opts == "space_cache=v1" { // of which block groups below 100 MiB have none, and which is deprecated
				size, opts = 3<<30, append(opts, oracle.AllowComplaints())
			}
			oracle.Mkfs(t, img, size, "-n", "4096", "-O", c.features)
			m := oracle.Mount(t, img, opts...)
			m.KernelSubvolume("sub")
			for i := range 400 {
				must(t, os.WriteFile(m.Path("sub", fmt.Sprint(i)), make([]byte, 4096*(1+i%3)), 0o644))
			}
			m.KernelSync()
			m.KernelSnapshot("sub", "snap", true)
			for i := range 400 {
				if i%2 == 0 { // and leave holes that are too many for extents
					must(t, os.WriteFile(m.Path("sub", fmt.Sprint(i)), make([]byte, 8192), 0o644))
				}
			}
			want := m.ManifestOf("")
			m.Unmount()
			if c.smash {
				smashTree(t, img, ondisk.FreeSpaceTree)
				if fs, err := engine.Open(ctx, img, engine.OpenOptions{}); err == nil {
					t.Error("the engine does not mind a smashed free-space tree", fs.Close())
				} else if !errors.Is(err, fserr.ErrCorrupt) {
					t.Error(err)
				}
			}
			n, err := engine.ClearSpaceCache(ctx, img, c.version, engine.OpenOptions{})
			if err != nil || n < c.found || c.found == 0 && n != 0 {
				t.Fatalf("%d caches, %v", n, err)
			}
			oracle.Check(t, img)
			if n > 0 && c.features != "block-group-tree" {
				if n, err := engine.ClearSpaceCache(ctx, img, c.version, engine.OpenOptions{}); err != nil || n != 0 {
					t.Errorf("again: %d caches, %v", n, err)
				}
			}

			m = oracle.Mount(t, img, opts...)
			if got := m.ManifestOf(""); string(got) != string(want) {
				t.Error(oracle.ManifestDiff(want, got))
			}
			must(t, os.WriteFile(m.Path("kernel"), make([]byte, 100_000), 0o644))
			m.KernelSync()
			m.Unmount()
			oracle.Check(t, img)
			wantCache(t, img, c.version, c.found > 0)

			fs, err := engine.Open(ctx, img, engine.OpenOptions{})
			must(t, err)
			tree, err := fs.Subvolume(ctx, ondisk.FSTree)
			must(t, err)
			ino, err := tree.Create(ctx, inode.RootDir, "ours", inode.Attr{Mode: 0o644})
			must(t, err)
			_, err = tree.WriteAt(ctx, ino, make([]byte, 300_000), 0)
			must(t, err)
			must(t, fs.Commit(ctx))
			must(t, fs.Close())
			oracle.Check(t, img)
		})
	}
}

// TestClearBetween clears the free-space tree, and at once lets the engine go on without a kernel in between.
func TestClearBetween(t *testing.T) {
	ctx := t.Context()
	for _, features := range []string{"block-group-tree", "^block-group-tree"} {
		img := filepath.Join(t.TempDir(), "img")
		oracle.Need(t)
		oracle.Mkfs(t, img, 300<<20, "-O", features)
		for i := range 3 {
			fs, err := engine.Open(ctx, img, engine.OpenOptions{})
			must(t, err)
			tree, err := fs.Subvolume(ctx, ondisk.FSTree)
			must(t, err)
			for j := range 50 {
				ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("%d-%d", i, j), inode.Attr{Mode: 0o644})
				must(t, err)
				_, err = tree.WriteAt(ctx, ino, make([]byte, 50_000), 0)
				must(t, err)
			}
			must(t, fs.Commit(ctx))
			must(t, fs.Close())
			_, err = engine.ClearSpaceCache(ctx, img, 2, engine.OpenOptions{})
			must(t, err)
			oracle.Check(t, img)
		}
	}
	if _, err := engine.ClearSpaceCache(ctx, "none", 3, engine.OpenOptions{}); !errors.Is(err, fserr.ErrInvalid) {
		t.Error(err)
	}
}

// smashTree writes over all copies of all blocks that belong to a tree.
func smashTree(t *testing.T, img string, id ondisk.TreeID) {
	t.Helper()
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	must(t, err)
	var blocks []extent.OwnedBlock
	blocks, err = fs.DB().Extents().OwnedBlocks(t.Context(), id)
	must(t, err)
	var at []int64
	for _, b := range blocks {
		for c := range fs.Volume().Copies(b.Addr) {
			p, err := fs.Volume().Place(b.Addr, c)
			must(t, err)
			at = append(at, int64(p.Offset))
		}
	}
	must(t, fs.Close())
	if len(at) < 2 {
		t.Fatalf("tree %v has %d copies of blocks", id, len(at))
	}
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	must(t, err)
	for _, off := range at {
		_, err := f.WriteAt([]byte("smashed by a test that wants the tree unreadable"), off+100)
		must(t, err)
	}
	must(t, f.Close())
}

// wantCache looks whether the kernel has made its cache again.
func wantCache(t *testing.T, img string, version int, want bool) {
	t.Helper()
	d, err := disk.Open(img, disk.Options{ReadOnly: true})
	must(t, err)
	vol, err := volume.Open(t.Context(), []disk.Device{d}, volume.Options{})
	must(t, err)
	sb := vol.Super()
	must(t, d.Close())
	have := sb.HasCompatRO(ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid)
	if version == 1 {
		have = sb.CacheGeneration() == uint64(sb.Generation())
	}
	if want && !have {
		t.Errorf("the kernel has made no cache v%d: compat_ro %#x, cache generation %d of %d", version, sb.CompatROFlags(), sb.CacheGeneration(), sb.Generation())
	}
}
