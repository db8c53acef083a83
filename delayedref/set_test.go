package delayedref

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

var fsTree = Ref{Kind: TreeBlock, Root: 5, Level: 1}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestErrors(t *testing.T) {
	s := NewSet()
	must(t, s.Add(16384, 16384, fsTree, AddOptions{New: true}))
	must(t, s.Add(65536, 4096, Ref{Kind: ExtentData, Root: 5, Objectid: 257}, AddOptions{}))
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"kind":            {s.Add(0, 16384, Ref{Kind: 177}, AddOptions{}), "ref kind 177 is no kind"},
		"size":            {s.Drop(16384, 4096, fsTree, DropOptions{}), "does not fit delayed refs of extent [16384, +16384) level 1"},
		"data for tree":   {s.Add(16384, 16384, Ref{Kind: SharedData, Parent: 1}, AddOptions{}), "does not fit"},
		"tree for data":   {s.SetFlags(65536, 4096, ExtentOp{}), "does not fit"},
		"allocated twice": {s.Add(16384, 16384, fsTree, AddOptions{New: true}), "new, but there is"},
		"new but known":   {s.Add(65536, 4096, Ref{Kind: ExtentData, Root: 6}, AddOptions{New: true}), "new, but there is"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, c.err, c.want)
		}
	}
	if st := s.Stats(); st.Heads != 2 || st.Refs != 2 || s.Pending(16384).RefMod != 1 {
		t.Errorf("a refused change changed something: %+v", st)
	}
}

// TestOrder: heads by address; within one, additions before drops, each by kind,
// root or parent, inode, offset.
func TestOrder(t *testing.T) {
	s := NewSet()
	data := func(root, ino, off uint64) Ref { return Ref{Kind: ExtentData, Root: root, Objectid: ino, Offset: off} }
	shared := func(p uint64) Ref { return Ref{Kind: SharedData, Parent: p} }
	for _, r := range []Ref{shared(9), data(6, 1, 1), data(5, 2, 2), data(5, 2, 1), data(5, 1, 9), shared(3)} {
		must(t, s.Add(4096, 4096, r, AddOptions{}))
	}
	for _, r := range []Ref{shared(2), data(7, 1, 1), data(4, 1, 1)} {
		must(t, s.Drop(4096, 4096, r, DropOptions{}))
	}
	must(t, s.Add(4096, 4096, data(5, 2, 2), AddOptions{}))
	for _, at := range []uint64{5 << 20, 1 << 20, 3 << 20} {
		must(t, s.Drop(at, 16384, fsTree, DropOptions{Born: 7}))
	}
	var heads []uint64
	n, err := s.Run(t.Context(), applierFunc(func(h *Head) error {
		heads = append(heads, h.Bytenr)
		if h.Bytenr != 4096 {
			if h.Born != 7 || h.Level != 1 || h.RefMod != -1 || h.IsData || h.MustInsert {
				t.Errorf("%+v", h)
			}
			return nil
		}
		want := []RefCount{
			{data(5, 1, 9), 1}, {data(5, 2, 1), 1}, {data(5, 2, 2), 2}, {data(6, 1, 1), 1}, {shared(3), 1}, {shared(9), 1},
			{data(4, 1, 1), -1}, {data(7, 1, 1), -1}, {shared(2), -1},
		}
		if got := h.Refs(); !slices.Equal(got, want) || h.RefMod != 4 || !h.IsData {
			t.Errorf("%v: %v", h, got)
		}
		return nil
	}), -1)
	if n != 4 || err != nil || !slices.Equal(heads, []uint64{4096, 1 << 20, 3 << 20, 5 << 20}) {
		t.Errorf("ran %d %v: %v", n, heads, err)
	}
}

// TestCursor: limited runs go round, so that a low address that is queued again
// and again does not starve the others.
func TestCursor(t *testing.T) {
	s := NewSet()
	for at := uint64(1); at <= 6; at++ {
		must(t, s.Drop(at<<20, 16384, fsTree, DropOptions{}))
	}
	var heads []uint64
	record := applierFunc(func(h *Head) error {
		heads = append(heads, h.Bytenr>>20)
		return s.Drop(1<<20, 16384, fsTree, DropOptions{})
	})
	for range 4 {
		if n, err := s.Run(t.Context(), record, 2); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}
	if !slices.Equal(heads, []uint64{1, 2, 3, 4, 5, 6, 1, 1}) {
		t.Errorf("heads %v", heads)
	}
}

// TestHuge: an extent with very many references, added and dropped in part.
func TestHuge(t *testing.T) {
	s := NewSet()
	const n = 50_000
	ref := func(i uint64) Ref { return Ref{Kind: ExtentData, Root: 5, Objectid: 257, Offset: i * 4096} }
	for i := range uint64(n) {
		must(t, s.Add(4096, 4096, ref(i), AddOptions{}))
	}
	for i := uint64(0); i < n; i += 2 {
		must(t, s.Drop(4096, 4096, ref(i), DropOptions{}))
	}
	refs, st := s.Refs(4096)
	if len(refs) != n/2 || st.RefMod != n/2 || s.Stats().Merged != n/2 {
		t.Fatalf("%d refs, %+v, %+v", len(refs), st, s.Stats())
	}
	for i, r := range refs {
		if r.Ref != ref(uint64(2*i+1)) || r.Count != 1 {
			t.Fatalf("%d: %+v", i, r)
		}
	}
	for i := uint64(1); i < n; i += 2 {
		must(t, s.Drop(4096, 4096, ref(i), DropOptions{}))
	}
	if !s.Empty() || s.Pending(4096).Exists {
		t.Error("all cancelled, yet something is pending")
	}
}

func TestCancelNew(t *testing.T) {
	s := NewSet()
	op := &ExtentOp{Flags: 2, UpdateFlags: true, Level: 1}
	must(t, s.Add(16384, 16384, fsTree, AddOptions{New: true, Op: op}))
	if s.CancelNew(16384) || s.CancelNew(32768) {
		t.Error("cancelled what is referenced, or unknown")
	}
	must(t, s.Drop(16384, 16384, fsTree, DropOptions{Born: 3}))
	if st := s.Pending(16384); !st.New || st.RefMod != 0 || st.Flags != 2 {
		t.Errorf("before: %+v", st)
	}
	if !s.CancelNew(16384) || !s.Empty() || s.CancelNew(16384) {
		t.Error("not cancelled exactly once")
	}
	// The address may be allocated again, as data even.
	must(t, s.Add(16384, 4096, Ref{Kind: SharedData, Parent: 1}, AddOptions{New: true}))
	must(t, s.Drop(16384, 4096, Ref{Kind: SharedData, Parent: 1}, DropOptions{}))
	if s.CancelNew(16384) {
		t.Error("data is pinned, never cancelled (I2)")
	}
	ran := 0
	_, err := s.Run(t.Context(), applierFunc(func(h *Head) error {
		ran++
		if !h.MustInsert || h.RefMod != 0 || len(h.Refs()) != 0 || h.Op != nil || h.Born != 0 {
			t.Errorf("a new extent, freed again: %+v", h)
		}
		if s.CancelNew(16384) {
			t.Error("cancelled while it is applied")
		}
		return nil
	}), -1)
	if err != nil || ran != 1 {
		t.Errorf("ran %d: %v", ran, err)
	}
}

func TestExtentOpMerge(t *testing.T) {
	s := NewSet()
	var withKey ExtentOp
	withKey.Key.Objectid, withKey.Key.Type, withKey.UpdateKey = 256, 1, true
	must(t, s.SetFlags(16384, 16384, ExtentOp{Flags: 2, UpdateFlags: true, Level: 1}))
	must(t, s.SetFlags(16384, 16384, withKey))
	must(t, s.SetFlags(16384, 16384, ExtentOp{Flags: 0x100, UpdateFlags: true, Level: 1}))
	must(t, s.Add(16384, 16384, fsTree, AddOptions{}))
	must(t, s.Drop(16384, 16384, fsTree, DropOptions{}))
	_, err := s.Run(t.Context(), applierFunc(func(h *Head) error {
		if h.Op == nil || h.Op.Flags != 0x102 || !h.Op.UpdateFlags || !h.Op.UpdateKey || h.Op.Key != withKey.Key {
			t.Errorf("op %+v", h.Op)
		}
		if len(h.Refs()) != 0 || h.MustInsert {
			t.Errorf("%v", h)
		}
		return nil
	}), -1)
	must(t, err)
	if s.Stats().Run != 1 {
		t.Error("flags without references were not applied")
	}
}

// TestBusy: while a head is applied its extent is busy, changes queue behind it,
// and a waiter is woken when it is done.
func TestBusy(t *testing.T) {
	s := NewSet()
	must(t, s.Drop(16384, 16384, fsTree, DropOptions{}))
	inApply, proceed := make(chan struct{}), make(chan struct{})
	var mods []int
	done := make(chan error)
	go func() {
		_, err := s.Run(context.Background(), applierFunc(func(h *Head) error {
			if mods = append(mods, h.RefMod); len(mods) == 1 {
				close(inApply)
				<-proceed
			}
			return nil
		}), -1)
		done <- err
	}()
	<-inApply
	must(t, s.Add(16384, 16384, fsTree, AddOptions{}))
	must(t, s.Add(16384, 16384, Ref{Kind: TreeBlock, Root: 6, Level: 1}, AddOptions{}))
	if err := s.Add(16384, 16384, fsTree, AddOptions{New: true}); err == nil {
		t.Error("new, while it is being changed")
	}
	if err := s.Add(16384, 4096, fsTree, AddOptions{}); err == nil {
		t.Error("another size than that of the head being applied")
	}
	st := s.Pending(16384)
	refs, _ := s.Refs(16384)
	if !st.Busy || !st.Exists || refs != nil || s.Len() != 2 {
		t.Fatalf("%+v, refs %v", st, refs)
	}
	// No other runner takes the second head before the first is done.
	if n, err := s.Run(t.Context(), applierFunc(func(*Head) error { t.Error("applied two heads of one extent at once"); return nil }), 5); n != 0 || err != nil {
		t.Error(n, err)
	}
	stop, cancel := context.WithCancelCause(t.Context())
	cancel(errFault)
	if err := st.Wait(stop); !errors.Is(err, errFault) {
		t.Errorf("cancelled wait: %v", err)
	}
	if _, err := s.Run(stop, nil, -1); !errors.Is(err, errFault) {
		t.Errorf("cancelled run: %v", err)
	}
	close(proceed)
	must(t, st.Wait(t.Context()))
	must(t, <-done)
	if !slices.Equal(mods, []int{-1, 2}) || !s.Empty() {
		t.Errorf("applied %v", mods)
	}
}

// TestFailureLosesNothing: the failed head goes back, merged with what came
// after it, also when the applier panics.
func TestFailureLosesNothing(t *testing.T) {
	for _, panics := range []bool{false, true} {
		s := NewSet()
		must(t, s.Drop(16384, 16384, fsTree, DropOptions{}))
		must(t, s.Drop(16384, 16384, Ref{Kind: TreeBlock, Root: 6}, DropOptions{}))
		func() {
			defer func() {
				if r := recover(); (r != nil) != panics {
					t.Errorf("recovered %v", r)
				}
			}()
			_, err := s.Run(t.Context(), applierFunc(func(h *Head) error {
				must(t, s.Add(16384, 16384, fsTree, AddOptions{}))
				must(t, s.Drop(16384, 16384, Ref{Kind: SharedBlock, Parent: 3}, DropOptions{Born: 8}))
				must(t, s.SetFlags(16384, 16384, ExtentOp{Flags: 4, UpdateFlags: true}))
				if panics {
					panic("as an engine's own mistake would")
				}
				return errFault
			}), -1)
			if !errors.Is(err, errFault) || !strings.Contains(err.Error(), "extent 16384") {
				t.Error(err)
			}
		}()
		refs, st := s.Refs(16384)
		want := []RefCount{{Ref{Kind: TreeBlock, Root: 6}, -1}, {Ref{Kind: SharedBlock, Parent: 3}, -1}}
		if !slices.Equal(refs, want) || st.RefMod != -2 || st.Flags != 4 || s.Len() != 1 || s.Stats().Refs != 2 {
			t.Errorf("panics %v: %v, %+v, %+v", panics, refs, st, s.Stats())
		}
		var drained []uint64
		s.Drain(func(h *Head) { drained = append(drained, h.Bytenr, h.Born) })
		if !slices.Equal(drained, []uint64{16384, 8}) || !s.Empty() || s.Stats().Refs != 0 {
			t.Errorf("drained %v", drained)
		}
	}
}
