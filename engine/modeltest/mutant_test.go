package modeltest

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"imgtool/disk"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// mutants are file systems that are broken in one way, which the model test must find within a few thousand operations.
var mutants = []struct {
	name   string
	wrap   func() func(disk.Device) disk.Device
	mutate func(context.Context, *world)
}{
	{name: "a write is dropped in silence", wrap: func() func(disk.Device) disk.Device {
		n := new(atomic.Int64)
		return func(d disk.Device) disk.Device { return &dropper{Device: d, n: n} }
	}},
	{name: "flushes do nothing", wrap: func() func(disk.Device) disk.Device {
		return func(d disk.Device) disk.Device { return lazy{d} }
	}},
	{name: "a snapshot is lost", mutate: loseSnapshot},
	{name: "a byte of a file changes", mutate: changeByte},
}

// dropper drops every fifth write of file data or metadata.
type dropper struct {
	disk.Device
	n *atomic.Int64
}

func (d *dropper) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off > 1<<20 && off != int64(ondisk.SuperOffsets[1]) && d.n.Add(1)%5 == 0 {
		return len(p), nil
	}
	return d.Device.WriteAt(ctx, p, off)
}

// lazy does not flush.
type lazy struct{ disk.Device }

func (lazy) Flush(context.Context) error { return nil }

// loseSnapshot deletes somebody's read-only subvolume.
func loseSnapshot(ctx context.Context, w *world) {
	if name, s := w.shared.pick(0); s != nil {
		_ = w.fs.DeleteSubvolume(ctx, name)
		_ = w.fs.Commit(ctx)
	}
}

// changeByte changes the first file of a client's, and commits.
func changeByte(ctx context.Context, w *world) {
	for _, v := range w.clients[0].now {
		for _, n := range v.nodes {
			if tree, err := w.fs.Subvolume(ctx, v.id); err == nil && !v.ro && len(n.data) > 0 {
				_, _ = tree.WriteAt(ctx, n.ino, []byte{^n.data[0]}, 0)
				_ = w.fs.Commit(ctx)
				return
			}
		}
	}
}

// TestMutants checks that the model test can fail, and that it does not without the mutant.
func TestMutants(t *testing.T) {
	for _, mu := range mutants {
		t.Run(mu.name, func(t *testing.T) {
			for seed := uint64(1); seed < 12; seed++ {
				cfg := configFor(seed)
				cfg.lockstep, cfg.calm, cfg.mkfs.Meta, cfg.mkfs.Data, cfg.size = true, true, 0, 0, 192<<20
				cfg.mkfs.Features = mkfs.Default().Features
				run := func(broken bool) error {
					w, err := newWorld(t.Context(), seed, cfg, workload(seed, cfg.clients, 250), new(totals))
					if err != nil {
						return err
					}
					if broken {
						w.mutate = mu.mutate
						if mu.wrap != nil {
							w.wrap = mu.wrap()
						}
					}
					return w.run(t.Context())
				}
				err := run(true)
				if err == nil {
					continue
				}
				t.Logf("caught with seed %d: %.300s", seed, strings.ReplaceAll(err.Error(), "\n", " "))
				if err := run(false); err != nil {
					t.Errorf("and so is the sound engine: %v", err)
				}
				return
			}
			t.Error("not caught")
		})
	}
}

// TestShrink checks that a failing workload comes out short: one lost write is shown by few operations.
func TestShrink(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	list := rng.Perm(100)
	got := fewest(list, func(part []int) bool {
		sum := 0
		for _, v := range part {
			if v == 17 || v == 55 {
				sum++
			}
		}
		return sum == 2
	})
	if len(got) != 2 {
		t.Errorf("%d elements are left, want 2: %v", len(got), got)
	}
}
