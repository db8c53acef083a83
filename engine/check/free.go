package check

import (
	"cmp"
	"math/bits"
	"slices"

	"imgtool/engine/ondisk"
)

// freeInfo is a FREE_SPACE_INFO.
type freeInfo struct {
	start, length uint64
	count         uint32
	bitmaps       bool
	at            ondisk.Logical
}

// freeSpan is a run of free space, of a FREE_SPACE_EXTENT or of a bitmap.
type freeSpan struct {
	span
	bitmap bool
}

// freeItem takes in an item of the free-space tree. Runs that cross from one bitmap into the next are joined later.
func (c *checker) freeItem(p *parts, k ondisk.Key, item []byte, at ondisk.Logical) {
	start := uint64(k.ObjectID)
	switch k.Type {
	case ondisk.FreeSpaceInfoKey:
		f := ondisk.AsFreeSpaceInfo(item)
		p.infos = append(p.infos, freeInfo{start, k.Offset, f.ExtentCount(), f.Flags()&ondisk.FreeSpaceUsingBitmaps != 0, at})
	case ondisk.FreeSpaceExtentKey:
		p.free = append(p.free, freeSpan{span{start, start + k.Offset}, false})
	case ondisk.FreeSpaceBitmapKey:
		n := int(k.Offset / c.sector)
		bit := func(i int) bool { return item[i/8]&(1<<(i%8)) != 0 }
		for i := 0; i < n; {
			if i%8 == 0 && i+8 <= n && bits.OnesCount8(item[i/8]) == 0 {
				i += 8
				continue
			}
			if !bit(i) {
				i++
				continue
			}
			from := i
			for i < n && bit(i) {
				i++
			}
			p.free = append(p.free, freeSpan{span{start + uint64(from)*c.sector, start + uint64(i)*c.sector}, true})
		}
	}
}

// freeSpace compares the free-space tree with the gaps of the extent tree, group by group.
func (c *checker) freeSpace() error {
	if !c.sb.HasCompatRO(ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid) {
		return nil // there is none, or the kernel will make it anew
	}
	if c.lost.in(ondisk.FreeSpaceTree) || c.lost.in(ondisk.ExtentTree) || c.lost.in(ondisk.BlockGroupTree) {
		return nil
	}
	c.dropForgotten()
	slices.SortFunc(c.infos, func(a, b freeInfo) int { return cmp.Compare(a.start, b.start) })
	slices.SortFunc(c.free, func(a, b freeSpan) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	for _, f := range c.infos {
		if g := c.groupAt(f.start); g == nil || g.start != f.start || g.length != f.length {
			c.found(Finding{ID: FreeNoGroup, Root: ondisk.FreeSpaceTree, Block: f.at, Extent: ondisk.Logical(f.start)}, "free space of %d bytes is described here, but there is no such block group", f.length)
		}
	}
	spans, extents := c.free, c.extents
	for i := range c.groups {
		g := &c.groups[i]
		at := Finding{Root: ondisk.FreeSpaceTree, Extent: ondisk.Logical(g.start)}
		j, ok := slices.BinarySearchFunc(c.infos, g.start, func(f freeInfo, v uint64) int { return cmp.Compare(f.start, v) })
		if !ok {
			at.ID = FreeNoInfo
			c.found(at, "the free-space tree does not describe this block group of %d bytes", g.length)
			continue
		}
		for len(spans) > 0 && spans[0].start < g.start {
			c.strayFree(spans[0].span)
			spans = spans[1:]
		}
		n := 0
		for n < len(spans) && spans[n].start < g.start+g.length {
			n++
		}
		for len(extents) > 0 && extents[0].addr+extents[0].length <= g.start {
			extents = extents[1:]
		}
		c.freeGroup(g, c.infos[j], spans[:n], extents)
		spans = spans[n:]
	}
	for _, f := range spans {
		c.strayFree(f.span)
	}
	return nil
}

// strayFree reports free space outside of all block groups. Above them it is no less harm: a group that is made there
// finds its items taken.
func (c *checker) strayFree(f span) {
	c.found(Finding{ID: FreeNoGroup, Root: ondisk.FreeSpaceTree, Extent: ondisk.Logical(f.start)}, "[%d, %d) is listed as free outside all block groups", f.start, f.end)
}

// dropForgotten passes over what lies below all block groups: mkfs.btrfs leaves the descriptions of its temporary groups
// there, and no new group ever gets such an address.
func (c *checker) dropForgotten() {
	if len(c.groups) == 0 {
		return
	}
	lowest := c.groups[0].start
	c.infos = slices.DeleteFunc(c.infos, func(f freeInfo) bool { return f.start+f.length <= lowest })
	c.free = slices.DeleteFunc(c.free, func(s freeSpan) bool { return s.end <= lowest })
}

// freeGroup compares one group. extents begins with the first that reaches into it.
func (c *checker) freeGroup(g *group, info freeInfo, spans []freeSpan, extents []extent) {
	at := Finding{Root: ondisk.FreeSpaceTree, Block: info.at, Extent: ondisk.Logical(g.start)}
	var have []span
	for _, s := range spans {
		if s.bitmap != info.bitmaps {
			at.ID = FreeKind
			c.found(at, "bitmaps: the group says %t, [%d, %d) says %t", info.bitmaps, s.start, s.end, s.bitmap)
			return
		}
		// Bitmaps end where they end; one free extent is one item and is never split.
		if n := len(have) - 1; s.bitmap && n >= 0 && have[n].end == s.start {
			have[n].end = s.end
			continue
		}
		have = append(have, s.span)
	}
	if uint64(len(have)) != uint64(info.count) {
		at.ID = FreeCount
		c.found(at, "%d free ranges are announced, %d are there", info.count, len(have))
	}
	end := g.start + g.length
	pos := g.start
	var want []span
	for i := range extents {
		e := &extents[i]
		if e.addr >= end {
			break
		}
		if e.addr > pos {
			want = append(want, span{pos, e.addr})
		}
		pos = max(pos, e.addr+e.length)
	}
	if pos < end {
		want = append(want, span{pos, end})
	}
	c.compareFree(at, want, have)
}

// compareFree reports what is in only one of two lists of ranges, both ascending.
func (c *checker) compareFree(at Finding, want, have []span) {
	if slices.Equal(want, have) {
		return
	}
	for _, s := range subtract(have, want) {
		at.ID, at.Extent = FreeInUse, ondisk.Logical(s.start)
		c.found(at, "[%d, %d) is listed as free, but extents lie there", s.start, s.end)
	}
	for _, s := range subtract(want, have) {
		at.ID, at.Extent = FreeMissing, ondisk.Logical(s.start)
		c.found(at, "[%d, %d) is free and not listed", s.start, s.end)
	}
}

// subtract returns the parts of a that are not in b; both are ascending.
func subtract(a, b []span) []span {
	var out []span
	for _, s := range a {
		for len(b) > 0 && b[0].end <= s.start {
			b = b[1:]
		}
		at := s.start
		for _, x := range b {
			if x.start >= s.end {
				break
			}
			if x.start > at {
				out = append(out, span{at, x.start})
			}
			at = max(at, x.end)
		}
		if at < s.end {
			out = append(out, span{at, s.end})
		}
	}
	return out
}
