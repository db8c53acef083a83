package metrics

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/engine/trace"
)

// commitBuckets are the upper bounds of the commit histogram, in seconds: a commit to a file in the page cache takes a
// millisecond, one that writes out 64 MiB to a slow disk takes seconds.
var commitBuckets = []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30}

// FS is the part of a [Registry] that belongs to one file system. It is a trace.Tracer, to be given to the engine when
// the file system is opened; Attach then connects the figures that the engine keeps itself. Safe for concurrent use.
type FS struct {
	events   events
	commit   histogram
	searches searches

	mu     sync.Mutex // guards source and last; held during Source.Snapshot
	source Source
	last   Snapshot
}

// events counts what only the trace tells.
type events struct {
	cowed, allocated, snapshots, written, discardedBytes, unpinnedBytes, aborts, warnings, revoked atomic.Uint64
	chunks                                                                                         atomic.Uint64
}

var _ trace.Tracer = (*FS)(nil)

// Trace counts the event. It takes no lock but for the end of a commit and of a search, and never blocks.
func (f *FS) Trace(e trace.Event) {
	v := &f.events
	switch e.Kind {
	case trace.BlockCOWed:
		v.cowed.Add(1)
	case trace.BlockAllocated:
		v.allocated.Add(1)
	case trace.PendingOpApplied:
		v.snapshots.Add(1)
	case trace.BlocksWritten:
		v.written.Add(e.N)
	case trace.Discarded:
		v.discardedBytes.Add(e.N)
	case trace.ExtentUnpinned:
		v.unpinnedBytes.Add(e.N)
	case trace.ChunkAllocated:
		v.chunks.Add(1)
	case trace.CommitCompleted:
		f.commit.observe(e.Took)
	case trace.SearchDone:
		f.searches.count(e.Note, e.N)
	case trace.Aborted:
		v.aborts.Add(1)
	case trace.ViewRevoked:
		v.revoked.Add(1)
	case trace.Warning:
		v.warnings.Add(1)
	}
}

// Attach makes src the place to ask at each scrape. Before it the file system has no UUID and is not shown.
func (f *FS) Attach(src Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.source, f.last = src, src.Snapshot()
}

// Freeze asks the source for the last time, keeps what it says, and lets go of it. When the file system has been closed
// all commits are in the figures, and the cache is empty.
func (f *FS) Freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.source != nil {
		f.last, f.source = f.source.Snapshot(), nil
	}
}

// snapshot returns the newest figures.
func (f *FS) snapshot() Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.source != nil {
		f.last = f.source.Snapshot()
	}
	return f.last
}

// histogram counts durations in commitBuckets, as Prometheus wants them: each bucket with all that lie below it.
type histogram struct {
	mu      sync.Mutex
	count   uint64
	sum     time.Duration
	buckets map[float64]uint64
}

func (h *histogram) observe(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.buckets == nil {
		h.buckets = make(map[float64]uint64, len(commitBuckets))
	}
	h.count++
	h.sum += d
	for _, bound := range commitBuckets {
		if d.Seconds() <= bound {
			h.buckets[bound]++
		}
	}
}

// read returns the count, the sum in seconds and a copy of the buckets, all bounds included.
func (h *histogram) read() (uint64, float64, map[float64]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	buckets := make(map[float64]uint64, len(commitBuckets))
	for _, bound := range commitBuckets {
		buckets[bound] = 0
	}
	maps.Copy(buckets, h.buckets)
	return h.count, h.sum.Seconds(), buckets
}

// searches counts searches of commit roots by the note of their event: the policy, a space, and the outcome.
type searches struct {
	mu sync.Mutex
	by map[string]*search
}

// search is what one note has counted.
type search struct {
	policy, outcome string
	n, mismatches   uint64
}

func (s *searches) count(note string, mismatches uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.by[note]
	if c == nil {
		if s.by == nil {
			s.by = make(map[string]*search)
		}
		c = &search{}
		c.policy, c.outcome, _ = strings.Cut(strings.Clone(note), " ")
		s.by[note] = c
	}
	c.n++
	c.mismatches += mismatches
}

// list returns a copy of the counts.
func (s *searches) list() []search {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]search, 0, len(s.by))
	for _, c := range s.by {
		list = append(list, *c)
	}
	return list
}
