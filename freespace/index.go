package freespace

import (
	"fmt"
	"iter"
	"math/bits"
	"sync"
	"unsafe"
)

// Index is the free space of one block group. All methods are safe for
// concurrent use; the index has a mutex of its own, a leaf lock: nothing is
// called while it is held.
type Index struct {
	start, length uint64 // bytes; never change
	sectorsize    uint64
	shift         uint // log2(sectorsize)

	mu   sync.Mutex
	tree tree   // under mu
	free uint64 // sectors; under mu
}

// Source is where a block group's free space is read from: the free-space
// tree, or the gaps of the extent tree.
type Source interface {
	// LoadFree calls add for each free range (bytes), in any order, and stops
	// at the first error.
	LoadFree(add func(start, n uint64) error) error
}

// New returns the index of the block group [start, start+length) in which
// nothing is free yet. sectorsize, a power of two, is the unit of every range;
// a length that is no multiple of it is rounded down. The caller has checked
// that the group lies within its devices: memory grows with length (about 100
// bytes for 16 MiB before anything is fragmented).
func New(start, length, sectorsize uint64) *Index {
	if bits.OnesCount64(sectorsize) != 1 {
		panic(fmt.Sprintf("freespace: sector size %d is not a power of two", sectorsize))
	}
	shift := uint(bits.TrailingZeros64(sectorsize))
	sectors := length >> shift
	return &Index{start: start, length: sectors << shift, sectorsize: sectorsize, shift: shift, tree: newTree(sectors)}
}

// Load adds everything that src has.
func (x *Index) Load(src Source) error { return src.LoadFree(x.Add) }

// sectors turns a byte range into sectors from the group's start.
func (x *Index) sectors(what string, start, n uint64) (a, b uint64, err error) {
	off := start - x.start
	if start < x.start || n == 0 || n > x.length || off > x.length-n {
		return 0, 0, fmt.Errorf("freespace: %s [%d, +%d): outside block group [%d, +%d)", what, start, n, x.start, x.length)
	}
	if (off|n)&(x.sectorsize-1) != 0 {
		return 0, 0, fmt.Errorf("freespace: %s [%d, +%d): not whole sectors of %d in block group %d", what, start, n, x.sectorsize, x.start)
	}
	return off >> x.shift, (off + n) >> x.shift, nil
}

// Add frees the bytes [start, start+n). A range that is empty, outside the
// block group, not of whole sectors, or of which any part is free already is an
// error, and nothing is changed: two owners believed in one address, so the
// caller must abort the transaction.
func (x *Index) Add(start, n uint64) error {
	a, b, err := x.sectors("add", start, n)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if at, ok := x.tree.find(1, a); ok && at < b {
		end := x.tree.runEnd(at)
		return fmt.Errorf("freespace: add [%d, +%d): [%d, +%d) is free already in block group %d",
			start, n, x.start+at<<x.shift, (end-at)<<x.shift, x.start)
	}
	x.tree.set(a, b, true)
	x.free += b - a
	return nil
}

// Remove takes exactly the bytes [start, start+n). A range that is not wholly
// free is an error, and nothing is changed.
func (x *Index) Remove(start, n uint64) error {
	a, b, err := x.sectors("remove", start, n)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if end := x.tree.runEnd(a); end < b {
		return fmt.Errorf("freespace: remove [%d, +%d): not free at %d in block group %d",
			start, n, x.start+end<<x.shift, x.start)
	}
	x.take(a, b)
	return nil
}

// Subtract takes whatever is free in [start, start+n), cut to the block group,
// and returns how many bytes that was. For ranges that must not be handed out
// whether or not they are free on disk: pinned and held ones at load, and the
// stripes of the superblock copies. Sectors that the range touches in part
// count as a whole.
func (x *Index) Subtract(start, n uint64) uint64 {
	end := start + n
	if end < start {
		end = ^uint64(0)
	}
	start, end = max(start, x.start), min(end, x.start+x.length)
	if start >= end {
		return 0
	}
	a, b := (start-x.start)>>x.shift, (end-x.start+x.sectorsize-1)>>x.shift
	x.mu.Lock()
	defer x.mu.Unlock()
	taken := uint64(0)
	for a < b {
		s, ok := x.tree.find(1, a)
		if !ok || s >= b {
			break
		}
		e := min(x.tree.runEnd(s), b)
		x.take(s, e)
		taken += e - s
		a = e
	}
	return taken << x.shift
}

// take removes sectors that are known to be free. Called with mu held.
func (x *Index) take(a, b uint64) {
	x.tree.set(a, b, false)
	x.free -= b - a
}

// Free returns the free bytes.
func (x *Index) Free() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.free << x.shift
}

// Largest returns the length in bytes of the largest free range.
func (x *Index) Largest() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tree.nodes[1].longest << x.shift
}

// Has reports whether the bytes [start, start+n) are wholly free.
func (x *Index) Has(start, n uint64) bool {
	a, b, err := x.sectors("has", start, n)
	if err != nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tree.runEnd(a) >= b
}

// Ranges yields the free ranges (start and length in bytes), ascending, no two
// of them touching, as they are when the iteration begins.
func (x *Index) Ranges() iter.Seq2[uint64, uint64] {
	return func(yield func(start, n uint64) bool) {
		for _, r := range x.snapshot() {
			if !yield(x.start+r[0]<<x.shift, (r[1]-r[0])<<x.shift) {
				return
			}
		}
	}
}

func (x *Index) snapshot() [][2]uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out [][2]uint64
	for at := uint64(0); ; {
		s, ok := x.tree.find(1, at)
		if !ok {
			return out
		}
		at = x.tree.runEnd(s)
		out = append(out, [2]uint64{s, at})
	}
}

// Stats is a picture of an index, for messages and metrics.
type Stats struct {
	Free, Largest uint64 // bytes
	Runs          int    // free ranges, those that cross a window border counted once in each
	Windows       int    // of 4096 sectors
	Bitmaps       int    // windows kept as bitmaps
	Memory        uint64 // bytes of memory, roughly
}

// Stats returns the index's figures. It looks at every window.
func (x *Index) Stats() Stats {
	x.mu.Lock()
	defer x.mu.Unlock()
	t := &x.tree
	s := Stats{Free: x.free << x.shift, Largest: t.nodes[1].longest << x.shift, Windows: len(t.windows)}
	s.Memory = uint64(unsafe.Sizeof(*x)) + uint64(cap(t.nodes))*uint64(unsafe.Sizeof(summary{})) +
		uint64(cap(t.windows))*uint64(unsafe.Sizeof(window{}))
	for i := range t.windows {
		w := &t.windows[i]
		s.Runs += w.runs
		s.Memory += uint64(cap(w.extents)) * uint64(unsafe.Sizeof(extent{}))
		if w.bitmap != nil {
			s.Bitmaps++
			s.Memory += uint64(unsafe.Sizeof(*w.bitmap))
		}
	}
	return s
}

// String names the block group and its figures.
func (x *Index) String() string {
	s := x.Stats()
	return fmt.Sprintf("block group [%d, +%d): free %d in %d runs, largest %d, %d of %d windows are bitmaps",
		x.start, x.length, s.Free, s.Runs, s.Largest, s.Bitmaps, s.Windows)
}
