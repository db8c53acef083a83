package crashsim

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"imgtool/engine/internal/oracle"
)

// TestCrash cuts the power in workloads of some seeds, at every flush and between. A failure prints its seed and the
// fewest operations that still fail.
func TestCrash(t *testing.T) {
	seeds, ops, images := 10, 110, 120
	switch {
	case oracle.Soak():
		seeds, ops, images = 60, 250, 1900
	case testing.Short():
		seeds, images = 2, 60
	}
	first := uint64(oracle.Seed(t))
	var total tally
	outcomes := map[kind][2]int{} // how often each kind did something, and how often not
	for i := range uint64(seeds) {
		s := simulationOf(first+i, ops, images)
		s.seen = func(k kind, err error) {
			n := outcomes[k]
			if err == nil {
				n[0]++
			} else {
				n[1]++
			}
			outcomes[k] = n
		}
		n, f := s.run(t.Context())
		if f != nil {
			t.Logf("IMGTOOL_SEED=%d %v: %v", s.seed, s.cfg, f.err)
			t.Fatalf("shrunk: %v", shrink(t.Context(), f, 2*time.Minute))
		}
		total.add(n)
		if oracle.Soak() {
			t.Logf("seed %d: %d images; %v", s.seed, n.images, s.cfg)
		}
	}
	t.Logf("%d images of %d windows between flushes, %d generations, %d of them committed in the middle of an operation",
		total.images, total.windows, total.generations, total.midway)
	t.Logf("%d operations in the middle of a commit, %d commits without room for them", total.overlapped, total.crowded)
	t.Logf("%d images with a subvolume of which a part had been received", total.half)
	for _, k := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%-18v %6d done, %6d refused", k, outcomes[k][0], outcomes[k][1])
	}
	want := seeds * images * 5 / 6 // the number asked for is rounded down in each window
	if oracle.Soak() {
		want = 100_000
	}
	if total.images < want {
		t.Errorf("%d images, want %d at least", total.images, want)
	}
	if total.half == 0 {
		t.Error("no crash in the middle of a receive") // each workload begins with one, and not every one lacks space
	}
	for k := range kinds {
		if n := outcomes[k]; n[0]+n[1] == 0 && seeds >= 6 || n[0] == 0 && oracle.Soak() {
			t.Errorf("no %v in any workload: %d refused", k, n[1])
		}
	}
}

// TestReplay runs workloads twice: all that a device is told is in the same places, so a seed gives the same crashes.
// With a small bound on dirty blocks commits begin behind the workload's back, at no certain place, and a receive for
// which there is no space ends at none.
func TestReplay(t *testing.T) {
	first := uint64(oracle.Seed(t))
	for seed := first; seed < first+4; seed++ {
		s := simulationOf(seed, 110, 0)
		s.cfg.maxDirty, s.cfg.roomy = 0, true
		var was []string
		for range 2 {
			h, err := record(t.Context(), s.cfg, s.ops, mutant{}, nil)
			if err != nil {
				t.Fatalf("IMGTOOL_SEED=%d: %v", seed, err)
			}
			var is []string
			for _, e := range h.log {
				is = append(is, fmt.Sprintf("%v of %d bytes at %d", e.Op, e.Len, e.Off))
			}
			for i := range min(len(is), len(was)) {
				if is[i] != was[i] {
					t.Fatalf("IMGTOOL_SEED=%d, %v: entry %d of the log is %s, and was %s", seed, s.cfg, i, is[i], was[i])
				}
			}
			if was != nil && len(is) != len(was) {
				t.Fatalf("IMGTOOL_SEED=%d, %v: %d entries in the log, and were %d", seed, s.cfg, len(is), len(was))
			}
			was = is
		}
	}
}
