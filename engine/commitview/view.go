package commitview

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/txn"
)

// Options of Open.
type Options struct {
	Policy Policy
	// AllowUnsafe must be set for Shared, which may return items of other trees.
	AllowUnsafe bool
	// Counters takes the figures; nil gives the view counters of its own.
	Counters *Counters
	// Ahead is how many leaves are read at once when one is not in memory: it and those behind it, for a reader that goes
	// about the order of the keys.
	Ahead int
	// Name is whose view this is, for messages about readers that hold space back.
	Name string
	// Hidden says that the tree may have no references: a subvol.Hidden.
	Hidden bool
}

// View is one reader's view of one tree as of the last commit. It has what inode.Source wants, so a subvolume is read
// through it as a live one is.
//
// Searches may run side by side; Quiesce and Close are called when none is under way.
type View struct {
	db       *txn.DB
	id       ondisk.TreeID
	name     string
	ahead    int
	counters *Counters
	hidden   bool // the tree may have no references
	mutant   mutant

	policy atomic.Uint32 // in effect
	root   *txn.Root     // shared, clone-root: the open tree
	told   atomic.Pointer[rootFacts]

	mu     sync.Mutex // guards cap, closed, and capture.users
	cap    *capture   // epoch: what the ticket protects; nil when the view has expired
	gen    atomic.Uint64
	closed bool
}

// mutant is a mistake that tests ask for, to see that it would be noticed. No exported name sets it.
type mutant uint8

const (
	sound      mutant = iota
	lateClone         // clone-root copies the root after it has let commitRootMu go
	lateTicket        // epoch registers after it has let commitRootMu go
)

type mutantKey struct{}

// expiredTries bounds how often a view that is asked to go while it is being opened is opened again. Each time it
// leaves space has come back, so one more is enough unless the file system is all but full.
const expiredTries = 16

// Open opens a view of a tree's commit root. Anything but a read-only subvolume is read under Epoch, see View.Policy.
// Errors: fserr.ErrInvalid for Shared without AllowUnsafe, fserr.ErrNotFound when the last commit does not have the
// tree, *fserr.Corrupt, I/O.
func Open(ctx context.Context, db *txn.DB, tree ondisk.TreeID, o Options) (*View, error) {
	if o.Policy >= NumPolicies {
		return nil, fmt.Errorf("%v: %w", o.Policy, fserr.ErrInvalid)
	}
	if o.Policy == Shared && !o.AllowUnsafe {
		return nil, fmt.Errorf("policy shared reads blocks that may be re-used by other trees meanwhile: it must be allowed explicitly: %w",
			fserr.ErrInvalid)
	}
	v := &View{db: db, id: tree, name: o.Name, ahead: o.Ahead, counters: o.Counters, hidden: o.Hidden}
	v.mutant, _ = ctx.Value(mutantKey{}).(mutant)
	if v.counters == nil {
		v.counters = new(Counters)
	}
	v.policy.Store(uint32(Epoch))
	if err := v.renew(ctx); err != nil {
		return nil, fmt.Errorf("view of tree %v: %w", tree, err)
	}
	if o.Policy != Epoch && v.cap.readonly {
		if err := v.withoutTicket(ctx, o.Policy); err != nil {
			v.Close()
			return nil, fmt.Errorf("view of tree %v: %w", tree, err)
		}
	}
	trace.Emit(db.Tracer(), trace.Event{Kind: trace.ViewOpened, Gen: v.gen.Load(), Root: uint64(tree), Note: v.Policy().String()})
	return v, nil
}

// withoutTicket turns a view just opened into one of a policy that takes the commit root anew for each search.
func (v *View) withoutTicket(ctx context.Context, p Policy) error {
	find := v.db.Root
	if v.hidden {
		find = v.db.AnyRoot
	}
	root, err := find(ctx, v.id)
	if err != nil {
		return err
	}
	if err := root.Tree.Load(ctx); err != nil {
		return err
	}
	v.root = root
	v.told.Store(&rootFacts{gen: v.cap.gen, readonly: true, promise: v.cap.target.promise})
	v.policy.Store(uint32(p))
	v.dropCapture(nil)
	return nil
}

// ID returns the tree's id.
func (v *View) ID() ondisk.TreeID { return v.id }

// Policy returns the policy in effect.
func (v *View) Policy() Policy { return Policy(v.policy.Load()) }

// Generation returns the generation of the view's ticket; 0 under policies without one, and when it has expired.
func (v *View) Generation() ondisk.Generation { return ondisk.Generation(v.gen.Load()) }

// Counters returns where the view counts.
func (v *View) Counters() *Counters { return v.counters }

func (v *View) count() *counter { return &v.counters.by[v.Policy()] }

// Quiesce is called by a reader that holds no path, buffer or disk address of the view, only keys and copied fields. An
// expired ticket is replaced by a new one, and so is one of an older generation than the last switched: what only it
// held back is let go. moved tells that the view shows another generation now. When nothing has changed it costs
// two atomic loads.
func (v *View) Quiesce(ctx context.Context) (moved bool, err error) {
	if v.Policy() != Epoch || v.gen.Load() == uint64(v.db.Switched()) {
		return false, nil
	}
	before := v.gen.Load()
	v.dropCapture(nil)
	if err := v.renew(ctx); err != nil {
		return false, fmt.Errorf("view of tree %v: %w", v.id, err)
	}
	return v.gen.Load() != before, nil
}

// Close ends the view. It panics on the second call (I12).
func (v *View) Close() {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		panic(fmt.Sprintf("commitview: view of tree %v closed twice (I12)", v.id))
	}
	v.closed = true
	v.mu.Unlock()
	v.dropCapture(nil)
}

// renew takes a new ticket. The view has none.
func (v *View) renew(ctx context.Context) error {
	for try := 1; ; try++ {
		c, err := v.capture(ctx)
		switch {
		case err == nil:
			return v.adopt(c)
		case !errors.Is(err, fserr.ErrViewExpired) || try == expiredTries:
			return err
		}
	}
}

func (v *View) adopt(c *capture) error {
	v.mu.Lock()
	if v.closed {
		v.mu.Unlock()
		c.leave()
		return fserr.ErrClosed
	}
	v.cap = c
	v.gen.Store(uint64(c.gen))
	v.mu.Unlock()
	return nil
}

// capture takes generation, commit roots and ticket under one hold of commitRootMu, then finds the tree.
func (v *View) capture(ctx context.Context) (*capture, error) {
	c := &capture{hidden: v.hidden}
	v.db.WithCommitRoots(func(gen ondisk.Generation) { c.fill(v.db, gen, v.mutant != lateTicket) })
	v.counters.by[Epoch].tickets.Add(1)
	if c.ticket != nil && v.name != "" {
		c.ticket.SetName(v.name)
	}
	if err := c.resolve(ctx, v.id); err != nil {
		c.leave()
		return nil, err
	}
	return c, nil
}

// use returns the view's capture for one operation; unuse gives it back.
func (v *View) use() (*capture, error) {
	v.mu.Lock()
	c := v.cap
	switch {
	case v.closed:
		v.mu.Unlock()
		return nil, fserr.ErrClosed
	case c == nil:
		v.mu.Unlock()
		return nil, fserr.ErrViewExpired
	}
	c.users++
	v.mu.Unlock()
	if c.asked() {
		v.expire(c)
		v.unuse(c)
		return nil, fserr.ErrViewExpired
	}
	return c, nil
}

func (v *View) unuse(c *capture) {
	v.mu.Lock()
	c.users--
	last := c.users == 0
	v.mu.Unlock()
	if last {
		c.leave()
	}
}

// expire takes c, which is asked to go, from the view. The last one who uses it leaves.
func (v *View) expire(c *capture) { v.dropCapture(c) }

// dropCapture gives up the view's own use of its capture; with only, if that is the one.
func (v *View) dropCapture(only *capture) {
	v.mu.Lock()
	c := v.cap
	if c == nil || only != nil && c != only {
		v.mu.Unlock()
		return
	}
	v.cap = nil
	v.gen.Store(0)
	v.mu.Unlock()
	v.unuse(c)
}
