package subvol_test

import (
	"errors"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestLoopOfRootRefs: an image may say that two subvolumes are inside each other. Listing them and moving another one into
// them ends, with the word for damage.
func TestLoopOfRootRefs(t *testing.T) {
	ctx := t.Context()
	fs, err := engine.Format(ctx, filepath.Join(t.TempDir(), "fs.img"), engine.FormatOptions{Options: mkfs.Default(), Size: 256 << 20})
	must(t, err)
	defer fs.Close()
	id := map[string]ondisk.TreeID{}
	for _, name := range []string{"a", "b", "c"} {
		id[name], err = fs.CreateSubvolume(ctx, name, subvol.CreateOptions{})
		must(t, err)
	}
	h, err := fs.DB().Start(ctx, 16)
	must(t, err)
	for child, parent := range map[string]string{"a": "b", "b": "a"} {
		k := ondisk.Key{ObjectID: ondisk.ObjectID(id[child]), Type: ondisk.RootBackrefKey, Offset: uint64(ondisk.FSTree)}
		ref, err := fs.DB().RootTree().Get(ctx, k)
		must(t, err)
		must(t, fs.DB().RootTree().Delete(ctx, h, k))
		k.Offset = uint64(id[parent])
		must(t, fs.DB().RootTree().Insert(ctx, h, k, ref))
	}
	must(t, h.End(ctx))
	top := func(name string) subvol.Place {
		return subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: name}
	}
	if err := fs.Rename(ctx, top("c"), subvol.Place{Tree: id["a"], Dir: inode.RootDir, Name: "x"}, inode.RenameReplace); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("moving into a loop: %v", err)
	}
	if _, err := fs.Subvolumes(ctx); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("listing a loop: %v", err)
	}
}
