package disk

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Request is one transfer of a batch.
type Request struct {
	Dev Device
	Op  Op
	Buf []byte // of a read or a write
	Off int64  // bytes; of all but a flush
	Len int64  // bytes; of a discard
	Err error  // the outcome, set by Do
}

// run carries the request out.
func (r *Request) run(ctx context.Context) {
	switch r.Op {
	case OpRead:
		_, r.Err = r.Dev.ReadAt(ctx, r.Buf, r.Off)
	case OpWrite:
		_, r.Err = r.Dev.WriteAt(ctx, r.Buf, r.Off)
	case OpFlush:
		r.Err = r.Dev.Flush(ctx)
	case OpDiscard:
		r.Err = r.Dev.Discard(ctx, r.Off, r.Len)
	default:
		panic(fmt.Sprintf("disk: request with %v", r.Op))
	}
}

// Queue keeps up to a number of requests in the air at once, on goroutines that live as long as it does.
//
// Whoever calls Do works along, so a batch makes progress however busy the queue is with the batches of others: at most
// depth-1 requests, and one for each caller, are under way. A Queue may be used by many goroutines. Its goroutines are
// those of the bubble that NewQueue was called in.
type Queue struct {
	work chan *batch
	done sync.WaitGroup // the goroutines
}

// batch is one call of Do. Any number of goroutines take requests from it, by counting.
type batch struct {
	ctx  context.Context
	reqs []Request
	next atomic.Int64   // index of the first request nobody has taken
	left sync.WaitGroup // requests not yet finished
}

// run takes requests until none is left.
func (b *batch) run() {
	for {
		i := b.next.Add(1) - 1
		if i >= int64(len(b.reqs)) {
			return
		}
		b.reqs[i].run(b.ctx)
		b.left.Done()
	}
}

// finish waits for all requests and returns the first error by position.
func (b *batch) finish() error {
	b.left.Wait()
	for i := range b.reqs {
		if b.reqs[i].Err != nil {
			return b.reqs[i].Err
		}
	}
	return nil
}

// NewQueue starts a queue. A depth below 1 panics.
func NewQueue(depth int) *Queue {
	if depth < 1 {
		panic(fmt.Sprintf("disk: queue of depth %d", depth))
	}
	// An entry of the channel invites one goroutine to a batch. There is room for an invitation for each.
	q := &Queue{work: make(chan *batch, depth-1)}
	for range depth - 1 {
		q.done.Go(func() {
			for b := range q.work {
				b.run()
			}
		})
	}
	return q
}

// Do carries out all requests, in no order, and returns when the last has finished: the first error by position in reqs,
// or nil. Every request has its own outcome in Err; an error does not keep the others from being tried, the end of ctx
// does. A flush in a batch says nothing about the writes beside it.
func (q *Queue) Do(ctx context.Context, reqs []Request) error {
	b := &batch{ctx: ctx, reqs: reqs}
	b.left.Add(len(reqs))
	for range min(len(reqs)-1, cap(q.work)) {
		select {
		case q.work <- b:
		default: // everyone is invited somewhere; who comes free takes the next invitation, we begin
		}
	}
	b.run()
	return b.finish()
}

// Close ends the goroutines. No Do may be under way or follow.
func (q *Queue) Close() {
	close(q.work)
	q.done.Wait()
}

// Do is [Queue.Do] with goroutines of its own, at most depth of them, the caller's included.
func Do(ctx context.Context, depth int, reqs []Request) error {
	b := &batch{ctx: ctx, reqs: reqs}
	b.left.Add(len(reqs))
	for range min(len(reqs), depth) - 1 {
		go b.run()
	}
	b.run()
	return b.finish()
}
