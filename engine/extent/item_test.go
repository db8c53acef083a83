package extent

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"imgtool/delayedref"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func drawRef(data bool) *rapid.Generator[delayedref.Ref] { return drawRefOf(data, 12) }

// drawRefOf draws one of so many different references of each kind.
func drawRefOf(data bool, different uint64) *rapid.Generator[delayedref.Ref] {
	return rapid.Custom(func(t *rapid.T) delayedref.Ref {
		n := rapid.Uint64Range(1, different).Draw(t, "n")
		shared := rapid.Bool().Draw(t, "shared")
		switch {
		case data && shared:
			return delayedref.Ref{Kind: delayedref.SharedData, Parent: n << 14}
		case data:
			return delayedref.Ref{Kind: delayedref.ExtentData, Root: 256 + n%3, Objectid: 256 + n, Offset: n << 12}
		case shared:
			return delayedref.Ref{Kind: delayedref.SharedBlock, Parent: n << 14}
		}
		return delayedref.Ref{Kind: delayedref.TreeBlock, Root: 256 + n}
	})
}

// TestItemModel changes one extent item at random and holds it against a map of counts: what is inline, what was sent
// to keyed items, order, size limit, and the coding.
func TestItemModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.Bool().Draw(t, "data")
		limit := rapid.IntRange(100, 400).Draw(t, "limit")
		key := ondisk.Key{ObjectID: 1 << 20, Type: ondisk.MetadataItemKey}
		e := &extentItem{gen: 7, flags: ondisk.ExtentFlagTreeBlock}
		if data {
			key.Type, key.Offset, e.flags = ondisk.ExtentItemKey, 4096, ondisk.ExtentFlagData
		}
		want, keyed := map[delayedref.Ref]int{}, map[delayedref.Ref]int{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			r := delayedref.RefCount{Ref: drawRef(data).Draw(t, "ref"), Count: 1}
			if want[r.Ref] > 0 && (!data || rapid.Bool().Draw(t, "drop")) {
				r.Count = -1
			} else if data {
				r.Count = rapid.IntRange(1, 3).Draw(t, "count")
			}
			out, err := e.change(key.ObjectID, []delayedref.RefCount{r}, limit)
			if err != nil {
				t.Fatal(err)
			}
			if want[r.Ref] += r.Count; want[r.Ref] == 0 {
				delete(want, r.Ref)
			}
			for _, k := range out {
				if keyed[k.Ref] += k.Count; keyed[k.Ref] == 0 {
					delete(keyed, k.Ref)
				}
			}
			b := e.encode()
			if e, err = parseExtentItem(b, key); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, e.encode()) {
				t.Fatal("encode(parse(x)) != x")
			}
			checkItem(t, e, want, keyed, limit)
		}
	})
}

func checkItem(t *rapid.T, e *extentItem, want, keyed map[delayedref.Ref]int, limit int) {
	have, total := maps.Clone(keyed), 0
	for i, in := range e.refsV {
		if have[in.ref] != 0 {
			t.Fatalf("%v is inline and keyed", in.ref)
		}
		have[in.ref] = int(in.count)
		if i > 0 {
			p := e.refsV[i-1].ref
			if p.Kind > in.ref.Kind || p.Kind == in.ref.Kind && order(p) < order(in.ref) {
				t.Fatalf("%v stands before %v", p, in.ref)
			}
		}
	}
	if !maps.Equal(have, want) {
		t.Fatalf("refs %v, want %v", have, want)
	}
	for _, n := range want {
		total += n
	}
	if e.refs != uint64(total) {
		t.Fatalf("item counts %d, want %d", e.refs, total)
	}
	if e.size() >= limit {
		t.Fatalf("item of %d bytes, limit %d", e.size(), limit)
	}
}

func TestItemWrongCounts(t *testing.T) {
	tree := delayedref.Ref{Kind: delayedref.TreeBlock, Root: 5}
	data := delayedref.Ref{Kind: delayedref.ExtentData, Root: 5, Objectid: 257}
	one := func(r delayedref.Ref, refs, n uint64) *extentItem {
		return &extentItem{refs: refs, refsV: []inlineRef{{r, n}}}
	}
	for name, c := range map[string]struct {
		e *extentItem
		r delayedref.RefCount
	}{
		"missing":               {one(tree, 1, 1), delayedref.RefCount{Ref: delayedref.Ref{Kind: delayedref.TreeBlock, Root: 6}, Count: -1}},
		"tree ref twice":        {one(tree, 1, 1), delayedref.RefCount{Ref: tree, Count: 1}},
		"tree ref added twice":  {one(tree, 1, 1), delayedref.RefCount{Ref: delayedref.Ref{Kind: delayedref.TreeBlock, Root: 6}, Count: 2}},
		"data count below zero": {one(data, 2, 2), delayedref.RefCount{Ref: data, Count: -3}},
		"refs below inline":     {one(data, 1, 2), delayedref.RefCount{Ref: data, Count: -1}},
	} {
		_, err := c.e.change(1<<20, []delayedref.RefCount{c.r}, 1000)
		if !errors.Is(err, fserr.ErrCorrupt) {
			t.Errorf("%s: %v, want a corruption", name, err)
		}
	}
}

func FuzzParseExtentItem(f *testing.F) {
	e := &extentItem{refs: 2, gen: 3, flags: ondisk.ExtentFlagData, refsV: []inlineRef{
		{delayedref.Ref{Kind: delayedref.ExtentData, Root: 5, Objectid: 257}, 1}, {delayedref.Ref{Kind: delayedref.SharedData, Parent: 4096}, 1}}}
	f.Add(e.encode(), true)
	f.Add(e.encode()[:30], false)
	f.Fuzz(func(t *testing.T, item []byte, fat bool) {
		key := ondisk.Key{ObjectID: 4096, Type: ondisk.MetadataItemKey}
		if fat {
			key.Type = ondisk.ExtentItemKey
		}
		e, err := parseExtentItem(item, key)
		if err != nil {
			return
		}
		again, err := parseExtentItem(e.encode(), key)
		if err != nil || !slices.Equal(again.refsV, e.refsV) {
			t.Fatalf("parse(encode(x)): %v, %v want %v", err, again, e)
		}
	})
}
