package txn

import (
	"context"
	"errors"

	"imgtool/engine/fserr"
)

// Bounds of what one transaction gathers in memory before its commit is asked for. Beyond maxDirty a handle's end asks
// for a commit; beyond twice that, Start waits until the commit under way is done, so dirty metadata is bounded by
// about three times maxDirty: T+1 up to two of them, and T on its way out.
const (
	DefaultMaxDirty   = 64 << 20 // bytes of dirty tree blocks
	DefaultMaxDelayed = 32 << 10 // delayed-ref heads
)

func (db *DB) dirtyBytes() uint64 {
	db.mu.Lock()
	g := db.generation
	db.mu.Unlock()
	return uint64(db.cache.DirtyBytes(g))
}

// overBound reports whether the running transaction has gathered enough.
func (db *DB) overBound() bool { return db.dirtyBytes() > db.maxDirty }

// throttle waits while twice the bound is dirty and a commit is under way. It is called before a handle is taken, so
// whoever waits here holds nothing that the commit needs (I11).
func (db *DB) throttle(ctx context.Context) error {
	for db.dirtyBytes() > 2*db.maxDirty {
		db.mu.Lock()
		t := db.committing
		if t == nil {
			t = db.running
		}
		err := db.errLocked()
		db.mu.Unlock()
		if err != nil || t == nil {
			return err
		}
		db.requestCommit(t)
		select {
		case <-t.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// settleRefs runs the delayed refs of the running transaction before a reservation gives up on it. Like the commit it
// is not cancelled half way, and a failure aborts.
func (db *DB) settleRefs(ctx context.Context) error {
	h, err := db.Attach(ctx)
	if errors.Is(err, fserr.ErrNoTransaction) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := db.extents.RunDelayedRefs(ctx, h, -1); err != nil {
		db.Abort(err)
	}
	return h.End(ctx)
}
