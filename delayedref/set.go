package delayedref

import (
	"context"
	"fmt"
	"sync"

	"github.com/tidwall/btree"
)

// Set is the pending reference changes of one transaction. All methods are safe
// for concurrent use.
type Set struct {
	mu       sync.Mutex
	heads    btree.Map[uint64, *Head] // queued, by Bytenr
	applying map[uint64]*Head         // with an Applier, by Bytenr; no more than there are runners
	cursor   uint64                   // Run goes on from here, so that all addresses get their turn
	changed  chan struct{}            // closed when a head was queued or finished; nil: no runner waits
	free     []*Head                  // finished heads, for re-use
	slab     []Head                   // heads not used yet
	stats    Stats
}

// slabHeads is how many heads are allocated at a time: a transaction queues
// hundreds of thousands.
const slabHeads = 64

// Stats counts what has happened to a Set since it was made.
type Stats struct {
	Queued   uint64 // changes given to Add and Drop
	Merged   uint64 // of these, those that met a pending change of the same reference
	Run      uint64 // heads applied
	RefsRun  uint64 // reference changes in these
	Dropped  uint64 // heads that cancelled out before they were applied
	Canceled uint64 // new extents taken back by CancelNew
	Heads    int    // queued or being applied now
	Refs     int    // reference changes queued now
}

// NewSet returns an empty set.
func NewSet() *Set { return &Set{applying: map[uint64]*Head{}} }

// AddOptions say more about an added reference.
type AddOptions struct {
	New   bool      // the extent has been allocated in this transaction; this is its first reference
	Owner uint64    // with New: the tree it was allocated for
	Op    *ExtentOp // with New: what the extent item is to be made with; copied
}

// DropOptions say more about a dropped reference.
type DropOptions struct {
	Born uint64 // generation in the header of the dropped tree block; 0: not known
}

// Add queues one more reference to the extent [bytenr, bytenr+num). An error
// means that the engine contradicts itself (two sizes for one extent, a tree
// reference to data, an extent allocated twice): nothing is queued, and the
// caller must abort the transaction.
func (s *Set) Add(bytenr, num uint64, ref Ref, o AddOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.head(bytenr, num, ref)
	if err != nil {
		return err
	}
	if o.New {
		if h.MustInsert || h.counts.len() > 0 || s.applying[bytenr] != nil {
			err := fmt.Errorf("delayedref: add %v: new, but there is %v already", ref, h)
			s.dropIdle(h)
			return err
		}
		h.MustInsert, h.Owner = true, o.Owner
		if o.Op != nil {
			h.setOp(*o.Op)
		}
	}
	s.change(h, ref, +1)
	return nil
}

// Drop queues one reference less. Errors are those of Add.
func (s *Set) Drop(bytenr, num uint64, ref Ref, o DropOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.head(bytenr, num, ref)
	if err != nil {
		return err
	}
	if o.Born != 0 {
		h.Born = o.Born
	}
	s.change(h, ref, -1)
	return nil
}

// SetFlags queues a change of the extent item of a tree block. Errors are those
// of Add.
func (s *Set) SetFlags(bytenr, num uint64, op ExtentOp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, err := s.head(bytenr, num, Ref{Kind: TreeBlock, Level: op.Level})
	if err != nil {
		return err
	}
	h.setOp(op)
	s.wake()
	return nil
}

// head returns the queued head of bytenr, made if need be. Called with mu held.
func (s *Set) head(bytenr, num uint64, ref Ref) (*Head, error) {
	switch ref.Kind {
	case TreeBlock, ExtentData, SharedBlock, SharedData:
	default:
		return nil, fmt.Errorf("delayedref: extent [%d, +%d): %v is no kind of reference", bytenr, num, ref.Kind)
	}
	h, ok := s.heads.Get(bytenr)
	known := h
	if !ok {
		known, ok = s.applying[bytenr]
	}
	if ok && (known.NumBytes != num || known.IsData != ref.Kind.data()) {
		return nil, fmt.Errorf("delayedref: %v for extent [%d, +%d): does not fit %v", ref, bytenr, num, known)
	}
	if h == nil {
		h = s.alloc()
		h.Bytenr, h.NumBytes, h.IsData = bytenr, num, ref.Kind.data()
		s.heads.Set(bytenr, h)
	}
	if !h.IsData {
		h.Level = ref.Level
	}
	return h, nil
}

// change counts n more references, and removes a head that this leaves with
// nothing to say. Called with mu held.
func (s *Set) change(h *Head, ref Ref, n int) {
	s.stats.Queued++
	before := h.counts.len()
	if h.counts.add(ref.canonical(), n) {
		s.stats.Merged++
	}
	s.stats.Refs += h.counts.len() - before
	h.RefMod += n
	s.dropIdle(h)
	s.wake()
}

// dropIdle removes a queued head that has nothing to say. Called with mu held.
func (s *Set) dropIdle(h *Head) {
	if h.idle() {
		s.heads.Delete(h.Bytenr)
		s.stats.Dropped++
		s.recycle(h)
	}
}

// State is what is pending for one extent.
type State struct {
	Exists bool   // something is
	RefMod int    // by how much the number of references will change
	Flags  uint64 // to be or'ed into the extent item's flags
	New    bool   // allocated in this transaction, no extent item on disk yet
	IsData bool

	// Busy: the extent item is being changed right now, the fields above do
	// not tell, and what a search of the extent tree has found may be stale.
	// Let go of the tree path, call Wait, and search again (I6).
	Busy bool
	// Wait returns when the change is done, or ctx's error. nil unless Busy.
	Wait func(ctx context.Context) error
}

// Pending returns what is pending for the extent at bytenr. To know the true
// number of references: search the extent tree, and with the path still locked
// ask Pending; while it is locked no runner can finish changing the item.
func (s *Set) Pending(bytenr uint64) State {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, st := s.pending(bytenr)
	return st
}

func (s *Set) pending(bytenr uint64) (*Head, State) {
	if h := s.applying[bytenr]; h != nil {
		if h.done == nil {
			h.done = make(chan struct{})
		}
		done := h.done
		return nil, State{Exists: true, IsData: h.IsData, Busy: true, Wait: func(ctx context.Context) error {
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}}
	}
	h, ok := s.heads.Get(bytenr)
	if !ok {
		return nil, State{}
	}
	st := State{Exists: true, RefMod: h.RefMod, New: h.MustInsert, IsData: h.IsData}
	if h.Op != nil && h.Op.UpdateFlags {
		st.Flags = h.Op.Flags
	}
	return h, st
}

// Refs returns the pending reference changes of the extent at bytenr, ordered as
// Head.Refs orders them, for a walk of backrefs. They are nil when st.Busy.
func (s *Set) Refs(bytenr uint64) (refs []RefCount, st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, st := s.pending(bytenr)
	if h != nil {
		refs = h.Refs()
	}
	return refs, st
}

// CancelNew takes back a tree block that was allocated in this transaction and
// whose references have cancelled out: it removes the head and returns true. The
// caller may give the space straight back if the block was never written (I2).
// False: the block is on disk, or still referenced, or data (always pinned, since
// data is written at once), or being applied; its head will see to it.
func (s *Set) CancelNew(bytenr uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.heads.Get(bytenr)
	if !ok || !h.MustInsert || h.IsData || h.counts.len() > 0 || s.applying[bytenr] != nil {
		return false
	}
	s.heads.Delete(bytenr)
	s.stats.Canceled++
	s.recycle(h)
	return true
}

// Len returns the number of heads that are queued or being applied.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads.Len() + len(s.applying)
}

// Empty reports that nothing is pending (I7).
func (s *Set) Empty() bool { return s.Len() == 0 }

// Stats returns the figures of this instant.
func (s *Set) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Heads = s.heads.Len() + len(s.applying)
	return st
}

// Drain removes all queued heads in address order and gives each to f: for a
// transaction that aborts, which must still release what new extents reserved.
// No runner may be at work. The head is not kept by f.
func (s *Set) Drain(f func(*Head)) {
	for {
		s.mu.Lock()
		_, h, ok := s.heads.PopMin()
		if !ok {
			s.mu.Unlock()
			return
		}
		s.stats.Refs -= h.counts.len()
		s.mu.Unlock()
		f(h)
		s.mu.Lock()
		s.recycle(h)
		s.mu.Unlock()
	}
}

// alloc returns a zero head. Called with mu held.
func (s *Set) alloc() *Head {
	if n := len(s.free); n > 0 {
		h := s.free[n-1]
		s.free = s.free[:n-1]
		return h
	}
	if len(s.slab) == 0 {
		s.slab = make([]Head, slabHeads)
	}
	h := &s.slab[0]
	s.slab = s.slab[1:]
	return h
}

// recycle keeps a head for alloc. Called with mu held.
func (s *Set) recycle(h *Head) {
	h.reset()
	s.free = append(s.free, h)
}
