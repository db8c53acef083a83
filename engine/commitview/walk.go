package commitview

import (
	"context"
	"fmt"
	"sync"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// step is one block of a path, with what the pointer above it promised.
type step struct {
	buf   *extbuf.Buffer
	block ondisk.Block
	promise
	slot    int
	counted bool // a mismatch of this block has been counted
}

// walk is the path of one search, root first, and what it has met. It belongs to one goroutine and holds one reference
// on each buffer of the path; release gives them back.
type walk struct {
	db     walkDB
	cap    *capture // what the path is protected by; nil under shared and clone-root
	tree   ondisk.TreeID
	policy Policy
	gen    ondisk.Generation // of the commit root

	steps      [ondisk.MaxLevel]step
	n          int   // steps in use
	stop       uint8 // the level that descend goes to
	ahead      int   // leaves read together with one that is not in memory
	mismatches int
	inCaller   bool // a function of the caller is running: its panics are its own
}

// walkDB is what a walk needs of the file system.
type walkDB struct {
	cache  *extbuf.Cache
	tracer trace.Tracer
}

var walks = sync.Pool{New: func() any { return new(walk) }}

// push adds a block; the walk takes over the reference.
func (w *walk) push(b *extbuf.Buffer, p promise) {
	w.steps[w.n] = step{buf: b, block: b.Block(), promise: p}
	w.n++
}

// pop lets the last block go, after comparing it once more.
func (w *walk) pop() {
	s := &w.steps[w.n-1]
	w.compare(s)
	s.buf.Release()
	*s = step{}
	w.n--
}

func (w *walk) leaf() *step { return &w.steps[w.n-1] }

// read returns the block that p leads to. Before it touches a block a reader with a ticket looks whether it is asked
// to go.
func (w *walk) read(ctx context.Context, p *promise) (*extbuf.Buffer, error) {
	if w.policy == Shared {
		return w.db.cache.ReadUnchecked(ctx, p.addr)
	}
	if w.cap.asked() {
		return nil, fserr.ErrViewExpired
	}
	x := p.expect()
	x.Repair = w.cap != nil && w.cap.ticket != nil // then what the walk sees is not released
	return w.db.cache.Read(ctx, p.addr, x)
}

// descend goes from the last block of the path down to a leaf, towards key. Under shared the numbers of a block may be
// anything, so the level that each header shows must be below the one above, and every slot below the item count that
// fits a block: it cannot loop.
func (w *walk) descend(ctx context.Context, key *ondisk.Key) error {
	for {
		s := w.leaf()
		level := s.block.Level()
		n := items(s.block)
		if level == 0 {
			s.slot, _ = searchKeys(s.block, n, ondisk.ItemSize, key)
			return nil
		}
		if n == 0 {
			return w.corrupt(s, "node without pointers")
		}
		slot, found := searchKeys(s.block, n, ondisk.KeyPtrSize, key)
		if !found && slot > 0 {
			slot--
		}
		s.slot = slot
		if level <= w.stop {
			return nil
		}
		if err := w.down(ctx); err != nil {
			return err
		}
	}
}

// down adds the child at the last node's slot.
func (w *walk) down(ctx context.Context) error {
	s := w.leaf()
	level := s.block.Level()
	if w.n == len(w.steps) || level >= ondisk.MaxLevel {
		return w.corrupt(s, fmt.Sprintf("invalid level, have %d expect [0, %d]", level, ondisk.MaxLevel-1))
	}
	if w.ahead > 0 && w.policy != Shared {
		w.readAround(ctx)
	}
	w.steps[w.n].promise = ofPointer(s.block, s.slot)
	p := &w.steps[w.n].promise
	b, err := w.read(ctx, p)
	if err != nil {
		return err
	}
	w.push(b, *p)
	if c := w.leaf(); c.block.Level() >= level {
		return w.corrupt(c, fmt.Sprintf("level mismatch, have %d below %d", c.block.Level(), level))
	}
	return nil
}

// next moves to the first item of the following leaf; false at the end of the tree.
func (w *walk) next(ctx context.Context) (bool, error) {
	for w.n > 1 {
		w.pop()
		s := w.leaf()
		if s.slot+1 < items(s.block) {
			s.slot++
			if err := w.down(ctx); err != nil {
				return false, err
			}
			return true, w.descend(ctx, &ondisk.MinKey)
		}
	}
	return false, nil
}

// item returns key and data under the path's leaf slot, aliasing the block; ok is false behind the last item.
func (w *walk) item() (k ondisk.Key, data []byte, ok bool) {
	s := w.leaf()
	if s.slot < 0 || s.slot >= items(s.block) {
		return k, nil, false
	}
	return s.block.Key(s.slot), s.block.Item(s.slot), true
}

// atOrAfter moves on to the next leaf if the path stands behind the last item of one.
func (w *walk) atOrAfter(ctx context.Context) (bool, error) {
	for {
		s := w.leaf()
		if s.slot < items(s.block) {
			return true, nil
		}
		if more, err := w.next(ctx); !more || err != nil {
			return false, err
		}
	}
}

// check compares the whole path (the oracle); see the package comment.
func (w *walk) check() {
	for i := range w.steps[:w.n] {
		w.compare(&w.steps[i])
	}
}

// compare counts and traces a block that is not what was promised, once.
func (w *walk) compare(s *step) {
	if s.counted || s.kept(s.block) {
		return
	}
	s.counted = true
	w.mismatches++
	if w.db.tracer != nil {
		w.db.tracer.Trace(trace.Event{Kind: trace.Mismatch, Gen: uint64(w.gen), Root: uint64(w.tree),
			Bytenr: uint64(s.addr), Note: s.broken(s.block)})
	}
}

// corrupt makes a finding about a block of the path.
func (w *walk) corrupt(s *step, msg string) error {
	what := "leaf"
	if s.block.Level() != 0 {
		what = "node"
	}
	return fserr.Corruptf(what, uint64(w.tree), uint64(s.addr), "%s", msg)
}

// release lets the path go, comparing each block a last time.
func (w *walk) release() {
	for w.n > 0 {
		w.pop()
	}
}

// items returns the item count of a block, at most what fits one: the count of a torn block may be anything.
func items(b ondisk.Block) int {
	size := ondisk.ItemSize
	if !b.IsLeaf() {
		size = ondisk.KeyPtrSize
	}
	return min(b.NrItems(), (len(b)-ondisk.HeaderSize)/size)
}

// searchKeys returns the first of n keys, stride bytes apart, that is not less than k, and whether it is k.
func searchKeys(b ondisk.Block, n, stride int, k *ondisk.Key) (int, bool) {
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := ondisk.GetKey(b[ondisk.HeaderSize+mid*stride:]).Compare(*k); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}
