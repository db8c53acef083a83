package pin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/tidwall/btree"
)

// Kinds is the number of values that Extent.Kind may have.
const Kinds = 4

// Extent is a range of addresses that has been freed.
type Extent struct {
	Start, Len uint64 // bytes
	Born, Died uint64 // generations; visible to views in [Born, Died), which may be empty
	BG         uint64 // start of the block group it belongs to; only counted by
	Kind       uint8  // the caller's (data, metadata, system); below Kinds
}

func (e Extent) end() uint64 { return e.Start + e.Len }

// String names the extent in the messages of this package.
func (e Extent) String() string {
	return fmt.Sprintf("extent [%d, +%d) of generations [%d, %d) in block group %d", e.Start, e.Len, e.Born, e.Died, e.BG)
}

// State says where an extent stands on its way back to free space.
type State uint8

// The states, in the order in which an extent passes through them.
const (
	Pinned    State = iota // the transaction that freed it is not durable
	Held                   // a reader can see it
	Releasing              // Options.Release has it
	states
)

func (s State) String() string { return [...]string{"pinned", "held", "releasing"}[s] }

// Options are a Set's connections to its owner. Only Release is required.
type Options struct {
	// Release is given what may be reused from now on, sorted by Start. It is
	// called without the Set's lock, by the goroutine that made it possible
	// (the committer in Set.Release, a reader in Ticket.Leave), several at once
	// with different extents. It discards, then adds to free space.
	Release func([]Extent)
	// MaxHeld is the bound on held bytes beyond which the oldest reader is
	// asked to go. It is called under the Set's lock. nil: no bound.
	MaxHeld func() uint64
	// OnAsk is told of each ticket that is asked to go, without the lock.
	OnAsk func(*Ticket)
}

// entry is an extent, or (fn) an action that waits as an extent would.
type entry struct {
	Extent
	fn    func()
	state State
}

// Set is the pinned and held extents of one file system and the tickets of its
// readers. All methods are safe for concurrent use.
type Set struct {
	opts Options

	mu      sync.Mutex
	byStart btree.Map[uint64, *entry] // every extent in any state; never overlapping
	pinned  map[uint64][]*entry       // by Died
	views   btree.Map[uint64, *view]  // live generations, each with its tickets and what it is the witness of
	durable uint64                    // the highest generation released
	changed chan struct{}             // closed, and replaced, when something came back or an asked reader left; nil: nobody listens
	batches int                       // batches on their way: calls of Options.Release under way
	asked   int                       // live tickets that have been asked
	stats   Stats
	groups  map[uint64]*[states]uint64 // bytes by block group
}

// New returns an empty Set.
func New(opts Options) *Set {
	if opts.Release == nil {
		panic("pin: New: Options.Release is nil")
	}
	return &Set{opts: opts, pinned: map[uint64][]*entry{}, groups: map[uint64]*[states]uint64{}}
}

// Pin takes an extent that the running generation e.Died has freed. It returns
// an error, and does nothing, for an extent that makes no sense or overlaps one
// that is pinned or held already (it was freed twice): the caller must abort the
// transaction.
func (s *Set) Pin(e Extent) error {
	if e.Len == 0 || e.end() < e.Start || e.Born > e.Died || e.Kind >= Kinds {
		return fmt.Errorf("pin: %v of kind %d: not an extent", e, e.Kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Died <= s.durable {
		return fmt.Errorf("pin: %v freed in a generation that is durable already (%d is)", e, s.durable)
	}
	// A range whose release is not finished here may have been added to free
	// space, allocated and freed again by now: the new life replaces the old.
	for {
		o := s.firstOverlap(e.Start, e.end())
		if o == nil {
			break
		}
		if o.state != Releasing {
			return fmt.Errorf("pin: %v freed twice: %v is %v already", e, o.Extent, o.state)
		}
		s.forget(o)
	}
	n := &entry{Extent: e}
	s.byStart.Set(e.Start, n)
	s.pinned[e.Died] = append(s.pinned[e.Died], n)
	s.count(n, +1)
	return nil
}

// Unseen calls fn once generation died is durable and no reader of a generation
// in [born, died) is left: for what must outlive its removal as an extent does
// but has no addresses here, such as the chunk-map entry and the device extents
// of a removed block group. fn runs without the lock, after Options.Release of
// the same batch. If died is durable already and nobody looks, it runs at once.
func (s *Set) Unseen(born, died uint64, fn func()) {
	e := &entry{Extent: Extent{Born: born, Died: died}, fn: fn}
	s.mu.Lock()
	if died > s.durable {
		s.pinned[died] = append(s.pinned[died], e)
		s.mu.Unlock()
		return
	}
	b := new(batch)
	s.holdOrRelease(e, b)
	s.seal(b)
	s.mu.Unlock()
	s.finish(b)
}

// Release says that generation gen, and with it all before, is durable. What was
// pinned by them goes to Options.Release, except what a live ticket can see,
// which is held from now on. If that is more than Options.MaxHeld allows, the
// oldest reader is asked to go.
func (s *Set) Release(gen uint64) {
	s.mu.Lock()
	s.durable = max(s.durable, gen)
	b := new(batch)
	for _, died := range slices.Sorted(maps.Keys(s.pinned)) {
		if died > gen {
			break
		}
		for _, e := range s.pinned[died] {
			s.holdOrRelease(e, b)
		}
		delete(s.pinned, died)
	}
	t := s.askIfOver()
	s.seal(b)
	s.mu.Unlock()
	s.told(t)
	s.finish(b)
}

// batch is what one call gives back.
type batch struct {
	entries []*entry // extents, state Releasing
	fns     []func()
}

func (b *batch) empty() bool { return len(b.entries)+len(b.fns) == 0 }

// seal makes a batch known to those who wait: something is on its way to free
// space. Called with mu held; finish follows.
func (s *Set) seal(b *batch) {
	if !b.empty() {
		s.batches++
	}
}

// holdOrRelease gives e, whose Died is durable, to its witness, or to the batch
// when no live view can see it. Called with mu held.
func (s *Set) holdOrRelease(e *entry, b *batch) {
	if v := s.witness(e); v != nil {
		v.held = append(v.held, e)
		v.minBorn = min(v.minBorn, e.Born)
		s.move(e, Held)
		return
	}
	if e.fn != nil {
		b.fns = append(b.fns, e.fn)
		return
	}
	s.move(e, Releasing)
	b.entries = append(b.entries, e)
}

// witness returns the view of the largest live generation that can see e.
// Called with mu held.
func (s *Set) witness(e *entry) (w *view) {
	if e.Born >= e.Died {
		return nil
	}
	s.views.Descend(e.Died-1, func(g uint64, v *view) bool {
		if g >= e.Born {
			w = v
		}
		return false
	})
	return w
}

// finish hands a sealed batch over and forgets it. Called without mu.
func (s *Set) finish(b *batch) {
	if b.empty() {
		return
	}
	if len(b.entries) > 0 {
		out := make([]Extent, len(b.entries))
		for i, e := range b.entries {
			out[i] = e.Extent
		}
		slices.SortFunc(out, func(a, b Extent) int { return cmp.Compare(a.Start, b.Start) })
		s.opts.Release(out)
	}
	for _, fn := range b.fns {
		fn()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range b.entries {
		// Not the entry of this extent any more if Pin has replaced it.
		if o, ok := s.byStart.Get(e.Start); ok && o == e {
			s.forget(e)
		}
	}
	s.batches--
	s.notify()
}

// forget drops an extent from the index. Called with mu held.
func (s *Set) forget(e *entry) {
	s.byStart.Delete(e.Start)
	s.count(e, -1)
}

// move puts e into another state. Called with mu held.
func (s *Set) move(e *entry, to State) {
	if e.fn == nil && e.state != to {
		s.count(e, -1)
		e.state = to
		s.count(e, +1)
	}
}

// count adds e to the figures of its state, or takes it out.
func (s *Set) count(e *entry, sign int64) {
	d := uint64(sign) * e.Len
	s.stats.Bytes[e.state][e.Kind] += d
	s.stats.Extents[e.state] += int(sign)
	g := s.groups[e.BG]
	if g == nil {
		g = new([states]uint64)
		s.groups[e.BG] = g
	}
	if g[e.state] += d; *g == [states]uint64{} {
		delete(s.groups, e.BG)
	}
}
