package receive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/check"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// longStream is a random stream of some hundred inodes with up to some MiB of data each.
func longStream(t testing.TB, seed int64, name, parent string) []byte {
	s := &randomStream{script: newScript(t, 2), Rand: rand.New(rand.NewPCG(uint64(seed), 21))}
	if parent == "" {
		s.subvolAs(name, uuidA)
	} else {
		s.snapshot(name, parent)
	}
	n := 300
	if raceDetector {
		n = 80
	}
	for i := range n {
		if i%20 == 19 {
			s.anything()
		} else {
			s.newInode()
		}
	}
	return bytes.Clone(s.end())
}

// almostFull is the image with a file of preallocated space that leaves so many bytes for data.
func (b *base) almostFull(t testing.TB, leave int64) *base {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mem := b.mem.Clone()
	fs, err := engine.OpenDevices(ctx, []disk.Device{mem}, engine.OpenOptions{})
	must(err)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(err)
	ino, err := tree.Create(ctx, inode.RootDir, "hog", inode.Attr{Mode: 0o600})
	must(err)
	size, step := int64(0), int64(8<<20)
	for step >= 4096 {
		if err := tree.Fallocate(ctx, ino, size, step, false); errors.Is(err, fserr.ErrNoSpace) {
			step /= 2
		} else if must(err); err == nil {
			size += step
		}
	}
	must(tree.Truncate(ctx, ino, size-leave))
	must(fs.Commit(ctx))
	n := &base{used: fs.Usage().Data.Used, roots: rootsOf(t, fs), top: entriesOf(t, fs, ""), in: entriesOf(t, fs, "in"), manifests: b.manifests}
	must(fs.Close())
	n.mem = mem.Clone()
	return n
}

// TestNoSpace receives into an image that has less room than the stream needs: ENOSPC, and all the space is back.
func TestNoSpace(t *testing.T) {
	seed := oracle.Seed(t)
	b := newBase(t)
	for i, leave := range []int64{0, 4096, 64 << 10, 1 << 20, 3 << 20} {
		full := b.almostFull(t, leave)
		for j, errs := range []int{0, -1} {
			// The last files are more than there is room for, whatever comes before.
			s := &randomStream{script: newScript(t, 2), Rand: rand.New(rand.NewPCG(uint64(seed), uint64(2*i+j)))}
			s.subvolAs("s", uuidA)
			for range 40 {
				if errs < 0 {
					s.newInode()
				}
			}
			for n := range 80 {
				name := fmt.Sprint("big", n)
				s.script.path(sendstream.CmdMkfile, name)
				s.write(name, 0, string(make([]byte, 48<<10)))
			}
			if err := full.receive(t, s.end(), receive.Options{MaxErrors: errs}, true); !errors.Is(err, fserr.ErrNoSpace) {
				t.Errorf("%d bytes of room: %v", leave, err)
			}
		}
	}
}

// TestFailingDevice receives onto a device that fails at some moment: the receiving ends with an error that says so, and
// the image is as after a power cut: the subvolume is there whole, or nobody sees it and the next writer drops it.
func TestFailingDevice(t *testing.T) {
	seed := oracle.Seed(t)
	b := newBase(t, longStream(t, seed, "p", ""))
	in := longStream(t, seed+1, "s", uuidA)
	ops := b.failingOnce(t, in, disk.Rule{Ops: []disk.Op{disk.OpWrite, disk.OpFlush}, Count: 1, After: 1 << 30})
	if ops < 20 {
		t.Fatalf("%d operations only", ops)
	}
	rng, rounds := rand.New(rand.NewPCG(uint64(seed), 22)), 24
	switch {
	case raceDetector:
		rounds = 6 // each rule once
	case oracle.Soak():
		rounds = 2000
	}
	for round := range rounds {
		rule := disk.Rule{Err: syscall.EIO, After: rng.IntN(ops)}
		switch round % 6 {
		case 0, 1:
			rule.Ops = []disk.Op{disk.OpWrite}
		case 2:
			rule.Ops, rule.Torn = []disk.Op{disk.OpWrite}, true
		case 3:
			rule.Ops, rule.After = []disk.Op{disk.OpFlush}, rng.IntN(8)
		case 4:
			rule.Ops, rule.Short, rule.Count = []disk.Op{disk.OpWrite}, true, 1
		case 5:
			rule.Ops, rule.After, rule.Count = []disk.Op{disk.OpRead}, rng.IntN(60), 1+rng.IntN(3)
		}
		t.Run(fmt.Sprintf("%d/%v after %d", round, rule.Ops, rule.After), func(t *testing.T) { b.failingOnce(t, in, rule) })
	}
}

// failingOnce receives onto a device with a rule and looks at what is left. It returns how often the device has written
// and flushed.
func (b *base) failingOnce(t *testing.T, in []byte, rule disk.Rule) int {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	mem := b.mem.Clone()
	faults := disk.NewFaults(mem, 1)
	fs, err := engine.OpenDevices(ctx, []disk.Device{faults}, engine.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := mem.Stats()
	faults.SetRules(rule)
	subs, failed := fs.Receive(ctx, bytes.NewReader(in), engine.ReceiveOptions{Path: "in", Options: receive.Options{KeepPartial: rule.After%2 == 1, MaxErrors: -1}})
	after, hit := mem.Stats(), len(faults.Injections()) > 0
	if ctx.Err() != nil || failed != nil && !hit || failed != nil && fs.DB().Err() == nil && !errors.Is(failed, syscall.EIO) {
		t.Fatalf("%v, faults: %v", failed, faults.Injections())
	}
	faults.SetRules()
	_ = fs.Close() // after an abort it may have something to say
	for _, o := range []engine.OpenOptions{{ReadOnly: true}, {}} {
		// A copy of the superblock may be torn, or older than the other one.
		if err := ownCheck(mem, check.SuperCsum, check.SuperOld); err != nil {
			t.Fatalf("after %v: %v", failed, err)
		}
		mem = mem.Clone()
		again, err := engine.OpenDevices(ctx, []disk.Device{mem}, o)
		if err != nil {
			t.Fatal(err)
		}
		names := b.subvolumes(t, again)
		names = slices.DeleteFunc(names, func(n string) bool { return n == "in/s" })
		if len(names) != len(b.manifests) {
			t.Fatalf("subvolumes %q; the receiving: %v", names, failed)
		}
		b.compareAll(t, again, failed)
		if !o.ReadOnly {
			if err := errors.Join(again.SetLabel(ctx, "again"), again.Commit(ctx)); err != nil { // renews both superblocks
				t.Fatal(err)
			}
			got := entriesOf(t, again, "in")
			if len(got) < len(subs) {
				t.Fatalf("%v was received and is not there; the receiving: %v", subs, failed)
			}
			if len(got) == 0 {
				b.compare(t, again, nil, failed)
			} else if failed == nil && len(got) != 1 {
				t.Fatalf("%q", got)
			}
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := ownCheck(mem); err != nil {
		t.Fatalf("opened again and committed, after %v: %v", failed, err)
	}
	return int(after.Writes + after.Flushes - before.Writes - before.Flushes)
}
