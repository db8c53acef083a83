package btree

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"imgtool/engine/ondisk"
)

// TestParallel lets goroutines insert, change, delete and scan two trees that share most of their blocks, each writing
// in keys of its own, while blocks are written out early. It compares the result with what each worker knows, and all
// references.
func TestParallel(t *testing.T) {
	const workers, rounds = 3, 800
	w := newWorld(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	base := w.tree(ondisk.FSTree)
	start := make([]map[ondisk.Key]byte, workers)
	for i := range start {
		start[i] = map[ondisk.Key]byte{}
		if err := parallelWorker(w, base, start[i], rand.New(rand.NewPCG(seed, uint64(i))), i, workers, rounds); err != nil {
			t.Fatal(err)
		}
	}
	trees := []*Tree{base, w.snapshot(base, 300)}
	w.commit()

	models := make([][]map[ondisk.Key]byte, len(trees))
	stop, cancel := context.WithCancel(ctx)
	var writers, others sync.WaitGroup
	for j, tree := range trees {
		for i := range workers {
			mine := maps.Clone(start[i])
			models[j] = append(models[j], mine)
			writers.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(100*j+i+10)))
				if err := parallelWorker(w, tree, mine, rng, i, workers, rounds); err != nil {
					t.Errorf("tree %d, worker %d: %v", tree.ID(), i, err)
				}
			})
		}
		others.Go(func() { scanUntil(t, stop, tree) })
	}
	others.Go(func() { writeUntil(t, stop, w) })
	writers.Wait()
	cancel()
	others.Wait()
	w.checkAll()
	for j, tree := range trees {
		n := 0
		for _, m := range models[j] {
			n += len(m)
			for k, v := range m {
				if d, err := tree.Get(ctx, k); err != nil || d[0] != v {
					t.Fatalf("tree %d, %v: %v", tree.ID(), k, err)
				}
			}
		}
		if s, err := tree.CheckShape(ctx); err != nil || s.Items != n {
			t.Fatalf("tree %d: %d items, expect %d; %v", tree.ID(), s.Items, n, err)
		}
	}
	w.done()
}

// writeUntil writes dirty blocks early, so that they have to be copied again (I4).
func writeUntil(t *testing.T, stop context.Context, w *world) {
	for stop.Err() == nil {
		if _, err := w.cache.WriteSome(ctx, ondisk.Generation(w.gen), 3); err != nil {
			t.Error(err)
			return
		}
	}
}

func parallelWorker(w *world, t *Tree, m map[ondisk.Key]byte, rng *rand.Rand, me, workers, rounds int) error {
	for range rounds {
		k := ondisk.Key{ObjectID: ondisk.ObjectID(rng.IntN(400)), Type: 1, Offset: uint64(rng.IntN(4)*workers + me)}
		v := byte(rng.Uint32())
		d := append([]byte{v}, make([]byte, rng.IntN(200))...)
		_, have := m[k]
		var err error
		switch op := rng.IntN(20); {
		case op < 8:
			err = t.Put(ctx, w.gen, k, d)
			m[k] = v
		case op < 11 && have:
			err = t.Delete(ctx, w.gen, k)
			delete(m, k)
		case op < 14 && !have:
			err = t.Insert(ctx, w.gen, k, d)
			m[k] = v
		case op < 16:
			err = t.Modify(ctx, w.gen, k, func([]byte) ([]byte, error) { return d, nil })
			m[k] = v
		case op == 16:
			to := k
			to.ObjectID += 20
			err = t.DeleteRange(ctx, w.gen, k, to, func(k ondisk.Key, _ []byte) (bool, bool, error) {
				mine := int(k.Offset)%workers == me
				if mine {
					delete(m, k)
				}
				return mine, true, nil
			})
		default:
			var got []byte
			got, err = t.Get(ctx, k)
			if have != (err == nil) || have && got[0] != m[k] {
				return fmt.Errorf("Get %v: %v", k, err)
			}
			err = nil
		}
		if err != nil {
			return fmt.Errorf("%v: %w", k, err)
		}
	}
	return nil
}

// scanUntil walks the tree up and down; keys must come in order, whatever happens meanwhile.
func scanUntil(t *testing.T, stop context.Context, tree *Tree) {
	for stop.Err() == nil {
		last := ondisk.MinKey
		if err := tree.Scan(ctx, last, ondisk.MaxKey, func(k ondisk.Key, _ []byte) (bool, error) {
			if k.Less(last) {
				return false, fmt.Errorf("%v after %v", k, last)
			}
			last = k
			return true, nil
		}); err != nil {
			t.Error(err)
			return
		}
		last = ondisk.MaxKey
		if err := tree.ScanRev(ctx, ondisk.MinKey, last, func(k ondisk.Key, _ []byte) (bool, error) {
			if last.Less(k) {
				return false, fmt.Errorf("%v before %v", k, last)
			}
			last = k
			return true, nil
		}); err != nil {
			t.Error(err)
			return
		}
	}
}
