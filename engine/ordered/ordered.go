// Package ordered writes small pieces of file data behind their writers' backs, as the kernel's ordered extents do.
//
// A writer of a small file would otherwise wait for the device once for each file. Here its data is copied into a
// queue, its EXTENT_DATA and checksums are inserted at once, and one goroutine writes what has gathered, sorted and
// merged. That is sound because of two waits:
//
//   - a commit drains the queue before its Switch, so the commit roots of T lead to data that the devices have, and the
//     flush before T's super makes it durable (I1); a crash before that comes back to T-1, which does not know the data;
//   - a reader of the running transaction waits for what is queued in the range that it reads.
//
// An extent's address is not used again before T is durable (I2: data is pinned even when it is born and dropped in T),
// so one address is in the queue once. Whoever gives space back that nothing ever referred to waits for it first.
//
// # States of the queue
//
//	idle                 nothing queued; the next Write starts the goroutine
//	writing              one batch is on its way to the devices; Writes gather behind it, up to Limit bytes
//	failed               a batch failed and the owner, who aborts, has been told: from then on every Write and Drain returns
//	                     the error, for ever, and so does every Wait for what was in that batch or behind it, since the
//	                     devices may hold anything there
//
// mu guards all of it and is a leaf: it is never held over I/O.
package ordered

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// Writer writes a batch to every copy and returns when the devices have it; *volume.Volume implements it.
type Writer interface {
	WriteBatch(ctx context.Context, ws []volume.Write) error
}

// Options are what a Queue stands on.
type Options struct {
	Writer Writer
	Pool   *disk.Pool // buffers of the copies
	Limit  int        // bytes that may be queued, the batch on its way included; 0 means DefaultLimit
	// Failed is told the first error, once, from the writing goroutine, before any call returns it. May be nil.
	Failed func(error)
}

// DefaultLimit bounds the queued bytes, batchBytes what goes to the devices at a time.
const (
	DefaultLimit = 16 << 20
	batchBytes   = 4 << 20
)

// Queue is the data on its way to the devices. It is safe for concurrent use.
type Queue struct {
	o Options

	pending atomic.Int64 // bytes queued or being written: a reader's quick look
	failed  atomic.Bool  // err is set: the other one

	mu      sync.Mutex
	queued  []piece       // not yet taken by the goroutine, in order of arrival
	batch   []piece       // on its way
	seq     uint64        // pieces ever queued
	done    uint64        // pieces ever written
	running bool          // the goroutine lives
	err     error         // the first failure
	lost    []piece       // the batch that failed; its buffers are gone. What was queued behind it stays in queued
	moved   chan struct{} // closed and replaced whenever a batch, or the goroutine, has ended
}

type piece struct {
	addr ondisk.Logical
	buf  []byte
}

func (p piece) overlaps(addr ondisk.Logical, n int) bool {
	return p.addr < addr+ondisk.Logical(n) && addr < p.addr+ondisk.Logical(len(p.buf))
}

// New returns an idle queue.
func New(o Options) *Queue {
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	return &Queue{o: o, moved: make(chan struct{})}
}

// Write queues a copy of data for addr. It waits while the queue is full. Errors: an earlier batch's, the context's.
func (q *Queue) Write(ctx context.Context, addr ondisk.Logical, data []byte) error {
	p := piece{addr, q.o.Pool.Get(len(data))}
	copy(p.buf, data)
	q.mu.Lock()
	for q.err == nil && q.pending.Load() > 0 && int(q.pending.Load())+len(data) > q.o.Limit {
		if err := q.waitLocked(ctx); err != nil {
			q.mu.Unlock()
			q.o.Pool.Put(p.buf)
			return err
		}
	}
	defer q.mu.Unlock()
	if q.err != nil {
		q.o.Pool.Put(p.buf)
		return q.err
	}
	q.queued = append(q.queued, p)
	q.seq++
	q.pending.Add(int64(len(data)))
	if !q.running {
		q.running = true
		go q.run()
	}
	return nil
}

// waitLocked lets go of mu until a batch has ended.
func (q *Queue) waitLocked(ctx context.Context) error {
	moved := q.moved
	q.mu.Unlock()
	defer q.mu.Lock()
	select {
	case <-moved:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wakeLocked wakes everybody in waitLocked.
func (q *Queue) wakeLocked() {
	close(q.moved)
	q.moved = make(chan struct{})
}

func (q *Queue) holds(addr ondisk.Logical, n int) bool {
	over := func(p piece) bool { return p.overlaps(addr, n) }
	return slices.ContainsFunc(q.batch, over) || slices.ContainsFunc(q.queued, over) || slices.ContainsFunc(q.lost, over)
}

// Wait returns when nothing is queued for the n bytes at addr: the devices have them, or the error says that they may not.
// It costs two atomic loads while the queue is empty.
func (q *Queue) Wait(ctx context.Context, addr ondisk.Logical, n int) error {
	if q.pending.Load() == 0 && !q.failed.Load() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.holds(addr, n) {
		if q.err != nil {
			return q.err
		}
		if err := q.waitLocked(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Drain returns when the devices have everything that was queued before the call.
func (q *Queue) Drain(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for upto := q.seq; q.err == nil && q.done < upto; {
		if err := q.waitLocked(ctx); err != nil {
			return err
		}
	}
	return q.err
}

// run writes batch after batch until nothing is queued.
func (q *Queue) run() {
	for {
		q.mu.Lock()
		if len(q.queued) == 0 || q.err != nil {
			q.running = false
			q.wakeLocked() // Close waits for this
			q.mu.Unlock()
			return
		}
		q.takeLocked()
		batch := q.batch
		q.mu.Unlock()
		q.ended(batch, q.write(batch))
	}
}

// takeLocked makes the next batch of what is queued, in order of arrival.
func (q *Queue) takeLocked() {
	n, bytes := 0, 0
	for n < len(q.queued) && bytes < batchBytes {
		bytes += len(q.queued[n].buf)
		n++
	}
	q.batch = q.queued[:n:n]
	q.queued = q.queued[n:]
}

// write merges neighbours by address and writes the batch.
func (q *Queue) write(batch []piece) error {
	sorted := slices.SortedFunc(slices.Values(batch), func(a, b piece) int { return cmp.Compare(a.addr, b.addr) })
	ws := make([]volume.Write, len(sorted))
	for i, p := range sorted {
		ws[i] = volume.Write{Addr: p.addr, Buf: p.buf}
	}
	if err := q.o.Writer.WriteBatch(context.Background(), ws); err != nil {
		return fmt.Errorf("write file data: %w", err)
	}
	return nil
}

// ended gives the batch's buffers back and wakes everybody who waits.
func (q *Queue) ended(batch []piece, err error) {
	first := err != nil && !q.failed.Load() // failed is set below, by this goroutine only
	if first && q.o.Failed != nil {
		q.o.Failed(err) // before anybody can see the error: whoever meets it finds the owner told
	}
	q.mu.Lock()
	if first {
		q.err, q.lost = err, batch
		q.failed.Store(true) // before pending may become 0
	}
	q.batch = nil
	q.done += uint64(len(batch))
	bytes := 0
	for _, p := range batch {
		bytes += len(p.buf)
	}
	q.pending.Add(-int64(bytes))
	q.wakeLocked()
	q.mu.Unlock()
	for _, p := range batch {
		q.o.Pool.Put(p.buf)
	}
}

// Close waits for the goroutine and gives back what a failure left in the queue.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.running {
		_ = q.waitLocked(context.Background())
	}
	for _, p := range q.queued {
		q.o.Pool.Put(p.buf)
	}
	q.pending.Store(0)
	q.queued = nil
}
