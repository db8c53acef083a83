package txn

import (
	"context"
	"fmt"
	"time"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Commit commits the running transaction and waits until it is COMPLETED. Without a running transaction it waits for
// the one being written out, if any. The caller must not hold a handle (I11). A cancelled context ends the waiting, not
// the commit.
func (db *DB) Commit(ctx context.Context) error {
	db.mu.Lock()
	t := db.running
	if t == nil {
		t = db.committing
	}
	err := db.errLocked()
	db.mu.Unlock()
	if err != nil || t == nil {
		return err
	}
	return db.commit(ctx, t)
}

// commit makes sure that t is being committed and waits for it.
func (db *DB) commit(ctx context.Context, t *transaction) error {
	db.requestCommit(t)
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// requestCommit moves t from RUNNING to COMMIT_START and starts its commit, unless somebody did so before.
func (db *DB) requestCommit(t *transaction) {
	db.mu.Lock()
	first := t.state == Running && db.running == t
	if first {
		t.state = CommitStart
		db.commits.Add(1)
	}
	db.mu.Unlock()
	if first {
		go func() {
			defer db.commits.Done()
			db.runCommit(t)
		}()
	}
}

// runCommit takes t from COMMIT_START to COMPLETED or ABORTED.
func (db *DB) runCommit(t *transaction) {
	ctx := context.Background()
	c := &commitRun{db: db, t: t, ctx: ctx, h: &Handle{db: db, t: t, own: true}, began: time.Now()}
	if err := c.run(); err != nil {
		db.fail(t, fmt.Errorf("commit of transaction %d: %w", t.gen, err))
	}
}

// commitRun is the state of one commit in progress.
type commitRun struct {
	db    *DB
	t     *transaction
	ctx   context.Context
	h     *Handle
	began time.Time
	super ondisk.SuperBlock // fixed at Switch
	pass  int
}

func (c *commitRun) run() error {
	steps := []struct {
		phase Phase
		do    func() error
	}{
		{PhaseStart, c.start}, {PhasePending, c.applyPending}, {PhaseRefs, c.runRefs}, {PhaseFixpoint, c.fixpoint},
		{PhaseSwitch, c.switchRoots}, {PhaseWrite, c.writeBlocks}, {PhaseSuper, c.writeSuper}, {PhaseRelease, c.release},
	}
	for _, s := range steps {
		began := time.Now()
		if err := s.do(); err != nil {
			return err
		}
		c.db.stats.observe(s.phase, time.Since(began))
	}
	c.emit(trace.CommitCompleted, 0)
	close(c.t.done) // last: who waited for the commit finds it counted
	return nil
}

func (c *commitRun) emit(k trace.Kind, n uint64) {
	trace.Emit(c.db.tracer, trace.Event{Kind: k, Gen: uint64(c.t.gen), N: n, Took: time.Since(c.began)})
}

// start waits for T-1, shortens the critical section by running most delayed refs while joins are still let in, and
// then closes the transaction: COMMIT_DOING, no handle left.
func (c *commitRun) start() error {
	db, t := c.db, c.t
	c.emit(trace.CommitStarted, 0)
	db.mu.Lock()
	prev := db.committing
	db.mu.Unlock()
	if prev != nil {
		<-prev.done
	}
	if err := db.Err(); err != nil {
		return err
	}
	if err := db.extents.RunDelayedRefs(c.ctx, c.h, db.extents.DelayedRefs()); err != nil {
		return err
	}
	db.mu.Lock()
	t.state = CommitDoing
	var drained chan struct{}
	if t.handles > 0 {
		drained = make(chan struct{})
		t.drained = drained
	}
	db.mu.Unlock()
	if drained != nil {
		<-drained
	}
	if err := db.Err(); err != nil {
		return err
	}
	c.emit(trace.CommitDoing, 0)
	return nil
}

// drain waits for the file data of T on its way to the devices, so that readers of its commit roots find it there, and
// the flush before its super covers it (I1).
func (c *commitRun) drain() error {
	if c.db.ordered == nil {
		return nil
	}
	return c.db.ordered.Drain(c.ctx)
}

// applyPending creates the snapshots. An operation may queue another one.
func (c *commitRun) applyPending() error {
	db := c.db
	for {
		db.mu.Lock()
		ops := c.t.pending
		c.t.pending = nil
		db.mu.Unlock()
		if len(ops) == 0 {
			return nil
		}
		// References queued so far belong to the source as it is now: the extent tree must know them before a snapshot
		// shares its blocks, so that look-ups during the copy find settled counts.
		if err := db.extents.RunDelayedRefs(c.ctx, c.h, -1); err != nil {
			return err
		}
		for _, op := range ops {
			if err := op.Apply(c.ctx, c.h); err != nil {
				return err
			}
		}
	}
}

func (c *commitRun) runRefs() error {
	n := c.db.extents.DelayedRefs()
	if err := c.db.extents.RunDelayedRefs(c.ctx, c.h, -1); err != nil {
		return err
	}
	c.emit(trace.DelayedRefsRun, uint64(n))
	return nil
}

// writeBlocks writes out every block of T and flushes them, together with all data that was written before (I1).
func (c *commitRun) writeBlocks() error {
	n, err := c.db.cache.WriteOut(c.ctx, c.t.gen)
	if err != nil {
		return err
	}
	c.emit(trace.BlocksWritten, uint64(n))
	return c.db.volume.Flush(c.ctx)
}

// writeSuper makes T the file system's state: behind its flush T is durable.
func (c *commitRun) writeSuper() error {
	db := c.db
	if err := db.Err(); err != nil {
		return err // a failure of T+1 meanwhile must not be followed by a super of T that promises more writes
	}
	if err := db.volume.WriteSuper(c.ctx, &c.super); err != nil {
		return err
	}
	db.mu.Lock()
	c.t.state = SuperCommitted
	db.mu.Unlock()
	c.emit(trace.SuperWritten, 0)
	return nil
}

// release lets go of what only T still pinned (I2), and completes T.
func (c *commitRun) release() error {
	db, t := c.db, c.t
	db.pin.Release(uint64(t.gen))
	db.mu.Lock()
	t.state = Completed
	db.committing = nil
	db.durable = t.gen
	db.mu.Unlock()
	return nil
}
