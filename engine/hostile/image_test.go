package hostile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// image is a file system in memory with the places of its tree blocks.
type image struct {
	dev    *disk.Mem
	blocks []place
	sb     ondisk.SuperBlock
}

// place is where the first copy of a tree block lies; metadata is single but for TestReadsOnly.
type place struct {
	addr ondisk.Logical
	at   int64
}

type keptOpen struct{ disk.Device }

func (keptOpen) Close() error { return nil }

const (
	nodeSize = 4096
	depth    = 40 // of directories in one another, each beside a file
)

var base = sync.OnceValues(func() (*image, error) { return makeImage(context.Background(), 0) })

// newImage returns a copy of the base image.
func newImage(t testing.TB) *image {
	t.Helper()
	b, err := base()
	if err != nil {
		t.Fatal(err)
	}
	own := *b
	own.dev = b.dev.Clone()
	return &own
}

func makeImage(ctx context.Context, meta uint64) (im *image, err error) {
	im = &image{dev: disk.NewMem("hostile", 128<<20)}
	o := engine.FormatOptions{Options: mkfs.Default(), Size: 128 << 20}
	o.NodeSize, o.Meta = nodeSize, meta
	fs, err := engine.FormatDevice(ctx, keptOpen{im.dev}, o)
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	if err := fill(ctx, fs); err != nil {
		return nil, err
	}
	im.sb = fs.Super()
	im.blocks, err = listBlocks(ctx, fs)
	return im, err
}

// blocksOf lists the tree blocks on a device.
func blocksOf(ctx context.Context, dev disk.Device) ([]place, error) {
	fs, err := engine.OpenDevices(ctx, []disk.Device{keptOpen{dev}}, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	list, err := listBlocks(ctx, fs)
	return list, errors.Join(err, fs.Close())
}

func listBlocks(ctx context.Context, fs *engine.FS) (list []place, err error) {
	tree, err := fs.DB().Tree(ctx, ondisk.ExtentTree)
	if err != nil {
		return nil, err
	}
	return list, tree.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, _ []byte) (bool, error) {
		if k.Type != ondisk.MetadataItemKey {
			return true, nil
		}
		p, err := fs.Volume().Place(ondisk.Logical(k.ObjectID), 0)
		list = append(list, place{ondisk.Logical(k.ObjectID), int64(p.Offset)})
		return true, err
	})
}

// fill makes directories in one another, files of all kinds, a subvolume and its snapshot.
func fill(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	dir := inode.RootDir
	for range depth {
		if _, err := tree.Create(ctx, dir, "beside", inode.Attr{Mode: 0o644}); err != nil {
			return err
		}
		if dir, err = tree.Mkdir(ctx, dir, "below", inode.Attr{Mode: 0o755}); err != nil {
			return err
		}
	}
	sub, err := fs.Subvols().Create(ctx, placeIn(ondisk.FSTree, "sub"), subvolOptions())
	if err != nil {
		return err
	}
	if tree, err = fs.Subvolume(ctx, sub); err != nil {
		return err
	}
	for i := range 60 {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		if err == nil {
			_, err = tree.WriteAt(ctx, ino, make([]byte, []int{1500, 5000, 40000}[i%3]), 0)
		}
		if err == nil && i%5 == 0 {
			err = tree.SetXattr(ctx, ino, "user.x", []byte("value"), 0)
		}
		if err != nil {
			return err
		}
	}
	if _, err := tree.Symlink(ctx, inode.RootDir, "link", "file1", inode.Attr{Mode: 0o777}); err != nil {
		return err
	}
	if _, err := fs.Snapshot(ctx, "sub", "snap", true); err != nil {
		return err
	}
	return fs.Commit(ctx)
}

// edit changes block number i and mends its checksum.
func (im *image) edit(t testing.TB, i int, f func(ondisk.Block)) {
	t.Helper()
	b := im.read(t, i)
	f(b)
	im.sb.Checksum().SetBlockCsum(b)
	if _, err := im.dev.WriteAt(t.Context(), b, im.blocks[i].at); err != nil {
		t.Fatal(err)
	}
}

func (im *image) read(t testing.TB, i int) ondisk.Block {
	t.Helper()
	b := make(ondisk.Block, nodeSize)
	if _, err := im.dev.ReadAt(t.Context(), b, im.blocks[i].at); err != nil {
		t.Fatal(err)
	}
	return b
}

// items changes every item of a tree that f takes for one that it wants, and fails if there is none.
func (im *image) items(t testing.TB, owner ondisk.TreeID, f func(k ondisk.Key, item []byte) bool) {
	t.Helper()
	found := false
	for i := range im.blocks {
		b := im.read(t, i)
		if !b.IsLeaf() || b.Header().Owner() != owner {
			continue
		}
		hit := false
		for slot := range b.NrItems() {
			hit = f(b.Key(slot), b.Item(slot)) || hit
		}
		if hit {
			found = true
			im.edit(t, i, func(n ondisk.Block) { copy(n, b) })
		}
	}
	if !found {
		t.Fatalf("tree %v has no such item", owner)
	}
}

// super changes all superblock copies.
func (im *image) super(t testing.TB, f func(*ondisk.SuperBlock)) {
	t.Helper()
	for _, off := range ondisk.SuperOffsets {
		if int64(off) >= im.dev.Size() {
			continue
		}
		var sb ondisk.SuperBlock
		_, err := im.dev.ReadAt(t.Context(), sb[:], int64(off))
		if err == nil {
			f(&sb)
			sb.UpdateCsum()
			_, err = im.dev.WriteAt(t.Context(), sb[:], int64(off))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
