package check

import (
	"cmp"
	"encoding/binary"
	"slices"

	"imgtool/engine/ondisk"
)

func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// extent is an EXTENT_ITEM or METADATA_ITEM.
type extent struct {
	addr, length uint64
	refs         uint64
	gen          ondisk.Generation
	counted      uint64 // sum of the counts of its backrefs
	balance      uint64 // sum of the hashes of its backrefs, less those of the references that the trees make; added to atomically
	at           uint32 // low part of the address of the leaf, in sectors, for messages
	level        uint8  // of a tree block
	tree, full   bool
}

// keyedRef is a backref that has an item of its own.
type keyedRef struct {
	addr  uint64
	ref   ref
	count uint32
	at    ondisk.Logical
}

// ref is one reference to an extent, by one of four kinds; equal references have equal values.
type ref struct {
	kind   ondisk.ItemType
	a      uint64 // root, or parent block
	ino    uint64 // EXTENT_DATA_REF only
	offset uint64 // EXTENT_DATA_REF only: file offset less offset in the extent
}

// hashRef hashes a reference.
func (c *checker) hashRef(r ref) uint64 { return c.h.mix(uint64(r.kind), r.a, r.ino, r.offset) }

// extentItem takes in an item of the extent tree.
func (c *checker) extentItem(p *parts, k ondisk.Key, item []byte, at ondisk.Logical) {
	switch k.Type {
	case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
		p.extents = append(p.extents, extent{})
		e := &p.extents[len(p.extents)-1]
		c.readExtent(e, k, item, at)
		_ = c.eachInlineRef(k, item, func(r ref, n uint32) { // treecheck has seen the item
			e.counted += uint64(n)
			e.balance += uint64(n) * c.hashRef(r)
		})
	case ondisk.TreeBlockRefKey, ondisk.SharedBlockRefKey, ondisk.SharedDataRefKey, ondisk.ExtentDataRefKey:
		eachKeyedRef(k, item, func(r ref, n uint32) {
			p.keyed = append(p.keyed, keyedRef{uint64(k.ObjectID), r, n, at})
		})
	}
}

func (c *checker) readExtent(e *extent, k ondisk.Key, item []byte, at ondisk.Logical) {
	x := ondisk.AsExtentItem(item)
	e.addr, e.length, e.refs, e.gen = uint64(k.ObjectID), k.Offset, x.Refs(), x.Generation()
	e.tree, e.full = x.Flags()&ondisk.ExtentFlagTreeBlock != 0, x.Flags()&ondisk.ExtentFlagFullBackref != 0
	e.at = uint32(uint64(at) / c.sector)
	switch {
	case k.Type == ondisk.MetadataItemKey:
		e.length, e.level = uint64(c.nodeSize), uint8(k.Offset)
	case e.tree:
		e.level = ondisk.AsTreeBlockInfo(item[ondisk.ExtentItemSize:]).Level()
	}
}

func (c *checker) eachInlineRef(k ondisk.Key, item []byte, f func(ref, uint32)) error {
	return ondisk.InlineRefs(item, k.Type, func(r ondisk.InlineRef) bool {
		switch r.Type {
		case ondisk.ExtentDataRefKey:
			f(ref{r.Type, uint64(r.Data.Root()), uint64(r.Data.ObjectID()), r.Data.Offset()}, r.Count)
		case ondisk.ExtentOwnerRefKey: // simple quotas; no reference
		default:
			f(ref{kind: r.Type, a: r.Offset}, r.Count)
		}
		return true
	})
}

func eachKeyedRef(k ondisk.Key, item []byte, f func(ref, uint32)) {
	switch k.Type {
	case ondisk.TreeBlockRefKey, ondisk.SharedBlockRefKey:
		f(ref{kind: k.Type, a: k.Offset}, 1)
	case ondisk.SharedDataRefKey:
		f(ref{kind: k.Type, a: k.Offset}, ondisk.AsSharedDataRef(item).Count())
	case ondisk.ExtentDataRefKey:
		for ; len(item) >= ondisk.ExtentDataRefSize; item = item[ondisk.ExtentDataRefSize:] {
			d := ondisk.AsExtentDataRef(item)
			f(ref{k.Type, uint64(d.Root()), uint64(d.ObjectID()), d.Offset()}, d.Count())
		}
	}
}

// indexExtents sorts the table, adds the keyed backrefs, and connects extents with the blocks read so far.
func (c *checker) indexExtents() {
	slices.SortFunc(c.extents, func(a, b extent) int {
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.length, b.length))
	})
	c.extentAt = addrIndex{}
	for i := range c.extents {
		if i == 0 || c.extents[i-1].addr != c.extents[i].addr {
			c.extentAt.put(c.extents[i].addr, uint32(i))
		}
	}
	for _, k := range c.keyed {
		i, ok := c.extentAt.get(k.addr)
		if !ok {
			if !c.lost.in(ondisk.ExtentTree) {
				c.found(Finding{ID: BackrefNoExtent, Root: ondisk.ExtentTree, Block: k.at, Extent: ondisk.Logical(k.addr)}, "%v, but there is no extent", k.ref)
			}
			continue
		}
		e := &c.extents[i]
		e.counted += uint64(k.count)
		e.balance += uint64(k.count) * c.hashRef(k.ref)
	}
	c.keyed = nil
}

// metadataBytes is the size of all tree blocks, as the extent tree has it.
func (c *checker) metadataBytes() uint64 {
	var n uint64
	for i := range c.extents {
		if c.extents[i].tree {
			n += c.extents[i].length
		}
	}
	return n
}

// isFull reports whether the references that a block makes are shared ones: the extent item's flag decides.
func (c *checker) isFull(addr ondisk.Logical) bool {
	i, ok := c.extentAt.get(uint64(addr))
	return ok && c.extents[i].tree && c.extents[i].full
}

// extentTable looks at each extent by itself and at its neighbours.
func (c *checker) extentTable() error {
	var reach uint64
	for i := range c.extents {
		e := &c.extents[i]
		at := Finding{Root: ondisk.ExtentTree, Block: ondisk.Logical(uint64(e.at) * c.sector), Extent: ondisk.Logical(e.addr)}
		if e.addr < reach {
			at.ID = ExtentOverlap
			c.found(at, "extent of %d bytes begins inside the extent before it, which ends at %d", e.length, reach)
		}
		reach = max(reach, e.addr+e.length)
		if e.refs != e.counted && !c.lost.in(ondisk.ExtentTree) {
			at.ID = ExtentRefs
			c.found(at, "%d references, its backrefs count %d", e.refs, e.counted)
		}
	}
	return nil
}
