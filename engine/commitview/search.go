package commitview

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// ErrWrongItem says that an item of the key was found, in a block that is not the one the search was led to. Only
// policy Shared returns it.
var ErrWrongItem = errors.New("the item found is another tree's: its block was re-used during the search")

// Result is what a search has met, also when it failed.
type Result struct {
	Item       []byte            // a copy; of the wrong tree if Outcome is WrongItem
	Root       ondisk.Logical    // of the commit root that was taken
	Generation ondisk.Generation // of that commit
	Mismatches int               // blocks of the path that were not what was promised
	Outcome    Outcome
}

// Search looks one item up. Errors: fserr.ErrNotFound, ErrWrongItem (with the item in the result), *fserr.Corrupt,
// fserr.ErrViewExpired (call Quiesce and search again), the context's, I/O.
func (v *View) Search(ctx context.Context, key ondisk.Key) (Result, error) {
	var r Result
	err := v.run(ctx, &key, &r, func(w *walk) error {
		item, err := w.exact(&key)
		r.Item = slices.Clone(item)
		return err
	})
	return r, err
}

// Get returns a copy of an item. Errors as Search.
func (v *View) Get(ctx context.Context, key ondisk.Key) ([]byte, error) {
	r, err := v.Search(ctx, key)
	if err != nil {
		return nil, err
	}
	return r.Item, nil
}

// View calls fn with an item, which aliases a tree block: fn keeps nothing of it. No lock is held. Errors as Search,
// and fn's; what fn was shown is worth nothing if View returns an error.
func (v *View) View(ctx context.Context, key ondisk.Key, fn func(item []byte) error) error {
	var r Result
	return v.run(ctx, &key, &r, func(w *walk) error {
		item, err := w.exact(&key)
		if err != nil {
			return err
		}
		w.inCaller = true
		err = fn(item)
		w.inCaller = false
		return err
	})
}

// SeekGE returns a copy of the first item whose key is not less than key; ok is false when there is none.
func (v *View) SeekGE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	var r Result
	err = v.run(ctx, &key, &r, func(w *walk) error {
		var err error
		if ok, err = w.atOrAfter(ctx); ok && err == nil {
			var data []byte
			k, data, _ = w.item()
			item = slices.Clone(data)
		}
		return err
	})
	return k, item, ok && err == nil, err
}

// SeekLE returns a copy of the last item whose key is not greater than key; ok is false when there is none.
func (v *View) SeekLE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	var r Result
	err = v.run(ctx, &key, &r, func(w *walk) error {
		var data []byte
		if k, data, ok = w.item(); !ok || k != key {
			w.leaf().slot-- // a leaf's first key is not above the key, unless that is below the whole tree
			k, data, ok = w.item()
		}
		item = slices.Clone(data)
		return nil
	})
	return k, item, ok && err == nil, err
}

// Scan calls fn for the items from one key to another, both included, ascending, until it says no more. The items alias
// tree blocks: fn keeps nothing of them. No lock is held, but the path is, and with it the space of a whole
// generation: fn does not wait for anything. fserr.ErrViewExpired may come at any leaf; ScanOn goes on then.
func (v *View) Scan(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	var r Result
	return v.run(ctx, &from, &r, func(w *walk) error {
		for {
			if ok, err := w.atOrAfter(ctx); !ok || err != nil {
				return err
			}
			k, item, _ := w.item()
			if to.Less(k) {
				return nil
			}
			w.inCaller = true
			more, err := fn(k, item)
			w.inCaller = false
			if !more || err != nil {
				return err
			}
			w.leaf().slot++
		}
	})
}

// ScanOn is Scan for a reader that wants all items whatever the need for space: when the view expires it takes a new
// ticket and goes on behind the last key that fn has seen. The items may then be of several generations, which makes no
// difference in a read-only subvolume. It must be called at a quiescent point, as Quiesce.
func (v *View) ScanOn(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	done := false
	step := func(k ondisk.Key, item []byte) (bool, error) {
		more, err := fn(k, item)
		from = k.Next()
		done = !more || err != nil || k == to || k == ondisk.MaxKey
		return more, err
	}
	for {
		err := v.Scan(ctx, from, to, step)
		if !errors.Is(err, fserr.ErrViewExpired) || done {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := v.Quiesce(ctx); err != nil {
			return err
		}
	}
}

// exact returns the item of the key that the path was made for.
func (w *walk) exact(key *ondisk.Key) ([]byte, error) {
	k, item, ok := w.item()
	if !ok || k != *key {
		return nil, fserr.ErrNotFound
	}
	return item, nil
}

// run is one search: it takes the commit root, goes down to the leaf where key belongs, calls fn with the path, compares
// the path with what its pointers promised, and lets it go. r is filled except for Item.
func (v *View) run(ctx context.Context, key *ondisk.Key, r *Result, fn func(*walk) error) (err error) {
	return v.runTo(ctx, 0, key, r, fn)
}

// runTo is run down to the block of a level.
func (v *View) runTo(ctx context.Context, level uint8, key *ondisk.Key, r *Result, fn func(*walk) error) (err error) {
	w := walks.Get().(*walk)
	*w = walk{db: walkDB{v.db.Cache(), v.db.Tracer()}, tree: v.id, policy: v.Policy(), stop: level, ahead: v.ahead}
	defer func() {
		// The numbers of a block that changes under a shared reader may be anything, also an index out of range: that is
		// an outcome of the search. Under the other policies, and in the caller's code, a panic is a bug.
		if w.policy == Shared && !w.inCaller {
			if p := recover(); p != nil {
				err = v.contained(w, p)
			}
		}
		err = v.finish(w, r, err)
	}()
	if err := v.takeRoot(ctx, w); err != nil {
		return err
	}
	r.Root, r.Generation = w.steps[0].addr, w.gen
	v.acquired(w)
	if err := w.descend(ctx, key); err != nil {
		return err
	}
	err = fn(w)
	w.check()
	return err
}

func (v *View) contained(w *walk, p any) error {
	addr := ondisk.Logical(0)
	if w.n > 0 {
		addr = w.leaf().addr
	}
	trace.Emit(v.db.Tracer(), trace.Event{Kind: trace.Warning, Gen: uint64(w.gen), Root: uint64(v.id), Bytenr: uint64(addr),
		Note: fmt.Sprintf("panic of an unprotected search contained: %v\n%s", p, debug.Stack())})
	return fserr.Corruptf("block", uint64(v.id), uint64(addr), "block changed during an unprotected search: %v", p)
}

// finish lets the path go, judges, counts and tells.
func (v *View) finish(w *walk, r *Result, err error) error {
	root := uint64(r.Root)
	w.release()
	if w.cap != nil {
		if errors.Is(err, fserr.ErrViewExpired) {
			v.expire(w.cap)
		}
		v.unuse(w.cap)
	}
	r.Mismatches = w.mismatches
	r.Outcome = outcomeOf(err)
	if w.mismatches > 0 {
		err = v.mismatched(w, r, err)
	}
	c := &v.counters.by[w.policy]
	c.outcomes[r.Outcome].Add(1)
	if w.mismatches > 0 {
		c.mismatches.Add(uint64(w.mismatches))
	}
	if t := v.db.Tracer(); t != nil {
		t.Trace(trace.Event{Kind: trace.SearchDone, Gen: uint64(r.Generation), Root: uint64(v.id), Bytenr: root,
			N: uint64(w.mismatches), Note: notes[w.policy][r.Outcome], Err: err})
	}
	*w = walk{}
	walks.Put(w)
	return err
}

// mismatched decides what a search that left its tree returns. Under shared that is what the kernel's search would have
// returned, but for the error beside a wrong item. Under the other policies it is a finding, whatever was found.
func (v *View) mismatched(w *walk, r *Result, err error) error {
	if w.policy == Shared {
		if err == nil {
			r.Outcome = WrongItem
			return fmt.Errorf("tree %v: %w", v.id, ErrWrongItem)
		}
		return err
	}
	r.Outcome = Corrupt
	return fserr.Corruptf("view", uint64(v.id), uint64(r.Root),
		"%d blocks of the path were re-used during a search under policy %v (I2, I9)", w.mismatches, w.policy)
}

func outcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Found
	case errors.Is(err, fserr.ErrNotFound):
		return NotFound
	case errors.Is(err, fserr.ErrCorrupt):
		return Corrupt
	case errors.Is(err, fserr.ErrViewExpired):
		return Expired
	}
	return Failed
}
