package bench

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// stage is the tracer of the replay: it stops the reader where the race begins, watches what happens to the block at X,
// and writes the diagram. One stage serves one file system, for one replay at a time.
type stage struct {
	acquired chan trace.Event // the reader has the commit root, and waits
	resume   chan struct{}    // closed when it may go on

	mu     sync.Mutex // guards what follows; taken under any lock of the engine, so nothing blocks under it
	armed  ondisk.TreeID
	x      uint64            // 0 while nothing is watched
	root   ondisk.TreeID     // the tree that X was the root of
	commit uint64            // generation of the snapshot's commit, 0 until it has copied X
	freed  bool              // X is free space
	owner  ondisk.TreeID     // the tree that X was last allocated for
	born   ondisk.Generation // when
	last   uint64            // address of the last metadata block allocated
	passed bool              // the allocator has come by X since it was dropped, and did not take it
	blocks int               // allocated since X was dropped
	lines  []string          // not printed yet

	outMu sync.Mutex // guards w; never taken under a lock of the engine
	w     io.Writer
}

func newStage(w io.Writer) *stage { return &stage{w: w} }

// begin makes the stage ready for a reader of the tree.
func (s *stage) begin(tree ondisk.TreeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acquired, s.resume = make(chan trace.Event), make(chan struct{})
	s.armed, s.root = tree, tree
	s.x, s.commit, s.owner, s.born, s.last, s.blocks = 0, 0, 0, 0, 0, 0
	s.freed, s.passed = false, false
}

// end stops watching.
func (s *stage) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed, s.x = 0, 0
}

// await returns when the reader has stopped.
func (s *stage) await(ctx context.Context) (trace.Event, error) {
	select {
	case e := <-s.acquired:
		return e, nil
	case <-ctx.Done():
		return trace.Event{}, ctx.Err()
	}
}

// watch begins to watch X.
func (s *stage) watch(x uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.x = x
}

// Trace implements trace.Tracer.
func (s *stage) Trace(e trace.Event) {
	if e.Kind == trace.CommitRootAcquired {
		s.mu.Lock()
		stop := s.armed != 0 && e.Root == uint64(s.armed)
		acquired, resume := s.acquired, s.resume
		if stop {
			s.armed = 0
		}
		s.mu.Unlock()
		if stop { // a step: this goroutine holds no lock
			acquired <- e
			<-resume
		}
		return
	}
	s.mu.Lock()
	if s.x != 0 {
		s.observe(e)
	}
	s.mu.Unlock()
	if e.Kind.Step() {
		s.flush()
	}
}

// observe notes what an event says of X. Called with mu held, under any lock of the engine.
func (s *stage) observe(e trace.Event) {
	switch e.Kind {
	case trace.BlockCOWed:
		if e.Bytenr == s.x && s.commit == 0 && e.Root == uint64(s.root) {
			s.commit = e.Gen
			s.line(2, "  btrfs_cow_block(root node)")
			s.line(2, fmt.Sprintf("   X -> %d, delayed ref to drop X", e.N))
		}
	case trace.PendingOpApplied:
		if e.Gen == s.commit {
			s.line(2, fmt.Sprintf("  snapshot: tree %d, root %d", e.Root, e.Bytenr))
		}
	case trace.ExtentPinned:
		if e.Bytenr == s.x && e.Gen == s.commit {
			s.line(2, "  delayed refs run: X is pinned")
		}
	case trace.CommitRootsSwitched:
		if e.Gen == s.commit {
			s.line(2, fmt.Sprintf("  commit roots switched: %d", e.Gen))
		}
	case trace.SuperWritten:
		if e.Gen == s.commit {
			s.line(2, fmt.Sprintf("  super of generation %d written", e.Gen))
		}
	case trace.ExtentUnpinned:
		if e.Bytenr == s.x && !s.freed {
			s.freed = true
			s.line(2, "  X unpinned: free space")
		}
	case trace.BufferReused:
		if e.Bytenr == s.x {
			s.line(3, "  alloc_extent_buffer(X) returns the")
			if e.N > 0 {
				s.line(3, "   existing eb, which CPU 1 holds")
			} else {
				s.line(3, "   existing eb, which nobody holds")
			}
		}
	case trace.BlockAllocated:
		s.allocated(e)
	}
}

func (s *stage) allocated(e trace.Event) {
	if s.commit == 0 || ondisk.TreeID(e.Root) == ondisk.ChunkTree {
		return
	}
	s.blocks++
	if e.Gen > s.commit && s.last != 0 && s.last < s.x && e.Bytenr > s.x {
		s.passed = true
	}
	s.last = e.Bytenr
	if e.Bytenr == s.x {
		s.owner, s.born = ondisk.TreeID(e.Root), ondisk.Generation(e.Gen)
		s.line(3, fmt.Sprintf("  X allocated for tree %d, generation %d", int64(e.Root), e.Gen))
	}
}

// news returns the tree that X was last allocated for, whether the allocator came by without taking it, and how many
// blocks it has handed out since X was dropped.
func (s *stage) news() (owner ondisk.TreeID, born ondisk.Generation, passed bool, blocks int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner, s.born, s.passed, s.blocks
}

// dropped reports the generation whose commit dropped X, and whether X is free.
func (s *stage) dropped() (gen ondisk.Generation, free bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ondisk.Generation(s.commit), s.freed
}

// columns are where the text of each CPU begins.
var columns = [...]int{0, 1, 40, 80}

func (s *stage) line(cpu int, text string) {
	s.lines = append(s.lines, strings.Repeat(" ", columns[cpu])+text)
}

// say prints lines in the column of a CPU, 0 for none. The caller holds no lock of the engine.
func (s *stage) say(cpu int, texts ...string) {
	s.mu.Lock()
	for _, t := range texts {
		s.line(cpu, t)
	}
	s.mu.Unlock()
	s.flush()
}

func (s *stage) flush() {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.mu.Lock()
	lines := s.lines
	s.lines = nil
	s.mu.Unlock()
	for _, l := range lines {
		fmt.Fprintln(s.w, l)
	}
}
