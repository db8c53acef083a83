package disk

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// batchOf writes blocks of 4096 bytes, block i full of i+1.
func batchOf(dev Device, n int) []Request {
	reqs := make([]Request, n)
	for i := range reqs {
		reqs[i] = Request{Dev: dev, Op: OpWrite, Off: int64(i) * 4096, Buf: bytes.Repeat([]byte{byte(i + 1)}, 4096)}
	}
	return reqs
}

// runners are the two ways to carry out a batch.
func runners(t *testing.T, depth int) map[string]func(context.Context, []Request) error {
	q := NewQueue(depth)
	t.Cleanup(q.Close)
	return map[string]func(context.Context, []Request) error{
		"queue": q.Do,
		"do":    func(ctx context.Context, reqs []Request) error { return Do(ctx, depth, reqs) },
	}
}

func TestBatch(t *testing.T) {
	for _, depth := range []int{1, 2, 8} {
		for name, do := range runners(t, depth) {
			for _, n := range []int{0, 1, 2, 50} {
				m := NewMem("m", 1<<20)
				if err := do(bg, batchOf(m, n)); err != nil {
					t.Fatal(name, depth, n, err)
				}
				reads := batchOf(m, n)
				for i := range reads {
					reads[i].Op, reads[i].Buf = OpRead, make([]byte, 4096)
				}
				if err := do(bg, reads); err != nil {
					t.Fatal(name, depth, n, err)
				}
				for i, want := range batchOf(m, n) {
					if !bytes.Equal(reads[i].Buf, want.Buf) {
						t.Errorf("%s, depth %d, %d requests: request %d differs", name, depth, n, i)
					}
				}
				rest := []Request{{Dev: m, Op: OpDiscard, Off: 0, Len: 1 << 20}, {Dev: m, Op: OpFlush}}
				if err := do(bg, rest); err != nil {
					t.Error(err)
				}
				if st := m.Stats(); st.DiscardBytes != 1<<20 || st.Flushes != 1 || m.Allocated() != 0 {
					t.Errorf("%+v", st)
				}
			}
		}
	}
}

func TestBatchErrors(t *testing.T) {
	for name, do := range runners(t, 4) {
		t.Run(name, func(t *testing.T) {
			m := NewMem("m", 1<<20)
			f := NewFaults(m, 1)
			f.SetRules(Rule{Off: 7 * 4096, Len: 4096, Err: syscall.EIO}, Rule{Off: 5 * 4096, Len: 4096, Err: syscall.ENOSPC})
			reqs := batchOf(f, 20)
			if err := do(bg, reqs); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("first error: %v", err)
			}
			if m.Stats().Writes != 18 || !errors.Is(reqs[7].Err, syscall.EIO) || reqs[8].Err != nil {
				t.Errorf("%d writes, request 7: %v, 8: %v", m.Stats().Writes, reqs[7].Err, reqs[8].Err)
			}
			ctx, cancel := context.WithCancel(bg)
			cancel()
			if err := do(ctx, batchOf(m, 20)); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
}

// gauge notes how many writes are under way at once.
type gauge struct {
	Device
	now, most atomic.Int64
}

func (g *gauge) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := g.now.Add(1)
	defer g.now.Add(-1)
	for m := g.most.Load(); n > m && !g.most.CompareAndSwap(m, n); m = g.most.Load() {
	}
	return g.Device.WriteAt(ctx, p, off)
}

// 32 writes of 1 ms each at depth 4 take 8 ms of the bubble's time, with 4 under way.
func TestDepth(t *testing.T) {
	for _, persistent := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f := NewFaults(NewMem("m", 1<<20), 1)
			f.SetRules(Rule{Latency: time.Millisecond})
			g := &gauge{Device: f}
			do := func(reqs []Request) error { return Do(bg, 4, reqs) }
			if persistent {
				q := NewQueue(4)
				defer q.Close()
				do = func(reqs []Request) error { return q.Do(bg, reqs) }
			}
			start := time.Now()
			if err := do(batchOf(g, 32)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != 8*time.Millisecond || g.most.Load() != 4 {
				t.Errorf("persistent %v: %v, %d under way", persistent, took, g.most.Load())
			}
		})
	}
}

// Many callers share a queue.
func TestQueueShared(t *testing.T) {
	q := NewQueue(4)
	defer q.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				m := NewMem("m", 64<<10)
				if err := q.Do(bg, batchOf(m, 16)); err != nil || m.Stats().Writes != 16 {
					t.Errorf("%v, %d writes", err, m.Stats().Writes)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkQueue(b *testing.B) {
	f := create(b, 256<<20, Options{})
	q := NewQueue(16)
	defer q.Close()
	pool := NewPool()
	defer pool.Close()
	reqs := make([]Request, 64)
	for i := range reqs {
		reqs[i] = Request{Dev: f, Op: OpWrite, Buf: pool.Get(16 << 10), Off: int64(i) * 4 << 20}
		defer pool.Put(reqs[i].Buf)
	}
	b.SetBytes(64 * 16 << 10)
	for b.Loop() {
		if err := q.Do(bg, reqs); err != nil {
			b.Fatal(err)
		}
	}
}
