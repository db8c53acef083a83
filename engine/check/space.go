package check

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// group is a BLOCK_GROUP_ITEM.
type group struct {
	start, length uint64
	used, flags   uint64
	at            ondisk.Logical
	tree          ondisk.TreeID
}

// groupAt returns the block group that covers an address.
func (c *checker) groupAt(addr uint64) *group {
	i, ok := slices.BinarySearchFunc(c.groups, addr, func(g group, a uint64) int { return cmp.Compare(g.start, a) })
	if !ok {
		i--
	}
	if i < 0 || addr-c.groups[i].start >= c.groups[i].length {
		return nil
	}
	return &c.groups[i]
}

// space compares block groups with chunks and with the extents in them, and devices with chunks.
func (c *checker) space() error {
	slices.SortFunc(c.groups, func(a, b group) int { return cmp.Compare(a.start, b.start) })
	c.devices()
	lostGroups := c.lost.in(ondisk.ExtentTree) || c.lost.in(ondisk.BlockGroupTree)
	for i := range c.groups {
		g := &c.groups[i]
		at := Finding{Root: g.tree, Block: g.at, Extent: ondisk.Logical(g.start)}
		k := c.chunkAt(ondisk.Logical(g.start))
		switch {
		case k == nil || uint64(k.start) != g.start || k.length() != g.length:
			if !c.lost.in(ondisk.ChunkTree) {
				at.ID = GroupNoChunk
				c.found(at, "block group of %d bytes has no chunk of the same range", g.length)
			}
		case k.typ() != g.flags:
			at.ID = GroupType
			c.found(at, "block group has type %#x, its chunk %#x", g.flags, k.typ())
		}
	}
	if !lostGroups {
		for i := range c.chunks {
			if g := c.groupAt(uint64(c.chunks[i].start)); g == nil || g.start != uint64(c.chunks[i].start) {
				c.found(Finding{ID: ChunkNoGroup, Root: ondisk.ChunkTree, Block: c.chunks[i].block, Extent: c.chunks[i].start}, "chunk of %d bytes has no block group", c.chunks[i].length())
			}
		}
		c.usedSpace()
	}
	c.csumsWithoutExtent()
	return nil
}

// usedSpace adds the extents up by block group.
func (c *checker) usedSpace() {
	if c.lost.in(ondisk.ExtentTree) {
		return
	}
	used := make([]uint64, len(c.groups))
	var all uint64
	gi := 0
	for i := range c.extents {
		e := &c.extents[i]
		at := Finding{Root: ondisk.ExtentTree, Block: ondisk.Logical(uint64(e.at) * c.sector), Extent: ondisk.Logical(e.addr)}
		all += e.length
		for gi < len(c.groups) && c.groups[gi].start+c.groups[gi].length <= e.addr {
			gi++
		}
		if gi == len(c.groups) || e.addr < c.groups[gi].start || e.addr+e.length > c.groups[gi].start+c.groups[gi].length {
			at.ID = ExtentNoGroup
			c.found(at, "extent of %d bytes does not lie inside one block group", e.length)
			continue
		}
		used[gi] += e.length
		want := ondisk.BGData
		if e.tree {
			want = ondisk.BGMetadata | ondisk.BGSystem
		}
		if c.groups[gi].flags&want == 0 {
			at.ID = ExtentGroupType
			c.found(at, "a %s lies in a block group of type %s", kindOfExtent(e.tree), ondisk.BGTypeName(c.groups[gi].flags))
		}
	}
	for i := range c.groups {
		if g := &c.groups[i]; g.used != used[i] {
			c.found(Finding{ID: GroupUsed, Root: g.tree, Block: g.at, Extent: ondisk.Logical(g.start)}, "block group says %d bytes are used, its extents take %d", g.used, used[i])
		}
	}
	if all != c.sb.BytesUsed() {
		c.found(Finding{ID: SuperUsed}, "superblock says %d bytes are used, all extents take %d", c.sb.BytesUsed(), all)
	}
}

func kindOfExtent(tree bool) string {
	if tree {
		return "tree block"
	}
	return "data extent"
}
