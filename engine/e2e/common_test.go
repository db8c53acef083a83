package e2e

import (
	"context"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// create formats a new image of size bytes, with the defaults changed by set (which may be nil).
func create(t testing.TB, size uint64, set func(*engine.FormatOptions)) (img string, fs *engine.FS) {
	t.Helper()
	img = filepath.Join(t.TempDir(), "fs.img")
	o := engine.FormatOptions{Options: mkfs.Default(), Size: size}
	if set != nil {
		set(&o)
	}
	fs, err := engine.Format(t.Context(), img, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close() })
	return img, fs
}

// reopen opens an image for writing.
func reopen(t testing.TB, img string) *engine.FS {
	t.Helper()
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close() })
	return fs
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// finish commits, closes and asks btrfs check.
func finish(t testing.TB, fs *engine.FS, img string) {
	t.Helper()
	must(t, fs.Commit(context.Background()))
	must(t, fs.Close())
	oracle.Check(t, img)
}

// used compares three accounts of the space in use after a commit, the super's, the block groups' and the extent
// tree's, and returns it.
func used(t testing.TB, fs *engine.FS) uint64 {
	t.Helper()
	sb := fs.Super()
	u := fs.Usage()
	groups := u.Data.Used + u.Metadata.Used + u.System.Used
	extents := uint64(0)
	tree, err := fs.DB().Tree(t.Context(), ondisk.ExtentTree)
	must(t, err)
	must(t, tree.Scan(t.Context(), ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, _ []byte) (bool, error) {
		switch k.Type {
		case ondisk.ExtentItemKey:
			extents += k.Offset
		case ondisk.MetadataItemKey:
			extents += uint64(sb.NodeSize())
		}
		return true, nil
	}))
	if sb.BytesUsed() != groups || groups != extents {
		t.Fatalf("bytes in use: super %d, block groups %d, extent tree %d", sb.BytesUsed(), groups, extents)
	}
	return extents
}
