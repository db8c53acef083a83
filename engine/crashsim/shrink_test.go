package crashsim

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// shrink cuts a failed simulation down to as few operations as still fail, in whatever way. It gives up after limit,
// with the best so far.
func shrink(ctx context.Context, f *failure, limit time.Duration) *failure {
	deadline := time.Now().Add(limit)
	f.sim.sample = nil // slow, and what fails there alone is not a case for shrinking
	_, best := f.sim.run(ctx)
	if best == nil {
		return f // it takes the kernel to see it
	}
	fewest(f.sim.ops, func(ops []op) bool {
		if time.Now().After(deadline) {
			return false
		}
		s := f.sim
		s.ops = ops
		_, again := s.run(ctx)
		if again != nil {
			best = again
		}
		return again != nil
	})
	return best
}

// fewest returns a part of list, in order, for which fails still holds and from which no single element can be left out
// (delta debugging: pieces are left out, of half the list at first and of one element in the end). fails(list) is taken
// to be true.
func fewest[T any](list []T, fails func([]T) bool) []T {
	for size := (len(list) + 1) / 2; size >= 1; {
		cut := false
		for at := 0; at < len(list); {
			end := min(at+size, len(list))
			if rest := slices.Concat(list[:at], list[end:]); fails(rest) {
				list, cut = rest, true
			} else {
				at = end
			}
		}
		switch {
		case size > 1:
			size = (size + 1) / 2
		case !cut:
			return list
		}
	}
	return list
}

// TestFewest checks the search itself: of lists that fail whenever they hold certain elements, in order, exactly these
// are left.
func TestFewest(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 2))
		list := make([]int, 1+rng.IntN(60))
		for i := range list {
			list[i] = i
		}
		guilty := slices.Sorted(slices.Values(rng.Perm(len(list))[:1+rng.IntN(min(4, len(list)))]))
		got := fewest(list, func(part []int) bool {
			for _, g := range guilty {
				if !slices.Contains(part, g) {
					return false
				}
			}
			return true
		})
		if !slices.Equal(got, guilty) {
			t.Fatalf("seed %d: %v is left of %d elements, want %v", seed, got, len(list), guilty)
		}
	}
}
