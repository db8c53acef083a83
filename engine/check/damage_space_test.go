package check_test

import (
	"bytes"
	"encoding/binary"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/ondisk"
)

func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

var superDamage = []damage{
	{want: check.SuperInvalid, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetStripeSize(3000) })
	}},
	{want: check.SuperMagic, spoil: func(s *surgeon, _ *base) { s.super(1, func(sb *ondisk.SuperBlock) { sb.SetMagic(1) }) }},
	{want: check.SuperCsum, spoil: func(s *surgeon, _ *base) {
		_, err := s.dev.WriteAt(s.t.Context(), []byte{1}, int64(ondisk.SuperOffsets[1])+4000)
		s.must(err)
	}},
	{want: check.SuperForeign, spoil: func(s *surgeon, _ *base) {
		s.super(1, func(sb *ondisk.SuperBlock) { sb.SetFSID(ondisk.UUID{1}); sb.DevItem().SetFSID(ondisk.UUID{1}) })
	}},
	{want: check.SuperBytenr, spoil: func(s *surgeon, _ *base) {
		s.super(1, func(sb *ondisk.SuperBlock) { sb.SetBytenr(ondisk.SuperOffsets[0]) })
	}},
	{want: check.SuperOld, spoil: func(s *surgeon, _ *base) {
		s.super(1, func(sb *ondisk.SuperBlock) { sb.SetGeneration(sb.Generation() - 1) })
	}},
	{want: check.SuperDiffers, spoil: func(s *surgeon, _ *base) {
		s.super(1, func(sb *ondisk.SuperBlock) { sb.SetRoot(sb.Root() + 4096) })
	}},
	{want: check.SuperBackup, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) {
			for i := range ondisk.NumBackupRoots {
				if b := sb.Backup(i); b.TreeRootGen() == sb.Generation() {
					b.SetTreeRoot(b.TreeRoot() + 4096)
				}
			}
		})
	}},
	{want: check.SuperSysArray, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { put64(sb.SysChunkArray()[ondisk.KeySize+8:], 77) }) // the owner
	}},
	{want: check.SuperSysArray, name: "entry", spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { ondisk.AsChunk(sb.SysChunkArray()[ondisk.KeySize:]).SetSectorSize(512) })
	}},
	{want: check.SuperSysArray, name: "one too many", spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) {
			n := int(sb.SysChunkArraySize())
			second := sb.SysChunkArray()[n:]
			copy(second, sb.SysChunkArray()[:n])
			k := ondisk.GetKey(second)
			k.Offset = 1 << 40
			ondisk.PutKey(second, k)
			sb.SetSysChunkArraySize(uint32(2 * n))
		})
	}},
	{want: check.SuperSysArray, name: "one too few", spoil: func(s *surgeon, _ *base) {
		path := s.find(ondisk.ChunkTree, func(k ondisk.Key, it []byte) bool {
			return k.Type == ondisk.ChunkItemKey && ondisk.AsChunk(it).Type()&ondisk.BGSystem != 0
		})
		last := path[len(path)-1]
		leaf := s.read(last.addr)
		k := leaf.Key(last.slot)
		k.Offset = 1 << 40
		s.insert(ondisk.ChunkTree, k, bytes.Clone(leaf.Item(last.slot)))
	}},
	{want: check.SuperDevItem, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.DevItem().SetTotalBytes(sb.DevItem().TotalBytes() - 1<<20) })
	}},
	{want: check.SuperTotal, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetTotalBytes(sb.TotalBytes() + 1<<20) })
	}},
	{want: check.SuperUsed, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetBytesUsed(sb.BytesUsed() + 4096) })
	}},
	{want: check.SuperDevices, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetNumDevices(2) })
	}},
	{want: check.DeviceMissing, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetNumDevices(2) })
	}},
	{want: check.DeviceShort, spoil: func(s *surgeon, _ *base) { s.must(s.dev.(*disk.Mem).Truncate(imageSize - 1<<20)) }},
	{want: check.DeviceUsed, spoil: func(s *surgeon, _ *base) {
		s.item(ondisk.ChunkTree, is(ondisk.DevItemKey, 0), func(it []byte) {
			d := ondisk.AsDevItem(it)
			d.SetBytesUsed(d.BytesUsed() - 1<<20)
		})
	}},
}

// dataChunk matches the chunk, device extent or block group of file data.
func (s *surgeon) dataChunk() (start ondisk.Logical, length uint64) {
	for _, c := range s.vol.Chunks() {
		if c.Type&ondisk.BGData != 0 {
			return c.Start, c.Length
		}
	}
	s.t.Fatal("no data chunk")
	return 0, 0
}

func (s *surgeon) devExtent() match {
	start, _ := s.dataChunk()
	return func(k ondisk.Key, item []byte) bool {
		return k.Type == ondisk.DevExtentKey && ondisk.AsDevExtent(item).ChunkOffset() == start
	}
}

func (s *surgeon) groupTree() ondisk.TreeID {
	if s.sb.HasCompatRO(ondisk.CompatROBlockGroupTree) {
		return ondisk.BlockGroupTree
	}
	return ondisk.ExtentTree
}

var chunkDamage = []damage{
	{want: check.ChunkOverlap, spoil: func(s *surgeon, _ *base) {
		start, length := s.dataChunk()
		chunk := is(ondisk.ChunkItemKey, 0)
		var item []byte
		s.find(ondisk.ChunkTree, func(k ondisk.Key, it []byte) bool { item = it; return chunk(k, it) && k.Offset == uint64(start) })
		s.insert(ondisk.ChunkTree, ondisk.Key{ObjectID: 256, Type: ondisk.ChunkItemKey, Offset: uint64(start) + length/2&^0xffff}, item)
	}},
	{want: check.ChunkNoDevExtent, spoil: func(s *surgeon, _ *base) { s.remove(ondisk.DevTree, s.devExtent()) }},
	{want: check.ChunkNoDevice, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(ondisk.ChunkTree, func(k ondisk.Key, _ []byte) bool { return k.Type == ondisk.ChunkItemKey && k.Offset == uint64(start) },
			func(it []byte) { ondisk.ChunkStripe(it, 0).SetDevID(9) })
	}},
	{want: check.ChunkNoGroup, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.remove(s.groupTree(), is(ondisk.BlockGroupItemKey, ondisk.ObjectID(start)))
	}},
	{want: check.DevExtentNoChunk, spoil: func(s *surgeon, _ *base) {
		s.item(ondisk.DevTree, s.devExtent(), func(it []byte) { ondisk.AsDevExtent(it).SetChunkOffset(1 << 40) })
	}},
	{want: check.DevExtentLength, spoil: func(s *surgeon, _ *base) {
		s.item(ondisk.DevTree, s.devExtent(), func(it []byte) { e := ondisk.AsDevExtent(it); e.SetLength(e.Length() - 1<<20) })
	}},
	{want: check.DevExtentOverlap, spoil: func(s *surgeon, _ *base) {
		// In two leaves, or treecheck refuses the leaf: here the second extent belongs to another one of a leaf of its own.
		s.splitDevTree()
	}},
	{want: check.DevExtentBeyond, spoil: func(s *surgeon, _ *base) {
		s.key(ondisk.DevTree, s.lastDevExtent(), func(k *ondisk.Key) { k.Offset = imageSize - 1<<20 })
	}},
	{want: check.GroupNoChunk, spoil: func(s *surgeon, _ *base) {
		s.insert(s.groupTree(), ondisk.Key{ObjectID: 1 << 40, Type: ondisk.BlockGroupItemKey, Offset: 1 << 20}, s.groupItem())
	}},
	{want: check.GroupType, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(s.groupTree(), is(ondisk.BlockGroupItemKey, ondisk.ObjectID(start)), func(it []byte) {
			ondisk.AsBlockGroupItem(it).SetFlags(ondisk.BGData | ondisk.BGDup)
		})
	}},
	{want: check.GroupUsed, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(s.groupTree(), is(ondisk.BlockGroupItemKey, ondisk.ObjectID(start)), func(it []byte) {
			g := ondisk.AsBlockGroupItem(it)
			g.SetUsed(g.Used() + 4096)
		})
	}},
}

func (s *surgeon) groupItem() []byte {
	g := new(ondisk.BlockGroupItem)
	g.SetChunkObjectID(ondisk.FirstChunkObjectID)
	g.SetFlags(ondisk.BGData)
	return g[:]
}

func (s *surgeon) lastDevExtent() match {
	var last ondisk.Key
	s.look(ondisk.DevTree, func(k ondisk.Key, _ []byte) bool {
		if k.Type == ondisk.DevExtentKey {
			last = k
		}
		return false
	})
	return func(k ondisk.Key, _ []byte) bool { return k == last }
}

// splitDevTree turns the device tree's only leaf into two under a node of level 1, by way of two blocks that are free,
// and lets the last extent begin inside the one before it. The new blocks are in no other table.
func (s *surgeon) splitDevTree() {
	root := s.root(ondisk.DevTree)
	old := s.read(root)
	n := old.NrItems()
	var leaves [2]ondisk.Logical
	for i := range leaves {
		leaves[i] = s.freeBlock(i)
	}
	last := s.lastDevExtent()
	for i, addr := range leaves {
		b := append(ondisk.Block(nil), old...)
		b.Header().SetBytenr(addr)
		s.write(addr, b)
		path := []step{{addr, 0}}
		s.repack(path, func(l []entry) []entry {
			if i == 0 {
				return l[:n-1]
			}
			l = l[n-1:]
			if !last(l[0].key, nil) {
				s.t.Fatal("the last item is no device extent")
			}
			l[0].key.Offset -= 1 << 20
			return l
		})
	}
	gen := old.Header().Generation()
	s.edit(root, func(b ondisk.Block) {
		clear(b[ondisk.HeaderSize:])
		b.Header().SetLevel(1)
		b.SetNrItems(2)
		for i, addr := range leaves {
			b.SetPtr(i, s.read(addr).Key(0), addr, gen)
		}
	})
	s.item(ondisk.RootTree, is(ondisk.RootItemKey, ondisk.ObjectID(ondisk.DevTree)), func(it []byte) { ondisk.AsRootItem(it).SetLevel(1) })
}

// freeBlock returns the address of tree block number i that nothing uses, from the end of a metadata chunk.
func (s *surgeon) freeBlock(i int) ondisk.Logical {
	for _, c := range s.vol.Chunks() {
		if c.Type&ondisk.BGMetadata != 0 {
			return c.End() - ondisk.Logical(i+1)*ondisk.Logical(s.sb.NodeSize())
		}
	}
	s.t.Fatal("no metadata chunk")
	return 0
}

// group of the free-space tree that lists extents, with free space in it.
func (s *surgeon) freeExtent() match {
	start, length := s.dataChunk()
	return func(k ondisk.Key, _ []byte) bool {
		return k.Type == ondisk.FreeSpaceExtentKey && k.ObjectID >= ondisk.ObjectID(start) && uint64(k.ObjectID) < uint64(start)+length
	}
}

var spaceDamage = []damage{
	{want: check.FreeInUse, spoil: func(s *surgeon, _ *base) {
		s.key(ondisk.FreeSpaceTree, s.freeExtent(), func(k *ondisk.Key) { k.ObjectID -= 4096; k.Offset += 4096 })
	}},
	{want: check.FreeMissing, spoil: func(s *surgeon, _ *base) {
		s.key(ondisk.FreeSpaceTree, s.freeExtent(), func(k *ondisk.Key) { k.ObjectID += 4096; k.Offset -= 4096 })
	}},
	{want: check.FreeCount, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(ondisk.FreeSpaceTree, is(ondisk.FreeSpaceInfoKey, ondisk.ObjectID(start)), func(it []byte) {
			f := ondisk.AsFreeSpaceInfo(it)
			f.SetExtentCount(f.ExtentCount() + 1)
		})
	}},
	{want: check.FreeKind, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(ondisk.FreeSpaceTree, is(ondisk.FreeSpaceInfoKey, ondisk.ObjectID(start)), func(it []byte) {
			ondisk.AsFreeSpaceInfo(it).SetFlags(ondisk.FreeSpaceUsingBitmaps)
		})
	}},
	{want: check.FreeNoInfo, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.remove(ondisk.FreeSpaceTree, is(ondisk.FreeSpaceInfoKey, ondisk.ObjectID(start)))
	}},
	{want: check.FreeNoGroup, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.FreeSpaceTree, ondisk.Key{ObjectID: 1 << 40, Type: ondisk.FreeSpaceInfoKey, Offset: 1 << 20}, make([]byte, ondisk.FreeSpaceInfoSize))
	}},
	{want: check.FreeNoGroup, name: "extent above all", spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.FreeSpaceTree, ondisk.Key{ObjectID: 1 << 40, Type: ondisk.FreeSpaceExtentKey, Offset: 4096}, nil)
	}},
	{want: check.FreeNoGroup, name: "extent between two", spoil: func(s *surgeon, _ *base) {
		// There is no gap between groups: one is made, by taking a group away with what describes it.
		start, _ := s.dataChunk()
		s.remove(s.groupTree(), is(ondisk.BlockGroupItemKey, ondisk.ObjectID(start)))
		s.remove(ondisk.FreeSpaceTree, is(ondisk.FreeSpaceInfoKey, ondisk.ObjectID(start)))
	}},
	{want: check.CsumMissing, spoil: func(s *surgeon, _ *base) {
		s.resize(ondisk.CsumTree, is(ondisk.ExtentCsumKey, 0), func(it []byte) []byte { return it[:len(it)-8] })
	}},
	{want: check.CsumNoExtent, spoil: func(s *surgeon, _ *base) {
		start, length := s.dataChunk()
		s.insert(ondisk.CsumTree, ondisk.Key{ObjectID: ondisk.ExtentCsumObjectID, Type: ondisk.ExtentCsumKey, Offset: uint64(start) + length - 4096}, make([]byte, 4))
	}},
	{want: check.CsumOverlap, spoil: func(s *surgeon, _ *base) {
		// The last item of a leaf goes on where the next leaf begins.
		addr, n := s.node(ondisk.CsumTree)
		path := []step{{addr, 0}, {n.BlockPtr(0), 0}}
		next := s.read(n.BlockPtr(1)).Key(0).Offset
		s.repack(path, func(l []entry) []entry {
			last := &l[len(l)-1]
			last.data = append(last.data[:len(last.data)-4*5], make([]byte, 4*5)...)
			last.key.Offset = next - uint64(len(last.data)/4-1)*4096
			return l
		})
	}},
	{want: check.CsumOdd, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, b.big), func(it []byte) { ondisk.AsInodeItem(it).SetFlags(ondisk.InodeNoDataSum) })
	}},
	{want: check.DataCopy, base: "dup data", opts: check.Options{DataCsum: true}, spoil: func(s *surgeon, b *base) {
		path := s.find(ondisk.FSTree, is(ondisk.ExtentDataKey, b.big))
		last := path[len(path)-1]
		s.smash(ondisk.AsFileExtentItem(s.read(last.addr).Item(last.slot)).DiskBytenr(), 1)
	}},
	{want: check.DataCsum, opts: check.Options{DataCsum: true}, spoil: func(s *surgeon, b *base) {
		path := s.find(ondisk.FSTree, is(ondisk.ExtentDataKey, b.big))
		last := path[len(path)-1]
		s.smash(ondisk.AsFileExtentItem(s.read(last.addr).Item(last.slot)).DiskBytenr(), 0)
	}},
}
