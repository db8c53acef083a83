package modeltest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/volume"
)

// deviceName is what every error of the device must name.
const deviceName = "model.img"

// keepOpen keeps a device open over the file systems that come and go on it.
type keepOpen struct{ disk.Device }

func (keepOpen) Close() error { return nil }

// world is a run: an image, the clients, and the session under way.
type world struct {
	cfg     config
	seed    uint64
	mem     *disk.Mem
	clients []*client
	shared  shared
	totals  *totals
	clock   atomic.Int64
	wrap    func(disk.Device) disk.Device // of mutants: around the recorder
	mutate  func(context.Context, *world) // of mutants: at the end of each session

	// The session.
	fs   *engine.FS
	plan plan
	rec  *disk.Recorder
	base *disk.Mem // the device when it began
	dev  *disk.Faults
	cut  atomic.Int64 // the length of the log at the crash, which may be 0; -1 before
	// committed says that the session has ended with a commit that wrote, so that all superblocks are of one generation.
	committed bool

	mu      sync.Mutex // guards windows
	windows map[ondisk.Generation][]window

	// legal are the states that the next session may find each client in, by generation; nil at first.
	legal map[ondisk.Generation][][]state
	end   string // how the last session ended, for messages
}

// window says which steps of a client a generation may show the last of.
type window struct{ lo, hi int64 }

// totals are what many runs did.
type totals struct {
	counts
	sessions, crashes, aborts, injected, bad, healed atomic.Int64
	byFault                                          [faults]atomic.Int64 // sessions in which it was injected
}

// window returns the steps that a generation may show.
func (w *world) window(gen ondisk.Generation, client int) (lo, hi int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if win := w.windows[gen]; win != nil {
		return int(win[client].lo), int(win[client].hi)
	}
	return 0, 0 // committed before the session
}

// trace notes where each client was when a commit closed its transaction. What had been done when it started is part of
// it; what is begun after COMMIT_DOING is not.
func (w *world) trace(e trace.Event) {
	if e.Kind != trace.CommitStarted && e.Kind != trace.CommitDoing {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	gen := ondisk.Generation(e.Gen)
	win := w.windows[gen]
	if win == nil {
		win = make([]window, len(w.clients))
		w.windows[gen] = win
	}
	for i, c := range w.clients {
		if e.Kind == trace.CommitStarted {
			win[i].lo = c.done.Load()
		}
		win[i].hi = c.started.Load()
	}
}

func (w *world) now() time.Time { return time.Unix(0, w.clock.Add(1_000_003)) }

func (w *world) options() engine.OpenOptions {
	return engine.OpenOptions{Discard: w.cfg.discard, MaxDirty: w.cfg.maxDirty, CacheBytes: w.cfg.cache, Tracer: trace.Func(w.trace), Now: w.now}
}

// newWorld formats an image and gives each client a subvolume.
func newWorld(ctx context.Context, seed uint64, cfg config, ops [][]op, t *totals) (*world, error) {
	w := &world{cfg: cfg, seed: seed, mem: disk.NewMem(deviceName, cfg.size), totals: t}
	w.clock.Store(1_700_000_000_000_000_000)
	for i := range cfg.clients {
		w.clients = append(w.clients, &client{w: w, id: i, ops: ops[i], counts: &t.counts})
	}
	f := engine.FormatOptions{Options: cfg.mkfs, Size: uint64(cfg.size), OpenOptions: w.options()}
	f.Options.Now = w.now
	w.windows = map[ondisk.Generation][]window{}
	fs, err := engine.FormatDevice(ctx, keepOpen{w.mem}, f)
	if err != nil {
		return nil, err
	}
	return w, errors.Join(fs.Commit(ctx), fs.Close())
}

// run does all operations, session by session, and looks at the image after each.
func (w *world) run(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(w.seed, 21))
	for {
		more := slices.ContainsFunc(w.clients, func(c *client) bool { return len(c.ops) > 0 })
		w.plan = planFor(w.cfg, rng)
		if w.cfg.calm && w.plan.fault != rot {
			w.plan.fault, w.plan.writes, w.plan.reads = noFault, false, false
		}
		if !more {
			w.plan = plan{end: endCommit}
		}
		if err := w.session(ctx); err != nil {
			return fmt.Errorf("session %d (%v): %w", w.totals.sessions.Load(), w.plan, err)
		}
		w.totals.sessions.Add(1)
		if !more {
			return nil
		}
	}
}

// session opens the file system, finds out where it stands, lets the clients work, ends, and looks at what is left.
func (w *world) session(ctx context.Context) error {
	defer watchdog(fmt.Sprintf("seed %d, session %d (%v)", w.seed, w.totals.sessions.Load(), w.plan)).Stop()
	if w.plan.fault == rot {
		// A generator of its own: how often it is asked depends on what is on the device, and of that what a crash has left of
		// what was not committed is a matter of time.
		n, err := w.spoil(ctx, rand.New(rand.NewPCG(w.plan.seed, 23)))
		if err != nil {
			return err
		}
		if n > 0 {
			w.totals.byFault[rot].Add(1)
		}
	}
	w.base = w.mem.Clone()
	w.rec = disk.NewRecorder(w.mem)
	var inner disk.Device = w.rec
	if w.wrap != nil {
		inner = w.wrap(inner)
	}
	w.dev = disk.NewFaults(inner, w.plan.seed)
	w.cut.Store(-1)
	w.committed = false
	w.windows = map[ondisk.Generation][]window{}
	for _, c := range w.clients {
		c.started.Store(0)
		c.done.Store(0)
	}
	fs, err := engine.OpenDevices(ctx, []disk.Device{keepOpen{w.dev}}, w.options())
	if err != nil {
		return fmt.Errorf("open after %s: %w", w.end, err)
	}
	w.fs = fs
	if err := w.settle(ctx); err != nil {
		return errors.Join(fmt.Errorf("after %s: %w", w.end, err), w.close())
	}
	w.dev.SetRules(w.plan.rules(w.oneCopy())...)
	err = w.work(ctx)
	if e := w.finish(ctx, err); e != nil {
		return e
	}
	return w.examine(ctx)
}

// watchdog ends the process when a session hangs.
func watchdog(what string) *time.Timer {
	return time.AfterFunc(4*time.Minute, func() {
		debug.SetTraceback("all")
		fmt.Fprintf(os.Stderr, "modeltest: %s hangs\n", what)
		panic("modeltest: " + what + " hangs")
	})
}

// settle finds the state that each client is in among those that are legal.
func (w *world) settle(ctx context.Context) error {
	if err := noneHidden(ctx, w.fs); err != nil {
		return err
	}
	found, err := loadStates(ctx, w.fs, len(w.clients))
	if err != nil {
		return err
	}
	if w.legal == nil {
		for i, c := range w.clients {
			if len(found[i]) > 0 {
				return fmt.Errorf("an empty file system has %v", found[i])
			}
			c.begin(state{})
		}
		return w.firstVolumes(ctx)
	}
	sb := w.base // the generation that was opened stands in the image, whatever the opening has committed since
	gen, err := generationOf(ctx, sb)
	if err != nil {
		return err
	}
	candidates, ok := w.legal[gen]
	if !ok {
		return fmt.Errorf("the image is at generation %d, and should be at one of %v", gen, keys(w.legal))
	}
	w.shared.vols = map[string]*sharedVol{}
	for i, c := range w.clients {
		s, diff := match(candidates[i], found[i])
		if s == nil {
			return fmt.Errorf("generation %d shows client %d none of %d states: %s\n%s", gen, i, len(candidates[i]), diff, c.recent(12))
		}
		c.begin(s)
		for name, v := range s {
			if v.ro {
				w.shared.add(name, v)
			}
		}
	}
	return nil
}

// noneHidden demands that opening has dropped what was being deleted or received.
func noneHidden(ctx context.Context, fs *engine.FS) error {
	first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
	last := first
	last.Offset = ^uint64(0)
	return fs.DB().RootTree().Scan(ctx, first, last, func(k ondisk.Key, _ []byte) (bool, error) {
		return false, fmt.Errorf("tree %d, which is nowhere to be seen, is still there", k.Offset)
	})
}

// match returns the state that found equals, with the ids that only found knows.
func match(candidates []state, found state) (state, string) {
	diff := "there are none"
	for i := len(candidates) - 1; i >= 0; i-- {
		if diff = diffStates(candidates[i], found); diff != "" {
			continue
		}
		s := state{}
		for name, v := range candidates[i] {
			if v.id == 0 || v.loose {
				known := *v
				if known.id = found[name].id; v.loose {
					known.nodes, known.loose = found[name].nodes, false
				}
				v = &known
			}
			s[name] = v
		}
		return s, ""
	}
	return nil, diff
}

func keys[V any](m map[ondisk.Generation]V) []ondisk.Generation {
	var all []ondisk.Generation
	for g := range m {
		all = append(all, g)
	}
	slices.Sort(all)
	return all
}

// firstVolumes gives each client a subvolume to begin with.
func (w *world) firstVolumes(ctx context.Context) error {
	w.shared.vols = map[string]*sharedVol{}
	for _, c := range w.clients {
		if err := c.run(ctx, op{kind: opSubvolume}); err != nil {
			return err
		}
	}
	if err := w.fs.Commit(ctx); err != nil {
		return err
	}
	for _, c := range w.clients {
		c.acks = append(c.acks, ack{w.rec.Len(), len(c.states) - 1})
	}
	return nil
}

// work lets the clients do their operations. Its error is a divergence, or errStop.
func (w *world) work(ctx context.Context) error {
	if w.cfg.lockstep {
		return w.lockstep(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	errs := make([]error, len(w.clients))
	var wg sync.WaitGroup
	for i, c := range w.clients {
		wg.Go(func() {
			for n := 0; n < w.plan.ops && len(c.ops) > 0 && ctx.Err() == nil; n++ {
				if errs[i] = w.next(context.WithoutCancel(ctx), c, n); errs[i] != nil {
					cancel(errs[i])
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errStop) && !errors.Is(err, errLost) {
			return err
		}
	}
	return errors.Join(errs...)
}

// lockstep lets one client after the other do an operation, in an order from the seed.
func (w *world) lockstep(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(w.plan.seed, 22))
	done := make([]int, len(w.clients))
	for {
		var ready []int
		for i, c := range w.clients {
			if done[i] < w.plan.ops && len(c.ops) > 0 {
				ready = append(ready, i)
			}
		}
		if len(ready) == 0 {
			return nil
		}
		i := ready[rng.IntN(len(ready))]
		if err := w.next(ctx, w.clients[i], done[i]); err != nil {
			return err
		}
		done[i]++
	}
}

// next does a client's next operation, its nth of the session.
func (w *world) next(ctx context.Context, c *client, n int) error {
	o := c.ops[0]
	c.ops = c.ops[1:]
	err := c.run(ctx, o)
	if w.plan.end == endCrash && c.id == w.plan.crash.client && n+1 >= w.plan.crash.after {
		w.cut.CompareAndSwap(-1, int64(w.rec.Len()))
	}
	return err
}

// finish ends the session. err is how the work ended.
func (w *world) finish(ctx context.Context, err error) error {
	diverged := err != nil && !errors.Is(err, errStop) && !errors.Is(err, errLost)
	if diverged {
		return errors.Join(err, w.close())
	}
	if err := w.closeFiles(); err != nil {
		return errors.Join(err, w.close())
	}
	cause := w.fs.DB().Err()
	if w.mutate != nil && cause == nil {
		w.mutate(ctx, w)
	}
	injected := w.struck()
	if injected {
		w.totals.injected.Add(int64(len(w.dev.Injections())))
		w.totals.byFault[w.plan.fault].Add(1)
	}
	if err := w.judgeCause(ctx, cause, injected); err != nil {
		return errors.Join(err, w.close())
	}
	w.totals.bad.Add(int64(w.fs.Stats().Cache.BadCopies))
	w.totals.healed.Add(int64(w.fs.Stats().Cache.Repaired))
	// Closing flushes, which may be what fails.
	if err := w.close(); err != nil && (!w.plan.writes || !faulty(err)) {
		return fmt.Errorf("close: %w", err)
	}
	return w.leave(ctx)
}

// closeFiles closes what is open; an aborted file system cannot remove those without a name.
func (w *world) closeFiles() error {
	for _, c := range w.clients {
		if err := c.closeOf(op{kind: opCloseFile}, &note{}, 0); err != nil && !errors.Is(err, errStop) {
			return err
		}
		for _, h := range c.open {
			if err := h.file.Close(); err != nil && w.fs.DB().Err() == nil {
				return err
			}
		}
		c.open = nil
	}
	return nil
}

// judgeCause compares what became of the file system with the faults that it met.
func (w *world) judgeCause(ctx context.Context, cause error, injected bool) error {
	if cause == nil && (w.plan.end == endCommit || w.plan.writes && injected) {
		err := w.fs.Commit(ctx)
		// Behind a superblock that is durable a discard may still fail.
		if cause = w.fs.DB().Err(); (err == nil) != (cause == nil) && (err != nil || w.plan.fault != discardEIO) {
			return fmt.Errorf("the commit ends with %v, the file system with %v", err, cause)
		}
		if err == nil {
			w.committed = w.plan.end == endCommit
			for _, c := range w.clients {
				c.acks = append(c.acks, ack{w.rec.Len(), len(c.states) - 1})
			}
		}
		injected = w.struck()
	}
	switch {
	case cause == nil && w.plan.writes && injected:
		return fmt.Errorf("%d faults of writing, and the file system is not read-only", len(w.dev.Injections()))
	case cause == nil:
		return nil
	case !w.plan.writes && !w.plan.reads:
		return fmt.Errorf("the file system has aborted for no reason: %w", cause)
	}
	w.totals.aborts.Add(1)
	if !errors.Is(cause, fserr.ErrAborted) || !faulty(cause) {
		return fmt.Errorf("the cause is no EIO, or names no device: %w", cause)
	}
	return w.readOnlyNow(ctx, cause)
}

// faulty reports whether an error is that of a device, and names it.
func faulty(err error) bool {
	return errors.Is(err, syscall.EIO) && strings.Contains(err.Error(), deviceName)
}

// struck reports whether the fault has struck, more than the repair of a bad copy, which may fail without consequence.
func (w *world) struck() bool {
	return uint64(len(w.dev.Injections())) > w.fs.Stats().Cache.NotRepaired
}

// readOnlyNow checks that nothing can be changed any more and that the first cause stays.
func (w *world) readOnlyNow(ctx context.Context, cause error) error {
	for _, c := range w.clients {
		for _, v := range c.now {
			tree, err := w.fs.Subvolume(ctx, v.id)
			if err != nil || v.ro {
				continue
			}
			if err := tree.Chmod(ctx, 256, 0o700); !errors.Is(err, fserr.ErrAborted) {
				return fmt.Errorf("a change after the abort ends with %v", err)
			}
		}
	}
	if err := w.fs.Commit(ctx); !errors.Is(err, fserr.ErrAborted) || !errors.Is(err, syscall.EIO) {
		return fmt.Errorf("a commit after the abort ends with %v", err)
	}
	if now := w.fs.DB().Err(); now.Error() != cause.Error() {
		return fmt.Errorf("the first cause was %q and now is %q", cause, now)
	}
	return nil
}

func (w *world) close() error {
	if w.fs == nil {
		return nil
	}
	err := w.fs.Close()
	w.fs = nil
	return err
}

// leave makes the image that the session leaves behind, and notes what may be found in it.
func (w *world) leave(ctx context.Context) error {
	cut := w.rec.Len()
	w.end = fmt.Sprintf("session %d (%v)", w.totals.sessions.Load(), w.plan)
	if at := int(w.cut.Load()); at >= 0 && w.plan.end == endCrash {
		img, err := w.rec.CrashImage(w.base, at, w.plan.crash.seed)
		if err != nil {
			return err
		}
		w.mem, cut = img, at
		w.totals.crashes.Add(1)
	}
	was, err := generationOf(ctx, w.base)
	if err != nil {
		return err
	}
	w.committed = w.committed && generations(w.rec.Entries(), was)[0] > was
	w.legal = map[ondisk.Generation][][]state{}
	for _, gen := range generations(w.rec.Entries()[:cut], was) {
		w.legal[gen] = w.statesAt(gen, cut)
	}
	return nil
}

// statesAt lists the states that each client may be in if the image is at gen after cut entries of the log.
func (w *world) statesAt(gen ondisk.Generation, cut int) [][]state {
	all := make([][]state, len(w.clients))
	for i, c := range w.clients {
		lo, hi := w.window(gen, i)
		for _, a := range c.acks {
			if a.at <= cut {
				lo = max(lo, a.step)
			}
		}
		// A commit that found nothing to commit covers steps that came behind the last transaction and changed nothing.
		for k, last := lo, max(lo, hi); k <= last && k < len(c.states); k++ {
			all[i] = append(all[i], c.states[k])
			if k > lo && c.stages[k-1] != nil {
				all[i] = append(all[i], c.stages[k-1]()...)
			}
		}
	}
	return all
}

// generations lists those that the image may be at: the last durable one and those whose superblock was being made so.
func generations(log []*disk.Entry, was ondisk.Generation) []ondisk.Generation {
	durable, flight := was, []ondisk.Generation(nil)
	for _, e := range log {
		switch {
		case e.Op == disk.OpFlush && !e.Failed:
			for _, g := range flight {
				durable = max(durable, g)
			}
			flight = nil
		case e.Op == disk.OpWrite && e.Off == int64(ondisk.SuperOffsets[0]):
			sb := ondisk.SuperBlock{}
			copy(sb[:], e.Data)
			flight = append(flight, sb.Generation())
		}
	}
	return append([]ondisk.Generation{durable}, flight...)
}

// generationOf reads the newest valid superblock.
func generationOf(ctx context.Context, img *disk.Mem) (ondisk.Generation, error) {
	v, err := volume.Open(ctx, []disk.Device{keepOpen{img}}, volume.Options{})
	if err != nil {
		return 0, err
	}
	sb := v.Super()
	return sb.Generation(), nil
}

// recent lists the last operations of a client.
func (c *client) recent(n int) string {
	return strings.Join(c.history[max(0, len(c.history)-n):], "\n")
}
