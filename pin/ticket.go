package pin

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"
)

// view is a generation that at least one ticket is looking at.
type view struct {
	gen     uint64
	tickets []*Ticket // in the order in which they entered
	held    []*entry  // what this generation is the witness of
	minBorn uint64    // the smallest Born in held; a lower bound
}

// Ticket is one reader's registration. It belongs to one goroutine, but Asked
// may be called by any. A ticket is left exactly once (I12).
type Ticket struct {
	set     *Set
	gen     uint64
	started time.Time
	name    atomic.Pointer[string]
	asked   atomic.Bool // set under set.mu
	left    bool        // under set.mu
}

// Enter registers a reader. capture returns the generation of the view; it runs
// while the ticket is being registered, under the Set's lock, so it must only
// read. The caller holds commitRootMu for reading around Enter, and takes the
// root-tree commit root under the same hold: that is what makes the generation,
// the root and the ticket one instant.
func (s *Set) Enter(capture func() uint64) *Ticket {
	t := &Ticket{set: s, started: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.gen = capture()
	if t.gen < s.durable {
		s.stats.Late++
	}
	v, ok := s.views.Get(t.gen)
	if !ok {
		v = &view{gen: t.gen, minBorn: math.MaxUint64}
		s.views.Set(t.gen, v)
	}
	v.tickets = append(v.tickets, t)
	s.stats.Tickets++
	return t
}

// Generation returns the generation of the ticket's view.
func (t *Ticket) Generation() uint64 { return t.gen }

// Started returns when the ticket was taken.
func (t *Ticket) Started() time.Time { return t.started }

// SetName says whose ticket this is, for messages.
func (t *Ticket) SetName(name string) { t.name.Store(&name) }

// Name returns what SetName was given, or "reader".
func (t *Ticket) Name() string {
	if n := t.name.Load(); n != nil {
		return *n
	}
	return "reader"
}

// String names the ticket, its generation and its age.
func (t *Ticket) String() string {
	return fmt.Sprintf("%s of generation %d, %v old", t.Name(), t.gen, time.Since(t.started).Round(time.Millisecond))
}

// Asked reports whether the reader is asked to go: it should let go of its path
// and buffers, leave, and search again with a new ticket. Nothing it can see is
// released before it has left. One atomic load.
func (t *Ticket) Asked() bool { return t.asked.Load() }

// Leave ends the view. What only this view held back goes to Options.Release
// before Leave returns, in this goroutine, so the caller holds no lock that comes
// after "pin" or that Options.Release takes. A second Leave panics: the first may
// have released what the caller believes it is looking at (I12).
func (t *Ticket) Leave() {
	s := t.set
	s.mu.Lock()
	if t.left {
		s.mu.Unlock()
		panic("pin: ticket left twice: " + t.String())
	}
	t.left = true
	s.stats.Tickets--
	b := new(batch)
	v, _ := s.views.Get(t.gen)
	v.remove(t)
	if len(v.tickets) == 0 {
		s.views.Delete(t.gen)
		for _, e := range v.held {
			s.holdOrRelease(e, b)
		}
	}
	if t.asked.Load() {
		s.asked--
		if b.empty() {
			s.notify() // those who wait may ask the next; else finish wakes them
		}
	}
	next := s.askIfOver()
	s.seal(b)
	s.mu.Unlock()
	s.told(next)
	s.finish(b)
}

func (v *view) remove(t *Ticket) {
	for i, o := range v.tickets {
		if o == t {
			copy(v.tickets[i:], v.tickets[i+1:])
			v.tickets[len(v.tickets)-1] = nil
			v.tickets = v.tickets[:len(v.tickets)-1]
			return
		}
	}
}

// askNext asks the oldest ticket that can see a held extent and has not been
// asked yet, and returns it; nil when there is none. Called with mu held.
func (s *Set) askNext() (asked *Ticket) {
	// A view sees what it is the witness of, and what a later view is the
	// witness of but was born no later than itself; so walk from the latest
	// view down, and remember the last unasked ticket found on the way: the
	// oldest one.
	minBorn := uint64(math.MaxUint64)
	s.views.Reverse(func(g uint64, v *view) bool {
		minBorn = min(minBorn, v.minBorn)
		if g >= minBorn {
			for _, t := range v.tickets {
				if !t.asked.Load() {
					asked = t
					break
				}
			}
		}
		return true
	})
	if asked != nil {
		asked.asked.Store(true)
		s.asked++
		s.stats.Asked++
	}
	return asked
}

// askIfOver asks one ticket when more is held than allowed and nobody has been
// asked already. Called with mu held.
func (s *Set) askIfOver() *Ticket {
	if s.opts.MaxHeld == nil || s.asked > 0 || s.stats.Extents[Held] == 0 {
		return nil
	}
	held := uint64(0)
	for _, n := range s.stats.Bytes[Held] {
		held += n
	}
	if held <= s.opts.MaxHeld() {
		return nil
	}
	return s.askNext()
}

// told reports an asked ticket to the owner. Called without mu.
func (s *Set) told(t *Ticket) {
	if t != nil && s.opts.OnAsk != nil {
		s.opts.OnAsk(t)
	}
}

// AskOldest asks the oldest reader that holds something back, and has not been
// asked yet, to go. It reports whether there is anybody to wait for: a ticket
// asked now or before that has not left. Nothing is released until it leaves.
func (s *Set) AskOldest() bool {
	s.mu.Lock()
	t := s.askNext()
	any := s.asked > 0
	s.mu.Unlock()
	s.told(t)
	return any
}

// Changed returns a channel that is closed when, from now on, something has gone
// back to free space (Options.Release having returned) or a reader that was asked
// to go has left. For an allocator: take it before looking for space.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

// notify wakes those who wait on Changed. Called with mu held.
func (s *Set) notify() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// WaitReleased is for an allocator that found no space and is about to return
// ENOSPC. since is the channel that Changed returned before it looked. If
// anything has come back since, or is on its way, or a reader can be asked to go
// and does, WaitReleased returns true when that has happened: look again. It
// returns false when waiting is of no use, and ctx's error when that ends first.
// The caller is no reader with a live ticket and holds no lock.
func (s *Set) WaitReleased(ctx context.Context, since <-chan struct{}) (bool, error) {
	select {
	case <-since:
		return true, nil
	default:
	}
	s.mu.Lock()
	t := s.askNext()
	// Decided under the lock: whoever leaves or finishes a batch after this
	// closes since, which is still the current channel or closed by now.
	wait := s.asked > 0 || s.batches > 0
	select {
	case <-since:
		wait = true
	default:
	}
	s.mu.Unlock()
	s.told(t)
	if !wait {
		return false, nil
	}
	select {
	case <-since:
		return true, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
