package crashsim

import (
	"slices"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine/ondisk"
)

// mutant is an engine that is broken in one way.
type mutant struct {
	name string
	// tamper makes the log of the broken engine out of that of the sound one: the same writes, flushes and discards,
	// but for what the broken one leaves out or does at another time.
	tamper func(h *history, log []*disk.Entry) []*disk.Entry
	// early is done while the workload runs: what T has freed is released as soon as T has switched, and T+1 re-uses
	// it while T's super is not durable.
	early bool
	// orphanEarly takes the orphan item of a subvolume away while it is being received; see earlyOrphan.
	orphanEarly bool
	full        bool   // the workload must be one in which space is re-used soon
	first       uint64 // seed of a workload that shows it soon
}

// mutants break each of the rules that a commit stands on.
var mutants = []mutant{
	{name: "skipped flush", tamper: skipFlush, first: 4},
	{name: "super before the blocks", tamper: superEarly, first: 4},
	{name: "extent unpinned too early", early: true, full: true, first: 19},
	{name: "discard after Add", tamper: lateDiscard, full: true, first: 7},
	{name: "received subvolume visible before its data", tamper: visibleEarly, first: 4},
	{name: "orphan item of a received subvolume gone too early", orphanEarly: true, first: 4},
}

// skipFlush leaves out the flush between the blocks and the super (I1).
func skipFlush(_ *history, log []*disk.Entry) []*disk.Entry {
	var out []*disk.Entry
	for i, e := range log {
		if e.Op != disk.OpFlush || i+1 == len(log) || !isSuper(log[i+1]) {
			out = append(out, e)
		}
	}
	return out
}

// superEarly writes and flushes the super first, and then the blocks that it leads to (I1).
func superEarly(_ *history, log []*disk.Entry) []*disk.Entry {
	return superFirst(log, func(ondisk.Generation) bool { return true })
}

// visibleEarly does so only for commits that make a received subvolume visible: then its data is not there yet.
func visibleEarly(h *history, log []*disk.Entry) []*disk.Entry {
	return superFirst(log, func(gen ondisk.Generation) bool { return h.finished[gen] })
}

// superFirst is superEarly for the commits of some generations.
func superFirst(log []*disk.Entry, which func(ondisk.Generation) bool) []*disk.Entry {
	out := slices.Clone(log)
	begin := 0 // of the window before the super's
	for i, e := range out {
		if !isSuper(e) {
			if e.Op == disk.OpFlush && i+1 < len(out) && !isSuper(out[i+1]) {
				begin = i + 1
			}
			continue
		}
		if i+1 == len(out) || out[i+1].Op != disk.OpFlush || !which(ondisk.AsSuperBlock(e.Data).Generation()) {
			continue
		}
		super := slices.Clone(out[i : i+2])
		copy(out[begin+2:i+2], out[begin:i])
		copy(out[begin:], super)
	}
	return out
}

// lateDiscard carries discards out behind the first write into their range, if that comes before the next flush (I2).
func lateDiscard(_ *history, log []*disk.Entry) []*disk.Entry {
	out := slices.Clone(log)
	for i := len(out) - 1; i >= 0; i-- {
		d := out[i]
		if d.Op != disk.OpDiscard {
			continue
		}
		for j := i + 1; j < len(out) && out[j].Op != disk.OpFlush; j++ {
			if out[j].Op == disk.OpWrite && out[j].Off < d.Off+d.Len && d.Off < out[j].Off+out[j].Len {
				copy(out[i:], out[i+1:j+1])
				out[j] = d
				break
			}
		}
	}
	return out
}

// TestMutants checks that each mutant is caught within 1,000 images, by workloads that the sound engine survives.
func TestMutants(t *testing.T) {
	const limit = 1000
	for _, mu := range mutants {
		t.Run(mu.name, func(t *testing.T) {
			images := 0
			for seed := mu.first; images < limit; seed++ {
				s := simulationOf(seed, 110, 120)
				s.mutant = mu
				if mu.full {
					s.cfg.full, s.cfg.maxDirty = true, 0
				}
				s.cfg.discard = !mu.early // which would discard too early as well: it is the re-use that is to be caught
				n, f := s.run(t.Context())
				if f != nil {
					images += f.images
					t.Logf("caught after %d images, seed %d: %v", images, seed, f.err)
					s.mutant = mutant{}
					if _, f := s.run(t.Context()); f != nil {
						t.Errorf("and so is the sound engine: %v", f)
					}
					return
				}
				images += n.images
			}
			t.Errorf("not caught in %d images", images)
		})
	}
}

// regressions are workloads in which this simulation has found mistakes of the engine, shrunk.
var regressions = []struct {
	name string
	ops  []op
}{
	// The file's close read the root of the tree that had been dropped, and kept it.
	{"file open in a dropped subvolume", []op{
		{kind: opSubvolume}, {kind: opMany, a: 2}, {kind: opOpenUnlink, a: 2, b: 3629406319}, {kind: opDeleteSubvolume}, {kind: opClean},
		{kind: opCommit}, {kind: opCloseFile}}},
}

func TestRegressions(t *testing.T) {
	for _, r := range regressions {
		t.Run(r.name, func(t *testing.T) {
			s := simulation{seed: 1, cfg: configFor(1), ops: r.ops, images: 20}
			s.seen = func(k kind, err error) {
				if err != nil {
					t.Errorf("%v did nothing: %v", k, err)
				}
			}
			if _, f := s.run(t.Context()); f != nil {
				t.Error(f)
			}
		})
	}
}

// TestShrink checks that a failing case comes out with few operations, none of them needless.
func TestShrink(t *testing.T) {
	s := simulationOf(4, 40, 60)
	s.mutant = mutants[0]
	_, f := s.run(t.Context())
	if f == nil {
		t.Fatal("the mutant survived")
	}
	least := shrink(t.Context(), f, 10*time.Minute) // so that it comes to its end on a busy machine, too
	if n := len(least.sim.ops); n > 3 {
		t.Errorf("%d operations are left:\n%v", n, least)
	}
	if _, again := least.sim.run(t.Context()); again == nil {
		t.Errorf("what is left does not fail:\n%v", least)
	}
	t.Log(least)
}
