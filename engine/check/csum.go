package check

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// joinCsums sorts the checksummed ranges, reports those that overlap, and joins neighbours.
func (c *checker) joinCsums() {
	c.csums = c.joinSpans(c.csums, func(s span, reach uint64) {
		c.found(Finding{ID: CsumOverlap, Root: ondisk.CsumTree, Extent: ondisk.Logical(s.start)}, "checksums of [%d, %d) are there twice, up to %d", s.start, s.end, reach)
	})
}

func (c *checker) joinSpans(list []span, overlap func(s span, reach uint64)) []span {
	slices.SortFunc(list, func(a, b span) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	out := list[:0]
	for _, s := range list {
		if n := len(out) - 1; n >= 0 && s.start <= out[n].end {
			if s.start < out[n].end {
				overlap(s, out[n].end)
			}
			out[n].end = max(out[n].end, s.end)
			continue
		}
		out = append(out, s)
	}
	return slices.Clip(slices.Clone(out))
}

// covered returns how many bytes of a range have checksums.
func (c *checker) covered(start, length uint64) uint64 {
	end := start + length
	i, _ := slices.BinarySearchFunc(c.csums, start, func(s span, v uint64) int {
		if s.end <= v {
			return -1
		}
		return 1
	})
	var n uint64
	for ; i < len(c.csums) && c.csums[i].start < end; i++ {
		n += min(end, c.csums[i].end) - max(start, c.csums[i].start)
	}
	return n
}

// csumsWithoutExtent looks for checksums of what no data extent holds.
func (c *checker) csumsWithoutExtent() {
	if c.lost.in(ondisk.ExtentTree) {
		return
	}
	i := 0
	for _, s := range c.csums {
		for at := s.start; at < s.end; {
			for i < len(c.extents) && (c.extents[i].addr+c.extents[i].length <= at || c.extents[i].tree) {
				i++
			}
			next := s.end
			if i < len(c.extents) {
				if c.extents[i].addr <= at {
					at = c.extents[i].addr + c.extents[i].length
					continue
				}
				next = min(next, c.extents[i].addr)
			}
			c.found(Finding{ID: CsumNoExtent, Root: ondisk.CsumTree, Extent: ondisk.Logical(at)}, "checksums of [%d, %d), where no data extent lies", at, next)
			at = next
		}
	}
}
