package check

import (
	"bytes"
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// chunkItem is a CHUNK_ITEM.
type chunkItem struct {
	start ondisk.Logical
	item  []byte
	block ondisk.Logical
}

func (k *chunkItem) length() uint64      { return ondisk.AsChunk(k.item).Length() }
func (k *chunkItem) typ() uint64         { return ondisk.AsChunk(k.item).Type() }
func (k *chunkItem) end() ondisk.Logical { return k.start + ondisk.Logical(k.length()) }

// devExtent is a DEV_EXTENT.
type devExtent struct {
	dev    uint64
	start  ondisk.Physical
	length uint64
	chunk  ondisk.Logical
}

// chunkTree walks the chunk tree and maps what it finds, so that all other trees can be read.
func (c *checker) chunkTree() error {
	root := &treeRoot{id: ondisk.ChunkTree, addr: c.sb.ChunkRoot(), gen: c.sb.ChunkRootGeneration(), level: c.sb.ChunkRootLevel(), drop: -1, item: -1}
	if root.level >= ondisk.MaxLevel {
		c.lost.add(ondisk.ChunkTree)
		return nil // SuperInvalid has been found
	}
	c.chunkRoot = root
	workers, err := c.walk([]*treeRoot{root}, func(w *worker, id uint32, b ondisk.Block) {
		for i := range b.NrItems() {
			switch k := b.Key(i); k.Type {
			case ondisk.ChunkItemKey:
				w.parts.chunks = append(w.parts.chunks, chunkItem{ondisk.Logical(k.Offset), bytes.Clone(b.Item(i)), c.blocks[id].addr})
			case ondisk.DevItemKey:
				w.parts.devItems = append(w.parts.devItems, *ondisk.AsDevItem(b.Item(i)))
			}
		}
	})
	if err != nil {
		return err
	}
	for _, w := range workers {
		c.chunks = append(c.chunks, w.parts.chunks...)
		c.devItems = append(c.devItems, w.parts.devItems...)
	}
	slices.SortFunc(c.chunks, func(a, b chunkItem) int { return cmp.Compare(a.start, b.start) })
	slices.SortFunc(c.devItems, func(a, b ondisk.DevItem) int { return cmp.Compare(a.DevID(), b.DevID()) })
	kept := c.chunks[:0]
	for _, k := range c.chunks {
		at := Finding{ID: ItemChunk, Root: ondisk.ChunkTree, Block: k.block, Extent: k.start}
		if n := len(kept); n > 0 && kept[n-1].end() > k.start {
			at.ID = ChunkOverlap
			c.found(at, "chunk of %d bytes begins inside chunk %d of %d bytes", k.length(), uint64(kept[n-1].start), kept[n-1].length())
			continue
		}
		if err := c.vol.AddChunk(k.start, k.item); err != nil {
			if err := supported(err); err != nil {
				return err
			}
			c.found(at, "%v", err)
			continue
		}
		kept = append(kept, k)
	}
	c.chunks = kept
	c.sysArray()
	return nil
}

// sysArray compares the SYSTEM chunks of the superblock with the chunk tree, both ways.
func (c *checker) sysArray() {
	if c.lost.in(ondisk.ChunkTree) {
		return
	}
	at := Finding{ID: SuperSysArray, Block: ondisk.Logical(c.sb.Bytenr())}
	listed := map[ondisk.Logical]bool{}
	err := treecheck.SysChunkArray(&c.sb, func(start ondisk.Logical, item []byte) error {
		listed[start] = true
		at.Extent = start
		if k := c.chunkAt(start); k == nil || k.start != start {
			c.found(at, "the superblock lists a chunk that the chunk tree does not have")
		} else if !bytes.Equal(k.item, item) {
			c.found(at, "the superblock's copy of the chunk differs from the chunk tree's")
		}
		return nil
	})
	if err != nil {
		return // superblocks has found it
	}
	for _, k := range c.chunks {
		if k.typ()&ondisk.BGSystem != 0 && !listed[k.start] {
			at.Extent = k.start
			c.found(at, "the superblock does not list this SYSTEM chunk")
		}
	}
}

// chunkAt returns the chunk that covers an address.
func (c *checker) chunkAt(l ondisk.Logical) *chunkItem {
	i, ok := slices.BinarySearchFunc(c.chunks, l, func(k chunkItem, l ondisk.Logical) int { return cmp.Compare(k.start, l) })
	if ok {
		return &c.chunks[i]
	}
	if i > 0 && l < c.chunks[i-1].end() {
		return &c.chunks[i-1]
	}
	return nil
}

// devices compares chunks, device extents and device items with each other.
func (c *checker) devices() {
	want := c.wantedDevExtents()
	slices.SortFunc(c.devExtents, compareDevExtents)
	lostDev, lostChunk := c.lost.in(ondisk.DevTree), c.lost.in(ondisk.ChunkTree)
	used := map[uint64]uint64{}
	for i, e := range c.devExtents {
		at := Finding{Root: ondisk.DevTree, Device: e.dev, Extent: e.chunk}
		used[e.dev] += e.length
		if i > 0 && c.devExtents[i-1].dev == e.dev {
			if p := c.devExtents[i-1]; uint64(p.start)+p.length > uint64(e.start) {
				at.ID = DevExtentOverlap
				c.found(at, "device extent at %d begins inside the one at %d of %d bytes", uint64(e.start), uint64(p.start), p.length)
			}
		}
		d := c.devItem(e.dev)
		if d != nil && uint64(e.start)+e.length > d.TotalBytes() {
			at.ID = DevExtentBeyond
			c.found(at, "device extent at %d of %d bytes passes the end of the device, %d", uint64(e.start), e.length, d.TotalBytes())
		}
		j, ok := slices.BinarySearchFunc(want, e, compareDevExtents)
		switch {
		case ok && want[j].length != e.length && want[j].chunk == e.chunk:
			at.ID = DevExtentLength
			c.found(at, "device extent at %d has %d bytes, its chunk needs %d", uint64(e.start), e.length, want[j].length)
		case (!ok || want[j].chunk != e.chunk) && !lostChunk:
			at.ID = DevExtentNoChunk
			c.found(at, "device extent at %d of %d bytes is not part of chunk %d", uint64(e.start), e.length, uint64(e.chunk))
		}
	}
	if !lostDev {
		c.stripesWithoutExtent(want)
	}
	c.deviceItems(used, lostDev)
}

func compareDevExtents(a, b devExtent) int {
	return cmp.Or(cmp.Compare(a.dev, b.dev), cmp.Compare(a.start, b.start))
}

// wantedDevExtents are the device extents that the chunks need.
func (c *checker) wantedDevExtents() []devExtent {
	var want []devExtent
	for _, k := range c.vol.Chunks() {
		if own := c.chunkAt(k.Start); own == nil || own.start != k.Start {
			continue // only the superblock lists it
		}
		for _, s := range k.Stripes {
			want = append(want, devExtent{s.DevID, s.Offset, k.StripeLength(), k.Start})
		}
	}
	slices.SortFunc(want, compareDevExtents)
	return want
}

func (c *checker) stripesWithoutExtent(want []devExtent) {
	for _, w := range want {
		if i, ok := slices.BinarySearchFunc(c.devExtents, w, compareDevExtents); !ok || c.devExtents[i].chunk != w.chunk {
			c.found(Finding{ID: ChunkNoDevExtent, Root: ondisk.DevTree, Device: w.dev, Extent: w.chunk},
				"the chunk's stripe at %d of %d bytes has no device extent", uint64(w.start), w.length)
		}
		if c.devItem(w.dev) == nil && !c.lost.in(ondisk.ChunkTree) {
			c.found(Finding{ID: ChunkNoDevice, Root: ondisk.ChunkTree, Device: w.dev, Extent: w.chunk}, "a stripe lies on a device that has no DEV_ITEM")
		}
	}
}

func (c *checker) devItem(id uint64) *ondisk.DevItem {
	i, ok := slices.BinarySearchFunc(c.devItems, id, func(d ondisk.DevItem, id uint64) int { return cmp.Compare(d.DevID(), id) })
	if !ok {
		return nil
	}
	return &c.devItems[i]
}

// deviceItems compares the items of devices with the sums of their extents and with the superblock.
func (c *checker) deviceItems(used map[uint64]uint64, lostDev bool) {
	var total uint64
	for i := range c.devItems {
		d := &c.devItems[i]
		total += d.TotalBytes()
		if u := used[d.DevID()]; u != d.BytesUsed() && !lostDev {
			c.found(Finding{ID: DeviceUsed, Root: ondisk.ChunkTree, Device: d.DevID()}, "the device's item says %d bytes are used, its extents take %d", d.BytesUsed(), u)
		}
		c.superDevItem(d)
	}
	if c.lost.in(ondisk.ChunkTree) {
		return
	}
	if total != c.sb.TotalBytes() {
		c.found(Finding{ID: SuperTotal}, "superblock says %d bytes, the devices have %d", c.sb.TotalBytes(), total)
	}
	if n := uint64(len(c.devItems)); n != c.sb.NumDevices() {
		c.found(Finding{ID: SuperDevices}, "superblock says %d devices, the chunk tree has %d", c.sb.NumDevices(), n)
	}
}
