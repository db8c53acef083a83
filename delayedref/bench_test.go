package delayedref

import (
	"context"
	"math/rand/v2"
	"testing"
)

// BenchmarkQueue queues the drop of an old block and the new one in its place,
// as each COW does, 100,000 pairs to a transaction, at random addresses; and runs
// them. One iteration is one change from queue to applier.
func BenchmarkQueue(b *testing.B) {
	const pairs = 100_000
	old := rand.New(rand.NewPCG(1, 1)).Perm(pairs)
	ref := Ref{Kind: TreeBlock, Root: 5}
	nothing := applierFunc(func(h *Head) error { return nil })
	s, i := NewSet(), 0
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if i%2 == 0 {
			err = s.Drop(uint64(old[i/2])<<14, 1<<14, ref, DropOptions{Born: 5})
		} else {
			err = s.Add(1<<40+uint64(i)<<14, 1<<14, ref, AddOptions{New: true})
		}
		if err != nil {
			b.Fatal(err)
		}
		if i++; i == 2*pairs {
			if _, err := s.Run(context.Background(), nothing, -1); err != nil {
				b.Fatal(err)
			}
			s, i = NewSet(), 0
		}
	}
}

// BenchmarkCancel allocates and frees a block within the transaction.
func BenchmarkCancel(b *testing.B) {
	s := NewSet()
	ref := Ref{Kind: TreeBlock, Root: 5}
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Add(1<<30, 1<<14, ref, AddOptions{New: true})
		_ = s.Drop(1<<30, 1<<14, ref, DropOptions{})
		if !s.CancelNew(1 << 30) {
			b.Fatal("not cancelled")
		}
	}
}
