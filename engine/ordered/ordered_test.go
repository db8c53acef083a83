package ordered

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// memory is a Writer into a byte slice; it can be held up and made to fail.
type memory struct {
	mu      sync.Mutex
	b       []byte
	batches int
	err     error
	gate    chan struct{} // nil: open
}

func (m *memory) WriteBatch(_ context.Context, ws []volume.Write) error {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.batches++
	for i, w := range ws {
		if i > 0 && w.Addr < ws[i-1].Addr {
			return errors.New("batch is not sorted")
		}
		copy(m.b[w.Addr:], w.Buf)
	}
	return m.err
}

func newQueue(t *testing.T, m *memory, o Options) *Queue {
	o.Writer, o.Pool = m, disk.NewPool()
	q := New(o)
	t.Cleanup(func() {
		q.Close()
		if err := o.Pool.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// TestParallelDrainAndWait writes from several goroutines and compares what the devices have after Wait and after Drain.
func TestParallelDrainAndWait(t *testing.T) {
	const piece, each, writers = 4096, 200, 4
	m := &memory{b: make([]byte, piece*each*writers)}
	q := newQueue(t, m, Options{Limit: 64 << 10})
	want := make([]byte, len(m.b))
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				at := (w*each + i) * piece
				if err := q.Write(t.Context(), ondisk.Logical(at), want[at:at+piece]); err != nil {
					t.Error(err)
				}
				if i%50 != 0 {
					continue
				}
				if err := q.Wait(t.Context(), ondisk.Logical(at), piece); err != nil {
					t.Error(err)
				}
				m.mu.Lock()
				if !bytes.Equal(m.b[at:at+piece], want[at:at+piece]) {
					t.Errorf("piece %d of writer %d is not there after Wait", i, w)
				}
				m.mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := q.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !bytes.Equal(m.b, want) {
		t.Error("not everything is there after Drain")
	}
	if m.batches == 0 || m.batches > each*writers {
		t.Errorf("%d batches", m.batches)
	}
}

// TestCopies shows that the caller may use its buffer again at once.
func TestCopies(t *testing.T) {
	m := &memory{b: make([]byte, 8192), gate: make(chan struct{})}
	q := newQueue(t, m, Options{})
	buf := bytes.Repeat([]byte{1}, 4096)
	if err := q.Write(t.Context(), 0, buf); err != nil {
		t.Fatal(err)
	}
	clear(buf)
	if err := q.Wait(t.Context(), 4096, 4096); err != nil {
		t.Fatal(err) // another range: does not wait for the gate
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.Wait(cancelled, 4095, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a wait for data on its way: %v", err)
	}
	close(m.gate)
	if err := q.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.b[0] != 1 || m.b[4095] != 1 || m.b[4096] != 0 {
		t.Error("other data was written than was given")
	}
}

// TestFailure keeps the first error for everybody.
func TestFailure(t *testing.T) {
	broken := errors.New("broken")
	m := &memory{b: make([]byte, 8192), err: broken}
	told := make(chan error, 2)
	q := newQueue(t, m, Options{Failed: func(err error) { told <- err }})
	if err := q.Write(t.Context(), 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := q.Drain(t.Context()); !errors.Is(err, broken) {
		t.Errorf("drain: %v", err)
	}
	if err := <-told; !errors.Is(err, broken) {
		t.Errorf("told %v", err)
	}
	if err := q.Write(t.Context(), 4096, make([]byte, 4096)); !errors.Is(err, broken) {
		t.Errorf("write: %v", err)
	}
	if err := q.Wait(t.Context(), 4000, 1); !errors.Is(err, broken) {
		t.Errorf("wait for what was lost: %v", err)
	}
	if err := q.Wait(t.Context(), 4096, 4096); err != nil {
		t.Errorf("wait for what was never queued: %v", err)
	}
	if len(told) != 0 {
		t.Error("the failure was told twice")
	}
}

// TestToldFirst: nobody sees an error before the owner has been told, so whoever meets one finds the file system read-only.
func TestToldFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		var q *Queue
		var seen atomic.Int32
		pool := disk.NewPool()
		q = New(Options{Writer: &memory{b: make([]byte, 8192), err: broken}, Pool: pool, Failed: func(error) {
			synctest.Wait() // all who can go on have done so
			if n := seen.Load(); n != 0 {
				t.Errorf("%d have seen the error, and the owner was not told", n)
			}
		}})
		if err := q.Write(t.Context(), 0, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, call := range []func() error{
			func() error { return q.Drain(t.Context()) },
			func() error { return q.Wait(t.Context(), 0, 4096) },
		} {
			wg.Go(func() {
				if err := call(); !errors.Is(err, broken) {
					t.Errorf("the error was lost: %v", err)
				}
				seen.Add(1)
			})
		}
		wg.Wait()
		q.Close()
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestCloseBesideTheGoroutine closes a queue whose goroutine has told of its last batch but not ended yet.
func TestCloseBesideTheGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		pool := disk.NewPool()
		q := New(Options{Writer: &memory{b: make([]byte, 4096), err: errors.New("broken")}, Pool: pool, Failed: func(error) { <-told }})
		if err := q.Write(t.Context(), 0, make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		go func() {
			synctest.Wait() // until Close waits
			close(told)
		}()
		q.Close()
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
	})
}
