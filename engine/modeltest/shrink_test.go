package modeltest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// clientOp is an operation with the client that does it.
type clientOp struct {
	client int
	op     op
}

// shrink cuts a workload that fails down to few operations that still do, in whatever way, and prints them. It tries
// lockstep first, where a failure comes again or never does; a failure of clients side by side is tried a few times.
func shrink(ctx context.Context, seed uint64, cfg config, ops [][]op, limit time.Duration) string {
	deadline := time.Now().Add(limit)
	var list []clientOp
	for i := range ops {
		for _, o := range ops[i] {
			list = append(list, clientOp{i, o})
		}
	}
	var last error
	fails := func(list []clientOp, cfg config, times int) bool {
		for range times {
			if time.Now().After(deadline) {
				return false
			}
			ops := make([][]op, cfg.clients)
			for _, o := range list {
				ops[o.client] = append(ops[o.client], o.op)
			}
			if _, err := runOps(ctx, seed, cfg, ops, new(totals)); err != nil {
				last = err
				return true
			}
		}
		return false
	}
	times := 3
	inTurn := cfg
	inTurn.lockstep = true
	if fails(list, inTurn, 1) {
		cfg, times = inTurn, 1
	} else if !fails(list, cfg, times) {
		return "it does not fail again"
	}
	list = fewest(list, func(part []clientOp) bool { return fails(part, cfg, times) })
	var out strings.Builder
	fmt.Fprintf(&out, "%v\n%d operations, lockstep %v:\n", last, len(list), cfg.lockstep)
	for _, o := range list {
		fmt.Fprintf(&out, "  client %d: %v\n", o.client, o.op)
	}
	return out.String()
}

// fewest returns a part of list, in order, that still fails, by leaving out pieces of half the list at first and of one
// element in the end (delta debugging).
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
