package modeltest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/engine/internal/oracle"
)

// workload makes the operations of each client of a seed.
func workload(seed uint64, clients, each int) [][]op {
	ops := make([][]op, clients)
	for i := range ops {
		ops[i] = generate(rand.New(rand.NewPCG(seed, 100+uint64(i))), each)
	}
	return ops
}

// runSeed does n operations, shared among the clients.
func runSeed(ctx context.Context, seed uint64, cfg config, n int, t *totals) (*world, error) {
	return runOps(ctx, seed, cfg, workload(seed, cfg.clients, n/cfg.clients), t)
}

func runOps(ctx context.Context, seed uint64, cfg config, ops [][]op, t *totals) (*world, error) {
	w, err := newWorld(ctx, seed, cfg, ops, t)
	if err != nil {
		return nil, err
	}
	return w, w.run(ctx)
}

// report fails the test with all that is known of a divergence, and with the fewest operations that still show one.
func report(t *testing.T, w *world, seed uint64, cfg config, n int, err error) {
	t.Helper()
	t.Errorf("IMGTOOL_SEED=%d %v\n%v\n%s", seed, cfg, err, w.histories(err, 30))
	t.Fatalf("shrunk: %s", shrink(t.Context(), seed, cfg, workload(seed, cfg.clients, n/cfg.clients), time.Minute))
}

// histories lists the last operations of the client that an error is about, or of all.
func (w *world) histories(err error, n int) string {
	if w == nil {
		return ""
	}
	var out strings.Builder
	for _, c := range w.clients {
		if text := err.Error(); strings.Contains(text, "client ") && !strings.Contains(text, fmt.Sprintf("client %d", c.id)) {
			continue
		}
		fmt.Fprintf(&out, "the last operations of client %d:\n%s\n", c.id, c.recent(n))
	}
	return out.String()
}

// TestModel runs clients against the model, with faults: some seeds with all clients at once, some in lockstep.
func TestModel(t *testing.T) {
	seeds, n := uint64(6), 1500
	switch {
	case oracle.Soak():
		seeds, n = 200, 10_000
	case testing.Short():
		seeds, n = 3, 400
	}
	runSeeds(t, seeds, n, nil)
}

// TestParallelModel is a run for the race detector.
func TestParallelModel(t *testing.T) {
	runSeeds(t, 2, 500, func(c *config) { c.lockstep = false })
}

func runSeeds(t *testing.T, seeds uint64, n int, set func(*config)) {
	first := uint64(oracle.Seed(t))
	var sum totals
	for seed := first; seed < first+seeds; seed++ {
		began := time.Now()
		cfg := configFor(seed)
		if set != nil {
			set(&cfg)
		}
		w, err := runSeed(t.Context(), seed, cfg, n, &sum)
		if err != nil {
			report(t, w, seed, cfg, n, err)
		}
		if oracle.Soak() {
			t.Logf("seed %d: %v; %v", seed, cfg, time.Since(began).Round(time.Millisecond))
		}
	}
	logTotals(t, &sum)
	if !oracle.Soak() {
		return
	}
	for f := latency; f < faults; f++ {
		if sum.byFault[f].Load() == 0 && seeds > 50 {
			t.Errorf("%v was in no session", f)
		}
	}
	for k := range kinds {
		if sum.done[k].Load() == 0 {
			t.Errorf("no %v was done", k)
		}
	}
}

func logTotals(t *testing.T, sum *totals) {
	t.Logf("%d sessions, %d crashes, %d aborts, %d faults injected; %d bad copies read, %d repaired", sum.sessions.Load(), sum.crashes.Load(),
		sum.aborts.Load(), sum.injected.Load(), sum.bad.Load(), sum.healed.Load())
	for f := range faults {
		if n := sum.byFault[f].Load(); n > 0 {
			t.Logf("%-36v in %d sessions", f, n)
		}
	}
	for k := range kinds {
		t.Logf("%-14v %7d done, %6d refused, %5d without space, %4d faults", k, sum.done[k].Load(), sum.refused[k].Load(),
			sum.nospace[k].Load(), sum.faults[k].Load())
	}
}

// TestReplay runs seeds in lockstep twice: every operation must end in the same way. Without faults and early commits
// nothing in the engine goes by the order in which goroutines come; but a receive does, and there is none here.
func TestReplay(t *testing.T) {
	first := uint64(oracle.Seed(t))
	for seed := first; seed < first+3; seed++ {
		cfg := configFor(seed)
		cfg.lockstep, cfg.maxDirty, cfg.calm = true, 0, true
		var was []string
		for range 2 {
			w, err := runSeed(t.Context(), seed, cfg, 500, new(totals))
			if err != nil {
				t.Fatalf("IMGTOOL_SEED=%d: %v", seed, err)
			}
			var is []string
			for _, c := range w.clients {
				is = append(is, c.history...)
			}
			if was != nil && !slices.Equal(was, is) {
				at := 0
				for at < len(was) && at < len(is) && was[at] == is[at] {
					at++
				}
				t.Fatalf("IMGTOOL_SEED=%d: of %d and %d operations number %d differs:\n%q\n%q", seed, len(was), len(is), at, was[at:at+1], is[at:at+1])
			}
			was = is
		}
	}
}
