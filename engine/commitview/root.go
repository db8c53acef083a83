package commitview

import (
	"context"
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// rootFacts is what the root item of the view's tree said in one generation.
type rootFacts struct {
	gen      ondisk.Generation
	readonly bool
	promise
}

// takeRoot puts the commit root at the beginning of the path.
func (v *View) takeRoot(ctx context.Context, w *walk) error {
	if v.Policy() != Epoch {
		done, err := v.takeBare(ctx, w)
		if done || err != nil {
			return err
		}
		// The subvolume is not read-only any more: a copy of its root protects nothing. From now on a ticket.
		v.policy.Store(uint32(Epoch))
		if err := v.renew(ctx); err != nil {
			return err
		}
	}
	c, err := v.use()
	if err != nil {
		return err
	}
	w.policy, w.cap, w.gen = Epoch, c, c.gen
	w.push(c.target.buf.Ref(), c.target.promise)
	return nil
}

// takeBare takes the commit root as it is now, by reference or as a copy. done is false if the tree turned out to be no
// read-only subvolume any more.
func (v *View) takeBare(ctx context.Context, w *walk) (done bool, err error) {
	w.policy = v.Policy()
	var b *extbuf.Buffer
	var look *capture
	facts := v.told.Load()
	v.db.WithCommitRoots(func(gen ondisk.Generation) {
		w.gen = gen
		root := v.root.Tree.CommitRootBuffer()
		if root == nil {
			return
		}
		if w.policy == CloneRoot && v.mutant != lateClone {
			b = root.Clone()
		} else {
			b = root.Ref()
		}
		if gen != facts.gen {
			look = &capture{hidden: v.hidden} // of this very generation: the root item must be the one of this root
			look.fill(v.db, gen, true)
		}
	})
	if b == nil {
		return false, fmt.Errorf("tree %v has been deleted: %w", v.id, fserr.ErrNotFound)
	}
	if w.policy == CloneRoot && v.mutant != lateClone {
		v.copied(len(b.Block()))
	}
	if look != nil {
		if facts, err = v.lookUp(ctx, look); err != nil || !facts.readonly {
			b.Release()
			return false, err
		}
	}
	w.push(b, facts.promise)
	return true, nil
}

func (v *View) copied(n int) {
	c := v.count()
	c.blockCopies.Add(1)
	c.bytesCopied.Add(uint64(n))
}

// lookUp reads the root item anew after a commit, for the oracle and for the read-only flag.
func (v *View) lookUp(ctx context.Context, look *capture) (*rootFacts, error) {
	defer look.leave()
	v.count().tickets.Add(1)
	item, err := look.rootItem(ctx, v.id)
	if err != nil {
		return nil, err
	}
	f := &rootFacts{
		gen:      look.gen,
		readonly: item.Flags()&ondisk.RootSubvolReadonly != 0,
		promise:  promise{addr: item.Bytenr(), gen: item.Generation(), level: item.Level(), owner: v.id},
	}
	v.told.Store(f)
	return f, nil
}

// acquired tells that the reader has its root and holds no lock: the point at which the race begins, where a test's
// tracer may let commits go by.
func (v *View) acquired(w *walk) {
	if t := v.db.Tracer(); t != nil {
		t.Trace(trace.Event{Kind: trace.CommitRootAcquired, Gen: uint64(w.gen), Root: uint64(v.id), Bytenr: uint64(w.steps[0].addr),
			Note: w.policy.String()})
	}
	if v.mutant != sound {
		v.mistake(w)
	}
}

// mistake does what the view's mutant does too late.
func (v *View) mistake(w *walk) {
	switch {
	case v.mutant == lateClone && w.policy == CloneRoot:
		root := w.steps[0].buf
		w.steps[0].buf = root.Clone()
		w.steps[0].block = w.steps[0].buf.Block()
		root.Release()
		v.copied(len(w.steps[0].block))
	case v.mutant == lateTicket && w.cap != nil && w.cap.ticket == nil:
		w.cap.enter()
	}
}
