// Package trace is the one seam through which the engine tells what it did.
//
// A Tracer receives values of Event at facts that an operator wants anyway. The same events feed the Prometheus
// collector, the log of a failed test, the choice of crash points, and the deterministic three-CPU schedule of the
// race replay. Some kinds are steps: they are emitted while the emitting goroutine holds no lock at all, so a test's
// tracer may block in them (Kind.Step tells which). A nil Tracer costs one comparison.
package trace

import (
	"fmt"
	"time"
)

// Kind says what happened.
type Kind uint8

// The kinds, in the order in which one commit emits them. Fields of Event that a kind fills are named behind it.
const (
	None                Kind = iota
	CommitRootAcquired       // step: Root, Bytenr, Gen: a reader holds the commit root's buffer and no lock
	SearchDone               // step: Root, Bytenr, Gen, N (mismatches), Note (outcome)
	HandleStarted            // Gen
	CommitStarted            // step: Gen: COMMIT_START reached
	CommitDoing              // step: Gen: COMMIT_DOING, no writer is left inside
	PendingOpApplied         // Gen, Root, Bytenr, Note: a snapshot was created
	BlockCOWed               // Gen, Root, Bytenr (old), N (new address)
	DelayedRefsRun           // Gen, N heads
	ExtentPinned             // Gen, Bytenr, N bytes
	CommitRootsSwitched      // step: Gen: after Switch, all locks dropped: UNBLOCKED
	BlocksWritten            // step: Gen, N blocks
	DeviceFlushed            // step: Gen, Note: device name
	SuperWritten             // step: Gen: SUPER_COMMITTED
	ExtentUnpinned           // Gen, Bytenr, N bytes
	ExtentHeld               // Gen, Bytenr, N bytes: released by its transaction, kept for a reader
	Discarded                // Bytenr, N bytes
	CommitCompleted          // step: Gen: COMPLETED
	BlockAllocated           // Gen, Root, Bytenr
	BufferReused             // Gen, Root, Bytenr: the cache returned a live buffer for a new allocation
	ViewOpened               // Gen
	ViewRevoked              // Gen
	Mismatch                 // Root, Bytenr, Note: a block was not what its parent's pointer promised
	ChunkAllocated           // Gen, Bytenr, N bytes, Note: type
	Aborted                  // step: Gen, Err
	Warning                  // Note
	nKinds
)

var kindNames = [nKinds]string{
	"none", "commit-root-acquired", "search-done", "handle-started", "commit-started", "commit-doing",
	"pending-op-applied", "block-cowed", "delayed-refs-run", "extent-pinned", "commit-roots-switched", "blocks-written",
	"device-flushed", "super-written", "extent-unpinned", "extent-held", "discarded", "commit-completed",
	"block-allocated", "buffer-reused", "view-opened", "view-revoked", "mismatch", "chunk-allocated", "aborted", "warning",
}

// String returns the kind's name in kebab case.
func (k Kind) String() string {
	if k < nKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", k)
}

// Step reports whether the kind is emitted with no lock held, so that a tracer may block in it.
func (k Kind) Step() bool {
	switch k {
	case CommitRootAcquired, SearchDone, CommitStarted, CommitDoing, CommitRootsSwitched, BlocksWritten, DeviceFlushed,
		SuperWritten, CommitCompleted, Aborted:
		return true
	}
	return false
}

// Event is one fact. It is a value: emitting one allocates nothing.
type Event struct {
	Kind   Kind
	Gen    uint64        // transaction generation, 0 if none
	Root   uint64        // tree
	Bytenr uint64        // logical address
	N      uint64        // count or bytes, see the kind
	Took   time.Duration // for kinds that end a phase
	Note   string
	Err    error
}

// String prints the event on one line, as the log of a failed test shows it.
func (e Event) String() string {
	s := e.Kind.String()
	if e.Gen != 0 {
		s += fmt.Sprintf(" gen=%d", e.Gen)
	}
	if e.Root != 0 {
		s += fmt.Sprintf(" root=%d", int64(e.Root))
	}
	if e.Bytenr != 0 {
		s += fmt.Sprintf(" bytenr=%d", e.Bytenr)
	}
	if e.N != 0 {
		s += fmt.Sprintf(" n=%d", e.N)
	}
	if e.Note != "" {
		s += " " + e.Note
	}
	if e.Err != nil {
		s += " err=" + e.Err.Error()
	}
	return s
}

// Tracer receives events, from many goroutines at once. Except in steps it must not block and must not call back
// into the engine.
type Tracer interface{ Trace(Event) }

// Func adapts a function to Tracer.
type Func func(Event)

// Trace calls f.
func (f Func) Trace(e Event) { f(e) }

// Emit sends e to t unless t is nil.
func Emit(t Tracer, e Event) {
	if t != nil {
		t.Trace(e)
	}
}

// Multi sends every event to each of several tracers, in order. Nil tracers are left out; without any, the result
// is nil so that Emit stays a nil test.
func Multi(ts ...Tracer) Tracer {
	var m multi
	for _, t := range ts {
		if t != nil {
			m = append(m, t)
		}
	}
	switch len(m) {
	case 0:
		return nil
	case 1:
		return m[0]
	}
	return m
}

type multi []Tracer

func (m multi) Trace(e Event) {
	for _, t := range m {
		t.Trace(e)
	}
}
