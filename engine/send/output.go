package send

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"imgtool/disk"
)

// Sizes of the way out, in bytes. A segment is sent on when it has reached its size, and a command is added whole, so it
// may be larger by one command.
var segmentSize = 512 << 10 // tests have smaller ones

const (
	segments = 16
	readers  = 8
)

// segment is a piece of the stream on its way: encoded commands, of which some wait for file data.
//
//	free -> (sender) encoding -> (planner) planned -> (readers) filled -> (writer) written -> free
//	                          -> filled, if no command waits for data
//
// It belongs to whoever has it in hand; the channels hand it over. While it is planned the readers share it: each
// changes the commands of its run's fills.
type segment struct {
	mem    []byte // of the pool
	buf    []byte // in mem, unless a command was longer than could be foreseen
	fills  []fill
	runs   []run // what the fills are read by
	left   atomic.Int32
	filled chan error // one value, when the data is there

	mu  sync.Mutex // guards err, at
	err error      // of the fill that comes first in the stream, at at
	at  int
}

// failed notes an error.
func (s *segment) failed(at int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || at < s.at {
		s.at, s.err = at, err
	}
}

// reset empties a segment for its next use.
func (s *segment) reset() {
	s.buf, s.fills, s.err = nil, s.fills[:0], nil
}

// spareSegments keeps the segments of past sends, without their buffers.
var spareSegments = sync.Pool{New: func() any { return &segment{filled: make(chan error, 1)} }}

// grow gives a segment its memory, when it is first used: outside of the heap, whose collector lets it grow to twice of
// what is in it.
func (s *segment) grow(pool *disk.Pool) {
	if s.mem == nil {
		s.mem = pool.Get(segmentSize + 256<<10)
	}
	s.buf = s.mem[:0]
}

// output takes segments to the writer in order. Closed by finish or fail, once.
type output struct {
	w      io.Writer
	data   *dataReader
	stats  *Stats
	cancel context.CancelCauseFunc
	ctx    context.Context // ends with the first error

	all   [segments]*segment
	free  chan *segment
	work  chan *segment // to the planner
	runs  chan *run     // to the readers
	order chan *segment // to the writer
	wg    sync.WaitGroup
}

func newOutput(ctx context.Context, w io.Writer, data *dataReader, stats *Stats) *output {
	o := &output{w: w, data: data, stats: stats,
		free: make(chan *segment, segments), work: make(chan *segment, segments), runs: make(chan *run, readers), order: make(chan *segment, segments)}
	o.ctx, o.cancel = context.WithCancelCause(ctx)
	for i := range o.all {
		o.all[i] = spareSegments.Get().(*segment)
		o.free <- o.all[i]
	}
	o.wg.Go(o.plan)
	for range readers {
		o.wg.Go(o.read)
	}
	o.wg.Go(o.write)
	return o
}

// take returns a free segment, with memory. full is called, once, if there is none and the caller has to wait.
func (o *output) take(full func()) (*segment, error) {
	var s *segment
	select {
	case s = <-o.free:
	default:
		full()
		o.stats.Waits.Add(1)
		select {
		case s = <-o.free:
		case <-o.ctx.Done():
			return nil, context.Cause(o.ctx)
		}
	}
	s.grow(o.data.pool)
	return s, nil
}

// send hands a segment on. Neither channel is ever full.
func (o *output) send(s *segment) {
	if len(s.fills) == 0 {
		s.filled <- nil
	} else {
		o.work <- s
	}
	o.order <- s
}

// plan cuts the segments into runs, in order, so that the readers are always at those that are written next.
func (o *output) plan() {
	for s := range o.work {
		s.plan()
		s.left.Store(int32(len(s.runs)))
		for i := range s.runs {
			o.runs <- &s.runs[i]
		}
	}
	close(o.runs)
}

// read reads runs; who reads a segment's last one hands it on.
func (o *output) read() {
	for r := range o.runs {
		s := r.seg
		if o.ctx.Err() != nil {
			s.failed(0, context.Cause(o.ctx))
		} else if at, err := o.data.run(o.ctx, r); err != nil {
			s.failed(at, err)
		}
		if s.left.Add(-1) == 0 {
			s.filled <- s.err
		}
	}
}

// write writes the segments in order. After an error it only takes them.
func (o *output) write() {
	for s := range o.order {
		err := <-s.filled
		if err == nil && o.ctx.Err() == nil {
			if _, err = o.w.Write(s.buf); err != nil {
				err = fmt.Errorf("write the stream: %w", err)
			}
		}
		if err != nil {
			o.cancel(err)
		} else {
			o.stats.Bytes.Add(uint64(len(s.buf)))
		}
		s.reset()
		o.free <- s
	}
}

// finish waits until all is written and returns the first error; with err, which is the sender's own, what has not been
// written yet is dropped. Then no segment may be used any more, be it in the sender's hand.
func (o *output) finish(err error) error {
	if err != nil {
		o.cancel(err)
	}
	close(o.work)
	close(o.order)
	o.wg.Wait()
	for _, s := range o.all {
		if s.mem != nil {
			o.data.pool.Put(s.mem)
		}
		s.mem = nil
		s.reset()
		spareSegments.Put(s)
	}
	err = context.Cause(o.ctx)
	o.cancel(nil)
	return err
}
