package delayedref

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestConcurrent has writers change references and runners apply them, all at
// once; the applier queues changes of its own, as an extent tree does. At the
// end every reference is on disk, and no extent was ever applied by two at once.
func TestConcurrent(t *testing.T) {
	const extents, writers, runners, rounds = 64, 3, 2, 3000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s := NewSet()
	var disk, truth [extents]atomic.Int64
	var inside [extents]atomic.Int32
	var echoes atomic.Int64
	change := func(i uint64, ref Ref, add bool) {
		var err error
		if add {
			truth[i].Add(1)
			err = s.Add(i<<14, 1<<14, ref, AddOptions{})
		} else {
			truth[i].Add(-1)
			err = s.Drop(i<<14, 1<<14, ref, DropOptions{})
		}
		if err != nil {
			t.Error(err)
		}
	}
	apply := applierFunc(func(h *Head) error {
		i := h.Bytenr >> 14
		if inside[i].Add(1) != 1 {
			t.Errorf("extent %d is applied twice at once", i)
		}
		defer inside[i].Add(-1)
		n := 0
		for _, r := range h.Refs() {
			n += r.Count
		}
		if n != h.RefMod {
			t.Errorf("%v: counts sum to %d", h, n)
		}
		if echoes.Add(1) < 5000 {
			change((i*7+1)%extents, Ref{Kind: TreeBlock, Root: 2}, n%2 == 0)
			change(i, Ref{Kind: TreeBlock, Root: 9}, true) // behind itself
		}
		disk[i].Add(int64(n))
		return nil
	})
	stop := make(chan struct{})
	var running, writing sync.WaitGroup
	for range runners {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.Run(context.Background(), apply, 10); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for g := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for range rounds {
				i := r.Uint64N(extents)
				change(i, Ref{Kind: TreeBlock, Root: r.Uint64N(3)}, r.IntN(2) == 0)
				if st := s.Pending(r.Uint64N(extents) << 14); st.Busy {
					if err := st.Wait(context.Background()); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	running.Wait()
	// Two run until it is empty: each also waits for what the other applies.
	for range runners {
		running.Go(func() {
			if _, err := s.Run(context.Background(), apply, -1); err != nil {
				t.Error(err)
			}
			if !s.Empty() {
				t.Error("returned while there was work")
			}
		})
	}
	running.Wait()
	for i := range disk {
		if disk[i].Load() != truth[i].Load() {
			t.Errorf("extent %d: %d on disk, truth %d", i, disk[i].Load(), truth[i].Load())
		}
	}
	st := s.Stats()
	if st.Heads != 0 || st.Refs != 0 || st.Merged == 0 {
		t.Errorf("at the end: %+v", st)
	}
}

// TestRunWaitsForOthers: a runner that is to go on until the set is empty does
// not return while another's Apply may still queue something; it takes that, and
// a context ends its wait.
func TestRunWaitsForOthers(t *testing.T) {
	s := NewSet()
	must(t, s.Drop(1<<14, 1<<14, fsTree, DropOptions{}))
	inApply, proceed := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		_, err := s.Run(context.Background(), applierFunc(func(h *Head) error {
			close(inApply)
			<-proceed
			return nil
		}), 1)
		first <- err
	}()
	<-inApply
	waited := make(chan error)
	// wait returns when a runner waits for the others, or has not.
	wait := func() {
		for {
			select {
			case err := <-waited:
				t.Fatalf("ended with %v while another was at work", err)
			default:
			}
			s.mu.Lock()
			waits := s.changed != nil
			s.mu.Unlock()
			if waits {
				return
			}
			runtime.Gosched()
		}
	}
	stop, cancel := context.WithCancelCause(t.Context())
	go func() {
		_, err := s.Run(stop, nil, -1)
		waited <- err
	}()
	wait()
	cancel(errFault)
	if err := <-waited; !errors.Is(err, errFault) {
		t.Errorf("cancelled: %v", err)
	}
	s.mu.Lock()
	s.wake() // so that the next wait() sees the next runner
	s.mu.Unlock()
	var took []uint64
	go func() {
		_, err := s.Run(context.Background(), applierFunc(func(h *Head) error {
			took = append(took, h.Bytenr>>14)
			close(proceed) // only now may the first end
			return nil
		}), -1)
		waited <- err
	}()
	wait()
	must(t, s.Drop(2<<14, 1<<14, fsTree, DropOptions{}))
	must(t, <-waited)
	must(t, <-first)
	if len(took) != 1 || took[0] != 2 || !s.Empty() {
		t.Errorf("took %v", took)
	}
}
