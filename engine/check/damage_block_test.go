package check_test

import (
	"bytes"
	"encoding/binary"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/ondisk"
)

// someLeaf is a leaf of FS_TREE that is not its first.
func (s *surgeon) someLeaf() ondisk.Logical {
	_, n := s.node(ondisk.FSTree)
	return n.BlockPtr(1)
}

var blockDamage = []damage{
	{want: check.BlockCsum, spoil: func(s *surgeon, _ *base) { s.smash(s.someLeaf()+3000, 0) }},
	{want: check.BlockCopy, base: "dup", spoil: func(s *surgeon, _ *base) { s.smash(s.someLeaf()+3000, 0) }},
	{want: check.BlockCsum, name: "dup", base: "dup", spoil: func(s *surgeon, _ *base) { s.smash(s.someLeaf()+3000, 0, 1) }},
	{want: check.BlockUnmapped, spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		s.edit(addr, func(b ondisk.Block) { b.SetPtr(1, n.Key(1), 1<<45, n.PtrGeneration(1)) })
	}},
	{want: check.BlockUnreadable, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		for _, c := range s.vol.Chunks() {
			if c.Type&ondisk.BGMetadata != 0 {
				s.must(s.dev.(*disk.Mem).Truncate(int64(c.Stripes[0].Offset) + int64(s.someLeaf()-c.Start)))
			}
		}
		_ = start
	}},
	{want: check.BlockBytenr, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetBytenr(b.Header().Bytenr() + 4096) })
	}},
	{want: check.BlockFSID, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetFSID(ondisk.UUID{9}) })
	}},
	{want: check.BlockGeneration, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetGeneration(1) })
	}},
	{want: check.BlockLevel, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetLevel(1) })
	}},
	{want: check.BlockOwner, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetOwner(ondisk.CsumTree) })
	}},
	{want: check.BlockFirstKey, spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		s.edit(addr, func(b ondisk.Block) { k := n.Key(1); k.Offset--; b.SetKey(1, k) })
	}},
	{want: check.BlockRange, spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		path := []step{{addr, 1}, {n.BlockPtr(1), 0}}
		// Types that nobody knows are nobody's business but for their order.
		stray := entry{ondisk.Key{ObjectID: n.Key(2).ObjectID + 1, Type: 254}, nil}
		s.repack(path, func(l []entry) []entry { return append(l[:len(l)-1], stray) })
	}},
	{want: check.BlockReused, name: "loop", spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		s.edit(addr, func(b ondisk.Block) { b.SetPtr(1, n.Key(1), addr, n.PtrGeneration(1)) })
	}},
	{want: check.BlockItems, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.SetNrItems(4000) })
	}},
	{want: check.BlockLayout, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.SetItem(1, b.Key(1), b.ItemOffset(1)-1, b.ItemSize(1)) })
	}},
	{want: check.BlockKeyOrder, spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		s.edit(addr, func(b ondisk.Block) { b.SetKey(1, n.Key(2)); b.SetKey(2, n.Key(1)) })
	}},
	{want: check.BlockPointer, spoil: func(s *surgeon, _ *base) {
		addr, n := s.node(ondisk.FSTree)
		s.edit(addr, func(b ondisk.Block) { b.SetPtr(1, n.Key(1), n.BlockPtr(1)+1, n.PtrGeneration(1)) })
	}},
	{want: check.BlockContent, spoil: func(s *surgeon, _ *base) {
		s.edit(s.someLeaf(), func(b ondisk.Block) { b.Header().SetRawFlags(0) })
	}},
}

// inFiles makes a damage of an item of FS_TREE.
func inFiles(id check.ID, typ ondisk.ItemType, f func(it []byte)) damage {
	return damage{want: id, spoil: func(s *surgeon, _ *base) { s.item(ondisk.FSTree, is(typ, 0), f) }}
}

// in makes a damage of an item of another tree.
func in(id check.ID, tree ondisk.TreeID, typ ondisk.ItemType, f func(it []byte)) damage {
	return damage{want: id, name: typ.String(), spoil: func(s *surgeon, _ *base) { s.item(tree, is(typ, 0), f) }}
}

var itemDamage = []damage{
	inFiles(check.ItemInode, ondisk.InodeItemKey, func(it []byte) { ondisk.AsInodeItem(it).SetMode(0o777) }),
	inFiles(check.ItemInodeRef, ondisk.InodeRefKey, func(it []byte) { ondisk.AsInodeRef(it).SetNameLen(2000) }),
	inFiles(check.ItemDir, ondisk.DirItemKey, func(it []byte) { ondisk.AsDirItem(it).SetNameLen(2000) }),
	{want: check.ItemDir, name: "hash", spoil: func(s *surgeon, _ *base) {
		s.item(ondisk.FSTree, is(ondisk.DirItemKey, 0), func(it []byte) { it[ondisk.DirItemSize]++ })
	}},
	inFiles(check.ItemFileExtent, ondisk.ExtentDataKey, func(it []byte) { it[16] = 9 }),
	inFiles(check.ItemXattr, ondisk.XattrItemKey, func(it []byte) { ondisk.AsDirItem(it).SetType(ondisk.FTReg) }),
	{want: check.ItemCsum, spoil: func(s *surgeon, _ *base) {
		s.resize(ondisk.CsumTree, is(ondisk.ExtentCsumKey, 0), func(it []byte) []byte { return it[:len(it)-1] })
	}},
	in(check.ItemRoot, ondisk.RootTree, ondisk.RootItemKey, func(it []byte) { ondisk.AsRootItem(it).SetFlags(1 << 7) }),
	in(check.ItemRootRef, ondisk.RootTree, ondisk.RootRefKey, func(it []byte) { ondisk.AsRootRef(it).SetNameLen(200) }),
	in(check.ItemExtent, ondisk.ExtentTree, ondisk.ExtentItemKey, func(it []byte) { ondisk.AsExtentItem(it).SetFlags(0) }),
	in(check.ItemBackref, ondisk.ExtentTree, ondisk.ExtentDataRefKey, func(it []byte) { ondisk.AsExtentDataRef(it).SetCount(0) }),
	{want: check.ItemBlockGroup, spoil: func(s *surgeon, _ *base) {
		s.item(s.groupTree(), is(ondisk.BlockGroupItemKey, 0), func(it []byte) { ondisk.AsBlockGroupItem(it).SetFlags(0) })
	}},
	in(check.ItemFreeSpace, ondisk.FreeSpaceTree, ondisk.FreeSpaceInfoKey, func(it []byte) { ondisk.AsFreeSpaceInfo(it).SetFlags(8) }),
	in(check.ItemChunk, ondisk.ChunkTree, ondisk.ChunkItemKey, func(it []byte) { ondisk.AsChunk(it).SetStripeLen(1) }),
	in(check.ItemDevice, ondisk.ChunkTree, ondisk.DevItemKey, func(it []byte) { ondisk.AsDevItem(it).SetDevID(5) }),
	in(check.ItemDevice, ondisk.DevTree, ondisk.DevExtentKey, func(it []byte) { ondisk.AsDevExtent(it).SetChunkTree(9) }),
	{want: check.ItemOrphan, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.RootTree, ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: 300}, []byte{1})
	}},
	{want: check.ItemUUID, spoil: func(s *surgeon, _ *base) {
		s.resize(ondisk.UUIDTree, is(ondisk.UUIDKeySubvol, 0), func(it []byte) []byte { return it[:4] })
	}},
	{want: check.ItemOther, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.RootTree, ondisk.Key{Type: ondisk.QgroupInfoKey}, []byte{1})
	}},
}

func (s *surgeon) rootItem(id ondisk.TreeID, f func(r *ondisk.RootItem)) {
	s.t.Helper()
	s.item(ondisk.RootTree, is(ondisk.RootItemKey, ondisk.ObjectID(id)), func(it []byte) { f(ondisk.AsRootItem(it)) })
}

func rootRefOf(typ ondisk.ItemType, child ondisk.TreeID) match {
	return func(k ondisk.Key, _ []byte) bool {
		if typ == ondisk.RootBackrefKey {
			return k.Type == typ && k.ObjectID == ondisk.ObjectID(child)
		}
		return k.Type == typ && k.Offset == uint64(child)
	}
}

var rootDamage = []damage{
	{want: check.RootMissing, spoil: func(s *surgeon, _ *base) {
		s.remove(ondisk.RootTree, is(ondisk.RootItemKey, ondisk.ObjectID(ondisk.CsumTree)))
	}},
	{want: check.RootDir, spoil: func(s *surgeon, b *base) {
		s.item(b.sub, is(ondisk.InodeItemKey, 256), func(it []byte) { ondisk.AsInodeItem(it).SetMode(ondisk.ModeReg | 0o644) })
	}},
	{want: check.BlockLevel, name: "root", spoil: func(s *surgeon, b *base) {
		s.rootItem(b.sub, func(r *ondisk.RootItem) { r.SetLevel(r.Level() + 1) })
	}},
	{want: check.BlockOwner, name: "root", spoil: func(s *surgeon, _ *base) {
		s.edit(s.root(ondisk.DevTree), func(b ondisk.Block) { b.Header().SetOwner(ondisk.CsumTree) })
	}},
	{want: check.BlockGeneration, name: "root", spoil: func(s *surgeon, _ *base) {
		s.edit(s.root(ondisk.DevTree), func(b ondisk.Block) { b.Header().SetGeneration(1) })
	}},
	{want: check.RootRefNoBackref, spoil: func(s *surgeon, b *base) { s.remove(ondisk.RootTree, rootRefOf(ondisk.RootBackrefKey, b.sub)) }},
	{want: check.RootBackrefNoRef, spoil: func(s *surgeon, b *base) { s.remove(ondisk.RootTree, rootRefOf(ondisk.RootRefKey, b.sub)) }},
	{want: check.RootRefDiffers, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.RootTree, rootRefOf(ondisk.RootBackrefKey, b.sub), func(it []byte) { ondisk.AsRootRef(it).SetSequence(99) })
	}},
	{want: check.RootRefNoRoot, spoil: func(s *surgeon, b *base) {
		s.remove(ondisk.RootTree, is(ondisk.RootItemKey, ondisk.ObjectID(b.snap)))
	}},
	{want: check.RootRefNoEntry, spoil: func(s *surgeon, b *base) {
		for _, typ := range []ondisk.ItemType{ondisk.RootRefKey, ondisk.RootBackrefKey} {
			s.item(ondisk.RootTree, rootRefOf(typ, b.sub), func(it []byte) { ondisk.AsRootRef(it).SetSequence(99) })
		}
	}},
	{want: check.RootRefNoEntry, name: "no tree", spoil: func(s *surgeon, b *base) {
		path := s.find(ondisk.RootTree, rootRefOf(ondisk.RootRefKey, b.sub))
		last := path[len(path)-1]
		leaf := s.read(last.addr)
		k := leaf.Key(last.slot)
		k.ObjectID = 9000
		s.insert(ondisk.RootTree, k, bytes.Clone(leaf.Item(last.slot)))
	}},
	{want: check.RootNoPlace, spoil: func(s *surgeon, b *base) {
		for _, typ := range []ondisk.ItemType{ondisk.RootRefKey, ondisk.RootBackrefKey} {
			s.remove(ondisk.RootTree, rootRefOf(typ, b.sub))
		}
	}},
	{want: check.RootRefs, spoil: func(s *surgeon, b *base) { s.rootItem(b.sub, func(r *ondisk.RootItem) { r.SetRefs(2) }) }},
	{want: check.RootNoOrphan, spoil: func(s *surgeon, b *base) { s.rootItem(b.snap, func(r *ondisk.RootItem) { r.SetRefs(0) }) }},
	{want: check.RootLoop, spoil: func(s *surgeon, b *base) {
		for _, typ := range []ondisk.ItemType{ondisk.RootRefKey, ondisk.RootBackrefKey} {
			s.key(ondisk.RootTree, rootRefOf(typ, b.sub), func(k *ondisk.Key) {
				if typ == ondisk.RootRefKey {
					k.ObjectID = ondisk.ObjectID(b.sub)
				} else {
					k.Offset = uint64(b.sub)
				}
			})
		}
	}},
	{want: check.OrphanNoRoot, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.RootTree, ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: 9000}, nil)
	}},
	{want: check.DefaultSubvol, spoil: func(s *surgeon, _ *base) {
		s.item(ondisk.RootTree, is(ondisk.DirItemKey, ondisk.RootTreeDirObjectID), func(it []byte) {
			ondisk.AsDirItem(it).SetLocation(ondisk.Key{ObjectID: 9000, Type: ondisk.RootItemKey, Offset: ^uint64(0)})
		})
	}},
	{want: check.UUIDMissing, spoil: func(s *surgeon, b *base) {
		s.remove(ondisk.UUIDTree, func(_ ondisk.Key, it []byte) bool { return binary.LittleEndian.Uint64(it) == uint64(b.sub) })
	}},
	{want: check.UUIDStale, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.UUIDTree, ondisk.UUID{1, 2, 3}.UUIDKey(ondisk.UUIDKeySubvol), []byte{1, 1, 0, 0, 0, 0, 0, 0})
	}},
	{want: check.LogLost, spoil: func(s *surgeon, _ *base) {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetLogRoot(s.freeBlock(0)) })
	}},
	{want: check.LogInUse, spoil: func(s *surgeon, _ *base) {
		at := s.someLeaf()
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetLogRoot(at) })
	}},
	{want: check.LogInUse, name: "extent", spoil: func(s *surgeon, b *base) {
		s.makeLog(uint64(b.sub))
		x := new(ondisk.ExtentItem)
		x.SetRefs(1)
		x.SetFlags(ondisk.ExtentFlagTreeBlock)
		s.insert(ondisk.ExtentTree, ondisk.Key{ObjectID: ondisk.ObjectID(s.freeBlock(1)), Type: ondisk.MetadataItemKey}, x[:])
	}},
	{want: check.LogNoRoot, spoil: func(s *surgeon, _ *base) { s.makeLog(9000) }},
}

// makeLog adds a log with an empty tree for a subvolume.
func (s *surgeon) makeLog(subvol uint64) {
	at, tree := s.freeBlock(0), s.freeBlock(1)
	model := s.read(s.sb.Root())
	for i, addr := range []ondisk.Logical{at, tree} {
		b := append(ondisk.Block(nil), model...)
		h := model.Header()
		b.Init(addr, s.sb.Generation()+1, ondisk.TreeLogTree, 0, h.FSID(), h.ChunkTreeUUID())
		b.SetFlags(ondisk.HeaderFlagWritten)
		item := ondisk.NewRootItem(len(b))
		item.SetBytenr(tree)
		item.SetGeneration(s.sb.Generation() + 1)
		key, data := ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.TreeLogTree), Type: ondisk.RootItemKey, Offset: subvol}, item[:]
		if i == 1 {
			key, data = ondisk.Key{ObjectID: 256, Type: ondisk.DirLogIndexKey, Offset: 2}, make([]byte, 8)
		}
		b.SetNrItems(1)
		off := ondisk.LeafDataSize(len(b)) - len(data)
		b.SetItem(0, key, off, len(data))
		copy(b[ondisk.HeaderSize+off:], data)
		s.write(addr, b)
	}
	s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetLogRoot(at) })
}
