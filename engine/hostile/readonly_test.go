package hostile

import (
	"bytes"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// TestReadsOnly reads an image in which there is much to mend for whoever may write: the first copy of all metadata is bad,
// the mirror of the superblock is old, a subvolume waits to be dropped, and a file without a name to be removed. No command
// tries to.
func TestReadsOnly(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	im, err := makeImage(ctx, ondisk.BGDup)
	must(err)
	mirror := make([]byte, ondisk.SuperSize)
	_, err = im.dev.ReadAt(ctx, mirror, int64(ondisk.SuperOffsets[1]))
	must(err)
	fs, err := engine.OpenDevices(ctx, []disk.Device{keptOpen{im.dev}}, engine.OpenOptions{})
	must(err)
	in, err := fs.Subvols().Begin(ctx, placeIn(ondisk.FSTree, "incoming"), 0)
	must(err)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(err)
	ino, err := tree.Create(ctx, inode.RootDir, "open", inode.Attr{Mode: 0o600})
	must(err)
	_, err = tree.Open(ctx, ino)
	must(err)
	must(tree.Unlink(ctx, inode.RootDir, "open"))
	must(fs.Commit(ctx)) // and nothing is closed: the power is cut
	t.Logf("tree %v waits to be dropped, inode %d to be removed", in.Tree.ID(), ino)
	spoiled := *im
	spoiled.dev = im.dev.Clone()
	_ = fs.Close() // says that something is open
	_, err = spoiled.dev.WriteAt(ctx, mirror, int64(ondisk.SuperOffsets[1]))
	must(err)
	list, err := blocksOf(ctx, spoiled.dev.Clone())
	must(err)
	for _, p := range list {
		_, err := spoiled.dev.WriteAt(ctx, bytes.Repeat([]byte{0xff}, 100), p.at+nodeSize-100)
		must(err)
	}
	for name, err := range readAll(t, &spoiled) {
		if damaged := name == "check" || name == "scrub"; name != "dump-tree" && damaged != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
