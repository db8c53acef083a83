package txn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/txn"
)

// steps calls what is registered for a kind of event of a generation, once, and keeps the order of all events.
type steps struct {
	mu   sync.Mutex
	at   map[string]func()
	seen []string
}

func stepName(k trace.Kind, gen uint64) string { return fmt.Sprintf("%v of %d", k, gen) }

func (s *steps) Trace(e trace.Event) {
	name := stepName(e.Kind, e.Gen)
	s.mu.Lock()
	s.seen = append(s.seen, name)
	fn := s.at[name]
	delete(s.at, name)
	s.mu.Unlock()
	if fn != nil {
		fn()
	}
}

func (s *steps) on(k trace.Kind, gen ondisk.Generation, fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = map[string]func(){}
	}
	s.at[stepName(k, uint64(gen))] = fn
}

// index is where in the order of events one stands; -1 if it has not happened.
func (s *steps) index(k trace.Kind, gen ondisk.Generation) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Index(s.seen, stepName(k, uint64(gen)))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open makes a file system in memory, whose commits s sees.
func open(t testing.TB, s *steps) (*engine.FS, *disk.Mem) {
	t.Helper()
	o := engine.FormatOptions{Options: mkfs.Default(), Size: 128 << 20}
	dev := disk.NewMem("mem", int64(o.Size))
	fs, err := engine.FormatDevice(t.Context(), kept{dev}, o)
	must(t, err)
	must(t, fs.Close())
	fs, err = engine.OpenDevices(t.Context(), []disk.Device{kept{dev}}, engine.OpenOptions{Tracer: s})
	must(t, err)
	return fs, dev
}

// kept is a device that lives on when its file system is closed.
type kept struct{ *disk.Mem }

func (kept) Close() error { return nil }

// answer is what an entry meets: with a context that is done, whatever waits comes back at once.
func answer(db *txn.DB, e txn.Entry) string {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	enter := map[txn.Entry]func(context.Context) (*txn.Handle, error){
		txn.EntryStart:  func(ctx context.Context) (*txn.Handle, error) { return db.Start(ctx, 1) },
		txn.EntryAttach: db.Attach,
		txn.EntryJoin:   db.Join,
	}[e]
	h, err := enter(ctx)
	switch {
	case err == nil:
		gen := h.Generation()
		if err := h.End(context.Background()); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("T%+d", int64(gen)-int64(base))
	case errors.Is(err, context.Canceled):
		return "waits"
	case errors.Is(err, fserr.ErrNoTransaction):
		return "no transaction"
	case errors.Is(err, fserr.ErrAborted):
		return "refused"
	}
	return err.Error()
}

// base is the generation that answer counts from.
var base ondisk.Generation

// TestEntries asks for every way in at every step of a commit, and compares with the table: the words say what a verdict
// means to the caller, where no transaction runs behind T, and where T+1 does.
func TestEntries(t *testing.T) {
	s := &steps{}
	fs, _ := open(t, s)
	defer fs.Close()
	db := fs.DB()
	h, err := db.Start(t.Context(), 1)
	must(t, err)
	gen := h.Generation()
	base = gen
	words := map[txn.Verdict][2]string{ // without T+1, and with it
		txn.Enter: {"T+0", ""}, txn.Wait: {"waits", ""}, txn.OpenNext: {"T+1", "T+1"}, txn.NextIfRuns: {"no transaction", "T+1"},
	}
	asked := 0
	ask := func(state txn.State, next bool, entries ...txn.Entry) {
		for _, e := range entries {
			want := words[txn.Allowed(state, e)][0]
			if next {
				want = words[txn.Allowed(state, e)][1]
			}
			if have := answer(db, e); have != want {
				t.Errorf("%v, entry %d, T+1 runs %v: %s, want %s", state, e, next, have, want)
			}
			asked++
		}
	}
	all := []txn.Entry{txn.EntryAttach, txn.EntryStart, txn.EntryJoin}
	ask(txn.Running, false, all...)
	s.on(trace.CommitStarted, gen, func() { ask(txn.CommitStart, false, all...) })
	s.on(trace.CommitDoing, gen, func() { ask(txn.CommitDoing, false, all...) })
	s.on(trace.CommitRootsSwitched, gen, func() {
		ask(txn.Unblocked, false, txn.EntryAttach) // before anybody has opened T+1
		ask(txn.Unblocked, true, txn.EntryStart, txn.EntryAttach, txn.EntryJoin)
	})
	s.on(trace.BlocksWritten, gen, func() { ask(txn.Unblocked, true, all...) })
	s.on(trace.SuperWritten, gen, func() { ask(txn.SuperCommitted, true, all...) })
	must(t, h.EndAndCommit(t.Context()))
	ask(txn.Completed, true, all...)
	must(t, fs.Commit(t.Context()))
	base = gen + 1
	if have := answer(db, txn.EntryAttach); have != "no transaction" {
		t.Errorf("nothing runs, and Attach: %s", have)
	}
	db.Abort(errors.New("on purpose"))
	for _, e := range all {
		if have := answer(db, e); have != "refused" || txn.Allowed(txn.Aborted, e) != txn.Refuse {
			t.Errorf("aborted, entry %d: %s", e, have)
		}
		asked++
	}
	if asked != 25 {
		t.Errorf("asked %d times, expected 25: a step was not reached", asked)
	}
}

// TestNextWaits commits T+1 while T is written out: T+1 reaches COMMIT_START and stays there, with all its goroutines
// blocked for good, until T is COMPLETED.
func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &steps{}
		fs, _ := open(t, s)
		db := fs.DB()
		h, err := db.Start(t.Context(), 1)
		must(t, err)
		gen := h.Generation()
		next := make(chan error, 1)
		s.on(trace.BlocksWritten, gen, func() {
			h, err := db.Start(t.Context(), 1)
			if err != nil || h.Generation() != gen+1 {
				t.Errorf("start while T is written: %v", err)
				return
			}
			go func() { next <- h.EndAndCommit(t.Context()) }()
			synctest.Wait()
			if s.index(trace.CommitStarted, gen+1) < 0 {
				t.Error("T+1 has not reached COMMIT_START")
			}
			if s.index(trace.CommitDoing, gen+1) >= 0 {
				t.Error("T+1 did not wait for T")
			}
		})
		must(t, h.EndAndCommit(t.Context()))
		must(t, <-next)
		if done, doing := s.index(trace.CommitCompleted, gen), s.index(trace.CommitDoing, gen+1); done < 0 || doing < 0 || done > doing {
			t.Errorf("T completed at event %d, T+1 in COMMIT_DOING at %d", done, doing)
		}
		must(t, fs.Close())
	})
}

// TestAbortReachesNext aborts T while it is written out and T+1 runs with a commit asked for: both end with T's cause,
// nobody waits for ever, and the image is at T-1.
func TestAbortReachesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &steps{}
		fs, dev := open(t, s)
		db := fs.DB()
		h, err := db.Start(t.Context(), 1)
		must(t, err)
		gen, cause := h.Generation(), errors.New("on purpose")
		next, held := make(chan error, 1), make(chan *txn.Handle, 1)
		s.on(trace.BlocksWritten, gen, func() {
			a, err := db.Start(t.Context(), 1)
			if err != nil {
				t.Error(err)
				return
			}
			b, err := db.Start(t.Context(), 1)
			if err != nil {
				t.Error(err)
				return
			}
			held <- b
			go func() { next <- a.EndAndCommit(t.Context()) }()
			synctest.Wait()
			db.Abort(cause)
			db.Abort(errors.New("a consequence")) // the first cause stays
		})
		for who, err := range map[string]error{"T": h.EndAndCommit(t.Context()), "T+1": <-next, "a handle": (<-held).End(t.Context())} {
			if !errors.Is(err, cause) || !errors.Is(err, fserr.ErrAborted) {
				t.Errorf("%s ended with %v", who, err)
			}
		}
		if _, err := db.Start(t.Context(), 1); !errors.Is(err, cause) {
			t.Errorf("Start afterwards: %v", err)
		}
		_ = fs.Close()
		fs, err = engine.OpenDevices(t.Context(), []disk.Device{kept{dev}}, engine.OpenOptions{ReadOnly: true})
		must(t, err)
		if sb := fs.Super(); sb.Generation() != gen-1 {
			t.Errorf("the image is at generation %d, want %d", sb.Generation(), gen-1)
		}
		must(t, fs.Close())
	})
}
