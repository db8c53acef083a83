package crashsim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
)

// simulation is one workload with its crashes; its fields say all that a run depends on.
type simulation struct {
	seed   uint64
	cfg    config
	ops    []op
	images int // about how many
	mutant mutant
	// sample, if not nil, is given some of the images beforehand, one at a time: a copy, and the state that it is in.
	sample func(c crash, h *history) error
	seen   func(kind, error)
}

// simulationOf makes the simulation of a seed, with about n operations.
func simulationOf(seed uint64, n, images int) simulation {
	ops := generate(rand.New(rand.NewPCG(seed, 1)), n, seed%6 == 1)
	return simulation{seed: seed, cfg: configFor(seed), ops: ops, images: images}
}

// failure is a crash that was not survived, or a workload that went wrong without one.
type failure struct {
	sim    simulation
	images int // looked at before and with it
	window int // of the log; -1 if the workload failed
	crash  uint64
	err    error
}

func (f *failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %v\n", f.sim.seed, f.sim.cfg)
	if f.window < 0 {
		fmt.Fprintf(&b, "the workload failed: %v\n", f.err)
	} else {
		fmt.Fprintf(&b, "crash in window %d (subset %#x): %v\n", f.window, f.crash, f.err)
	}
	fmt.Fprintf(&b, "%d operations:", len(f.sim.ops))
	for _, o := range f.sim.ops {
		fmt.Fprintf(&b, "\n\t%v", o)
	}
	return b.String()
}

func (f *failure) Unwrap() error { return f.err }

// tally counts what simulations have done.
type tally struct {
	images, windows, generations, midway, overlapped, crowded, half int
}

func (t *tally) add(o tally) {
	t.images += o.images
	t.windows += o.windows
	t.generations += o.generations
	t.midway += o.midway
	t.overlapped += o.overlapped
	t.crowded += o.crowded
	t.half += o.half
}

// run records the workload and looks at its crashes, several at a time. It returns the first failure in the order of
// the log, whichever was found first.
func (s simulation) run(ctx context.Context) (tally, *failure) {
	h, err := record(ctx, s.cfg, s.ops, s.mutant, s.seen)
	if err != nil {
		return tally{}, &failure{sim: s, window: -1, err: err}
	}
	var (
		half  int
		mu    sync.Mutex // protects found
		found *failure
		wg    sync.WaitGroup
		slots = make(chan struct{}, runtime.GOMAXPROCS(0))
		n     int
	)
	fail := func(c crash, at int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil && (found == nil || at < found.images) {
			found = &failure{sim: s, images: at, window: c.window, crash: c.seed, err: err}
		}
	}
	err = h.crashes(s.images, s.seed, func(c crash) bool {
		n++
		at := n
		if h.half[c.legal[0]] {
			half++
		}
		if s.sample != nil {
			fail(c, at, s.sample(c, h))
		}
		slots <- struct{}{}
		wg.Go(func() {
			fail(c, at, h.verify(ctx, c))
			<-slots
		})
		mu.Lock()
		defer mu.Unlock()
		return found == nil
	})
	wg.Wait()
	if err != nil {
		return tally{}, &failure{sim: s, window: -1, err: err}
	}
	return tally{images: n, windows: len(windows(h.log)), generations: len(h.states), midway: h.midway,
		overlapped: h.overlapped, crowded: h.crowded, half: half}, found
}
