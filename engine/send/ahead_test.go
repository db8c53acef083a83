package send_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestAheadOfChanges sends three changes in a tree of many leaves, of which nothing is in memory: what the trees share is
// not read, ahead neither. A full send reads it all.
func TestAheadOfChanges(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mem := disk.NewMem(filepath.Base(t.Name()), 160<<20)
	fs, err := engine.FormatDevice(ctx, mem, engine.FormatOptions{Options: mkfs.Default()})
	must(err)
	id, err := fs.CreateSubvolume(ctx, "a", subvol.CreateOptions{})
	must(err)
	tree, err := fs.Subvolume(ctx, id)
	must(err)
	const files = 1500
	var inos []ondisk.ObjectID
	for i := range files {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		must(err)
		_, err = tree.WriteAt(ctx, ino, bytes.Repeat([]byte{byte(i)}, 1500), 0)
		must(err)
		inos = append(inos, ino)
	}
	_, err = fs.Snapshot(ctx, "a", "s", true)
	must(err)
	for _, i := range []int{files / 4, files / 2, 3 * files / 4} {
		_, err := tree.WriteAt(ctx, inos[i], []byte("changed"), 0)
		must(err)
	}
	_, err = fs.Snapshot(ctx, "a", "t", true)
	must(err)
	must(fs.Commit(ctx))
	image := mem.Clone()
	must(fs.Close())

	// with opens the file system anew and counts the blocks that are read while fn runs, also behind its back.
	with := func(fn func(fs *engine.FS)) (blocks int) {
		fs, err := engine.OpenDevices(ctx, []disk.Device{image.Clone()}, engine.OpenOptions{ReadOnly: true})
		must(err)
		c := fs.DB().Cache()
		before := c.Stats().Misses
		fn(fs)
		must(fs.Close()) // which waits for what is being read
		return int(c.Stats().Misses - before)
	}
	send := func(o engine.SendOptions) (blocks int) {
		return with(func(fs *engine.FS) { must(fs.Send(ctx, io.Discard, o)) })
	}
	leaves := 0
	with(func(fs *engine.FS) {
		id, err := fs.SubvolumeAt(ctx, "t")
		must(err)
		v, err := commitview.Open(ctx, fs.DB(), id, commitview.Options{})
		must(err)
		defer v.Close()
		node := make(ondisk.Block, fs.DB().Cache().NodeSize())
		must(v.CopyBlock(ctx, 1, ondisk.MinKey, node))
		leaves = node.NrItems()
	})
	blocks := send(engine.SendOptions{Path: "t"})
	if leaves < 150 || blocks < leaves {
		t.Errorf("a full send of %d leaves has read %d blocks", leaves, blocks)
	}
	if blocks = send(engine.SendOptions{Path: "t", ParentPath: "s"}); blocks > 20 {
		t.Errorf("an incremental send of three changes has read %d blocks, of %d leaves", blocks, leaves)
	}
	t.Logf("%d leaves, an incremental send reads %d blocks", leaves, blocks)
}
