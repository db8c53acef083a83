package crashsim

import (
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"imgtool/engine/internal/oracle"
)

// TestCrash cuts the power in workloads of some seeds, at every flush and between. A failure prints its seed and the
// fewest operations that still fail.
func TestCrash(t *testing.T) {
	seeds, ops, images := 10, 110, 110
	switch {
	case oracle.Soak():
		seeds, ops, images = 60, 400, 1700
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
			t.Fatalf("IMGTOOL_SEED=%d\n%v", s.seed, shrink(t.Context(), f, 2*time.Minute))
		}
		total.add(n)
	}
	t.Logf("%d images of %d windows between flushes, %d generations, %d of them committed in the middle of an operation",
		total.images, total.windows, total.generations, total.midway)
	for _, k := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%-18v %6d done, %6d refused", k, outcomes[k][0], outcomes[k][1])
	}
	if want := seeds * images * 9 / 10; total.images < want {
		t.Errorf("%d images, want %d at least", total.images, want)
	}
	if os.Getenv("IMGTOOL_SEED") == "" && !testing.Short() {
		for k := range kinds {
			if outcomes[k][0] == 0 {
				t.Errorf("no %v in any workload", k)
			}
		}
	}
}
