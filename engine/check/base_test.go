package check_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/check"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

const imageSize = 300 << 20

// names and inodes of the base image that tests look for.
type base struct {
	dev                                   *disk.Mem
	small, big, hard, link, dir, raw, pre ondisk.ObjectID
	large                                 ondisk.ObjectID
	sub, snap                             ondisk.TreeID
	subFile                               ondisk.ObjectID
}

var bases struct {
	sync.Mutex
	made map[string]*base
}

// baseImage returns an image of its own with a bit of everything: trees of several levels, snapshots with shared leaves
// and full backrefs, reflinks with backrefs in items of their own, preallocated space, hard links, checksums off.
func baseImage(t testing.TB, name string) *base {
	t.Helper()
	bases.Lock()
	defer bases.Unlock()
	b := bases.made[name]
	if b == nil {
		o := mkfs.Default()
		o.NodeSize, o.Meta = 4096, 0
		switch name {
		case "dup":
			o.Meta = ondisk.BGDup
		case "dup data":
			o.Data = ondisk.BGDup
		case "holes":
			o.Features.NoHoles, o.Features.BlockGroupTree = false, false
		}
		b = makeBase(t, o)
		if bases.made == nil {
			bases.made = map[string]*base{}
		}
		bases.made[name] = b
	}
	own := *b
	own.dev = b.dev.Clone()
	return &own
}

// keptOpen outlives the file system on it.
type keptOpen struct{ *disk.Mem }

func (keptOpen) Close() error { return nil }

func makeBase(t testing.TB, o mkfs.Options) *base {
	t.Helper()
	ctx := context.Background() // the image outlives the test that makes it
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := &base{dev: disk.NewMem("base", imageSize)}
	fs, err := engine.FormatDevice(ctx, keptOpen{b.dev}, engine.FormatOptions{Options: o, Size: imageSize})
	must(err)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(err)
	rnd := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 6<<20)
	for i := range data {
		data[i] = byte(rnd.Uint32())
	}
	file := func(t *inode.FileTree, dir ondisk.ObjectID, name string, n int, flags uint64) ondisk.ObjectID {
		ino, err := t.Create(ctx, dir, name, inode.Attr{Mode: 0o644, Flags: flags})
		must(err)
		if n > 0 {
			_, err = t.WriteAt(ctx, ino, data[:n], 0)
			must(err)
		}
		return ino
	}
	const top = ondisk.ObjectID(256)
	b.dir, err = tree.Mkdir(ctx, top, "dir", inode.Attr{Mode: 0o755})
	must(err)
	for i := range 120 {
		file(tree, b.dir, fmt.Sprintf("file%03d", i), []int{10, 500, 9000}[i%3], 0)
	}
	b.small = file(tree, top, "small", 100, 0)
	b.big = file(tree, top, "big", 100<<10, 0)
	b.hard = file(tree, top, "hard", 5000, 0)
	for i := range 3 {
		must(tree.Link(ctx, b.hard, b.dir, fmt.Sprintf("hard%d", i)))
	}
	b.large = file(tree, top, "large", len(data), 0) // so that the csum tree has more than one leaf
	must(tree.SetXattr(ctx, b.small, "user.x", []byte("value"), 0))
	b.link, err = tree.Symlink(ctx, top, "link", "somewhere/else", inode.Attr{Mode: 0o777})
	must(err)
	b.raw = file(tree, top, "raw", 30<<10, ondisk.InodeNoDataCow|ondisk.InodeNoDataSum)
	b.pre = file(tree, top, "pre", 0, 0)
	must(tree.Fallocate(ctx, b.pre, 0, 64<<10, false))
	_, err = tree.Mknod(ctx, top, "fifo", 0, inode.Attr{Mode: ondisk.ModeFifo | 0o600})
	must(err)
	must(fs.Commit(ctx))
	for i := range 60 { // more backrefs than fit into the extent item
		c := file(tree, top, fmt.Sprintf("clone%02d", i), 0, 0)
		must(tree.CloneRange(ctx, inode.Clone{Src: tree, SrcIno: b.big, Ino: c, N: 100 << 10}))
	}
	b.sub, err = fs.CreateSubvolume(ctx, "sub", subvol.CreateOptions{})
	must(err)
	sub, err := fs.Subvolume(ctx, b.sub)
	must(err)
	for i := range 80 {
		ino := file(sub, top, fmt.Sprintf("s%02d", i), []int{6000, 50, 20000}[i%3], 0)
		if i == 0 {
			b.subFile = ino
		}
	}
	for i := range 300 { // two to a leaf, so that there are nodes below the root, which snapshots share
		file(sub, top, fmt.Sprintf("t%03d", i), 1500, 0)
	}
	_, err = fs.CreateSubvolume(ctx, "sub/nested", subvol.CreateOptions{})
	must(err)
	must(fs.Commit(ctx))
	b.snap, err = fs.Snapshot(ctx, "sub", "snap", true)
	must(err)
	must(fs.Commit(ctx))
	for i := range 5 { // the snapshot keeps leaves that were the subvolume's: full backrefs, shared data refs
		_, err = sub.WriteAt(ctx, b.subFile+ondisk.ObjectID(15*i), data[1000:9000], 0)
		must(err)
	}
	_, err = sub.WriteAt(ctx, b.subFile, bytes.Repeat([]byte{7}, 3000), 2000)
	must(err)
	must(fs.Commit(ctx))
	must(fs.Close())
	return b
}

// run checks an image in memory.
func run(t testing.TB, dev disk.Device, o check.Options) *check.Report {
	t.Helper()
	rep, err := check.Image(t.Context(), []disk.Device{dev}, o)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// TestClean checks images of the engine that are as they should be.
func TestClean(t *testing.T) {
	for _, name := range []string{"", "dup", "dup data", "holes"} {
		rep := run(t, baseImage(t, name).dev, check.Options{DataCsum: true})
		for _, f := range rep.Findings {
			t.Errorf("base %q: %s", name, f.String())
		}
		if s := rep.Stats; s.Blocks < 60 || s.Extents < 150 || s.DataBytes < 1<<20 || s.LostBlocks != 0 {
			t.Errorf("base %q: looked at too little: %+v", name, s)
		}
	}
}
