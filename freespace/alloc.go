package freespace

import (
	"fmt"
	"math/bits"
)

// Alloc takes n bytes at an address that is a multiple of align: the first fit
// from hint on, and failing that the first fit of all. A hint outside the block
// group (0 always serves) means from its start. ok is false when there is no
// such range. n is a multiple of the sector size, align a power of two (0 and
// anything up to the sector size: any sector); else Alloc panics, since only a
// mistake of the engine can bring that about.
//
// O(log n) when align is at most the sector size, or when all free ranges begin
// at multiples of align, as they do in a metadata group of nodes of that size;
// else each run that is long enough and badly placed costs another O(log n).
func (x *Index) Alloc(n, align, hint uint64) (start uint64, ok bool) {
	x.checkSize("Alloc", n)
	if align != 0 && bits.OnesCount64(align) != 1 {
		panic(fmt.Sprintf("freespace: Alloc: alignment %d is not a power of two", align))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	want, from := n>>x.shift, x.hint(hint)
	s, ok := x.firstFit(want, align, from)
	if !ok && from > 0 {
		s, ok = x.firstFit(want, align, 0)
	}
	if !ok {
		return 0, false
	}
	x.take(s, s+want)
	return x.start + s<<x.shift, true
}

// AllocUpTo takes one contiguous range of at least least and at most most
// bytes: the first from hint on (then the first of all) that gives most, else
// the largest there is. ok is false when even that is smaller than least. Both
// are multiples of the sector size, 0 < least <= most, else AllocUpTo panics.
// O(log n).
func (x *Index) AllocUpTo(least, most, hint uint64) (start, got uint64, ok bool) {
	x.checkSize("AllocUpTo", least)
	x.checkSize("AllocUpTo", most)
	if least > most {
		panic(fmt.Sprintf("freespace: AllocUpTo: least %d > most %d", least, most))
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	largest := x.tree.nodes[1].longest
	if largest < least>>x.shift {
		return 0, 0, false
	}
	want, from := min(most>>x.shift, largest), x.hint(hint)
	s, ok := x.tree.find(want, from)
	if !ok {
		s, _ = x.tree.find(want, 0) // there is one: want <= largest
	}
	x.take(s, s+want)
	return x.start + s<<x.shift, want << x.shift, true
}

func (x *Index) checkSize(what string, n uint64) {
	if n == 0 || n&(x.sectorsize-1) != 0 {
		panic(fmt.Sprintf("freespace: %s: size %d is not a multiple of the sector size %d", what, n, x.sectorsize))
	}
}

// hint returns the first whole sector at or after address hint.
func (x *Index) hint(hint uint64) uint64 {
	if hint <= x.start || hint-x.start >= x.length {
		return 0
	}
	return (hint - x.start + x.sectorsize - 1) >> x.shift
}

// firstFit returns the first sector >= from at which want sectors are free and
// whose address is a multiple of align. Called with mu held.
func (x *Index) firstFit(want, align, from uint64) (uint64, bool) {
	for {
		s, ok := x.tree.find(want, from)
		if !ok || align <= x.sectorsize && x.start&(x.sectorsize-1) == 0 {
			return s, ok
		}
		addr := x.start + s<<x.shift
		skip := -addr & (max(align, 1) - 1)
		if skip == 0 {
			return s, true
		}
		// The run is long enough; is it once its front has been cut off?
		end, pad := x.tree.runEnd(s), (skip+x.sectorsize-1)>>x.shift
		if skip&(x.sectorsize-1) == 0 && s+pad+want <= end {
			return s + pad, true
		}
		from = end
	}
}
