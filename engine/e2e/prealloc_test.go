package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// preallocFile is a file of preallocated space in a test.
type preallocFile struct {
	t    *testing.T
	fs   *engine.FS
	tree *inode.FileTree
	ino  ondisk.ObjectID
	want []byte
}

const preallocSize = 1 << 20

func newPrealloc(t *testing.T, fs *engine.FS, name string, flags uint64) *preallocFile {
	t.Helper()
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	ino, err := tree.Create(t.Context(), inode.RootDir, name, inode.Attr{Mode: 0o644, Flags: flags})
	must(t, err)
	must(t, tree.Fallocate(t.Context(), ino, 0, preallocSize, false))
	return &preallocFile{t, fs, tree, ino, make([]byte, preallocSize)}
}

func (f *preallocFile) write(off, n int, rnd *rand.Rand) {
	f.t.Helper()
	for i := range n {
		f.want[off+i] = byte(rnd.Uint32())
	}
	_, err := f.tree.WriteAt(f.t.Context(), f.ino, f.want[off:off+n], int64(off))
	must(f.t, err)
}

func (f *preallocFile) extents() (all []inode.Extent) {
	f.t.Helper()
	must(f.t, f.tree.Extents(f.t.Context(), f.ino, 0, preallocSize, func(e inode.Extent) (bool, error) {
		all = append(all, e)
		return true, nil
	}))
	return all
}

func (f *preallocFile) verify() {
	f.t.Helper()
	have := make([]byte, preallocSize)
	if _, err := f.tree.ReadAt(f.t.Context(), f.ino, have, 0); err != nil || !bytes.Equal(have, f.want) {
		f.t.Errorf("the file does not read as written (%v)", err)
	}
}

// TestPreallocatedInPlace writes into preallocated files in a random order of pieces, with commits in between, until all
// is written: it stays in the place that fallocate chose, and in the end is one extent again. The kernel reads the same.
func TestPreallocatedInPlace(t *testing.T) {
	oracle.NeedRoot(t)
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 1))
	for _, noHoles := range []bool{true, false} {
		img, fs := create(t, 0, func(o *engine.FormatOptions) {
			o.Size = o.MinSize()
			o.Features.NoHoles, o.Features.BlockGroupTree = noHoles, noHoles
		})
		want := map[string][]byte{}
		for i, flags := range []uint64{0, ondisk.InodeNoDataCow | ondisk.InodeNoDataSum} {
			name := fmt.Sprintf("file-%d", i)
			f := newPrealloc(t, fs, name, flags)
			before := f.extents()
			pieces := rnd.Perm(preallocSize / 16384)
			for i, p := range pieces {
				f.write(p*16384, 16384, rnd)
				if i%8 == 0 {
					f.verify()
					must(t, fs.Commit(t.Context()))
				}
			}
			f.verify()
			after := f.extents()
			if len(before) != 1 || len(after) != 1 || after[0].Addr != before[0].Addr || after[0].Type != ondisk.FileExtentReg {
				t.Errorf("%s: preallocated as %+v, all written as %+v", name, before, after)
			}
			want[name] = f.want
			// The ends of pieces within sectors, and a piece over written and unwritten space.
			f = newPrealloc(t, fs, name+"-odd", flags)
			for range 20 {
				off := rnd.IntN(preallocSize - 1)
				f.write(off, 1+rnd.IntN(min(60000, preallocSize-off)), rnd)
			}
			f.verify()
			want[name+"-odd"] = f.want
		}
		finish(t, fs, img)
		m := oracle.Mount(t, img)
		for name, data := range want {
			if have, err := os.ReadFile(m.Path(name)); err != nil || !bytes.Equal(have, data) {
				t.Errorf("the kernel reads %s otherwise (%v)", name, err)
			}
		}
		m.Unmount()
	}
}

// TestPreallocatedShared writes into preallocated space that a snapshot or another file shares: copied on write, and the
// other one reads zeros still. What is preallocated after that is written in place again.
func TestPreallocatedShared(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	img, fs := create(t, 0, func(o *engine.FormatOptions) { o.Size = o.MinSize() })
	ctx := t.Context()
	f, g := newPrealloc(t, fs, "snapshotted", 0), newPrealloc(t, fs, "cloned", 0)
	snap, err := fs.Snapshot(ctx, "/", "snap", false)
	must(t, err)
	other, err := g.tree.Create(ctx, inode.RootDir, "clone", inode.Attr{Mode: 0o644})
	must(t, err)
	g = newPrealloc(t, fs, "cloned-later", 0)
	must(t, g.tree.CloneRange(ctx, inode.Clone{Src: g.tree, SrcIno: g.ino, Ino: other}))
	snapTree, err := fs.Subvolume(ctx, snap)
	must(t, err)
	inSnap := &preallocFile{t, fs, snapTree, f.ino, make([]byte, preallocSize)}
	clone := &preallocFile{t, fs, g.tree, other, make([]byte, preallocSize)}
	place := f.extents()[0].Addr
	for _, x := range []*preallocFile{f, inSnap, g, clone} {
		at := x.extents()[0].Addr
		x.write(65536, 65536, rnd)
		for _, e := range x.extents() {
			if e.Type == ondisk.FileExtentReg && e.Addr == at {
				t.Errorf("inode %d of tree %d was written in place, into shared space", x.ino, x.tree.ID())
			}
		}
	}
	for _, x := range []*preallocFile{f, inSnap, g, clone} {
		x.verify()
	}
	must(t, fs.Commit(ctx))
	// Nobody else refers to it any more, but it is older than the snapshot: copied, as the kernel does.
	must(t, fs.DeleteSubvolume(ctx, "snap"))
	must(t, fs.CleanSubvolumes(ctx))
	f.write(0, 4096, rnd)
	for _, e := range f.extents() {
		if e.Type == ondisk.FileExtentReg && e.Addr == place {
			t.Error("space from before the snapshot was written in place")
		}
	}
	h := newPrealloc(t, fs, "afterwards", 0)
	at := h.extents()[0].Addr
	h.write(8192, 8192, rnd)
	if e := h.extents(); len(e) != 3 || e[1].Addr != at || e[1].Type != ondisk.FileExtentReg {
		t.Errorf("fresh preallocated space was not written in place: %+v", e)
	}
	for _, x := range []*preallocFile{f, g, clone, h} {
		x.verify()
	}
	finish(t, fs, img)
}

// TestPreallocatedWhenFull preallocates a file, fills the image to the last sector, and writes the file: fallocate has
// promised the space.
func TestPreallocatedWhenFull(t *testing.T) {
	rnd := rand.New(rand.NewPCG(2, 1))
	img, fs := create(t, 0, func(o *engine.FormatOptions) { o.Size = o.MinSize() })
	f := newPrealloc(t, fs, "promised", 0)
	buf, err := make([]byte, 1<<20), error(nil)
	ino, cerr := f.tree.Create(t.Context(), inode.RootDir, "filler", inode.Attr{Mode: 0o644})
	must(t, cerr)
	for at := int64(0); len(buf) >= 4096; {
		if _, err = f.tree.WriteAt(t.Context(), ino, buf, at); err != nil {
			if !errors.Is(err, fserr.ErrNoSpace) {
				t.Fatal(err)
			}
			buf = buf[:len(buf)/2]
			continue
		}
		at += int64(len(buf))
	}
	for i := 0; i < preallocSize; i += 65536 {
		f.write(i, 65536, rnd)
		if i%(4*65536) == 0 {
			must(t, fs.Commit(t.Context()))
		}
	}
	f.verify()
	if _, err := f.tree.WriteAt(t.Context(), f.ino, buf[:1], 0); !errors.Is(err, fserr.ErrNoSpace) {
		t.Errorf("a second write, which is copied: %v, want ENOSPC (or the image was not full)", err)
	}
	finish(t, fs, img)
}

// TestPreallocatedInParts writes over the end of preallocated space in a full file system: what went in place is in the
// file, and the count that comes with the error says so.
func TestPreallocatedInParts(t *testing.T) {
	const part = 64 << 10
	ctx := t.Context()
	img, fs := create(t, 128<<20, nil)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	ino, err := tree.Create(ctx, inode.RootDir, "file", inode.Attr{Mode: 0o644})
	must(t, err)
	must(t, tree.Fallocate(ctx, ino, 0, part, false))
	full, err := tree.Create(ctx, inode.RootDir, "full", inode.Attr{Mode: 0o644})
	must(t, err)
	for n, size := int64(64<<20), int64(0); n >= 4096; {
		if err = tree.Fallocate(ctx, full, size, n, false); err == nil {
			size += n
		} else if n /= 2; !errors.Is(err, fserr.ErrNoSpace) {
			t.Fatal(err)
		}
	}
	data := bytes.Repeat([]byte("in parts "), 2*part/9+1)[:2*part-100]
	n, err := tree.WriteAt(ctx, ino, data[100:], 100)
	if !errors.Is(err, fserr.ErrNoSpace) || n != part-100 {
		t.Errorf("%d bytes written, %v; want %d and no space", n, err, part-100)
	}
	have := make([]byte, 2*part)
	got, _ := tree.ReadAt(ctx, ino, have, 0)
	if want := append(make([]byte, 100), data[100:part]...); !bytes.Equal(have[:got], want) {
		t.Errorf("the file has %d bytes that are not those said to be written", got)
	}
	finish(t, fs, img)
}

// TestPreallocationIsNoChange: preallocated extents alone change neither what a file holds nor its times. Those come with
// the size, in the last of the transactions that Fallocate takes; a commit between them shows the file as it was. Here the
// second one finds no space.
func TestPreallocationIsNoChange(t *testing.T) {
	const gap = 64 << 10
	ctx := t.Context()
	img, fs := create(t, 128<<20, nil)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	ino, err := tree.Create(ctx, inode.RootDir, "file", inode.Attr{Mode: 0o644})
	must(t, err)
	_, err = tree.WriteAt(ctx, ino, bytes.Repeat([]byte("data"), 1024), gap)
	must(t, err)
	was, err := tree.Inode(ctx, ino)
	must(t, err)
	if err := tree.Fallocate(ctx, ino, 0, 1<<30, false); !errors.Is(err, fserr.ErrNoSpace) {
		t.Fatalf("preallocating 1 GiB of 128 MiB: %v", err)
	}
	is, err := tree.Inode(ctx, ino)
	must(t, err)
	if is.NBytes() != was.NBytes()+gap {
		t.Errorf("%d bytes are allocated, want %d and the gap of %d", is.NBytes(), was.NBytes(), gap)
	}
	if is.Size() != was.Size() || is.MTime() != was.MTime() || is.CTime() != was.CTime() {
		t.Errorf("size %d, times %v and %v; before %d, %v and %v", is.Size(), is.MTime(), is.CTime(), was.Size(), was.MTime(), was.CTime())
	}
	finish(t, fs, img)
}
