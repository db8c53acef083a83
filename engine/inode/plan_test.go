package inode

import (
	"maps"
	"testing"

	"pgregory.net/rapid"

	"imgtool/engine/ondisk"
)

const sec = sectorSize

// sector says where one sector of a file is, for the naive model: which extent, which sector of it.
type sector struct {
	addr   ondisk.Logical
	at     uint64
	offset uint64 // of the reference
}

// spread lays extents out sector by sector; holes' items are sectors of address 0.
func spread(exts []Extent) map[uint64]sector {
	m := map[uint64]sector{}
	for _, e := range exts {
		for at := e.Start; at < e.End(); at += sec {
			s := sector{}
			if e.Addr != 0 {
				s = sector{e.Addr, e.Offset + at - e.Start, e.Start - e.Offset}
			}
			m[at] = s
		}
	}
	return m
}

// genExtents draws extents that do not overlap, some of which share one extent on disk.
func genExtents(t *rapid.T) []Extent {
	var exts []Extent
	at := uint64(0)
	for i := range rapid.IntRange(0, 6).Draw(t, "extents") {
		at += sec * rapid.Uint64Range(0, 3).Draw(t, "gap")
		n := sec * rapid.Uint64Range(1, 5).Draw(t, "len")
		e := Extent{Start: at, Len: n, Type: ondisk.FileExtentReg, RAMBytes: n}
		if rapid.Bool().Draw(t, "data") {
			e.Addr = ondisk.Logical(1<<20 + i*1<<16)
			e.Offset = sec * rapid.Uint64Range(0, 2).Draw(t, "offset")
			e.RAMBytes = e.Offset + n + sec*rapid.Uint64Range(0, 2).Draw(t, "rest")
			e.DiskLen = e.RAMBytes
		}
		exts = append(exts, e)
		at += n
	}
	return exts
}

func nbytes(exts []Extent) (n uint64) {
	for i := range exts {
		n += exts[i].bytes()
	}
	return n
}

// refs counts the references of a list of extents.
func refs(exts []Extent) map[dataRef]int {
	m := map[dataRef]int{}
	for i := range exts {
		if exts[i].holdsRef() {
			m[exts[i].ref()]++
		}
	}
	return m
}

// carryOut applies a plan to a list of items by key.
func carryOut(t *rapid.T, exts []Extent, p *dropPlan) []Extent {
	items := map[uint64]Extent{}
	for _, e := range exts {
		items[e.Start] = e
	}
	for _, k := range p.deletes {
		delete(items, k)
	}
	for _, e := range p.shorten {
		if _, ok := items[e.Start]; !ok {
			t.Fatalf("shortens nothing at %d", e.Start)
		}
		items[e.Start] = e
	}
	for _, m := range p.move {
		delete(items, m.from)
		items[m.ext.Start] = m.ext
	}
	for _, e := range p.inserts {
		if _, ok := items[e.Start]; ok {
			t.Fatalf("inserts over %d", e.Start)
		}
		items[e.Start] = e
	}
	var out []Extent
	for _, e := range items {
		out = append(out, e)
	}
	return out
}

// TestPlanDrop compares freeing a range with a model of sectors, and references and byte counts with the items.
func TestPlanDrop(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		exts := genExtents(t)
		start := sec * rapid.Uint64Range(0, 30).Draw(t, "start")
		end := start + sec*rapid.Uint64Range(1, 20).Draw(t, "n")
		var hit []Extent
		for _, e := range exts {
			if e.Start < end && e.End() > start {
				hit = append(hit, e)
			}
		}
		p := planDrop(hit, start, end)
		after := carryOut(t, exts, &p)
		want := spread(exts)
		for at := range want {
			if at >= start && at < end {
				delete(want, at)
			}
		}
		if got := spread(after); !maps.Equal(got, want) {
			t.Fatalf("free %d to %d of %+v: sectors %v, expected %v", start, end, exts, got, want)
		}
		if nbytes(exts)-p.bytes != nbytes(after) {
			t.Fatalf("bytes: %d less %d is not %d", nbytes(exts), p.bytes, nbytes(after))
		}
		have := refs(exts)
		for _, r := range p.adds {
			have[r]++
		}
		for _, r := range p.drops {
			if have[r]--; have[r] == 0 {
				delete(have, r)
			}
		}
		if want := refs(after); !maps.Equal(have, want) {
			t.Fatalf("references %v, expected %v", have, want)
		}
		for i := range after {
			if e := &after[i]; e.Addr != 0 && e.Offset+e.Len > e.RAMBytes {
				t.Fatalf("%+v reaches behind its extent", e)
			}
		}
	})
}

// TestGaps compares the holes between extents with a model of sectors.
func TestGaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		exts := genExtents(t)
		from := sec * rapid.Uint64Range(0, 10).Draw(t, "from")
		to := from + sec*rapid.Uint64Range(0, 30).Draw(t, "n")
		var hit []Extent
		for _, e := range exts {
			if e.Start < to && e.End() > from {
				hit = append(hit, e)
			}
		}
		holes := spread(gaps(hit, from, to))
		all := spread(exts)
		for at := uint64(0); at < 60*sec; at += sec {
			_, isHole := holes[at]
			_, covered := all[at]
			if want := at >= from && at < to && !covered; isHole != want {
				t.Fatalf("sector %d: hole %v, expected %v", at, isHole, want)
			}
		}
	})
}

// TestInlineConflict is about items that the plan must not see.
func TestInlineConflict(t *testing.T) {
	inline := []Extent{{Len: 100, Type: ondisk.FileExtentInline}}
	for _, c := range []struct {
		exts       []Extent
		start, end uint64
		want       bool
	}{
		{inline, 0, sec, false}, {inline, 0, 4 * sec, false}, {nil, 0, sec, false},
		{[]Extent{{Len: 2 * sec, Type: ondisk.FileExtentInline}}, 0, sec, true},
		{[]Extent{{Len: 2 * sec, Type: ondisk.FileExtentInline}}, sec, 2 * sec, true},
	} {
		if got := inlineConflict(c.exts, c.start, c.end); got != c.want {
			t.Errorf("%+v in %d to %d: %v, expected %v", c.exts, c.start, c.end, got, c.want)
		}
	}
}
