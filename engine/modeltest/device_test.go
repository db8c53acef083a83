package modeltest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// outcome is what a fault of a device must end in.
type outcome uint8

const (
	before   outcome = iota // an error, a read-only file system, and the image at the commit before
	inFlight                // the same, with the image at the commit that was under way: its superblock was written
	fails                   // an error of this operation only
	heals                   // no error: another copy was good, or it only takes longer
)

func (o outcome) String() string {
	return [...]string{"read-only, at the last commit", "read-only, at the commit in flight", "an error of the operation", "healed"}[o]
}

// Where a fault strikes.
const (
	anywhere  = 0
	atSuper   = 1 << 62 // the primary superblock, and its mirror
	atMirror  = 1 << 61
	firstCopy = 1 << 60 // of the block groups named beside it
	atSupers  = 1 << 59 // all superblocks
)

// deviceCase is a row of the table: a kind of fault at a kind of operation.
type deviceCase struct {
	name       string
	op         disk.Op
	where      uint64 // at* or block group types
	after      int
	meta, data uint64
	do         func(context.Context, *engine.FS) error // nil: change all kinds of things, and commit
	want       outcome
	silent     bool // it is known from the next operation on
	rot        bool // the first copy of all metadata is bad already
	inCommit   bool // the device fails from the start of a commit on
	opens      bool // do nothing but open the device once more, for reading, and read everything
}

// deviceCases are all operations of a device, as the engine uses them.
var deviceCases = []deviceCase{
	{name: "write metadata, one copy of one", op: disk.OpWrite, where: ondisk.BGMetadata, want: before},
	{name: "write metadata, one copy of two", op: disk.OpWrite, where: ondisk.BGMetadata | firstCopy, meta: ondisk.BGDup, want: before},
	{name: "write the chunk tree", op: disk.OpWrite, where: ondisk.BGSystem, do: newChunk, want: before},
	{name: "write data, queued", op: disk.OpWrite, where: ondisk.BGData, want: before},
	{name: "write data, queued, one copy of two", op: disk.OpWrite, where: ondisk.BGData | firstCopy, data: ondisk.BGDup, want: before},
	{name: "write data, direct", op: disk.OpWrite, where: ondisk.BGData, do: bigWrite, want: before},
	{name: "write data, by a bulk", op: disk.OpWrite, where: ondisk.BGData, do: bulkWrite, want: before},
	{name: "write the superblock", op: disk.OpWrite, where: atSuper, want: before},
	{name: "write the superblock's mirror", op: disk.OpWrite, where: atMirror, want: inFlight},
	{name: "flush before the superblock", op: disk.OpFlush, want: before},
	{name: "flush behind the superblock", op: disk.OpFlush, after: 1, want: inFlight},
	{name: "discard", op: disk.OpDiscard, want: inFlight, silent: true},
	{name: "read metadata, one copy of one", op: disk.OpRead, where: ondisk.BGMetadata, do: readAll, want: fails},
	{name: "read metadata, one copy of two", op: disk.OpRead, where: ondisk.BGMetadata | firstCopy, meta: ondisk.BGDup, do: readAll, want: heals},
	{name: "read metadata, both copies", op: disk.OpRead, where: ondisk.BGMetadata, meta: ondisk.BGDup, do: readAll, want: fails},
	{name: "read metadata, in a commit", op: disk.OpRead, where: ondisk.BGMetadata, inCommit: true, want: before},
	{name: "repair metadata on read", op: disk.OpWrite, where: ondisk.BGMetadata | firstCopy, meta: ondisk.BGDup, rot: true, do: readAll, want: heals},
	{name: "read data, one copy of one", op: disk.OpRead, where: ondisk.BGData, do: readAll, want: fails},
	{name: "read data, one copy of two", op: disk.OpRead, where: ondisk.BGData | firstCopy, data: ondisk.BGDup, do: readAll, want: heals},
	{name: "read the superblock", op: disk.OpRead, where: atSuper, opens: true, want: heals},
	{name: "read the superblock's mirror", op: disk.OpRead, where: atMirror, opens: true, want: heals},
	{name: "read all superblocks", op: disk.OpRead, where: atSupers, opens: true, want: fails},
	{name: "read the chunk tree", op: disk.OpRead, where: ondisk.BGSystem, opens: true, want: fails},
	{name: "read data, in a write of a part of a sector", op: disk.OpRead, where: ondisk.BGData, do: partialWrite, want: fails},
}

// deviceErrors are the ways in which each of them fails.
var deviceErrors = []struct {
	name string
	rule disk.Rule
	ops  []disk.Op // of which they are; nil: of all
}{
	{"EIO", disk.Rule{Err: syscall.EIO}, nil},
	{"short", disk.Rule{Err: syscall.EIO, Short: true}, []disk.Op{disk.OpRead, disk.OpWrite}},
	{"ends early", disk.Rule{Err: io.ErrUnexpectedEOF, Short: true}, []disk.Op{disk.OpRead}},
	{"torn", disk.Rule{Err: syscall.EIO, Torn: true}, []disk.Op{disk.OpWrite}},
	{"no space on the host", disk.Rule{Err: syscall.ENOSPC}, []disk.Op{disk.OpWrite, disk.OpFlush, disk.OpDiscard}},
	{"once", disk.Rule{Err: syscall.EIO, Count: 1}, []disk.Op{disk.OpWrite, disk.OpFlush, disk.OpDiscard}},
	{"latency", disk.Rule{Latency: 100 * time.Microsecond}, nil}, // which nothing fails of
}

// TestDeviceFaults goes through the table: every kind of fault at every kind of operation.
func TestDeviceFaults(t *testing.T) {
	for _, c := range deviceCases {
		for _, e := range deviceErrors {
			if e.ops != nil && !slices.Contains(e.ops, c.op) {
				continue
			}
			if e.rule.Err == nil {
				c.want, c.silent = heals, false
			}
			t.Run(c.name+"/"+e.name, func(t *testing.T) { c.run(t, e.rule) })
		}
	}
}

// run makes an image with a commit, lets the device fail, and looks at what becomes of both.
func (c deviceCase) run(t *testing.T, rule disk.Rule) {
	ctx := t.Context()
	base := firstCommit(t, c)
	mem, last := base.img.Clone(), base.state
	if c.rot {
		if spoilCopy(t, mem, 0) == 0 {
			t.Fatal("nothing to spoil")
		}
	}
	dev := disk.NewFaults(mem, 1)
	var rules []disk.Rule
	tracer := trace.Func(func(e trace.Event) {
		if c.inCommit && e.Kind == trace.CommitStarted {
			dev.SetRules(rules...)
		}
	})
	// A cache of this size holds nothing clean, but for what is in use.
	fs, err := engine.OpenDevices(ctx, []disk.Device{keepOpen{dev}}, engine.OpenOptions{Discard: true, CacheBytes: 1, Tracer: tracer})
	if err != nil {
		t.Fatal(err)
	}
	if rules = c.rules(t, fs, rule); !c.inCommit {
		dev.SetRules(rules...)
	}
	do := c.do
	switch {
	case c.opens:
		do = func(ctx context.Context, _ *engine.FS) error { return readOnce(ctx, dev) }
	case do == nil:
		do = change
	}
	err = do(ctx, fs)
	if len(dev.Injections()) == 0 {
		t.Fatal("the fault did not strike")
	}
	if c.silent && err == nil {
		err = fs.DB().Err()
	}
	if c.want != heals {
		checkError(t, "the operation", err, rule.Err)
	} else if err != nil {
		t.Errorf("nothing should fail, another copy is good: %v", err)
	}
	if c.rot {
		if err := repair(ctx, mem); err != nil {
			t.Errorf("scrub: %v", err)
		}
	}
	legal := []*vol{last}
	if c.want == before || c.want == inFlight {
		now := c.stateInMemory(t, fs)
		if c.want == inFlight {
			legal = []*vol{now}
		} else if c.where == atSuper && (rule.Short || rule.Torn) {
			legal = append(legal, now) // of a superblock all that matters may have been written
		}
		c.checkReadOnly(t, fs, dev, rule.Err)
	} else {
		legal = []*vol{c.goOn(t, fs, dev)}
	}
	if err := fs.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	c.checkImage(t, mem, legal)
}

// stateInMemory reads what the file system shows after the fault, if that is legal for the image.
func (c deviceCase) stateInMemory(t *testing.T, fs *engine.FS) *vol {
	t.Helper()
	if c.op == disk.OpRead || c.want == before && c.where != atSuper {
		return nil
	}
	v, err := stateNow(t.Context(), fs)
	if err != nil {
		t.Errorf("reading in an aborted file system: %v", err)
	}
	return v
}

// goOn demands that after a fault of a read all is as before.
func (c deviceCase) goOn(t *testing.T, fs *engine.FS, dev *disk.Faults) *vol {
	t.Helper()
	if err := fs.DB().Err(); err != nil {
		t.Errorf("a fault of one read has ended the file system: %v", err)
	}
	dev.SetRules()
	if err := change(t.Context(), fs); err != nil {
		t.Errorf("after the fault: %v", err)
	}
	v, err := stateNow(t.Context(), fs)
	if err != nil {
		t.Errorf("after the fault: %v", err)
	}
	return v
}

// checkError demands an error that has the fault's errno and names the device.
func checkError(t *testing.T, what string, err, want error) {
	t.Helper()
	var place *disk.Error
	if !errors.Is(err, want) || !errors.As(err, &place) || place.Device != deviceName {
		t.Errorf("%s ends with %q, want one that is %q and names %s", what, err, want, deviceName)
	}
}

// checkReadOnly demands that nothing can be changed any more and that the first cause stays, whatever else fails.
func (c deviceCase) checkReadOnly(t *testing.T, fs *engine.FS, dev *disk.Faults, want error) {
	t.Helper()
	first := fs.DB().Err()
	if !errors.Is(first, fserr.ErrAborted) {
		t.Fatalf("the file system is not read-only: %v", first)
	}
	checkError(t, "the file system", first, want)
	dev.SetRules(disk.Rule{Err: syscall.ENXIO}) // now the device is gone altogether
	for what, try := range map[string]func() error{
		"a change":   func() error { return change(context.Background(), fs) },
		"a commit":   func() error { return fs.Commit(context.Background()) },
		"a snapshot": func() error { _, err := fs.Snapshot(context.Background(), "", "s", true); return err },
		"a label":    func() error { return fs.SetLabel(context.Background(), "x") },
	} {
		if err := try(); err == nil {
			t.Errorf("%s after the abort succeeds", what)
		}
	}
	if now := fs.DB().Err(); now.Error() != first.Error() {
		t.Errorf("the first cause was %q and is now %q", first, now)
	}
	// Where a commit failed before it waited for the queue of small writes, what was in it still goes to free space.
	if n := writesOf(dev); n > 0 && !c.inCommit {
		t.Errorf("%d writes after the abort", n)
	}
}

// writesOf counts what was tried to be changed on the device since the last SetRules.
func writesOf(dev *disk.Faults) int {
	n := 0
	for _, i := range dev.Injections() {
		if i.Op != disk.OpRead {
			n++
		}
	}
	return n
}

// checkImage opens what is left, which must be at one of the commits, and asks the checker before and after a change.
func (c deviceCase) checkImage(t *testing.T, mem *disk.Mem, legal []*vol) {
	t.Helper()
	ctx := t.Context()
	w := &world{}
	if err := w.check(ctx, mem, true); err != nil {
		t.Errorf("check: %v", err)
	}
	fs, err := engine.OpenDevices(ctx, []disk.Device{keepOpen{mem}}, engine.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := stateNow(ctx, fs)
	if err != nil {
		t.Fatal(err)
	}
	var diff string
	for _, v := range legal {
		if diff = diffVols(v, got); diff == "" {
			break
		}
	}
	if diff != "" {
		t.Errorf("the image is not at the commit it should be at: %s", diff)
	}
	if err := errors.Join(change(ctx, fs), fs.Close()); err != nil {
		t.Errorf("the image cannot be changed: %v", err)
	}
	if err := w.check(ctx, mem, false); err != nil {
		t.Errorf("check after one more commit: %v", err)
	}
}

// stateNow reads the top subvolume.
func stateNow(ctx context.Context, fs *engine.FS) (*vol, error) {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	return loadVol(ctx, tree, false)
}

// rules are those of the case on this file system.
func (c deviceCase) rules(t *testing.T, fs *engine.FS, r disk.Rule) []disk.Rule {
	r.Ops, r.After = []disk.Op{c.op}, c.after
	switch c.where {
	case anywhere:
		return []disk.Rule{r}
	case atSuper, atMirror:
		r.Off, r.Len = int64(ondisk.SuperOffsets[0]), ondisk.SuperSize
		if c.where == atMirror {
			r.Off = int64(ondisk.SuperOffsets[1])
		}
		return []disk.Rule{r}
	case atSupers:
		r.Len = ondisk.SuperSize
		var rules []disk.Rule
		for _, off := range ondisk.SuperOffsets {
			r.Off = int64(off)
			rules = append(rules, r)
		}
		return rules
	}
	var rules []disk.Rule
	for _, chunk := range fs.Volume().Chunks() {
		for i := range chunk.NumCopies {
			if chunk.Type&c.where == 0 || i > 0 && c.where&firstCopy != 0 {
				continue
			}
			p, err := fs.Volume().Place(chunk.Start, i)
			if err != nil {
				t.Fatal(err)
			}
			r.Off, r.Len = int64(p.Offset), int64(chunk.Length)
			rules = append(rules, r)
		}
	}
	return rules
}

// committed is an image with the state that its last commit has.
type committed struct {
	img   *disk.Mem
	state *vol
}

// firstCommits are those made so far, by the profiles.
var firstCommits = map[[2]uint64]committed{}

// firstCommit gives a device with a few files committed. It is not to be changed.
func firstCommit(t *testing.T, c deviceCase) committed {
	t.Helper()
	profiles := [2]uint64{c.meta, c.data}
	if done, ok := firstCommits[profiles]; ok {
		return done
	}
	mem := disk.NewMem(deviceName, 176<<20)
	o := engine.FormatOptions{Options: mkfs.Default(), Size: uint64(mem.Size())}
	o.Meta, o.Data = c.meta, c.data
	fs, err := engine.FormatDevice(t.Context(), keepOpen{mem}, o)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := change(t.Context(), fs); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 { // so that no tree of interest is but one block
		ino, err := tree.Create(t.Context(), inode.RootDir, fmt.Sprintf("small%d", i), inode.Attr{Mode: 0o644})
		if err == nil {
			_, err = tree.WriteAt(t.Context(), ino, content(uint32(i), 3000), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := fs.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	v, err := stateNow(t.Context(), fs)
	if err := errors.Join(err, fs.Close()); err != nil {
		t.Fatal(err)
	}
	firstCommits[profiles] = committed{mem, v}
	return firstCommits[profiles]
}

// change makes files, large and small, takes one away, and commits.
func change(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	list, err := tree.Entries(ctx, inode.RootDir)
	if err != nil {
		return err
	}
	n := len(list)
	for i, size := range []int{0, 100, 5000, 40_000} {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("f%d-%d", n, i), inode.Attr{Mode: 0o644})
		if err == nil && size > 0 {
			_, err = tree.WriteAt(ctx, ino, content(uint32(n*10+i), size), 0)
		}
		if err != nil {
			return err
		}
	}
	if n > 4 {
		if err := tree.Unlink(ctx, inode.RootDir, list[2].Name); err != nil {
			return err
		}
	}
	return fs.Commit(ctx)
}

func bigWrite(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	ino, err := tree.Create(ctx, inode.RootDir, "big", inode.Attr{Mode: 0o644})
	if err != nil {
		return err
	}
	_, err = tree.WriteAt(ctx, ino, content(1, 3<<20), 0)
	return err
}

func bulkWrite(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	ino, err := tree.ReserveInos(ctx, 1)
	if err != nil {
		return err
	}
	const size = 256 << 10
	b := &inode.Batch{Existing: inode.RootDir, Data: content(2, size)}
	n := tree.Csum().Size()
	b.Sums = make([]byte, size/ondisk.SectorSize*n)
	for i := range size / ondisk.SectorSize {
		tree.Csum().Sum(b.Sums[i*n:(i+1)*n], b.Data[i*ondisk.SectorSize:(i+1)*ondisk.SectorSize])
	}
	b.Entries = []inode.BulkEntry{{Dir: inode.RootDir, Name: "bulk", Ino: ino, Attr: inode.Attr{Mode: ondisk.ModeReg | 0o644}, Size: size}}
	k, err := tree.StartBulk(ctx, b)
	if err != nil {
		return err
	}
	return k.Insert(ctx)
}

// newChunk writes until another chunk is needed, and commits.
func newChunk(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	ino, err := tree.Create(ctx, inode.RootDir, "big", inode.Attr{Mode: 0o644})
	if err != nil {
		return err
	}
	for n := len(fs.Volume().Chunks()); len(fs.Volume().Chunks()) == n; {
		it, err := tree.Inode(ctx, ino)
		if err == nil {
			err = tree.Fallocate(ctx, ino, int64(it.Size()), 4<<20, false)
		}
		if err != nil {
			return err
		}
	}
	return fs.Commit(ctx)
}

// readOnce opens a device for reading and reads everything.
func readOnce(ctx context.Context, dev disk.Device) error {
	fs, err := engine.OpenDevices(ctx, []disk.Device{keepOpen{dev}}, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	return errors.Join(readAll(ctx, fs), fs.Close())
}

// readAll reads everything.
func readAll(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	_, err = loadVol(ctx, tree, false)
	return err
}

// partialWrite changes a byte in the middle of a file.
func partialWrite(ctx context.Context, fs *engine.FS) error {
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	list, err := tree.Entries(ctx, inode.RootDir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if it, err := tree.Inode(ctx, e.Ino()); err != nil {
			return err
		} else if it.Size() == 40_000 {
			_, err := tree.WriteAt(ctx, e.Ino(), []byte{1}, 20_001)
			return err
		}
	}
	return nil
}
