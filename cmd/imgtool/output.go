package main

import (
	"context"
	"io"
	"sync"
)

// impatient is an output whose writes end when the context does, although the reader of the pipe may not read. The write
// that is left behind ends with the program; what it was given must stay as it is until then.
type impatient struct {
	ctx context.Context
	out io.Writer
}

func (w *impatient) Write(p []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	if w.ctx.Done() == nil {
		return w.out.Write(p)
	}
	done := make(chan result, 1)
	go func() {
		n, err := w.out.Write(p)
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
}

// stdout is standard output for all commands. It is impatient, writes copies, because its users fill their buffers anew
// while a write may have been left behind, and fails for ever once it has failed: a line that nobody checked is missing
// from the output as any other.
type stdout struct {
	impatient
	mu  sync.Mutex // protects what follows, and puts the writes in order
	buf []byte
	err error
}

func newStdout(ctx context.Context, out io.Writer) *stdout {
	return &stdout{impatient: impatient{ctx, out}}
}

func (s *stdout) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.buf = append(s.buf[:0], p...)
	n, s.err = s.impatient.Write(s.buf)
	return n, s.err
}

// failed is the first error of a write.
func (s *stdout) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
