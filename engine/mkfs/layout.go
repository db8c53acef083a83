package mkfs

import (
	"imgtool/engine/ondisk"
)

// chunk is one of the three chunks that a new file system begins with.
type chunk struct {
	typ     uint64
	start   ondisk.Logical
	size    uint64
	stripes []ondisk.Physical
	used    uint64 // bytes of tree blocks in it; they lie at its front
}

// seed is the file system of generation 1: the trees that have to exist before a transaction can run, one leaf each.
type seed struct {
	o         Options
	size      uint64
	devUUID   ondisk.UUID
	chunkUUID ondisk.UUID
	system    chunk
	meta      chunk
	data      chunk
	leaves    []*leaf // in the order of their addresses
}

const seedGen ondisk.Generation = 1

// leaf is a tree of one block.
type leaf struct {
	owner ondisk.TreeID
	addr  ondisk.Logical
	items []item
}

type item struct {
	key  ondisk.Key
	data []byte
}

func (l *leaf) add(k ondisk.Key, data []byte) { l.items = append(l.items, item{k, data}) }

func newSeed(o Options, size uint64) *seed {
	s := &seed{o: o, size: size, devUUID: ondisk.NewUUID(), chunkUUID: ondisk.NewUUID()}
	// As with mkfs.btrfs, what its temporary groups take stays free in front: in a small file system the kernel then finds
	// room for another chunk when the rest has gone to one, as a balance needs it.
	physical, logical := ondisk.Physical(reservedMinimum), ondisk.Logical(firstLogical)
	place := func(c *chunk, typ, profile, bytes uint64) {
		c.typ, c.start, c.size = typ|profile, logical, bytes
		for range copies(profile) {
			c.stripes = append(c.stripes, physical)
			physical += ondisk.Physical(bytes)
		}
		logical += ondisk.Logical(bytes)
	}
	place(&s.system, ondisk.BGSystem, o.Meta, systemSize)
	place(&s.meta, ondisk.BGMetadata, o.Meta, s.metaSize())
	place(&s.data, ondisk.BGData, o.Data, o.dataSize())
	s.placeTrees()
	return s
}

func (o Options) dataSize() uint64 {
	if o.Data&ondisk.BGDup != 0 {
		return dataDup
	}
	return dataSingle
}

// metaSize is a tenth of the device over all copies, within the kernel's bounds and what the other chunks leave, in
// whole MiB.
func (s *seed) metaSize() uint64 {
	least, n := uint64(minMetaSingle), copies(s.o.Meta)
	if s.o.Meta&ondisk.BGDup != 0 {
		least = minMetaDup
	}
	left := (s.size - min(s.size, reservedMinimum+systemSize*n+s.o.dataSize()*copies(s.o.Data))) / n
	return max(min(s.size/10/n, left, maxMeta)>>20<<20, least)
}

// placeTrees gives every tree its block: the chunk tree in the SYSTEM chunk, the others in the METADATA chunk.
func (s *seed) placeTrees() {
	ids := []ondisk.TreeID{ondisk.ChunkTree, ondisk.RootTree, ondisk.ExtentTree, ondisk.DevTree, ondisk.FSTree, ondisk.CsumTree}
	if s.o.Features.FreeSpaceTree {
		ids = append(ids, ondisk.FreeSpaceTree)
	}
	if s.o.Features.BlockGroupTree {
		ids = append(ids, ondisk.BlockGroupTree)
	}
	for _, id := range ids {
		c := &s.meta
		if id == ondisk.ChunkTree {
			c = &s.system
		}
		s.leaves = append(s.leaves, &leaf{owner: id, addr: c.start + ondisk.Logical(c.used)})
		c.used += uint64(s.o.NodeSize)
	}
}

func (s *seed) leaf(id ondisk.TreeID) *leaf {
	for _, l := range s.leaves {
		if l.owner == id {
			return l
		}
	}
	return nil
}

func (s *seed) chunks() []*chunk { return []*chunk{&s.system, &s.meta, &s.data} }

// deviceUsed is what all device extents take together.
func (s *seed) deviceUsed() uint64 {
	n := uint64(0)
	for _, c := range s.chunks() {
		n += c.size * uint64(len(c.stripes))
	}
	return n
}

func (s *seed) bytesUsed() uint64 { return s.system.used + s.meta.used }
