package delayedref

import (
	"context"
	"fmt"
	"math"
)

// Applier writes one head into the extent tree. Apply may call the Set (changing
// the extent tree queues changes of its own), also for the same extent, but not
// Run. It does not keep the head.
type Applier interface {
	Apply(h *Head) error
}

// Run gives heads to the applier, in ascending address order from where the last
// Run stopped, and returns how many were applied. With max >= 0 it stops after
// that many, or when none is left to take. With max < 0 it goes on, heads that
// appear meanwhile included, until the set is empty; it then also waits for the
// heads that other runners are applying, since these may queue more. Several
// runners may be at work at once. ctx is looked at between heads.
//
// When Apply fails, the head is put back with whatever has been queued for it
// since, and Run returns the error at once: how much of it is on disk is not
// known, so the caller must abort the transaction.
func (s *Set) Run(ctx context.Context, applier Applier, max int) (n int, err error) {
	for n != max {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		h, wait := s.take(max < 0)
		if h == nil {
			if wait == nil {
				return n, nil
			}
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return n, context.Cause(ctx)
			}
		}
		bytenr := h.Bytenr // h is another's once applied
		if err := s.apply(applier, h); err != nil {
			return n, fmt.Errorf("delayed refs of extent %d: %w", bytenr, err)
		}
		n++
	}
	return n, nil
}

// apply runs one head that take has taken. A panic of the applier goes on
// upwards, but not before the head is back and its waiters are awake.
func (s *Set) apply(applier Applier, h *Head) (err error) {
	applied := false
	defer func() { s.finish(h, applied) }()
	err = applier.Apply(h)
	applied = err == nil
	return err
}

// take moves the next head from queued to applying. When there is none to take,
// it returns a channel to wait on if wait is set and others are at work.
func (s *Set) take(wait bool) (*Head, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.nextFrom(s.cursor)
	if h == nil && s.cursor > 0 {
		h = s.nextFrom(0)
	}
	if h == nil {
		if !wait || len(s.applying) == 0 {
			return nil, nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		return nil, s.changed
	}
	s.heads.Delete(h.Bytenr)
	s.applying[h.Bytenr] = h
	s.cursor = h.Bytenr
	if s.cursor < math.MaxUint64 {
		s.cursor++
	}
	s.stats.Refs -= h.counts.len()
	return h, nil
}

// nextFrom returns the first queued head at or after bytenr that has no
// predecessor being applied. Called with mu held.
func (s *Set) nextFrom(bytenr uint64) (next *Head) {
	s.heads.Ascend(bytenr, func(at uint64, h *Head) bool {
		if s.applying[at] == nil {
			next = h
			return false
		}
		return true
	})
	return next
}

// finish ends the applying of h and lets go those who wait for it.
func (s *Set) finish(h *Head, applied bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.applying, h.Bytenr)
	if h.done != nil {
		close(h.done)
		h.done = nil
	}
	if applied {
		s.stats.Run++
		s.stats.RefsRun += uint64(h.counts.len())
		s.recycle(h)
	} else {
		s.putBack(h)
	}
	s.wake()
}

// putBack queues a head whose application failed, merged with what was queued
// behind it: nothing is lost, in the order in which it was said. Called with mu
// held.
func (s *Set) putBack(h *Head) {
	later, ok := s.heads.Get(h.Bytenr)
	s.stats.Refs += h.counts.len()
	s.heads.Set(h.Bytenr, h)
	if !ok {
		return
	}
	before := h.counts.len() + later.counts.len()
	for _, r := range later.counts.refs {
		h.counts.add(r.Ref, r.Count)
	}
	s.stats.Refs += h.counts.len() - before
	h.RefMod += later.RefMod
	h.Level = later.Level
	if later.Born != 0 {
		h.Born = later.Born
	}
	if later.Op != nil {
		h.setOp(*later.Op)
	}
	s.recycle(later)
	s.dropIdle(h)
}

// wake lets waiting runners look again. Called with mu held.
func (s *Set) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}
