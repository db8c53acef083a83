package pin

import (
	"fmt"
	"iter"
)

// Stats is a picture of a Set.
type Stats struct {
	Bytes            [states][Kinds]uint64 // bytes by State and Extent.Kind
	Extents          [states]int           // by State
	Tickets          int                   // live readers
	Asked            uint64                // times a reader was asked to go
	Late             uint64                // tickets of a generation older than what had been released when they entered: their reader is not safe
	OldestGeneration uint64                // of a live ticket; 0 when there is none
	Durable          uint64                // the highest generation released
}

// Pinned returns the pinned bytes of all kinds.
func (st Stats) Pinned() uint64 { return st.sum(Pinned) }

// Held returns the held bytes of all kinds.
func (st Stats) Held() uint64 { return st.sum(Held) }

// Releasing returns the bytes that Options.Release is dealing with.
func (st Stats) Releasing() uint64 { return st.sum(Releasing) }

func (st Stats) sum(s State) (n uint64) {
	for _, b := range st.Bytes[s] {
		n += b
	}
	return n
}

// String sums the figures up in a line.
func (st Stats) String() string {
	return fmt.Sprintf("pinned %d bytes, held %d, releasing %d, %d readers (oldest generation %d, durable %d)",
		st.Pinned(), st.Held(), st.Releasing(), st.Tickets, st.OldestGeneration, st.Durable)
}

// Stats returns the figures of this instant.
func (s *Set) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.OldestGeneration, _, _ = s.views.Min()
	st.Durable = s.durable
	return st
}

// Group returns the bytes of one block group, by State: its part in I5.
func (s *Set) Group(bg uint64) [states]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[bg]; g != nil {
		return *g
	}
	return [states]uint64{}
}

// Tickets returns the live tickets, the oldest generation first, for the leak
// list at Close (I12) and for messages.
func (s *Set) Tickets() []*Ticket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*Ticket
	s.views.Scan(func(_ uint64, v *view) bool {
		out = append(out, v.tickets...)
		return true
	})
	return out
}

// Visible reports whether a live ticket looks at a generation in [born, died).
func (s *Set) Visible(born, died uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.witness(&entry{Extent: Extent{Born: born, Died: died}}) != nil
}

// Pinned reports whether any byte of [start, start+n) is pinned, held, or with
// Options.Release.
func (s *Set) Pinned(start, n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.firstOverlap(start, start+n) != nil
}

// Overlapping yields the extents, with their states, that overlap
// [start, start+n), ascending, as they are when the iteration begins. A block
// group is loaded whole with these subtracted: on disk they are free as of Died.
// The extents are not cut to the range.
func (s *Set) Overlapping(start, n uint64) iter.Seq2[Extent, State] {
	type item struct {
		e  Extent
		st State
	}
	return func(yield func(Extent, State) bool) {
		var found []item
		s.mu.Lock()
		s.overlaps(start, start+n, func(e *entry) bool {
			found = append(found, item{e.Extent, e.state})
			return true
		})
		s.mu.Unlock()
		for _, f := range found {
			if !yield(f.e, f.st) {
				return
			}
		}
	}
}

func (s *Set) firstOverlap(start, end uint64) (first *entry) {
	s.overlaps(start, end, func(e *entry) bool {
		first = e
		return false
	})
	return first
}

// overlaps calls f for the extents that overlap [start, end), until it returns
// false. Called with mu held.
func (s *Set) overlaps(start, end uint64, f func(*entry) bool) {
	if end <= start {
		return
	}
	// Extents do not overlap each other, so only the last one that starts
	// before `start` can reach into the range.
	more := true
	if start > 0 {
		s.byStart.Descend(start-1, func(_ uint64, e *entry) bool {
			if e.end() > start {
				more = f(e)
			}
			return false
		})
	}
	if !more {
		return
	}
	s.byStart.Ascend(start, func(at uint64, e *entry) bool {
		return at < end && f(e)
	})
}
