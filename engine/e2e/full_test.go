package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// fullCase is one way to fill an image to the last byte.
type fullCase struct {
	size     uint64 // 0: the smallest
	nodesize int
	filler   string
	soak     bool // only in the long variant of the suite
}

func (c fullCase) name() string {
	size := "smallest"
	if c.size > 0 {
		size = fmt.Sprintf("%dM", c.size>>20)
	}
	return fmt.Sprintf("%s/%dk/%s", size, c.nodesize>>10, c.filler)
}

func fullCases() (cs []fullCase) {
	for _, size := range []uint64{0, 256 << 20, 1 << 30} {
		for _, nodesize := range []int{4096, 16384} {
			for _, filler := range []string{"data", "small", "empty", "snapshots"} {
				soak := size > 0 && filler != "data" || size == 1<<30 || nodesize == 4096 && (size > 0 || filler == "empty")
				cs = append(cs, fullCase{size, nodesize, filler, soak})
			}
		}
	}
	return cs
}

// TestFull fills images until nothing fits, in several ways: ENOSPC is an error of the one operation, whatever is tried
// then. Deleting works, in the full file system and in one opened anew, and afterwards there is space to write again.
func TestFull(t *testing.T) {
	seed := oracle.Seed(t)
	for i, c := range fullCases() {
		t.Run(c.name(), func(t *testing.T) {
			if c.soak && !oracle.Soak() {
				t.Skip("long: IMGTOOL_SOAK=1 runs it")
			}
			fill(t, c, rand.New(rand.NewPCG(uint64(seed), uint64(i))))
		})
	}
}

func fill(t *testing.T, c fullCase, rnd *rand.Rand) {
	img, fs := create(t, c.size, func(o *engine.FormatOptions) {
		o.NodeSize = c.nodesize
		if o.Size == 0 {
			o.Size = o.MinSize()
		}
	})
	f := newFull(t, fs, rnd)
	first := f.fill(c.filler)
	t.Logf("full after %s", first)
	f.timed("try everything", f.tryAll)
	f.alive("full")
	must(t, fs.Commit(t.Context()))
	f.fill(c.filler) // what the commit gave back
	f.tryAll()
	had := len(f.files)
	f.timed("delete some", func() { f.remove(2) }) // in the full file system, with nothing committed
	deleted := uint64(had - len(f.files))
	f.alive("some deleted")
	again := f.fill(c.filler)
	t.Logf("%d files deleted, full again after %s", deleted, again)
	// What the deleted names left in half-full leaves must be of use; the kernel gets far fewer in (TestRefillAsTheKernel).
	if c.filler != "data" && c.filler != "snapshots" && again.files < deleted/2 {
		t.Errorf("%d files deleted, %d fitted again", deleted, again.files)
	}
	must(t, fs.Commit(t.Context()))
	used(t, fs)
	must(t, fs.Close())
	oracle.CheckWith(t, oracle.CheckOptions{NoDataCsum: true}, img)
	f.kernelRemoves(img)

	fs = reopen(t, img)
	f.reopened(fs)
	f.tryAll()
	f.timed("delete all", func() { f.remove(1) })
	must(t, fs.Commit(t.Context()))
	last := f.fill(c.filler)
	t.Logf("emptied and full for the last time after %s", last)
	// Less would mean that deleting does not give back what filling took. Where data is full a chunk or two may have
	// become metadata meanwhile, as the kernel's do.
	if last.bytes < first.bytes*3/4 || last.files < first.files*3/4 || last.snapshots < first.snapshots*3/4 {
		t.Errorf("the emptied file system held %s, the new one %s", last, first)
	}
	f.alive("full for the last time")
	f.remove(1)
	finish(t, fs, img)
	m := oracle.Mount(t, img)
	oracle.Run(t, "sh", "-c", "echo text > "+m.Path("file")+" && sync")
	m.Unmount()
}

// filled is what an image took.
type filled struct {
	files, bytes, snapshots uint64
	usage                   string
	took                    time.Duration
}

func (f filled) String() string {
	return fmt.Sprintf("%d files, %d bytes, %d snapshots in %v (%s)", f.files, f.bytes, f.snapshots, f.took.Round(time.Millisecond), f.usage)
}

// full fills and empties one file system.
type full struct {
	t     *testing.T
	ctx   context.Context
	fs    *engine.FS
	rnd   *rand.Rand
	tree  *inode.FileTree // of FS_TREE
	src   *inode.FileTree // of a subvolume
	next  int
	files []string
	snaps []string
	inos  []ondisk.ObjectID // in src
}

// sources is how many files the subvolume has that snapshots are taken of.
const sources = 3000

// timed logs how long something takes, and how many commits.
func (f *full) timed(what string, do func()) {
	began, gen := time.Now(), f.fs.DB().Generation()
	do()
	f.t.Logf("%s: %v, %d commits", what, time.Since(began).Round(time.Millisecond), f.fs.DB().Generation()-gen)
}

func newFull(t *testing.T, fs *engine.FS, rnd *rand.Rand) *full {
	f := &full{t: t, ctx: t.Context(), rnd: rnd}
	_, err := fs.CreateSubvolume(f.ctx, "src", subvol.CreateOptions{})
	must(t, err)
	f.reopened(fs)
	for i := range sources {
		ino, err := f.src.Create(f.ctx, 256, fmt.Sprintf("source-%04d", i), inode.Attr{Mode: 0o644})
		must(t, err)
		f.inos = append(f.inos, ino)
	}
	must(t, fs.Commit(f.ctx))
	return f
}

func (f *full) reopened(fs *engine.FS) {
	f.fs = fs
	var err error
	f.tree, err = fs.Subvolume(f.ctx, ondisk.FSTree)
	must(f.t, err)
	id, err := fs.SubvolumeAt(f.ctx, "src")
	must(f.t, err)
	f.src, err = fs.Subvolume(f.ctx, id)
	must(f.t, err)
}

// alive fails the test when the file system has aborted.
func (f *full) alive(when string) {
	f.t.Helper()
	if err := f.fs.DB().Err(); err != nil {
		f.t.Fatalf("%s: %v", when, err)
	}
}

// fits reports whether an operation had space; it ends the test when it failed for another reason.
func (f *full) fits(err error) bool {
	f.t.Helper()
	if err == nil {
		return true
	}
	if !errors.Is(err, fserr.ErrNoSpace) || errors.Is(err, fserr.ErrAborted) {
		f.t.Fatalf("want ENOSPC of the one operation: %v (%+v)", err, f.fs.Usage())
	}
	f.alive("ENOSPC")
	return false
}

func (f *full) newFile() (ondisk.ObjectID, string, bool) {
	name := fmt.Sprintf("file-%07d", f.next)
	f.next++
	ino, err := f.tree.Create(f.ctx, 256, name, inode.Attr{Mode: 0o644})
	if !f.fits(err) {
		return 0, "", false
	}
	f.files = append(f.files, name)
	return ino, name, true
}

// fill writes until ENOSPC.
func (f *full) fill(how string) (r filled) {
	f.t.Helper()
	began := time.Now()
	switch how {
	case "data":
		buf := make([]byte, 1<<20)
		for n := len(buf); n >= 4096; n /= 4 { // the last holes, too
			f.fillFiles(&r, buf[:n], 8<<20)
		}
	case "small":
		f.fillFiles(&r, make([]byte, 4096), 4096)
	case "empty":
		f.fillFiles(&r, nil, 0)
	case "snapshots":
		f.fillSnapshots(&r)
	}
	r.took = time.Since(began)
	u := f.fs.Usage()
	r.usage = fmt.Sprintf("data %d of %d, metadata %d of %d, reserve %d, unallocated %d", u.Data.Used+u.Data.Reserved, u.Data.Total,
		u.Metadata.Used+u.Metadata.Reserved, u.Metadata.Total, u.GlobalReserve, u.Unallocated)
	return r
}

// fillFiles makes files of up to most bytes, piece by piece, until one finds no space.
func (f *full) fillFiles(r *filled, piece []byte, most int64) {
	f.rndBytes(piece)
	for {
		ino, _, ok := f.newFile()
		if !ok {
			return
		}
		r.files++
		for at := int64(0); at < most; at += int64(len(piece)) {
			n, err := f.tree.WriteAt(f.ctx, ino, piece, at)
			r.bytes += uint64(n)
			if !f.fits(err) {
				return
			}
		}
	}
}

func (f *full) rndBytes(p []byte) {
	for i := range p {
		p[i] = byte(f.rnd.Uint32())
	}
}

// fillSnapshots takes snapshots of a subvolume and changes files all over it in between.
func (f *full) fillSnapshots(r *filled) {
	for {
		name := fmt.Sprintf("snap-%05d", f.next)
		f.next++
		_, err := f.fs.Snapshot(f.ctx, "src", name, f.next%2 == 0)
		if !f.fits(err) {
			return
		}
		f.snaps = append(f.snaps, name)
		r.snapshots++
		for i := range 300 {
			ino, n := f.inos[f.rnd.IntN(len(f.inos))], 1+f.rnd.IntN(200)
			if i%10 == 0 { // some with data extents, always the same ones
				ino, n = f.inos[f.rnd.IntN(50)], 5000
			}
			_, err := f.src.WriteAt(f.ctx, ino, make([]byte, n), 0)
			if !f.fits(err) {
				return
			}
		}
	}
}

// tryAll tries operations of all kinds in a full file system. Each either works or says ENOSPC.
func (f *full) tryAll() {
	f.t.Helper()
	ctx, x := f.ctx, f.tree
	for range 20 {
		f.next++
		name := fmt.Sprintf("try-%07d", f.next)
		ino, err := x.Create(ctx, 256, name, inode.Attr{Mode: 0o600})
		if f.fits(err) {
			f.files = append(f.files, name)
			_, err = x.WriteAt(ctx, ino, make([]byte, 3), 0)
			f.fits(err)
			_, err = x.WriteAt(ctx, ino, make([]byte, 30000), 0)
			f.fits(err)
			if f.fits(x.Link(ctx, ino, 256, name+"-link")) {
				f.files = append(f.files, name+"-link")
			}
			f.fits(x.Truncate(ctx, ino, 100))
			f.fits(x.SetXattr(ctx, ino, "user.x", make([]byte, 2000), 0))
			f.fits(x.Fallocate(ctx, ino, 0, 1<<20, false))
			f.fits(x.PunchHole(ctx, ino, 4096, 8192))
			f.fits(x.Rename(ctx, 256, name, 256, name, 0))
		}
		f.fits(x.Chmod(ctx, f.someFile(), 0o611))
		_, err = x.Symlink(ctx, 256, name+"-symlink", "target", inode.Attr{})
		f.fits(err)
		_, err = x.Mkdir(ctx, 256, name+"-dir", inode.Attr{Mode: 0o755})
		f.fits(err)
		_, err = f.src.WriteAt(ctx, f.inos[f.rnd.IntN(len(f.inos))], make([]byte, 100), 0)
		f.fits(err)
	}
	for range 3 {
		f.next++
		_, err := f.fs.CreateSubvolume(ctx, fmt.Sprintf("try-%07d-subvol", f.next), subvol.CreateOptions{})
		f.fits(err)
		name := fmt.Sprintf("try-%07d-snap", f.next)
		if _, err = f.fs.Snapshot(ctx, "src", name, false); f.fits(err) {
			f.snaps = append(f.snaps, name)
		}
	}
	f.alive("after trying everything")
}

// kernelRemoves has the kernel delete some files of the full image.
func (f *full) kernelRemoves(img string) {
	f.t.Helper()
	m := oracle.Mount(f.t, img)
	n := min(50, len(f.files)/2)
	for _, name := range f.files[:n] {
		if err := os.Remove(m.Path(name)); err != nil {
			f.t.Errorf("the kernel cannot delete a file of the full image: %v", err)
		}
	}
	f.files = f.files[n:]
	m.Unmount()
	oracle.CheckWith(f.t, oracle.CheckOptions{NoDataCsum: true}, img)
}

func (f *full) someFile() ondisk.ObjectID {
	if len(f.files) == 0 {
		return 256
	}
	e, err := f.tree.Lookup(f.ctx, 256, f.files[f.rnd.IntN(len(f.files))])
	must(f.t, err)
	return e.Ino()
}

// remove deletes every nth of the files and snapshots. Here nothing may find the file system full.
func (f *full) remove(nth int) {
	f.t.Helper()
	keep := f.files[:0]
	for i, name := range f.files {
		if i%nth != 0 {
			keep = append(keep, name)
			continue
		}
		if err := f.tree.Unlink(f.ctx, 256, name); err != nil {
			f.t.Fatalf("unlink %d of %d: %v (%+v)", i, len(f.files), err, f.fs.Usage())
		}
	}
	f.files = keep
	rest := f.snaps[:0]
	for i, name := range f.snaps {
		if i%nth != 0 {
			rest = append(rest, name)
			continue
		}
		if err := f.fs.DeleteSubvolume(f.ctx, name); err != nil {
			f.t.Fatalf("delete snapshot %d of %d: %v (%+v)", i, len(f.snaps), err, f.fs.Usage())
		}
	}
	f.snaps = rest
	if err := f.fs.CleanSubvolumes(f.ctx); err != nil {
		f.t.Fatalf("drop trees: %v (%+v)", err, f.fs.Usage())
	}
}
