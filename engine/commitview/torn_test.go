package commitview_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// TestTorn shows a reader under shared blocks with anything in them, as it may meet when they change under its eyes:
// every search ends, none panics, all references are given back (Close of the file system would list them).
func TestTorn(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 0))
	l := newLab(t, 256<<20, engine.OpenOptions{})
	tree, id := l.subvolume("source")
	l.churn(tree, rng, 300)
	l.commit()
	readonly := l.snapshot(id, "readonly", true)
	want := l.live(readonly)
	v := l.open(readonly, commitview.Options{Policy: commitview.Shared, AllowUnsafe: true})
	defer v.Close()

	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Minute) // only so that a search without an end ends, too
	defer cancel()
	rounds := 3000
	if raceDetector {
		rounds = 300
	}
	for range rounds {
		key := want[rng.IntN(len(want))].key
		restore := l.tear(readonly, key, rng)
		r, err := v.Search(ctx, key)
		if err == nil && r.Mismatches > 0 {
			t.Fatalf("%+v without an error", r)
		}
		if r.Outcome == commitview.Failed || r.Outcome == commitview.Expired {
			t.Fatalf("%+v, %v", r, err)
		}
		if _, _, _, err := v.SeekLE(ctx, key); ctx.Err() != nil {
			t.Fatal(err)
		}
		n := 0
		err = v.Scan(ctx, key, ondisk.MaxKey, func(ondisk.Key, []byte) (bool, error) {
			n++
			return n < 2000, nil
		})
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		restore()
	}
	if got := l.items(v); len(got) != len(want) {
		t.Errorf("%d items when all is as it was, expect %d", len(got), len(want))
	}
	s := v.Counters().Stats()[commitview.Shared]
	for _, o := range []commitview.Outcome{commitview.Found, commitview.NotFound, commitview.WrongItem, commitview.Corrupt} {
		if s.Outcomes[o] == 0 {
			t.Errorf("no search ended as %q: %+v", o, s)
		}
	}
	if err := v.View(ctx, want[0].key, func([]byte) error { return errMine }); !errors.Is(err, errMine) {
		t.Errorf("the caller's own error came back as %v", err)
	}
	defer func() {
		if p := recover(); p != any(errMine) {
			t.Errorf("the caller's own panic came back as %v", p)
		}
	}()
	_ = v.View(ctx, want[0].key, func([]byte) error { panic(errMine) })
}

var errMine = errors.New("the caller's own")

// tear spoils some bytes of a block on the path to key, in memory.
func (l *lab) tear(id ondisk.TreeID, key ondisk.Key, rng *rand.Rand) (restore func()) {
	l.Helper()
	tr, err := l.f.DB().Tree(l.ctx, id)
	l.must(err)
	b, err := tr.RootBuffer(l.ctx)
	l.must(err)
	if block := b.Block(); rng.IntN(2) == 0 && !block.IsLeaf() {
		slot, found := block.Search(key)
		if !found && slot > 0 {
			slot--
		}
		child := l.f.DB().Cache().Lookup(block.BlockPtr(slot))
		if child == nil {
			l.Fatalf("block %d is not in memory", block.BlockPtr(slot))
		}
		b.Release()
		b = child
	}
	block, saved := b.Block(), bytes.Clone(b.Block())
	h := block.Header()
	switch rng.IntN(7) {
	case 0:
		block.SetNrItems(int(rng.Uint32()))
	case 1:
		h.SetLevel(uint8(rng.IntN(256)))
	case 2:
		h.SetGeneration(ondisk.Generation(rng.Uint64N(100)))
	case 3: // a number somewhere in the first items
		binary.LittleEndian.PutUint32(block[ondisk.HeaderSize+rng.IntN(400):], rng.Uint32())
	case 4: // all of them
		for i := ondisk.HeaderSize; i < len(block); i++ {
			block[i] = byte(rng.Uint32())
		}
	case 5: // an empty block of another tree
		block.Init(b.Addr(), 99, 4711, uint8(rng.IntN(2)), ondisk.UUID{}, ondisk.UUID{})
	case 6: // some of another block of this tree
		copy(block[rng.IntN(len(block)):], saved[rng.IntN(len(saved)):])
	}
	return func() {
		copy(block, saved)
		b.Release()
	}
}

// TestFindings: under the policies that protect, a block that is not what was promised is an error, whatever it holds.
func TestFindings(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 0))
	l := newLab(t, 256<<20, engine.OpenOptions{})
	tree, id := l.subvolume("source")
	l.churn(tree, rng, 300)
	l.commit()
	readonly := l.snapshot(id, "readonly", true)
	key := ondisk.Key{ObjectID: 256, Type: ondisk.InodeItemKey}
	for _, p := range []commitview.Policy{commitview.CloneRoot, commitview.Epoch} {
		v := l.open(readonly, commitview.Options{Policy: p})
		tr, err := l.f.DB().Tree(l.ctx, readonly)
		l.must(err)
		b, err := tr.RootBuffer(l.ctx)
		l.must(err)
		was := b.Block().Header().Generation()
		b.Block().Header().SetGeneration(was + 1) // in memory only: the block is clean and nobody writes it
		r, err := v.Search(l.ctx, key)
		if !errors.Is(err, fserr.ErrCorrupt) || r.Outcome != commitview.Corrupt || r.Mismatches != 1 {
			t.Errorf("under %v: %+v, %v", p, r, err)
		}
		b.Block().Header().SetGeneration(was)
		b.Release()
		if r, err := v.Search(l.ctx, key); err != nil || r.Mismatches != 0 {
			t.Errorf("under %v, when all is as it was: %+v, %v", p, r, err)
		}
		if s := v.Counters().Stats()[p]; s.Mismatches != 1 || s.Outcomes[commitview.Corrupt] != 1 || s.Outcomes[commitview.Found] != 1 {
			t.Errorf("under %v: %+v", p, s)
		}
		v.Close()
	}
}
