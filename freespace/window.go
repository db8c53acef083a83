package freespace

import (
	"math/bits"
	"slices"
)

const (
	windowBits  = 4096            // sectors in one window
	windowWords = windowBits / 64 // words of its bitmap

	// A window turns into a bitmap when it holds more extents than bitmapAt,
	// and back when it has fallen to extentsAt: the gap keeps a window that
	// hovers around the threshold from converting at every change. 64 extents
	// of 4 bytes are half of what a bitmap costs.
	bitmapAt  = 64
	extentsAt = 32
)

// extent is a run of free sectors in one window: [start, end).
type extent struct{ start, end uint16 }

// window is windowBits sectors (the last one of a group: fewer, the missing
// sectors never being free). Exactly one of its two forms is in use; the zero
// window is wholly used.
type window struct {
	extents []extent             // ascending, never touching; nil while bitmap is in use
	bitmap  *[windowWords]uint64 // 1: free
	runs    int                  // maximal free runs, in either form
}

// summary is what the tree above the windows knows about a span of sectors.
type summary struct {
	front   uint64 // free sectors at the lowest addresses
	longest uint64 // free sectors in the longest run inside the span
	back    uint64 // free sectors at the highest addresses
}

// runAt returns the free run that holds sector at: its bounds, both within the
// window; ok is false when the sector is used.
func (w *window) runAt(at int) (start, end int, ok bool) {
	if w.bitmap == nil {
		i := w.extentAfter(at)
		if i < len(w.extents) && int(w.extents[i].start) <= at {
			return int(w.extents[i].start), int(w.extents[i].end), true
		}
		return 0, 0, false
	}
	if w.bitmap[at/64]>>(at%64)&1 == 0 {
		return 0, 0, false
	}
	return w.usedBefore(at), w.nextUsed(at), true
}

// extentAfter returns the index of the first extent that ends after at.
func (w *window) extentAfter(at int) int {
	lo, hi := 0, len(w.extents)
	for lo < hi {
		m := (lo + hi) / 2
		if int(w.extents[m].end) > at {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

// nextRun returns the first run that ends after sector from, cut to begin at
// from or later; ok is false when there is none.
func (w *window) nextRun(from int) (start, end int, ok bool) {
	if w.bitmap == nil {
		i := w.extentAfter(from)
		if i == len(w.extents) {
			return 0, 0, false
		}
		return max(int(w.extents[i].start), from), int(w.extents[i].end), true
	}
	start = w.nextFree(from)
	if start == windowBits {
		return 0, 0, false
	}
	return start, w.nextUsed(start), true
}

// nextFree returns the first free sector at or after from, or windowBits.
// Bitmap form only.
func (w *window) nextFree(from int) int {
	if from >= windowBits {
		return windowBits
	}
	i := from / 64
	word := w.bitmap[i] &^ (1<<(from%64) - 1)
	for word == 0 {
		if i++; i == windowWords {
			return windowBits
		}
		word = w.bitmap[i]
	}
	return i*64 + bits.TrailingZeros64(word)
}

// nextUsed returns the first used sector at or after from, or windowBits.
// Bitmap form only.
func (w *window) nextUsed(from int) int {
	if from >= windowBits {
		return windowBits
	}
	i := from / 64
	word := ^w.bitmap[i] &^ (1<<(from%64) - 1)
	for word == 0 {
		if i++; i == windowWords {
			return windowBits
		}
		word = ^w.bitmap[i]
	}
	return i*64 + bits.TrailingZeros64(word)
}

// usedBefore returns one more than the last used sector before at, or 0.
// Bitmap form only.
func (w *window) usedBefore(at int) int {
	i := at / 64
	word := ^w.bitmap[i] & (1<<(at%64) - 1)
	for word == 0 {
		if i == 0 {
			return 0
		}
		i--
		word = ^w.bitmap[i]
	}
	return i*64 + 64 - bits.LeadingZeros64(word)
}

// add frees [start, end), which is wholly used, and returns the run it has
// become part of.
func (w *window) add(start, end int) (runStart, runEnd int) {
	if w.bitmap == nil {
		return w.addExtent(start, end)
	}
	runStart, runEnd = start, end
	w.runs++
	if start > 0 && w.bitmap[(start-1)/64]>>((start-1)%64)&1 == 1 {
		runStart = w.usedBefore(start - 1)
		w.runs--
	}
	if end < windowBits && w.bitmap[end/64]>>(end%64)&1 == 1 {
		runEnd = w.nextUsed(end)
		w.runs--
	}
	fill(w.bitmap, start, end, true)
	w.settle()
	return runStart, runEnd
}

func (w *window) addExtent(start, end int) (runStart, runEnd int) {
	i := w.extentAfter(start)
	left := i > 0 && int(w.extents[i-1].end) == start
	right := i < len(w.extents) && int(w.extents[i].start) == end
	switch {
	case left && right:
		w.extents[i-1].end = w.extents[i].end
		w.extents = slices.Delete(w.extents, i, i+1)
		i--
	case left:
		w.extents[i-1].end = uint16(end)
		i--
	case right:
		w.extents[i].start = uint16(start)
	default:
		w.extents = slices.Insert(w.extents, i, extent{uint16(start), uint16(end)})
	}
	x := w.extents[i]
	w.runs = len(w.extents)
	w.settle()
	return int(x.start), int(x.end)
}

// remove takes [start, end), which lies within one free run, and returns that
// run as it was.
func (w *window) remove(start, end int) (runStart, runEnd int) {
	runStart, runEnd, _ = w.runAt(start)
	if w.bitmap != nil {
		w.runs--
		if runStart < start {
			w.runs++
		}
		if end < runEnd {
			w.runs++
		}
		fill(w.bitmap, start, end, false)
		w.settle()
		return runStart, runEnd
	}
	i := w.extentAfter(start)
	switch {
	case runStart == start && runEnd == end:
		w.extents = slices.Delete(w.extents, i, i+1)
	case runStart == start:
		w.extents[i].start = uint16(end)
	case runEnd == end:
		w.extents[i].end = uint16(start)
	default:
		w.extents[i].end = uint16(start)
		w.extents = slices.Insert(w.extents, i+1, extent{uint16(end), uint16(runEnd)})
	}
	w.runs = len(w.extents)
	w.settle()
	return runStart, runEnd
}

// settle converts the window to the form that its number of runs asks for, and
// lets go of the memory of a window that has become empty.
func (w *window) settle() {
	switch {
	case w.bitmap == nil && w.runs > bitmapAt:
		w.bitmap = new([windowWords]uint64)
		for _, x := range w.extents {
			fill(w.bitmap, int(x.start), int(x.end), true)
		}
		w.extents = nil
	case w.bitmap != nil && w.runs <= extentsAt:
		w.extents = make([]extent, 0, w.runs)
		for at := 0; ; {
			start, end, ok := w.nextRun(at)
			if !ok {
				break
			}
			w.extents = append(w.extents, extent{uint16(start), uint16(end)})
			at = end
		}
		w.bitmap = nil
	}
	if w.runs == 0 {
		w.extents = nil
	}
}

// longest returns the length of the longest run. It stops as soon as it meets
// one of atLeast sectors, which the caller knows to be an upper bound.
func (w *window) longest(atLeast int) int {
	best := 0
	if w.bitmap == nil {
		for _, x := range w.extents {
			best = max(best, int(x.end-x.start))
		}
		return best
	}
	for at := 0; best < atLeast; {
		start, end, ok := w.nextRun(at)
		if !ok {
			break
		}
		best = max(best, end-start)
		at = end
	}
	return best
}

// fill sets or clears the bits [start, end).
func fill(b *[windowWords]uint64, start, end int, set bool) {
	for i := start / 64; i*64 < end; i++ {
		mask := ^uint64(0)
		if lo := start - i*64; lo > 0 {
			mask &^= 1<<lo - 1
		}
		if hi := end - i*64; hi < 64 {
			mask &= 1<<hi - 1
		}
		if set {
			b[i] |= mask
		} else {
			b[i] &^= mask
		}
	}
}
