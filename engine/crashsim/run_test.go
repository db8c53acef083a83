package crashsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// history is a workload that has run: what the device was told, and what had been committed.
type history struct {
	cfg                 config
	base                *disk.Mem     // before the log
	log                 []*disk.Entry // in canonical order
	overlapped, crowded int           // see world
	midway              int           // generations that were committed in the middle of an operation
	states              map[ondisk.Generation][]byte
	half, finished      map[ondisk.Generation]bool // see world
}

// keepOpen keeps a device open over the file systems that come and go on it.
type keepOpen struct{ disk.Device }

func (keepOpen) Close() error { return nil }

// world is a workload that runs. But for the steps of a commit, all is done by one goroutine.
type world struct {
	cfg     config
	mutant  mutant
	dev     disk.Device
	fs      *engine.FS
	open    []*inode.File // without a name
	fileCtx context.Context
	clock   atomic.Int64
	states  map[ondisk.Generation][]byte
	seen    func(kind, error) // told how each operation ended; may be nil

	// overlap are operations for the middle of the commit under way, at the step of kind when. They are set before the
	// commit is started and taken by its goroutine, which the starter waits for.
	overlap    []op
	when       trace.Kind
	overlapErr error
	overlapped int // operations done so
	crowded    int // commits in which there was no room for them

	// Sends and receives.
	streams   []*stream // sent
	rel       relations
	receiving bool
	noState   ondisk.Generation          // was committed in the middle of an operation
	half      map[ondisk.Generation]bool // committed while a subvolume was being received
	finished  map[ondisk.Generation]bool // in which a received subvolume became visible
}

// record runs a workload on a new file system.
func record(ctx context.Context, cfg config, ops []op, mu mutant, seen func(kind, error)) (*history, error) {
	mem := disk.NewMem("crashsim", int64(cfg.size))
	w := &world{cfg: cfg, mutant: mu, dev: keepOpen{mem}, fileCtx: ctx, seen: seen, states: map[ondisk.Generation][]byte{}, rel: newRelations(),
		half: map[ondisk.Generation]bool{}, finished: map[ondisk.Generation]bool{}}
	w.clock.Store(1_700_000_000_000_000_000)
	f := cfg.format()
	f.OpenOptions = w.options()
	f.Options.Now = w.now
	fs, err := engine.FormatDevice(ctx, w.dev, f)
	if err != nil {
		return nil, err
	}
	w.fs = fs
	if err := w.commit(ctx, nil); err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	if err := fs.Close(); err != nil {
		return nil, err
	}
	h := &history{cfg: cfg, base: mem.Clone(), states: w.states, half: w.half, finished: w.finished}
	rec := disk.NewRecorder(mem)
	w.dev = keepOpen{rec}
	if err := w.run(ctx, ops); err != nil {
		return nil, err
	}
	h.log, h.overlapped, h.crowded = rec.Entries(), w.overlapped, w.crowded
	if mu.tamper != nil {
		h.log = mu.tamper(h, h.log)
	}
	h.log = canonical(h.log)
	return h, h.fillIn(ctx)
}

func (w *world) now() time.Time { return time.Unix(0, w.clock.Add(1_000_003)) }

func (w *world) options() engine.OpenOptions {
	return engine.OpenOptions{Discard: w.cfg.discard, MaxDirty: w.cfg.maxDirty, Tracer: trace.Func(w.trace), Now: w.now}
}

// run opens the file system, does everything, commits and closes.
func (w *world) run(ctx context.Context, ops []op) (err error) {
	if w.fs, err = engine.OpenDevices(ctx, []disk.Device{w.dev}, w.options()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if w.cfg.full {
		if err := w.fill(ctx, keepFree); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	for i, o := range ops {
		if err := w.do(ctx, o); err != nil {
			return fmt.Errorf("operation %d of %d: %w", i, len(ops), err)
		}
	}
	return w.commit(ctx, nil)
}

func (w *world) close() error {
	var errs []error
	for _, f := range w.open {
		errs = append(errs, f.Close())
	}
	w.open = nil
	if w.fs != nil {
		errs = append(errs, w.fs.Close())
	}
	w.fs = nil
	return errors.Join(errs...)
}

// reopen loses what is not committed, as closing does, and goes on.
func (w *world) reopen(ctx context.Context) (err error) {
	if err := w.close(); err != nil {
		return hard{err}
	}
	if w.fs, err = engine.OpenDevices(ctx, []disk.Device{w.dev}, w.options()); err != nil {
		return hard{err}
	}
	return nil
}

// hard is an error that is no errno to the caller: nothing excuses it.
type hard struct{ err error }

func (h hard) Error() string { return h.err.Error() }

// commit notes what will be committed, and commits; overlap runs in the middle, in the next transaction.
func (w *world) commit(ctx context.Context, overlap []op) error {
	state, err := stateOf(ctx, w.fs)
	if err != nil {
		return hard{err}
	}
	// With a small bound they might wait for the very commit they are in; and where all has to be in its place again, what
	// they write and nobody can read any more may come to the device on either side of the next flush.
	if len(overlap) > 0 && w.cfg.maxDirty == 0 && !w.cfg.roomy {
		w.overlap = overlap
		w.when = []trace.Kind{trace.CommitRootsSwitched, trace.BlocksWritten}[overlap[0].d%2]
		if w.mutant.early {
			w.when = trace.CommitRootsSwitched
		}
	}
	err = w.fs.Commit(ctx)
	if err = errors.Join(err, w.overlapErr); err != nil {
		return hard{err}
	}
	w.overlap = nil // nothing was to be committed
	return w.note(state)
}

// snapshot takes a snapshot, which commits.
func (w *world) snapshot(ctx context.Context, from, to string, readonly bool) error {
	if _, err := w.fs.Snapshot(ctx, from, to, readonly); err != nil {
		return err
	}
	if readonly {
		in, err := w.fs.SubvolumeInfo(ctx, to)
		if err != nil {
			return hard{err}
		}
		w.rel.frozen[in.UUID] = true
	}
	state, err := stateOf(ctx, w.fs)
	if err != nil {
		return hard{err}
	}
	return w.note(state)
}

// note keeps the manifest of the generation that has just been committed.
func (w *world) note(state []byte) error {
	sb := w.fs.Super()
	was, known := w.states[sb.Generation()]
	if known && !bytes.Equal(was, state) {
		return hard{fmt.Errorf("generation %d has changed after its commit: %s", sb.Generation(), diff(was, state))}
	}
	w.states[sb.Generation()] = state
	if w.receiving {
		w.half[sb.Generation()] = true
	}
	return nil
}

// trace runs the overlapping operations at their step, where the committing goroutine holds no lock.
func (w *world) trace(e trace.Event) {
	if e.Kind != w.when || len(w.overlap) == 0 || !e.Kind.Step() {
		return
	}
	ops := w.overlap
	w.overlap, w.when = nil, trace.None
	if w.mutant.early {
		w.fs.DB().Pin().Release(e.Gen)
	}
	for _, o := range ops {
		if !w.roomy() {
			w.crowded++
			break
		}
		w.overlapped++
		if err := w.do(w.fileCtx, o); err != nil {
			w.overlapErr = fmt.Errorf("in the commit of %d: %w", e.Gen, err)
			return
		}
	}
	// Small pieces of data are written behind their writers' backs. Reading waits for them, so that they come before
	// the flush that is next in every run.
	if _, err := stateOf(w.fileCtx, w.fs); err != nil {
		w.overlapErr = fmt.Errorf("in the commit of %d: %w", e.Gen, err)
	}
}

// roomy reports whether there is space for an operation without waiting for a commit: in the middle of one it would
// wait for ever.
func (w *world) roomy() bool {
	u := w.fs.Usage()
	return u.Data.Free() >= 160<<10 && u.Metadata.Free() > u.GlobalReserve+4<<20
}

// fillIn adds the states of generations that were committed in the middle of an operation: what is there when all that
// was written by then is.
func (h *history) fillIn(ctx context.Context) error {
	img := h.base.Clone()
	gen := ondisk.Generation(0)
	for _, win := range windows(h.log) {
		gens := supers(h.log[win.from:win.to])
		apply(img, h.log[win.from:win.to])
		if len(gens) == 0 {
			continue
		}
		gen = gens[len(gens)-1]
		if _, known := h.states[gen]; known {
			continue
		}
		_, state, _, err := openReadOnly(ctx, img.Clone())
		if err != nil {
			return fmt.Errorf("generation %d, committed in the middle of an operation, with nothing lost: %w", gen, err)
		}
		h.states[gen] = state
		h.midway++
	}
	return nil
}
