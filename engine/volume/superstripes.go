package volume

import (
	"slices"

	"imgtool/engine/ondisk"
)

// SuperStripes returns the addresses of the chunk that begins at start which lie on a superblock copy: for each copy and
// each stripe of the chunk that covers it, the 64 KiB from there on, cut at the chunk's end. They are never allocated,
// although the free-space tree lists them as free. Ascending, without overlap; nil when there is no such chunk.
//
// It is what fs/btrfs/block-group.c (exclude_super_stripes) does with fs/btrfs/volumes.c (btrfs_rmap_block): a stripe
// counts when it holds the copy's first byte, whatever its device is.
func (v *Volume) SuperStripes(start ondisk.Logical) []Range {
	c := find(v.chunkMap(), start)
	if c == nil || c.Start != start {
		return nil
	}
	var list []Range
	add := func(l ondisk.Logical, n uint64) {
		if l < c.End() {
			list = append(list, Range{l, min(n, uint64(c.End()-l))})
		}
	}
	if start < ondisk.Logical(ondisk.SuperOffsets[0]) {
		// Logical addresses below 64 KiB: from the time when chunk 0 was mapped one to one.
		add(start, uint64(ondisk.Logical(ondisk.SuperOffsets[0])-start))
	}
	for _, off := range ondisk.SuperOffsets {
		for i, s := range c.Stripes {
			if off < s.Offset || uint64(off-s.Offset) >= c.StripeLength() {
				continue
			}
			nr, in := uint64(off-s.Offset)/ondisk.StripeLen, uint64(off-s.Offset)%ondisk.StripeLen
			if c.striped() {
				nr = (nr*uint64(len(c.Stripes)) + uint64(i)) / uint64(c.SubStripes)
			}
			add(start+ondisk.Logical(nr*ondisk.StripeLen+in), ondisk.StripeLen)
		}
	}
	return union(list)
}

// union sorts ranges and joins those that touch or overlap.
func union(list []Range) []Range {
	slices.SortFunc(list, func(a, b Range) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	out := list[:0]
	for _, r := range list {
		if k := len(out) - 1; k >= 0 && r.Start <= out[k].Start+ondisk.Logical(out[k].Length) {
			out[k].Length = max(out[k].Length, uint64(r.Start-out[k].Start)+r.Length)
			continue
		}
		out = append(out, r)
	}
	return out
}
