package check_test

import (
	"bytes"
	"slices"

	"imgtool/engine/check"
	"imgtool/engine/ondisk"
)

// inlineRef finds an inline backref of a type and returns the place of its item and its offset there.
func (s *surgeon) inlineRef(typ ondisk.ItemType) (m match, off int) {
	s.t.Helper()
	var at ondisk.Key
	s.find(ondisk.ExtentTree, func(k ondisk.Key, it []byte) bool {
		if k.Type != ondisk.ExtentItemKey && k.Type != ondisk.MetadataItemKey {
			return false
		}
		found := false
		_ = ondisk.InlineRefs(it, k.Type, func(r ondisk.InlineRef) bool {
			found, at, off = r.Type == typ, k, r.Off
			return !found
		})
		return found
	})
	return func(k ondisk.Key, _ []byte) bool { return k == at }, off
}

// onRef makes a damage of the first inline backref of a type; f is given the item from the backref on.
func onRef(want check.ID, name string, typ ondisk.ItemType, f func(r []byte)) damage {
	return damage{want: want, name: name, spoil: func(s *surgeon, _ *base) {
		m, off := s.inlineRef(typ)
		s.item(ondisk.ExtentTree, m, func(it []byte) { f(it[off:]) })
	}}
}

// dataExtent matches the data extent of a file.
func (s *surgeon) dataExtent(tree ondisk.TreeID, ino ondisk.ObjectID) match {
	var addr ondisk.Logical
	s.find(tree, func(k ondisk.Key, it []byte) bool {
		if k.ObjectID != ino || k.Type != ondisk.ExtentDataKey || it[20] == ondisk.FileExtentInline {
			return false
		}
		addr = ondisk.AsFileExtentItem(it).DiskBytenr()
		return true
	})
	return is(ondisk.ExtentItemKey, ondisk.ObjectID(addr))
}

// dropRef makes a damage that takes the first inline backref of a type away, and its count.
func dropRef(want check.ID, typ ondisk.ItemType) damage {
	return damage{want: want, spoil: func(s *surgeon, _ *base) {
		m, off := s.inlineRef(typ)
		s.resize(ondisk.ExtentTree, m, func(it []byte) []byte {
			e := ondisk.AsExtentItem(it)
			if e.Refs() > 1 {
				e.SetRefs(e.Refs() - 1)
			}
			return slices.Delete(it, off, off+ondisk.InlineRefSize(typ))
		})
	}}
}

// otherRef makes a damage that lets the first inline backref of a type name another root or parent.
func otherRef(want check.ID, typ ondisk.ItemType, by uint64) damage {
	return onRef(want, typ.String(), typ, func(r []byte) {
		v := ondisk.AsExtentInlineRef(r)
		v.SetOffset(v.Offset() + by)
	})
}

var extentDamage = []damage{
	{want: check.ExtentOverlap, spoil: func(s *surgeon, b *base) {
		// A data extent grows over its neighbours: in its own leaf there are none behind it, or treecheck would see it.
		addr, n := s.node(ondisk.ExtentTree)
		for i := range n.NrItems() - 1 {
			path := []step{{addr, i}, {n.BlockPtr(i), 0}}
			last := -1
			for j, leaf := 0, s.read(n.BlockPtr(i)); j < leaf.NrItems(); j++ {
				if leaf.Key(j).Type == ondisk.ExtentItemKey {
					last = j
				}
			}
			if last > 0 {
				s.repack(path, func(l []entry) []entry { l[last].key.Offset += 1 << 20; return l[:last+1] })
				return
			}
		}
		s.t.Fatal("no data extent before the last leaf")
	}},
	{want: check.ExtentRefs, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.ExtentTree, s.dataExtent(ondisk.FSTree, b.big), func(it []byte) {
			e := ondisk.AsExtentItem(it)
			e.SetRefs(e.Refs() + 1)
		})
	}},
	{want: check.ExtentUnused, spoil: func(s *surgeon, b *base) {
		m := s.inodeExtents(b.hard)
		s.remove(ondisk.FSTree, m)
	}},
	{want: check.ExtentType, spoil: func(s *surgeon, b *base) {
		leaf := s.someLeaf()
		s.item(ondisk.FSTree, s.regular(b.hard), func(it []byte) { ondisk.AsFileExtentItem(it).SetDiskBytenr(leaf) })
	}},
	{want: check.ExtentType, name: "tree block", spoil: func(s *surgeon, _ *base) {
		leaf := s.someLeaf()
		s.remove(ondisk.ExtentTree, is(ondisk.MetadataItemKey, ondisk.ObjectID(leaf)))
		x := new(ondisk.ExtentItem)
		x.SetRefs(1)
		x.SetFlags(ondisk.ExtentFlagData)
		s.insert(ondisk.ExtentTree, ondisk.Key{ObjectID: ondisk.ObjectID(leaf), Type: ondisk.ExtentItemKey, Offset: 4096}, x[:])
	}},
	{want: check.ExtentSize, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, s.regular(b.hard), func(it []byte) {
			e := ondisk.AsFileExtentItem(it)
			e.SetDiskNumBytes(e.DiskNumBytes() + 4096)
		})
	}},
	{want: check.ExtentLevel, spoil: func(s *surgeon, _ *base) {
		leaf := s.someLeaf()
		s.key(ondisk.ExtentTree, is(ondisk.MetadataItemKey, ondisk.ObjectID(leaf)), func(k *ondisk.Key) { k.Offset = 1 })
	}},
	{want: check.ExtentGeneration, spoil: func(s *surgeon, _ *base) {
		leaf := s.someLeaf()
		s.item(ondisk.ExtentTree, is(ondisk.MetadataItemKey, ondisk.ObjectID(leaf)), func(it []byte) {
			e := ondisk.AsExtentItem(it)
			e.SetGeneration(e.Generation() - 1)
		})
	}},
	{want: check.ExtentNoGroup, spoil: func(s *surgeon, _ *base) {
		x := new(ondisk.ExtentItem)
		x.SetRefs(1)
		x.SetFlags(ondisk.ExtentFlagData)
		s.insert(ondisk.ExtentTree, ondisk.Key{ObjectID: 1 << 40, Type: ondisk.ExtentItemKey, Offset: 4096}, x[:])
	}},
	{want: check.ExtentGroupType, spoil: func(s *surgeon, _ *base) {
		start, _ := s.dataChunk()
		s.item(s.groupTree(), is(ondisk.BlockGroupItemKey, ondisk.ObjectID(start)), func(it []byte) {
			ondisk.AsBlockGroupItem(it).SetFlags(ondisk.BGMetadata)
		})
	}},
	{want: check.BlockNoExtent, spoil: func(s *surgeon, _ *base) {
		leaf := s.someLeaf()
		s.remove(ondisk.ExtentTree, is(ondisk.MetadataItemKey, ondisk.ObjectID(leaf)))
	}},
	{want: check.DataNoExtent, spoil: func(s *surgeon, b *base) {
		s.remove(ondisk.ExtentTree, s.dataExtent(ondisk.FSTree, b.hard))
	}},
	{want: check.BackrefNoExtent, spoil: func(s *surgeon, _ *base) {
		s.insert(ondisk.ExtentTree, ondisk.Key{ObjectID: ondisk.ObjectID(s.freeBlock(0)), Type: ondisk.TreeBlockRefKey, Offset: 5}, nil)
	}},
	dropRef(check.TreeRefMissing, ondisk.TreeBlockRefKey),
	otherRef(check.TreeRefExtra, ondisk.TreeBlockRefKey, 1000),
	{want: check.TreeRefCount, spoil: func(s *surgeon, _ *base) {
		leaf := s.someLeaf()
		s.resize(ondisk.ExtentTree, is(ondisk.MetadataItemKey, ondisk.ObjectID(leaf)), func(it []byte) []byte {
			e := ondisk.AsExtentItem(it)
			e.SetRefs(2 * e.Refs())
			return append(it, it[ondisk.ExtentItemSize:]...)
		})
	}},
	dropRef(check.SharedRefMissing, ondisk.SharedBlockRefKey),
	otherRef(check.SharedRefExtra, ondisk.SharedBlockRefKey, 4096),
	dropRef(check.DataRefMissing, ondisk.ExtentDataRefKey),
	{want: check.DataRefMissing, name: "keyed", spoil: func(s *surgeon, _ *base) {
		s.remove(ondisk.ExtentTree, is(ondisk.ExtentDataRefKey, 0))
	}},
	onRef(check.DataRefExtra, "root", ondisk.ExtentDataRefKey, func(r []byte) { ondisk.AsExtentDataRef(r[1:]).SetRoot(999) }),
	onRef(check.DataRefExtra, "inode", ondisk.ExtentDataRefKey, func(r []byte) { ondisk.AsExtentDataRef(r[1:]).SetObjectID(9999) }),
	onRef(check.DataRefExtra, "offset", ondisk.ExtentDataRefKey, func(r []byte) { ondisk.AsExtentDataRef(r[1:]).SetOffset(1 << 30) }),
	{want: check.DataRefCount, spoil: func(s *surgeon, b *base) {
		m := s.dataExtent(ondisk.FSTree, b.hard)
		s.item(ondisk.ExtentTree, m, func(it []byte) {
			ondisk.AsExtentItem(it).SetRefs(2)
			ondisk.AsExtentDataRef(it[ondisk.ExtentItemSize+1:]).SetCount(2)
		})
	}},
	dropRef(check.SharedDataRefMissing, ondisk.SharedDataRefKey),
	otherRef(check.SharedDataRefExtra, ondisk.SharedDataRefKey, 4096),
	{want: check.SharedDataRefCount, spoil: func(s *surgeon, _ *base) {
		m, off := s.inlineRef(ondisk.SharedDataRefKey)
		s.item(ondisk.ExtentTree, m, func(it []byte) {
			e := ondisk.AsExtentItem(it)
			e.SetRefs(e.Refs() + 1)
			c := ondisk.AsSharedDataRef(it[off+ondisk.ExtentInlineRefSize:])
			c.SetCount(c.Count() + 1)
		})
	}},
}

// inodeExtents matches the file extents of an inode.
func (s *surgeon) inodeExtents(ino ondisk.ObjectID) match { return is(ondisk.ExtentDataKey, ino) }

// regular matches the first file extent of an inode that has an extent of its own.
func (s *surgeon) regular(ino ondisk.ObjectID) match {
	return func(k ondisk.Key, it []byte) bool {
		return k.ObjectID == ino && k.Type == ondisk.ExtentDataKey && it[20] == ondisk.FileExtentReg
	}
}

// onInode makes a damage of an inode item.
func onInode(want check.ID, ino func(b *base) ondisk.ObjectID, f func(in *ondisk.InodeItem)) damage {
	return damage{want: want, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, ino(b)), func(it []byte) { f(ondisk.AsInodeItem(it)) })
	}}
}

func big(b *base) ondisk.ObjectID  { return b.big }
func hard(b *base) ondisk.ObjectID { return b.hard }
func dir(b *base) ondisk.ObjectID  { return b.dir }

var fileDamage = []damage{
	{want: check.InodeMissing, spoil: func(s *surgeon, b *base) { s.remove(ondisk.FSTree, is(ondisk.InodeItemKey, b.hard)) }},
	onInode(check.LinkCount, hard, func(in *ondisk.InodeItem) { in.SetNLink(in.NLink() + 1) }),
	onInode(check.DirSize, dir, func(in *ondisk.InodeItem) { in.SetSize(in.Size() + 2) }),
	onInode(check.FileBytes, big, func(in *ondisk.InodeItem) { in.SetNBytes(in.NBytes() + 4096) }),
	{want: check.FileHole, base: "holes", spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, b.big), func(it []byte) { in := ondisk.AsInodeItem(it); in.SetSize(in.Size() + 1<<20) })
	}},
	{want: check.FileOverlap, spoil: func(s *surgeon, b *base) { s.overlapFile() }},
	{want: check.SymlinkTarget, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, b.link), func(it []byte) { ondisk.AsInodeItem(it).SetSize(7) })
	}},
	{want: check.OddDirItems, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, b.dir), func(it []byte) { ondisk.AsInodeItem(it).SetMode(ondisk.ModeReg | 0o644) })
	}},
	{want: check.OddExtents, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeItemKey, b.big), func(it []byte) { ondisk.AsInodeItem(it).SetMode(ondisk.ModeFifo | 0o644) })
	}},
	{want: check.FeatureFlag, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, s.regular(b.hard), func(it []byte) { ondisk.AsFileExtentItem(it).SetCompression(ondisk.CompressZstd) })
		s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() &^ ondisk.IncompatCompressZstd) })
	}},
	{want: check.InodeNoOrphan, spoil: func(s *surgeon, b *base) { s.addInode(9000, 0) }},
	{want: check.OrphanNoInode, spoil: func(s *surgeon, b *base) {
		s.insert(ondisk.FSTree, ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: 9000}, nil)
	}},
}

// addInode adds a file without a name at the end of FS_TREE.
func (s *surgeon) addInode(ino ondisk.ObjectID, nlink uint32) {
	in := new(ondisk.InodeItem)
	in.SetGeneration(1)
	in.SetMode(ondisk.ModeReg | 0o644)
	in.SetNLink(nlink)
	s.insert(ondisk.FSTree, ondisk.Key{ObjectID: ino, Type: ondisk.InodeItemKey}, in[:])
}

// overlapFile lets the last file extent of a leaf run into the first of the next leaf; treecheck sees one leaf only.
func (s *surgeon) overlapFile() {
	addr, n := s.node(ondisk.FSTree)
	for i := 0; i+1 < n.NrItems(); i++ {
		a, b := s.read(n.BlockPtr(i)), s.read(n.BlockPtr(i+1))
		last := a.Key(a.NrItems() - 1)
		// The leaf ends with a file's only extent: the next leaf gets one more that begins inside it.
		if last.Type != ondisk.ExtentDataKey || a.Item(a.NrItems() - 1)[20] != ondisk.FileExtentReg || b.LeafFree() < 100 {
			continue
		}
		item := bytes.Clone(a.Item(a.NrItems() - 1))
		s.repack([]step{{addr, i + 1}, {n.BlockPtr(i + 1), 0}}, func(l []entry) []entry {
			last.Offset += 4096
			return append([]entry{{last, item}}, l...)
		})
		return
	}
	s.t.Fatal("no leaf ends with a file extent")
}

// nameKey is the key of a name's DIR_ITEM in the top directory.
func dirItem(dir ondisk.ObjectID, name string) match {
	return func(k ondisk.Key, _ []byte) bool {
		return k == ondisk.Key{ObjectID: dir, Type: ondisk.DirItemKey, Offset: ondisk.NameHash([]byte(name))}
	}
}

func dirIndex(dir ondisk.ObjectID, name string) match {
	return func(k ondisk.Key, it []byte) bool {
		return k.ObjectID == dir && k.Type == ondisk.DirIndexKey && string(it[ondisk.DirItemSize:]) == name
	}
}

const victim = "file003"

var nameDamage = []damage{
	{want: check.ItemNoIndex, spoil: func(s *surgeon, b *base) { s.remove(ondisk.FSTree, dirIndex(b.dir, victim)) }},
	{want: check.IndexNoItem, spoil: func(s *surgeon, b *base) { s.remove(ondisk.FSTree, dirItem(b.dir, victim)) }},
	{want: check.EntryNoRef, spoil: func(s *surgeon, b *base) { s.remove(ondisk.FSTree, is(ondisk.InodeRefKey, b.small)) }},
	{want: check.RefNoEntry, spoil: func(s *surgeon, b *base) {
		s.remove(ondisk.FSTree, dirIndex(b.dir, victim))
		s.remove(ondisk.FSTree, dirItem(b.dir, victim))
	}},
	{want: check.IndexNumber, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, is(ondisk.InodeRefKey, b.small), func(it []byte) { ondisk.AsInodeRef(it).SetIndex(7777) })
	}},
	{want: check.EntryNoInode, spoil: func(s *surgeon, b *base) {
		s.removeAll(ondisk.FSTree, func(k ondisk.Key, _ []byte) bool { return k.ObjectID == b.small })
	}},
	{want: check.EntryType, spoil: func(s *surgeon, b *base) {
		for _, m := range []match{dirItem(256, "small"), dirIndex(256, "small")} {
			s.item(ondisk.FSTree, m, func(it []byte) { ondisk.AsDirItem(it).SetType(ondisk.FTDir) })
		}
	}},
	{want: check.EntryType, name: "one side", spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, dirItem(256, "small"), func(it []byte) { ondisk.AsDirItem(it).SetType(ondisk.FTSock) })
	}},
	{want: check.NameTwice, spoil: func(s *surgeon, b *base) {
		path := s.find(ondisk.FSTree, dirIndex(256, "small"))
		last := path[len(path)-1]
		leaf := s.read(last.addr)
		k := leaf.Key(last.slot)
		k.Offset = 1 << 20
		s.insert(ondisk.FSTree, k, bytes.Clone(leaf.Item(last.slot)))
	}},
	{want: check.NamesDiffer, spoil: func(s *surgeon, b *base) {
		s.item(ondisk.FSTree, dirItem(256, "small"), func(it []byte) {
			d := ondisk.AsDirItem(it)
			k := d.Location()
			k.Type = ondisk.RootItemKey
			d.SetLocation(k)
		})
	}},
	{want: check.IndexNoItem, name: "in a snapshot", spoil: func(s *surgeon, b *base) { s.remove(b.snap, dirItem(256, "s05")) }},
}

// removeAll takes all items that match away.
func (s *surgeon) removeAll(tree ondisk.TreeID, m match) {
	for s.look(tree, m) != nil {
		s.remove(tree, m)
	}
}
