package extbuf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// Stats counts what a cache did and holds. Counters only grow.
type Stats struct {
	Hits, Misses uint64
	BadCopies    uint64 // copies that could not be read or were not what they should be
	FailedReads  uint64 // blocks without a good copy
	Repaired     uint64 // bad copies written over with a good one
	NotRepaired  uint64 // bad copies that could not be written over
	Mismatches   uint64 // blocks in memory that were not what the pointer promised (I9)
	Reused       uint64 // allocations that took over a live buffer (I3)
	Detached     uint64 // live buffers that left the cache instead (SetIdentity)
	Forgotten    uint64 // dropped before they were written
	Evicted      uint64
	WrittenOut   uint64 // blocks written by WriteOut
	WrittenEarly uint64 // blocks written by WriteSome

	Buffers    int64 // alive, clones included
	Clones     int64 // private copies alive
	CleanBytes int64
	DirtyBytes int64
	Limit      int64 // bytes
}

// counters is Stats while it counts; dirty is a number of buffers.
type counters struct {
	misses, badCopies, failedReads, repaired, failedRepairs, mismatches, reused, detached, forgotten, evicted, writtenOut, writtenEarly atomic.Uint64
	dirty                                                                                                                               atomic.Int64
}

// Stats is a snapshot; its numbers are read one by one.
func (c *Cache) Stats() Stats {
	k := &c.counters
	st := Stats{
		Misses: k.misses.Load(), BadCopies: k.badCopies.Load(), FailedReads: k.failedReads.Load(),
		Repaired: k.repaired.Load(), NotRepaired: k.failedRepairs.Load(),
		Mismatches: k.mismatches.Load(), Reused: k.reused.Load(), Detached: k.detached.Load(),
		Forgotten: k.forgotten.Load(), Evicted: k.evicted.Load(),
		WrittenOut: k.writtenOut.Load(), WrittenEarly: k.writtenEarly.Load(),
		Clones: c.clones.Load(), CleanBytes: c.clean.Load() * int64(c.nodeSize),
		DirtyBytes: k.dirty.Load() * int64(c.nodeSize), Limit: c.limit,
	}
	st.Buffers = c.live.Load() + st.Clones
	for i := range c.shards {
		st.Hits += c.shards[i].hits.Load()
	}
	return st
}

// Leak is a buffer that somebody still holds.
type Leak struct {
	Addr  ondisk.Logical
	Gen   ondisk.Generation
	Owner ondisk.TreeID
	Level uint8
	Refs  int
}

// Leaks lists the buffers in the cache that somebody holds, by address (I12).
func (c *Cache) Leaks() []Leak {
	var list []Leak
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		for _, b := range s.bufs {
			if n := b.holders(); n > 0 {
				list = append(list, Leak{b.addr, b.Generation(), b.Owner(), b.Level(), n})
			}
		}
		s.mu.RUnlock()
	}
	slices.SortFunc(list, func(a, b Leak) int {
		if a.Addr < b.Addr {
			return -1
		}
		return 1
	})
	return list
}

// Close empties the cache; nobody may use it any more. Dirty blocks are dropped unwritten: a file system that wants them
// commits first. Buffers that somebody still holds are an error that lists them (I12), and so are clones and detached
// ones; their memory stays.
func (c *Cache) Close() error {
	c.prefetch.close()
	var errs []error
	if leaks := c.Leaks(); len(leaks) > 0 {
		var b strings.Builder
		for i, l := range leaks {
			if i == 20 {
				fmt.Fprintf(&b, " and %d more", len(leaks)-i)
				break
			}
			fmt.Fprintf(&b, " block=%d(root=%d gen=%d level=%d refs=%d)", l.Addr, int64(l.Owner), l.Gen, l.Level, l.Refs)
		}
		errs = append(errs, fmt.Errorf("extbuf: closed with %d blocks still referenced (I12):%s", len(leaks), b.String()))
	}
	inMap := int64(0)
	for _, b := range c.empty() {
		if b.refs.Load() > 1 {
			inMap++
		}
		c.clearDirty(b)
		b.Release()
	}
	if n := c.clones.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("extbuf: closed with %d private copies still referenced (I12)", n))
	}
	if n := c.live.Load() - inMap; n > 0 {
		errs = append(errs, fmt.Errorf("extbuf: closed with %d detached blocks still referenced (I12)", n))
	}
	if c.ownPool && len(errs) == 0 {
		errs = append(errs, c.pool.Close())
	}
	return errors.Join(errs...)
}

// empty takes all buffers out of the map and returns them with the map's references.
func (c *Cache) empty() (list []*Buffer) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for _, b := range s.bufs {
			list = append(list, c.remove(s, b))
		}
		s.mu.Unlock()
	}
	return list
}
