package txn

import (
	"context"

	"imgtool/engine/extent"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Handle is the right to change trees in one running transaction. It belongs to one goroutine at a time, is ended
// exactly once (I12), and its holder must not wait for the commit of its own transaction (I11).
type Handle struct {
	db    *DB
	t     *transaction
	res   extent.Reservation
	own   bool
	ended bool
}

// StartOptions say what a handle is for.
type StartOptions struct {
	// Items is the number of tree items that the operation may insert, change or delete. Space for their paths is
	// reserved before the transaction is joined; ENOSPC comes from here.
	Items int
	// Freeing marks operations that give space back (unlink, truncate, deletion of subvolumes): they may dip into the
	// global reserve, so that a full file system can be emptied.
	Freeing bool
}

// Start reserves metadata for items tree items and joins the running transaction, or opens one.
// Errors: ENOSPC, EROFS, fserr.ErrAborted, the context's.
func (db *DB) Start(ctx context.Context, items int) (*Handle, error) {
	return db.StartWith(ctx, StartOptions{Items: items})
}

// StartFreeing is Start for an operation that gives space back.
func (db *DB) StartFreeing(ctx context.Context, items int) (*Handle, error) {
	return db.StartWith(ctx, StartOptions{Items: items, Freeing: true})
}

// StartWith is Start with all its options.
func (db *DB) StartWith(ctx context.Context, o StartOptions) (*Handle, error) {
	if db.readOnly {
		return nil, fserr.ErrReadOnly
	}
	if err := db.throttle(ctx); err != nil {
		return nil, err
	}
	kind := extent.ReserveNormal
	if o.Freeing {
		kind = extent.ReserveFreeing
	}
	res, err := db.extents.Reserve(ctx, kind, o.Items)
	if err != nil {
		return nil, err
	}
	t, err := db.enter(ctx, EntryStart)
	if err != nil {
		res.Release()
		return nil, err
	}
	return db.newHandle(t, res), nil
}

// Attach returns a handle on the running transaction without opening one: fserr.ErrNoTransaction if there is none.
func (db *DB) Attach(ctx context.Context) (*Handle, error) { return db.enterPlain(ctx, EntryAttach) }

// Join returns a handle even in COMMIT_START, for work that the commit waits for. Nothing is reserved.
func (db *DB) Join(ctx context.Context) (*Handle, error) { return db.enterPlain(ctx, EntryJoin) }

func (db *DB) enterPlain(ctx context.Context, e Entry) (*Handle, error) {
	t, err := db.enter(ctx, e)
	if err != nil {
		return nil, err
	}
	return db.newHandle(t, extent.Reservation{}), nil
}

func (db *DB) newHandle(t *transaction, res extent.Reservation) *Handle {
	if db.tracer != nil {
		db.tracer.Trace(trace.Event{Kind: trace.HandleStarted, Gen: uint64(t.gen)})
	}
	return &Handle{db: db, t: t, res: res}
}

// Generation returns the generation of the handle's transaction.
func (h *Handle) Generation() ondisk.Generation { return h.t.gen }

// DB returns the file system that the handle is on.
func (h *Handle) DB() *DB { return h.db }

// AddPending queues an operation for the critical section of this transaction's commit.
func (h *Handle) AddPending(op PendingOp) {
	h.db.mu.Lock()
	h.t.pending = append(h.t.pending, op)
	h.db.mu.Unlock()
}

// Abort ends the file system's writable life with err as the cause, unless err is nil. A caller that has changed part
// of what belongs together and cannot go on or back calls it.
func (h *Handle) Abort(err error) {
	if err != nil {
		h.db.Abort(err)
	}
}

// End gives the handle back. When many delayed refs are queued it first runs some of them, and beyond the bound on
// dirty metadata it asks for a commit without waiting for it. It returns the abort's cause if there is one.
func (h *Handle) End(ctx context.Context) error {
	if h.ended {
		panic("txn: a handle was ended twice (I12)")
	}
	h.ended = true
	db := h.db
	err := db.Err()
	if err == nil && !h.own {
		err = h.settle(ctx)
	}
	h.res.Release()
	if !h.own {
		db.leave(h.t)
		if err == nil && db.overBound() {
			db.requestCommit(h.t)
		}
	}
	return err
}

// settle does what may not be left to the commit: items of new chunks, and delayed refs beyond their bound. A failure
// leaves the trees half changed, so it aborts; for the same reason the caller's cancellation does not reach in here.
func (h *Handle) settle(ctx context.Context) error {
	db, err := h.db, error(nil)
	ctx = context.WithoutCancel(ctx)
	if db.extents.ChunksPending() {
		err = db.extents.CreatePendingChunks(ctx, h)
	}
	if n := db.extents.DelayedRefs(); err == nil && n > db.maxDelayed {
		err = db.extents.RunDelayedRefs(ctx, h, n/2)
	}
	if err != nil {
		db.Abort(err)
		return db.Err()
	}
	return nil
}

// EndAndCommit ends the handle, commits its transaction and waits until it is COMPLETED.
func (h *Handle) EndAndCommit(ctx context.Context) error {
	t := h.t
	if err := h.End(ctx); err != nil {
		return err
	}
	return h.db.commit(ctx, t)
}
