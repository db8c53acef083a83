package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/txn"
)

// onStep runs one function at the next event of a kind, in the step, so the commit waits for it.
type onStep struct {
	kind chan trace.Kind
	run  chan func()
}

func newOnStep() *onStep { return &onStep{make(chan trace.Kind, 1), make(chan func(), 1)} }

func (s *onStep) at(k trace.Kind, f func()) { s.run <- f; s.kind <- k }

func (s *onStep) Trace(e trace.Event) {
	select {
	case k := <-s.kind:
		if k != e.Kind {
			s.kind <- k
			return
		}
		(<-s.run)()
	default:
	}
}

// inMemory formats a file system in memory.
func inMemory(t testing.TB, wrap func(disk.Device) disk.Device, tr trace.Tracer) (*disk.Mem, *engine.FS) {
	t.Helper()
	mem := disk.NewMem("mem", 256<<20)
	var dev disk.Device = mem
	if wrap != nil {
		dev = wrap(mem)
	}
	fs, err := engine.FormatDevice(t.Context(), dev, engine.FormatOptions{Options: mkfs.Default(), OpenOptions: engine.OpenOptions{Tracer: tr}})
	must(t, err)
	t.Cleanup(func() { _ = fs.Close() })
	return mem, fs
}

// checkMem asks btrfs check about the content of a memory device.
func checkMem(t testing.TB, mem *disk.Mem) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "mem.img")
	must(t, mem.WriteFile(img))
	oracle.Check(t, img)
}

// TestNextTransactionRunsDuringWriteOut changes files in T+1 while T is written out, in each of its phases.
func TestNextTransactionRunsDuringWriteOut(t *testing.T) {
	for _, kind := range []trace.Kind{trace.CommitRootsSwitched, trace.BlocksWritten, trace.SuperWritten} {
		t.Run(kind.String(), func(t *testing.T) {
			step := newOnStep()
			mem, fs := inMemory(t, nil, step)
			tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
			must(t, err)
			_, err = tree.Create(t.Context(), 256, "in T", inode.Attr{Mode: 0o644})
			must(t, err)
			gen := fs.DB().Generation()
			ran := false
			step.at(kind, func() {
				h, err := fs.DB().Start(t.Context(), 1)
				must(t, err)
				if h.Generation() != gen+1 {
					t.Errorf("a handle during the write-out of %d is on %d", gen, h.Generation())
				}
				must(t, h.End(t.Context()))
				_, err = tree.Create(t.Context(), 256, "in T+1", inode.Attr{Mode: 0o644})
				must(t, err)
				ran = true
			})
			must(t, fs.Commit(t.Context()))
			if !ran {
				t.Fatal("the step was not reached")
			}
			if d := fs.DB().Durable(); d != gen {
				t.Errorf("durable generation %d, want %d", d, gen)
			}
			must(t, fs.Commit(t.Context()))
			must(t, fs.Close())
			checkMem(t, mem)
		})
	}
}

// TestEntriesDuringCommit holds a handle, so that the commit stays in COMMIT_START, and looks where others get in.
func TestEntriesDuringCommit(t *testing.T) {
	step := newOnStep()
	_, fs := inMemory(t, nil, step)
	ctx, db := t.Context(), fs.DB()
	held, err := db.Start(ctx, 1)
	must(t, err)
	gen := held.Generation()
	started, committed := make(chan struct{}), make(chan error, 1)
	release := make(chan struct{})
	step.at(trace.CommitStarted, func() { close(started); <-release }) // COMMIT_START for as long as we like
	go func() { committed <- db.Commit(ctx) }()
	<-started
	joined, err := db.Join(ctx)
	must(t, err)
	if joined.Generation() != gen {
		t.Errorf("a join in COMMIT_START is on %d, want %d", joined.Generation(), gen)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := db.Start(cancelled, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a start in COMMIT_START did not wait: %v", err)
	}
	if _, err := db.Attach(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("an attach in COMMIT_START did not wait: %v", err)
	}
	next := make(chan *txn.Handle, 1)
	go func() {
		h, err := db.Start(ctx, 1)
		if err != nil {
			t.Error(err)
		}
		next <- h
	}()
	close(release)
	must(t, joined.End(ctx))
	must(t, held.End(ctx))
	h := <-next
	if h.Generation() != gen+1 {
		t.Errorf("a start that waited is on %d, want %d", h.Generation(), gen+1)
	}
	must(t, h.End(ctx))
	must(t, <-committed)
	must(t, db.Commit(ctx))
	if _, err := db.Attach(ctx); !errors.Is(err, fserr.ErrNoTransaction) {
		t.Errorf("attach without a transaction: %v", err)
	}
}

// TestDeviceFails lets the device fail at every write and flush of a commit in turn: the error names the device, the
// file system is read-only and keeps its first cause, and the image is at its last commit or at this one.
func TestDeviceFails(t *testing.T) {
	for _, op := range []disk.Op{disk.OpWrite, disk.OpFlush} {
		failed := 0
		for n := 0; ; n++ {
			if !failAt(t, op, n) {
				break
			}
			failed++
		}
		if failed < 2 {
			t.Errorf("only %d %v operations of a commit failed", failed, op)
		}
	}
}

// failAt makes operation n of a commit fail. It reports whether the commit had so many.
func failAt(t *testing.T, op disk.Op, n int) (failed bool) {
	var faults *disk.Faults
	mem, fs := inMemory(t, func(d disk.Device) disk.Device {
		faults = disk.NewFaults(d, 1)
		return faults
	}, nil)
	ctx := t.Context()
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	_, err = tree.Create(ctx, 256, "before", inode.Attr{Mode: 0o644})
	must(t, err)
	must(t, fs.Commit(ctx))
	_, err = tree.Create(ctx, 256, "after", inode.Attr{Mode: 0o644})
	must(t, err)
	faults.SetRules(disk.Rule{Ops: []disk.Op{op}, After: n, Count: 1, Err: syscall.EIO})
	err = fs.Commit(ctx)
	if failed = len(faults.Injections()) > 0; !failed {
		must(t, err)
		return false
	}
	if err == nil {
		// Only the mirrors of the super may fail without harm: the first copy is durable.
		t.Logf("%v %d failed and the commit did not", op, n)
	} else {
		if !errors.Is(err, syscall.EIO) || !errors.Is(err, fserr.ErrAborted) {
			t.Errorf("%v %d: %v", op, n, err)
		}
		_, again := tree.Create(ctx, 256, "never", inode.Attr{Mode: 0o644})
		if !errors.Is(again, fserr.ErrAborted) || !errors.Is(again, syscall.EIO) {
			t.Errorf("%v %d: a change after the abort: %v", op, n, again)
		}
	}
	_ = fs.Close() // its findings are those of an aborted file system
	checkMem(t, mem)
	fs, err = engine.OpenDevices(ctx, []disk.Device{mem.Clone()}, engine.OpenOptions{})
	must(t, err)
	tree, err = fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	_, err = tree.Lookup(ctx, 256, "before")
	must(t, err)
	_, err = tree.Create(ctx, 256, fmt.Sprint("on with it ", n), inode.Attr{Mode: 0o644})
	must(t, err)
	must(t, fs.Commit(ctx))
	must(t, fs.Close())
	return true
}
