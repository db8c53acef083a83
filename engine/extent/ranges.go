package extent

import (
	"cmp"
	"slices"
)

// mergeRanges sorts ranges and joins those that touch or overlap.
func mergeRanges(rs []addrRange) []addrRange {
	slices.SortFunc(rs, func(a, b addrRange) int { return cmp.Compare(a.start, b.start) })
	out := rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && r.start <= out[n-1].start+out[n-1].n {
			out[n-1].n = max(out[n-1].n, r.start+r.n-out[n-1].start)
			continue
		}
		out = append(out, r)
	}
	return out
}

// change is a range that becomes free or is taken.
type change struct {
	addrRange
	free bool
}

// coalesce turns notes (start -> bytes, negative: taken) into changes, ascending, neighbours of one sign joined.
func coalesce(notes map[uint64]int64) []change {
	out := make([]change, 0, len(notes))
	for at, n := range notes {
		c := change{addrRange{at, uint64(n)}, true}
		if n < 0 {
			c = change{addrRange{at, uint64(-n)}, false}
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b change) int { return cmp.Compare(a.start, b.start) })
	merged := out[:0]
	for _, c := range out {
		if n := len(merged); n > 0 && merged[n-1].free == c.free && merged[n-1].start+merged[n-1].n == c.start {
			merged[n-1].n += c.n
			continue
		}
		merged = append(merged, c)
	}
	return merged
}
