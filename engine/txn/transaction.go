package txn

import (
	"context"
	"fmt"
	"time"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// transaction is one transaction. All fields but gen and the channels are guarded by DB.mu.
type transaction struct {
	gen     ondisk.Generation
	state   State
	handles int // of all kinds, the commit's own not counted
	pending []PendingOp
	started time.Time

	unblocked chan struct{} // closed at UNBLOCKED or ABORTED
	done      chan struct{} // closed at COMPLETED or ABORTED
	drained   chan struct{} // closed when the last handle leaves in COMMIT_DOING; made by the committer
	err       error         // of the commit; set before done is closed
}

// PendingOp is work that belongs inside the critical section of a commit, where no writer is left: the creation of a
// snapshot. Apply changes trees with the commit's own handle. An error of the operation alone (its name exists by now)
// goes to whoever waits for the operation and Apply returns nil; an error that it returns aborts the transaction.
type PendingOp interface {
	Apply(ctx context.Context, h *Handle) error
}

// enter finds or opens the transaction for an entry and counts a handle on it. It waits, without any lock, while the
// table says so.
func (db *DB) enter(ctx context.Context, e Entry) (*transaction, error) {
	for {
		t, wait, err := db.tryEnter(e)
		if err != nil || t != nil {
			return t, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// tryEnter makes one attempt: a transaction, or a channel to wait on.
func (db *DB) tryEnter(e Entry) (*transaction, <-chan struct{}, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.errLocked(); err != nil {
		return nil, nil, err
	}
	if db.closing {
		return nil, nil, fserr.ErrClosed
	}
	if db.readOnly {
		return nil, nil, fmt.Errorf("opened read-only: %w", fserr.ErrReadOnly)
	}
	t := db.running
	if t == nil {
		if e == EntryAttach {
			return nil, nil, fserr.ErrNoTransaction
		}
		t = db.openLocked()
	}
	switch Allowed(t.state, e) {
	case Enter:
		t.handles++
		return t, nil, nil
	case Wait:
		return nil, t.unblocked, nil
	default:
		return nil, nil, fmt.Errorf("internal: %v met by a transaction in %v", e, t.state)
	}
}

// openLocked makes T+1 the running transaction. T is UNBLOCKED or later, so nothing of it is pending (I7).
func (db *DB) openLocked() *transaction {
	db.generation++
	t := &transaction{gen: db.generation, unblocked: make(chan struct{}), done: make(chan struct{}), started: db.now()}
	db.running = t
	db.extents.BeginTransaction(t.gen)
	return t
}

// leave gives a handle back.
func (db *DB) leave(t *transaction) {
	db.mu.Lock()
	defer db.mu.Unlock()
	t.handles--
	if t.handles < 0 {
		panic("txn: a handle was ended twice (I12)")
	}
	if t.handles == 0 && t.drained != nil {
		close(t.drained)
		t.drained = nil
	}
}

// Abort turns the file system read-only with err as its first cause. Later causes are dropped. It may be called from
// anywhere, with any lock but DB.mu held.
func (db *DB) Abort(err error) {
	db.mu.Lock()
	first := db.abortErr == nil
	if first {
		db.abortErr = err
	}
	db.mu.Unlock()
	if first {
		db.aborting.Store(true)
	}
}

// Err returns nil while the file system is sound, and after an abort fserr.ErrAborted wrapped around the first cause.
func (db *DB) Err() error {
	if !db.aborting.Load() {
		return nil
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.errLocked()
}

func (db *DB) errLocked() error {
	if db.abortErr == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", fserr.ErrAborted, db.abortErr)
}

// fail ends t as ABORTED and wakes everybody who waits for it. The transaction that runs behind it, if any, cannot be
// committed any more either: its commit finds the same cause.
func (db *DB) fail(t *transaction, err error) {
	db.Abort(err)
	db.mu.Lock()
	if t.state < Unblocked {
		close(t.unblocked)
	}
	t.state = Aborted
	t.err = db.errLocked()
	if db.running == t {
		db.running = nil
	}
	if db.committing == t {
		db.committing = nil
	}
	db.mu.Unlock()
	close(t.done)
	trace.Emit(db.tracer, trace.Event{Kind: trace.Aborted, Gen: uint64(t.gen), Err: err})
}
