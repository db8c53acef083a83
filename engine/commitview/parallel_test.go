package commitview_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// TestParallelReaders lets readers under clone-root and epoch loose while snapshots of what they read, changes and
// deletions are committed. Under the race detector it is the test that no reader meets a writer.
func TestParallelReaders(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	rng := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t, 256<<20, engine.OpenOptions{MaxHeld: 2 << 20})
	tree, id := l.subvolume("source")
	l.churn(tree, rng, 300)
	l.commit()
	readonly := l.snapshot(id, "readonly", true)
	want := l.live(readonly)

	var counters commitview.Counters
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i, p := range []commitview.Policy{commitview.CloneRoot, commitview.Epoch, commitview.CloneRoot, commitview.Epoch} {
		wg.Go(func() {
			if err := l.reader(p, readonly, want, &counters, rand.New(rand.NewPCG(seed, uint64(i)+1)), stop); err != nil {
				t.Errorf("reader %d under %v: %v", i, p, err)
			}
		})
	}
	rounds := 40
	if raceDetector {
		rounds = 15
	}
	for i := range rounds {
		name := fmt.Sprintf("snap-%d", i)
		snap := l.snapshot(readonly, name, true)
		l.churn(tree, rng, 30)
		if i%3 == 0 {
			l.must(l.f.Subvols().Delete(l.ctx, snap))
			l.must(l.f.Subvols().Clean(l.ctx))
		}
		if _, err := tree.Create(l.ctx, inode.RootDir, name, inode.Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	for _, s := range counters.Stats() {
		if s.Mismatches != 0 || s.Outcomes[commitview.Corrupt] != 0 || s.Policy != commitview.Shared && s.Outcomes[commitview.Found] == 0 {
			t.Errorf("%+v", s)
		}
	}
	if st := l.f.DB().Pin().Stats(); st.Held() != 0 || st.Tickets != 0 || st.Late != 0 {
		t.Errorf("no reader is left, and there is still %v, %d late", st, st.Late)
	}
}

// reader searches and scans until stop, comparing with want.
func (l *lab) reader(p commitview.Policy, id ondisk.TreeID, want []kv, c *commitview.Counters, rng *rand.Rand, stop <-chan struct{}) error {
	v, err := commitview.Open(l.ctx, l.f.DB(), id, commitview.Options{Policy: p, Counters: c, Name: "reader"})
	if err != nil {
		return err
	}
	defer v.Close()
	for n := 0; ; n++ {
		select {
		case <-stop:
			if n > 100 {
				return nil
			}
		default:
		}
		if n%200 == 199 {
			var got []kv
			err := v.ScanOn(l.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
				got = append(got, kv{k, string(item)})
				return true, nil
			})
			if err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("scan showed %d items, expect %d: %w", len(got), len(want), err)
			}
		}
		i := rng.IntN(len(want))
		item, err := v.Get(l.ctx, want[i].key)
		if err == nil && string(item) != want[i].item {
			return fmt.Errorf("wrong item of %v", want[i].key)
		}
		if err != nil && !errors.Is(err, fserr.ErrViewExpired) {
			return err
		}
		if n%16 == 0 || err != nil {
			if _, err := v.Quiesce(l.ctx); err != nil {
				return err
			}
		}
	}
}
