package delayedref

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// extentTree is a toy extent tree: what an Applier has written.
type extentTree struct {
	refs  map[uint64]map[Ref]int // by bytenr; an extent is there while it has references
	flags map[uint64]uint64
	freed []uint64 // extents whose last reference went, or that never got an item
}

func newExtentTree() *extentTree {
	return &extentTree{refs: map[uint64]map[Ref]int{}, flags: map[uint64]uint64{}}
}

// Apply writes a head, and refuses what a real extent tree could not take.
func (d *extentTree) Apply(h *Head) error {
	refs := h.Refs()
	sum := 0
	for i, r := range refs {
		sum += r.Count
		if i == 0 {
			continue
		}
		p := refs[i-1]
		if (p.Count > 0) == (r.Count > 0) && p.Compare(r.Ref) >= 0 || p.Count < 0 && r.Count > 0 {
			return fmt.Errorf("%v: out of order: %v %+d, %v %+d", h, p.Ref, p.Count, r.Ref, r.Count)
		}
	}
	if sum != h.RefMod {
		return fmt.Errorf("%v: counts sum to %d", h, sum)
	}
	item, ok := d.refs[h.Bytenr]
	if ok == h.MustInsert {
		return fmt.Errorf("%v: extent item exists: %v", h, ok)
	}
	if !ok {
		item = map[Ref]int{}
	}
	for _, r := range refs {
		if r.Count == 0 {
			return fmt.Errorf("%v: empty %v", h, r)
		}
		key := r.canonical()
		if item[key] += r.Count; item[key] < 0 {
			return fmt.Errorf("%v: %v falls to %d", h, r, item[key])
		}
		if item[key] == 0 {
			delete(item, key)
		}
	}
	if h.Op != nil {
		d.flags[h.Bytenr] |= h.Op.Flags
	}
	d.refs[h.Bytenr] = item
	if len(item) == 0 {
		delete(d.refs, h.Bytenr)
		delete(d.flags, h.Bytenr)
		d.freed = append(d.freed, h.Bytenr)
	}
	return nil
}

// world is the truth: references and flags of each extent now.
type world struct {
	refs  map[uint64]map[Ref]int
	flags map[uint64]uint64
}

const numBytes = 16384

// check compares truth with disk + pending, extent by extent and reference by
// reference (I6).
func (w *world) check(s *Set, d *extentTree, extents []uint64) error {
	total := 0
	for _, at := range extents {
		refs, st := s.Refs(at)
		if st.Busy {
			return fmt.Errorf("extent %d: busy with no runner", at)
		}
		total += len(refs)
		sum := map[Ref]int{}
		n := st.RefMod
		for r, c := range d.refs[at] {
			sum[r] += c
			n += c
		}
		for _, r := range refs {
			if sum[r.canonical()] += r.Count; sum[r.canonical()] == 0 {
				delete(sum, r.canonical())
			}
		}
		want := 0
		for _, c := range w.refs[at] {
			want += c
		}
		if n != want || !maps.Equal(sum, w.refs[at]) {
			return fmt.Errorf("extent %d: disk + pending %d %v, truth %d %v", at, n, sum, want, w.refs[at])
		}
		if got := d.flags[at] | st.Flags; want > 0 && got != w.flags[at] {
			return fmt.Errorf("extent %d: flags %x, truth %x", at, got, w.flags[at])
		}
		if _, onDisk := d.refs[at]; onDisk && st.New {
			return fmt.Errorf("extent %d is new and on disk", at)
		}
	}
	if st := s.Stats(); st.Refs != total {
		return fmt.Errorf("stats count %d refs, there are %d", st.Refs, total)
	}
	return nil
}

func drawRef(t *rapid.T, data bool) Ref {
	n := rapid.Uint64Range(1, 6)
	if data {
		return rapid.SampledFrom([]Ref{
			{Kind: ExtentData, Root: n.Draw(t, "root"), Objectid: n.Draw(t, "ino"), Offset: n.Draw(t, "off") - 3, Parent: 77},
			{Kind: SharedData, Parent: n.Draw(t, "parent"), Root: 5, Objectid: n.Draw(t, "ignored")},
		}).Draw(t, "ref")
	}
	return rapid.SampledFrom([]Ref{
		{Kind: TreeBlock, Root: n.Draw(t, "root"), Level: 2, Parent: 77},
		{Kind: SharedBlock, Parent: n.Draw(t, "parent"), Level: 2, Root: n.Draw(t, "ignored")},
	}).Draw(t, "ref")
}

func TestModel(t *testing.T) {
	var seen Stats
	rapid.Check(t, func(t *rapid.T) {
		s, d := NewSet(), newExtentTree()
		w := &world{map[uint64]map[Ref]int{}, map[uint64]uint64{}}
		extents := make([]uint64, 12)
		for i := range extents {
			extents[i] = uint64(i+1) * numBytes
		}
		used := map[uint64]bool{} // an address is not re-used within a transaction
		isData := func(at uint64) bool { return at/numBytes%2 == 0 }
		live := func(t *rapid.T) uint64 {
			if len(w.refs) == 0 {
				t.Skip()
			}
			return rapid.SampledFrom(slices.Sorted(maps.Keys(w.refs))).Draw(t, "extent")
		}
		// gone settles an extent that has lost its last reference.
		gone := func(at uint64) {
			if len(w.refs[at]) > 0 {
				return
			}
			delete(w.refs, at)
			delete(w.flags, at)
			_, onDisk := d.refs[at]
			if can := !onDisk && !isData(at); s.CancelNew(at) != can {
				t.Fatalf("CancelNew(%d): want %v (on disk %v)", at, can, onDisk)
			} else if can {
				delete(used, at)
			}
		}
		var failAfter = -1
		applier := applierFunc(func(h *Head) error {
			if failAfter == 0 {
				return errFault
			}
			failAfter--
			return d.Apply(h)
		})
		t.Repeat(map[string]func(*rapid.T){
			"new": func(t *rapid.T) {
				at := rapid.SampledFrom(extents).Draw(t, "extent")
				ref := drawRef(t, isData(at))
				var op *ExtentOp
				flags := uint64(0)
				if !isData(at) {
					flags = 2
					op = &ExtentOp{Flags: flags, UpdateFlags: true, Level: 2}
				}
				if used[at] {
					t.Skip()
				}
				used[at] = true
				if err := s.Add(at, numBytes, ref, AddOptions{New: true, Op: op, Owner: 5}); err != nil {
					t.Fatal(err)
				}
				w.refs[at], w.flags[at] = map[Ref]int{ref.canonical(): 1}, flags
			},
			"add": func(t *rapid.T) {
				at := live(t)
				ref := drawRef(t, isData(at))
				if err := s.Add(at, numBytes, ref, AddOptions{}); err != nil {
					t.Fatal(err)
				}
				w.refs[at][ref.canonical()]++
			},
			"drop": func(t *rapid.T) {
				at := live(t)
				ref := rapid.SampledFrom(slices.SortedFunc(maps.Keys(w.refs[at]), Ref.Compare)).Draw(t, "ref")
				full := ref
				if !isData(at) {
					full.Level = 2
				}
				if err := s.Drop(at, numBytes, full, DropOptions{Born: 9}); err != nil {
					t.Fatal(err)
				}
				if w.refs[at][ref]--; w.refs[at][ref] == 0 {
					delete(w.refs[at], ref)
				}
				gone(at)
			},
			"flags": func(t *rapid.T) {
				at := live(t)
				if isData(at) {
					t.Skip()
				}
				f := uint64(1) << rapid.IntRange(0, 8).Draw(t, "bit")
				if err := s.SetFlags(at, numBytes, ExtentOp{Flags: f, UpdateFlags: true, Level: 2}); err != nil {
					t.Fatal(err)
				}
				w.flags[at] |= f
			},
			"run": func(t *rapid.T) {
				maxHeads := rapid.IntRange(-1, 5).Draw(t, "max")
				queued := s.Len()
				n, err := s.Run(t.Context(), applier, maxHeads)
				if err != nil {
					t.Fatal(err)
				}
				if want := min(uint(queued), uint(maxHeads)); n != int(want) {
					t.Fatalf("ran %d of %d, max %d", n, queued, maxHeads)
				}
			},
			"fail": func(t *rapid.T) {
				failAfter = rapid.IntRange(0, 3).Draw(t, "after")
				queued := s.Len()
				if n, err := s.Run(t.Context(), applier, -1); (queued > n) != errors.Is(err, errFault) || s.Len() != queued-n {
					t.Fatalf("ran %d of %d, left %d: %v", n, queued, s.Len(), err)
				}
				failAfter = -1
			},
			"": func(t *rapid.T) {
				if err := w.check(s, d, extents); err != nil {
					t.Fatal(err)
				}
			},
		})
		if _, err := s.Run(t.Context(), applier, -1); err != nil {
			t.Fatal(err)
		}
		if !s.Empty() || s.Stats().Refs != 0 {
			t.Fatalf("not empty: %+v", s.Stats())
		}
		if err := w.check(s, d, extents); err != nil {
			t.Fatal(err)
		}
		for _, at := range d.freed {
			if !used[at] || w.refs[at] != nil {
				t.Fatalf("extent %d was freed", at)
			}
		}
		st := s.Stats()
		seen.Merged += st.Merged
		seen.Dropped += st.Dropped
		seen.Canceled += st.Canceled
		seen.Run += st.Run
	})
	if seen.Merged == 0 || seen.Dropped == 0 || seen.Canceled == 0 || seen.Run == 0 {
		t.Errorf("the test does not reach what it is for: %+v", seen)
	}
}

var errFault = errors.New("injected fault")

type applierFunc func(h *Head) error

func (f applierFunc) Apply(h *Head) error { return f(h) }
