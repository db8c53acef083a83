package mkfs

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// fill makes the items of every tree of generation 1.
func (s *seed) fill() {
	s.fillChunkTree()
	s.fillDevTree()
	s.fillRootTree()
	s.fillExtentTree()
	if l := s.leaf(ondisk.FreeSpaceTree); l != nil {
		s.fillFreeSpaceTree(l)
	}
	s.fillFSTree()
	for _, l := range s.leaves {
		slices.SortFunc(l.items, func(a, b item) int { return a.key.Compare(b.key) })
	}
}

// devItem describes the only device.
func (s *seed) devItem() *ondisk.DevItem {
	var d ondisk.DevItem
	d.SetDevID(1)
	d.SetTotalBytes(s.size)
	d.SetBytesUsed(s.deviceUsed())
	d.SetIOAlign(ondisk.SectorSize)
	d.SetIOWidth(ondisk.SectorSize)
	d.SetSectorSize(ondisk.SectorSize)
	d.SetUUID(s.devUUID)
	d.SetFSID(s.o.FSID)
	return &d
}

func (s *seed) chunkItem(c *chunk) []byte {
	b := make([]byte, ondisk.ChunkItemSize(len(c.stripes)))
	h := ondisk.AsChunk(b)
	h.SetLength(c.size)
	h.SetOwner(ondisk.ExtentTree)
	h.SetStripeLen(ondisk.StripeLen)
	h.SetType(c.typ)
	h.SetIOAlign(ondisk.StripeLen)
	h.SetIOWidth(ondisk.StripeLen)
	h.SetSectorSize(ondisk.SectorSize)
	h.SetNumStripes(uint16(len(c.stripes)))
	h.SetSubStripes(1)
	for i, at := range c.stripes {
		st := ondisk.ChunkStripe(b, i)
		st.SetDevID(1)
		st.SetOffset(at)
		st.SetDevUUID(s.devUUID)
	}
	return b
}

func chunkKey(c *chunk) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey, Offset: uint64(c.start)}
}

func (s *seed) fillChunkTree() {
	l := s.leaf(ondisk.ChunkTree)
	l.add(ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: 1}, s.devItem()[:])
	for _, c := range s.chunks() {
		l.add(chunkKey(c), s.chunkItem(c))
	}
}

func (s *seed) fillDevTree() {
	l := s.leaf(ondisk.DevTree)
	for _, c := range s.chunks() {
		for _, at := range c.stripes {
			var e ondisk.DevExtent
			e.SetChunkTree(ondisk.ChunkTree)
			e.SetChunkObjectID(ondisk.FirstChunkObjectID)
			e.SetChunkOffset(c.start)
			e.SetLength(c.size)
			e.SetChunkTreeUUID(s.chunkUUID)
			l.add(ondisk.Key{ObjectID: 1, Type: ondisk.DevExtentKey, Offset: uint64(at)}, e[:])
		}
	}
}

// fillRootTree lists every tree but the root and chunk trees, which the super points to.
func (s *seed) fillRootTree() {
	l := s.leaf(ondisk.RootTree)
	for _, t := range s.leaves {
		if t.owner == ondisk.RootTree || t.owner == ondisk.ChunkTree {
			continue
		}
		it := ondisk.NewRootItem(s.o.NodeSize)
		it.SetGeneration(seedGen)
		it.SetGenerationV2(seedGen)
		it.SetBytenr(t.addr)
		it.SetBytesUsed(uint64(s.o.NodeSize))
		if t.owner == ondisk.FSTree {
			it.Inode().SetFlags(ondisk.InodeRootInit) // else a snapshot's flags mean nothing to the kernel
			it.SetRootDirID(ondisk.FirstFreeObjectID)
			it.SetUUID(ondisk.NewUUID())
			it.SetCTime(ondisk.TimeOf(s.o.Now()))
			it.SetOTime(ondisk.TimeOf(s.o.Now()))
		}
		l.add(ondisk.Key{ObjectID: ondisk.ObjectID(t.owner), Type: ondisk.RootItemKey}, it[:])
	}
}

func (s *seed) fillExtentTree() {
	l, groups := s.leaf(ondisk.ExtentTree), s.leaf(ondisk.BlockGroupTree)
	if groups == nil {
		groups = l
	}
	for _, t := range s.leaves {
		l.add(s.blockExtent(t))
	}
	for _, c := range s.chunks() {
		var g ondisk.BlockGroupItem
		g.SetUsed(c.used)
		g.SetChunkObjectID(ondisk.FirstChunkObjectID)
		g.SetFlags(c.typ)
		groups.add(ondisk.Key{ObjectID: ondisk.ObjectID(c.start), Type: ondisk.BlockGroupItemKey, Offset: c.size}, g[:])
	}
}

// blockExtent is the extent item of a tree block at level 0, with its one reference inline.
func (s *seed) blockExtent(t *leaf) (ondisk.Key, []byte) {
	key := ondisk.Key{ObjectID: ondisk.ObjectID(t.addr), Type: ondisk.MetadataItemKey}
	at := ondisk.ExtentItemSize
	if !s.o.Features.SkinnyMetadata {
		key.Type, key.Offset = ondisk.ExtentItemKey, uint64(s.o.NodeSize)
		at += ondisk.TreeBlockInfoSize
	}
	b := make([]byte, at+ondisk.ExtentInlineRefSize)
	e := ondisk.AsExtentItem(b)
	e.SetRefs(1)
	e.SetGeneration(seedGen)
	e.SetFlags(ondisk.ExtentFlagTreeBlock)
	if !s.o.Features.SkinnyMetadata && len(t.items) > 0 {
		first := slices.MinFunc(t.items, func(a, b item) int { return a.key.Compare(b.key) })
		ondisk.AsTreeBlockInfo(b[ondisk.ExtentItemSize:]).SetKey(first.key)
	}
	r := ondisk.AsExtentInlineRef(b[at:])
	r.SetType(ondisk.TreeBlockRefKey)
	r.SetOffset(uint64(t.owner))
	return key, b
}

func (s *seed) fillFreeSpaceTree(l *leaf) {
	for _, c := range s.chunks() {
		var info ondisk.FreeSpaceInfo
		info.SetExtentCount(1)
		l.add(ondisk.Key{ObjectID: ondisk.ObjectID(c.start), Type: ondisk.FreeSpaceInfoKey, Offset: c.size}, info[:])
		l.add(ondisk.Key{ObjectID: ondisk.ObjectID(uint64(c.start) + c.used), Type: ondisk.FreeSpaceExtentKey, Offset: c.size - c.used}, nil)
	}
}

func (s *seed) fillFSTree() {
	l := s.leaf(ondisk.FSTree)
	ino, ref := RootDir(s.o.Now, seedGen)
	l.add(ondisk.Key{ObjectID: ondisk.FirstFreeObjectID, Type: ondisk.InodeItemKey}, ino)
	l.add(ondisk.Key{ObjectID: ondisk.FirstFreeObjectID, Type: ondisk.InodeRefKey, Offset: uint64(ondisk.FirstFreeObjectID)}, ref)
}

// byKey orders leaves for the write-out.
func byKey(a, b *leaf) int { return cmp.Compare(a.addr, b.addr) }
