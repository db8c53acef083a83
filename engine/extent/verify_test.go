package extent

import (
	"maps"
	"slices"

	"imgtool/delayedref"
	"imgtool/engine/ondisk"
)

// refModel is the naive model of all references: extent -> reference -> count.
type refModel map[uint64]*extentModel

type extentModel struct {
	n    uint64
	data bool
	refs map[delayedref.Ref]int
}

// readRefs reads the whole extent tree into a refModel. A ref that is both inline and keyed is an error.
func (f *fixture) readRefs() refModel {
	f.t.Helper()
	out := refModel{}
	counts := map[uint64]uint64{}
	f.check(f.trees.Extent().Scan(f.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		addr := uint64(k.ObjectID)
		add := func(r delayedref.Ref, n int) {
			e := out[addr]
			if e == nil || e.refs[r] != 0 {
				f.t.Fatalf("%v: ref %v without extent item, or twice", k, r)
			}
			e.refs[r] = n
		}
		switch k.Type {
		case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
			e, err := parseExtentItem(item, k)
			f.check(err)
			m := &extentModel{n: k.Offset, data: e.flags&ondisk.ExtentFlagData != 0, refs: map[delayedref.Ref]int{}}
			if k.Type == ondisk.MetadataItemKey {
				m.n = uint64(f.o.nodesize)
			}
			out[addr], counts[addr] = m, e.refs
			for _, in := range e.refsV {
				add(in.ref, int(in.count))
			}
			if len(item) >= maxExtentItem(f.o.nodesize) {
				f.t.Fatalf("%v: item of %d bytes", k, len(item))
			}
		case ondisk.TreeBlockRefKey:
			add(delayedref.Ref{Kind: delayedref.TreeBlock, Root: k.Offset}, 1)
		case ondisk.SharedBlockRefKey:
			add(delayedref.Ref{Kind: delayedref.SharedBlock, Parent: k.Offset}, 1)
		case ondisk.SharedDataRefKey:
			add(delayedref.Ref{Kind: delayedref.SharedData, Parent: k.Offset}, int(ondisk.AsSharedDataRef(item).Count()))
		case ondisk.ExtentDataRefKey:
			d := ondisk.AsExtentDataRef(item)
			add(delayedref.Ref{Kind: delayedref.ExtentData, Root: uint64(d.Root()), Objectid: uint64(d.ObjectID()), Offset: d.Offset()}, int(d.Count()))
		}
		return true, nil
	}))
	for addr, e := range out {
		sum := uint64(0)
		for _, n := range e.refs {
			sum += uint64(n)
		}
		if sum != counts[addr] {
			f.t.Fatalf("extent %d counts %d refs, has %d", addr, counts[addr], sum)
		}
	}
	return out
}

// verify compares the whole of the last commit with itself and with want, the references other than those of the
// fixture's own tree blocks.
func (f *fixture) verify(want refModel) {
	f.t.Helper()
	have := f.readRefs()
	for addr := range f.blocks() {
		e := have[addr]
		if e == nil || e.data || len(e.refs) != 1 {
			f.t.Fatalf("tree block %d: extent %+v", addr, e)
		}
	}
	blocks := f.blocks()
	for addr, e := range have {
		w := want[addr]
		if w == nil {
			if blocks[addr] == "" {
				f.t.Fatalf("extent %d %+v belongs to nobody", addr, e)
			}
			continue
		}
		if e.n != w.n || e.data != w.data || !maps.Equal(e.refs, w.refs) {
			f.t.Fatalf("extent %d: have %+v want %+v", addr, e, w)
		}
	}
	for addr := range want {
		if have[addr] == nil {
			f.t.Fatalf("extent %d is missing", addr)
		}
	}
	f.verifySpace(have)
}

// verifySpace holds block groups, the free-space tree, memory and superblock against the extents.
func (f *fixture) verifySpace(have refModel) {
	f.t.Helper()
	used := uint64(0)
	for _, g := range f.m.allGroups() {
		var taken []addrRange
		for addr, e := range have {
			if g.holds(addr, e.n) {
				if kind := map[bool]int{true: kindData, false: g.space.kind}[e.data]; kind != g.space.kind || !e.data && kind == kindData {
					f.t.Fatalf("extent %d %+v in %v", addr, e, g)
				}
				taken = append(taken, addrRange{addr, e.n})
			}
		}
		sum := uint64(0)
		for _, r := range taken {
			sum += r.n
		}
		used += sum
		var item ondisk.BlockGroupItem
		b, err := f.m.groupTree().Get(f.ctx, g.itemKey())
		f.check(err)
		copy(item[:], b)
		if item.Used() != sum || g.used != sum || item.Flags() != g.flags {
			f.t.Fatalf("%v: used %d, item says %d, extents %d", g, g.used, item.Used(), sum)
		}
		free := complement(g, taken)
		f.verifyFreeTree(g, free)
		f.verifyIndex(g, free)
	}
	if f.sb.BytesUsed() != used {
		f.t.Fatalf("super says %d bytes used, extents %d", f.sb.BytesUsed(), used)
	}
}

// complement returns the gaps between ranges in a group.
func complement(g *group, taken []addrRange) []addrRange {
	var out []addrRange
	at := g.start
	for _, r := range mergeRanges(taken) {
		if r.start > at {
			out = append(out, addrRange{at, r.start - at})
		}
		at = r.start + r.n
	}
	if at < g.end() {
		out = append(out, addrRange{at, g.end() - at})
	}
	return out
}

func (f *fixture) verifyFreeTree(g *group, free []addrRange) {
	f.t.Helper()
	if f.o.noFST {
		return
	}
	bitmaps, items := 0, 0
	info, have, err := g.collectFree(func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
		return f.trees.FreeSpace().Scan(f.ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
			switch k.Type {
			case ondisk.FreeSpaceBitmapKey:
				bitmaps++
			case ondisk.FreeSpaceExtentKey:
				items++
			}
			return fn(k, item)
		})
	})
	f.check(err)
	if !slices.Equal(have, free) {
		f.t.Fatalf("%v: free-space tree has %v, want %v", g, have, free)
	}
	if info == nil || int(info.ExtentCount()) != len(free) {
		f.t.Fatalf("%v: info %v, want %d extents", g, info, len(free))
	}
	if (info.Flags()&ondisk.FreeSpaceUsingBitmaps != 0) != (bitmaps > 0) || bitmaps > 0 && items > 0 || bitmaps == 0 && items != len(free) {
		f.t.Fatalf("%v: flags %#x with %d bitmaps and %d extents for %d ranges", g, info.Flags(), bitmaps, items, len(free))
	}
}

func (f *fixture) verifyIndex(g *group, free []addrRange) {
	f.t.Helper()
	x := g.index.Load()
	if x == nil {
		return
	}
	want := uint64(0)
	for _, r := range free {
		want += r.n
	}
	if have := x.Free() + g.super + g.pinned; have != want || g.reserved != 0 {
		f.t.Fatalf("%v: free %d + super %d + pinned %d, reserved %d; extents leave %d", g, x.Free(), g.super, g.pinned, g.reserved, want)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	f.check(g.check())
}

// oneRef is the reference that tests of space give an extent: inode 257 of FS_TREE, its own address as offset.
func oneRef(addr uint64) map[delayedref.Ref]int {
	return map[delayedref.Ref]int{{Kind: delayedref.ExtentData, Root: 5, Objectid: 257, Offset: addr}: 1}
}
