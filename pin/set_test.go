package pin

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// collector keeps what a Set has released.
type collector struct{ got []uint64 }

func (c *collector) release(list []Extent) {
	for _, e := range list {
		c.got = append(c.got, e.Start)
	}
}

func (c *collector) want(t *testing.T, starts ...uint64) {
	t.Helper()
	if !slices.Equal(c.got, starts) {
		t.Errorf("released %v, want %v", c.got, starts)
	}
	c.got = nil
}

func at(gen uint64) func() uint64 { return func() uint64 { return gen } }

func mustPin(t *testing.T, s *Set, list ...Extent) {
	t.Helper()
	for _, e := range list {
		if err := s.Pin(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPinErrors(t *testing.T) {
	s := New(Options{Release: func([]Extent) {}})
	mustPin(t, s, Extent{Start: 100, Len: 50, Born: 1, Died: 5})
	s.Release(3)
	for _, c := range []struct {
		e    Extent
		want string
	}{
		{Extent{Start: 0, Len: 0, Died: 5}, "not an extent"},
		{Extent{Start: ^uint64(0), Len: 2, Died: 5}, "not an extent"},
		{Extent{Start: 0, Len: 1, Born: 6, Died: 5}, "not an extent"},
		{Extent{Start: 0, Len: 1, Died: 5, Kind: Kinds}, "not an extent"},
		{Extent{Start: 0, Len: 1, Died: 3}, "durable already (3 is)"},
		{Extent{Start: 100, Len: 50, Died: 5}, "freed twice"},
		{Extent{Start: 149, Len: 1, Died: 6}, "freed twice"},
		{Extent{Start: 0, Len: 101, Died: 6}, "freed twice"},
	} {
		if err := s.Pin(c.e); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.e, err, c.want)
		}
	}
	mustPin(t, s, Extent{Start: 150, Len: 1, Died: 5}, Extent{Start: 99, Len: 1, Died: 5})
	if st := s.Stats(); st.Pinned() != 52 || st.Extents[Pinned] != 3 {
		t.Errorf("%+v", st)
	}
}

func TestLeaveTwicePanics(t *testing.T) {
	s := New(Options{Release: func([]Extent) {}})
	tk := s.Enter(at(1))
	tk.SetName("send of subvolume 256")
	tk.Leave()
	defer func() {
		if msg, _ := recover().(string); !strings.Contains(msg, "send of subvolume 256 of generation 1") {
			t.Errorf("panic says %q", msg)
		}
		if s.Stats().Tickets != 0 {
			t.Error("the lock was kept, or a ticket")
		}
	}()
	tk.Leave()
}

// TestVisibility goes through the borders of [Born, Died).
func TestVisibility(t *testing.T) {
	for _, c := range []struct {
		born, died, view uint64
		held             bool
	}{
		{3, 5, 2, false}, {3, 5, 3, true}, {3, 5, 4, true}, {3, 5, 5, false},
		{5, 5, 5, false}, {5, 5, 4, false}, {0, 1, 0, true},
	} {
		var c2 collector
		s := New(Options{Release: c2.release})
		tk := s.Enter(at(c.view))
		mustPin(t, s, Extent{Start: 7, Len: 1, Born: c.born, Died: c.died})
		if got := s.Visible(c.born, c.died); got != c.held {
			t.Errorf("%+v: Visible = %v", c, got)
		}
		s.Release(c.died)
		if held := s.Stats().Held() == 1; held != c.held || held == (len(c2.got) == 1) {
			t.Errorf("%+v: held %v, released %v", c, held, c2.got)
		}
		tk.Leave()
		c2.want(t, 7)
	}
}

// TestReleasing: while Options.Release runs, the range is still reported, and
// may already begin its next life.
func TestReleasing(t *testing.T) {
	var s *Set
	calls := 0
	s = New(Options{Release: func(list []Extent) {
		if calls++; calls > 1 {
			return
		}
		if st := s.Stats(); st.Releasing() != 64 || !s.Pinned(40, 1) || s.Pinned(0, 8) {
			t.Errorf("while releasing: %+v", st)
		}
		// Added, allocated and freed again, in part, by somebody quicker.
		mustPin(t, s, Extent{Start: 8, Len: 8, Born: 2, Died: 2})
		if st := s.Stats(); st.Releasing() != 32 || st.Pinned() != 8 {
			t.Errorf("freed again: %+v", st)
		}
	}})
	mustPin(t, s, Extent{Start: 8, Len: 32, Died: 1}, Extent{Start: 40, Len: 32, Died: 1})
	s.Release(1)
	if st := s.Stats(); st.Releasing() != 0 || st.Pinned() != 8 || !s.Pinned(8, 8) || s.Pinned(16, 100) {
		t.Errorf("afterwards: %+v", st)
	}
	s.Release(2)
	if calls != 2 || s.Stats().Pinned() != 0 {
		t.Errorf("the second life was not released: %+v", s.Stats())
	}
}

func TestLateIsCounted(t *testing.T) {
	s := New(Options{Release: func([]Extent) {}})
	s.Release(9)
	s.Enter(at(9)).Leave()
	s.Enter(at(8)).Leave()
	if n := s.Stats().Late; n != 1 {
		t.Errorf("late %d", n)
	}
}

func TestMaxHeldAsksOldest(t *testing.T) {
	var c collector
	var told []*Ticket
	s := New(Options{Release: c.release, MaxHeld: func() uint64 { return 10 }, OnAsk: func(t *Ticket) { told = append(told, t) }})
	idle := s.Enter(at(1)) // sees nothing that is held: asking it would be of no use
	t2, t2b, t4 := s.Enter(at(2)), s.Enter(at(2)), s.Enter(at(4))
	mustPin(t, s,
		Extent{Start: 0, Len: 10, Born: 2, Died: 3},
		Extent{Start: 20, Len: 5, Born: 2, Died: 5},
		Extent{Start: 30, Len: 5, Born: 4, Died: 5})
	s.Release(3)
	if len(told) != 0 {
		t.Errorf("asked at the bound: %v", told)
	}
	s.Release(5)
	if !slices.Equal(told, []*Ticket{t2}) || !t2.Asked() || t2b.Asked() {
		t.Errorf("asked %v", told)
	}
	s.Release(6)
	if len(told) != 1 {
		t.Error("asked another while one is on its way")
	}
	c.want(t)
	t2.Leave()
	if !slices.Equal(told, []*Ticket{t2, t2b}) {
		t.Errorf("still over the bound, asked %v", told)
	}
	t2b.Leave()
	c.want(t, 0) // 20 is seen by t4 still; the rest is within the bound
	if len(told) != 2 || t4.Asked() || idle.Asked() {
		t.Errorf("asked %v", told)
	}
	if got := s.Tickets(); !slices.Equal(got, []*Ticket{idle, t4}) {
		t.Errorf("live %v", got)
	}
	t4.Leave()
	c.want(t, 20, 30)
	if s.AskOldest() {
		t.Error("nothing is held, whom did it ask?")
	}
	idle.Leave()
}

// TestAskLooksThroughWitnesses: what a later view is the witness of is held back
// by an earlier one as well.
func TestAskLooksThroughWitnesses(t *testing.T) {
	var c collector
	s := New(Options{Release: c.release})
	t1, t2, t4 := s.Enter(at(1)), s.Enter(at(2)), s.Enter(at(4))
	mustPin(t, s, Extent{Start: 1, Len: 1, Born: 2, Died: 5}, Extent{Start: 2, Len: 1, Born: 4, Died: 5})
	s.Release(5)
	for _, want := range [][3]bool{{false, true, false}, {false, true, true}, {false, true, true}} {
		if !s.AskOldest() {
			t.Error("nobody to wait for")
		}
		if got := [3]bool{t1.Asked(), t2.Asked(), t4.Asked()}; got != want {
			t.Errorf("asked %v, want %v", got, want)
		}
	}
	t4.Leave()
	c.want(t, 2)
	t2.Leave()
	c.want(t, 1)
	t1.Leave()
	c.want(t)
}

func TestWaitReleased(t *testing.T) {
	ctx := t.Context()
	var c collector
	s := New(Options{Release: c.release})
	if again, err := s.WaitReleased(ctx, s.Changed()); again || err != nil {
		t.Errorf("nobody to wait for: %v %v", again, err)
	}
	tk := s.Enter(at(1))
	if again, err := s.WaitReleased(ctx, s.Changed()); again || err != nil {
		t.Errorf("a reader that holds nothing: %v %v", again, err)
	}
	mustPin(t, s, Extent{Start: 5, Len: 1, Born: 1, Died: 2})
	s.Release(2)

	// A reader that does not answer: the context ends the wait.
	stop, cancel := context.WithCancelCause(ctx)
	mine := errors.New("stop")
	cancel(mine)
	if again, err := s.WaitReleased(stop, s.Changed()); again || !errors.Is(err, mine) {
		t.Errorf("cancelled: %v %v", again, err)
	}
	// One that does, in time or before the allocator got round to waiting.
	since := s.Changed()
	done := make(chan struct{})
	go func() {
		defer close(done)
		tk.Leave()
	}()
	if again, err := s.WaitReleased(ctx, since); !again || err != nil {
		t.Errorf("left: %v %v", again, err)
	}
	<-done
	c.want(t, 5)
	if again, err := s.WaitReleased(ctx, since); !again || err != nil {
		t.Errorf("left before: %v %v", again, err)
	}
	if again, err := s.WaitReleased(ctx, s.Changed()); again || err != nil {
		t.Errorf("nothing more to come: %v %v", again, err)
	}
}

// TestWaitForBatch: nobody holds anything, but a discard is under way.
func TestWaitForBatch(t *testing.T) {
	discarding, finish := make(chan struct{}), make(chan struct{})
	s := New(Options{Release: func([]Extent) { close(discarding); <-finish }})
	mustPin(t, s, Extent{Start: 5, Len: 1, Died: 2})
	done := make(chan struct{})
	go func() { defer close(done); s.Release(2) }()
	<-discarding
	since := s.Changed()
	stop, cancel := context.WithCancel(t.Context())
	cancel()
	if again, err := s.WaitReleased(stop, since); again || err == nil {
		t.Errorf("did not wait for the discard: %v %v", again, err)
	}
	close(finish)
	if again, err := s.WaitReleased(t.Context(), since); !again || err != nil {
		t.Errorf("%v %v", again, err)
	}
	<-done
}

func TestUnseenOfDurable(t *testing.T) {
	s := New(Options{Release: func([]Extent) { t.Error("no extent was pinned") }})
	s.Release(4)
	ran := 0
	s.Unseen(1, 4, func() { ran++ })
	if ran != 1 {
		t.Error("nobody looks and 4 is durable: it should have run")
	}
	tk := s.Enter(at(4))
	s.Unseen(1, 5, func() { ran++ })
	s.Release(5)
	if ran != 1 || !s.AskOldest() {
		t.Error("a reader of 4 looks at [1, 5)")
	}
	tk.Leave()
	if ran != 2 {
		t.Error("the last reader has left")
	}
}
