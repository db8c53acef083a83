package treecheck

import (
	"testing"

	"imgtool/engine/ondisk"
)

// entry is one item of a hand-built leaf.
type entry struct {
	key  ondisk.Key
	data []byte
}

const (
	testNode = 4096
	testGen  = 10
	mib      = 1 << 20
)

var (
	testFSID  = ondisk.UUID{1, 2, 3}
	testChunk = ondisk.UUID{4, 5, 6}
)

func testContext() *Context {
	return &Context{NodeSize: testNode, SectorSize: 4096, Csum: ondisk.CRC32C, FSID: testFSID, ChunkTreeUUID: testChunk,
		Incompat: ondisk.IncompatSkinnyMetadata | ondisk.IncompatMixedBackref, MaxGeneration: testGen + 1, Write: true}
}

// buildLeaf packs the entries, valid or not, into a leaf as the kernel would.
func buildLeaf(owner ondisk.TreeID, es []entry) ondisk.Block {
	b := make(ondisk.Block, testNode)
	b.Init(30*mib, testGen, owner, 0, testFSID, testChunk)
	b.SetNrItems(len(es))
	off := ondisk.LeafDataSize(testNode)
	for i, e := range es {
		off -= len(e.data)
		b.SetItem(i, e.key, off, len(e.data))
		copy(b.Item(i), e.data)
	}
	return b
}

// buildNode makes a node of three pointers.
func buildNode() ondisk.Block {
	b := make(ondisk.Block, testNode)
	b.Init(30*mib, testGen, ondisk.FSTree, 1, testFSID, testChunk)
	b.SetNrItems(3)
	for i := range 3 {
		b.SetPtr(i, ondisk.Key{ObjectID: ondisk.ObjectID(256 + i), Type: ondisk.InodeItemKey}, ondisk.Logical((31+i)*mib), testGen)
	}
	return b
}

func key(o ondisk.ObjectID, t ondisk.ItemType, off uint64) ondisk.Key {
	return ondisk.Key{ObjectID: o, Type: t, Offset: off}
}

func inode(mode uint32) []byte {
	p := new(ondisk.InodeItem)
	p.SetGeneration(5)
	p.SetTransID(6)
	p.SetMode(mode)
	p.SetNLink(1)
	return p[:]
}

func dirEntry(loc ondisk.Key, typ uint8, name, data string) []byte {
	b := make([]byte, ondisk.DirItemSize+len(name)+len(data))
	ondisk.PutDirEntry(b, loc, 5, typ, []byte(name), []byte(data))
	return b
}

func inodeRef(names ...string) (b []byte) {
	for _, n := range names {
		e := make([]byte, ondisk.InodeRefSize+len(n))
		ondisk.AsInodeRef(e).SetIndex(2)
		ondisk.AsInodeRef(e).SetNameLen(uint16(len(n)))
		copy(e[ondisk.InodeRefSize:], n)
		b = append(b, e...)
	}
	return b
}

func inodeExtref(parent ondisk.ObjectID, name string) []byte {
	e := make([]byte, ondisk.InodeExtrefSize+len(name))
	ondisk.AsInodeExtref(e).SetParent(parent)
	ondisk.AsInodeExtref(e).SetNameLen(uint16(len(name)))
	copy(e[ondisk.InodeExtrefSize:], name)
	return e
}

func inlineData(data string, ram int, comp uint8) []byte {
	p := new(ondisk.FileExtentItem)
	p.SetRAMBytes(uint64(ram))
	p.SetCompression(comp)
	return append(p[:ondisk.FileExtentInlineStart:ondisk.FileExtentInlineStart], data...)
}

func fileExtent(typ uint8, disk ondisk.Logical, diskLen, off, n, ram uint64, comp uint8) []byte {
	p := new(ondisk.FileExtentItem)
	p.SetType(typ)
	p.SetDiskBytenr(disk)
	p.SetDiskNumBytes(diskLen)
	p.SetOffset(off)
	p.SetNumBytes(n)
	p.SetRAMBytes(ram)
	p.SetCompression(comp)
	return p[:]
}

// inRef is one inline backref; root, ino and off for EXTENT_DATA_REF, off for the others.
type inRef struct {
	t              ondisk.ItemType
	root, ino, off uint64
	count          uint32
}

func (r inRef) bytes() []byte {
	b := make([]byte, ondisk.InlineRefSize(r.t))
	b[0] = byte(r.t)
	if r.t == ondisk.ExtentDataRefKey {
		d := ondisk.AsExtentDataRef(b[1:])
		d.SetRoot(ondisk.TreeID(r.root))
		d.SetObjectID(ondisk.ObjectID(r.ino))
		d.SetOffset(r.off)
		d.SetCount(r.count)
		return b
	}
	ondisk.AsExtentInlineRef(b).SetOffset(r.off)
	if r.t == ondisk.SharedDataRefKey {
		ondisk.AsSharedDataRef(b[ondisk.ExtentInlineRefSize:]).SetCount(r.count)
	}
	return b
}

func extentItem(flags, refs uint64, info bool, rs ...inRef) []byte {
	p := new(ondisk.ExtentItem)
	p.SetRefs(refs)
	p.SetGeneration(testGen)
	p.SetFlags(flags)
	b := p[:]
	if info {
		b = append(b, make([]byte, ondisk.TreeBlockInfoSize)...)
	}
	for _, r := range rs {
		b = append(b, r.bytes()...)
	}
	return b
}

func dataRefItem(root ondisk.TreeID, ino ondisk.ObjectID, off uint64, count uint32) []byte {
	d := new(ondisk.ExtentDataRef)
	d.SetRoot(root)
	d.SetObjectID(ino)
	d.SetOffset(off)
	d.SetCount(count)
	return d[:]
}

func blockGroup(used, flags uint64) []byte {
	b := new(ondisk.BlockGroupItem)
	b.SetUsed(used)
	b.SetFlags(flags)
	b.SetChunkObjectID(ondisk.FirstChunkObjectID)
	return b[:]
}

func chunk(typ, length uint64, sub int, offs ...uint64) []byte {
	b := make([]byte, ondisk.ChunkItemSize(len(offs)))
	c := ondisk.AsChunk(b)
	c.SetLength(length)
	c.SetOwner(ondisk.ExtentTree)
	c.SetStripeLen(ondisk.StripeLen)
	c.SetType(typ)
	c.SetSectorSize(4096)
	c.SetNumStripes(uint16(len(offs)))
	c.SetSubStripes(uint16(sub))
	for i, o := range offs {
		ondisk.ChunkStripe(b, i).SetDevID(1)
		ondisk.ChunkStripe(b, i).SetOffset(ondisk.Physical(o))
	}
	return b
}

func devItem(id, total, used uint64) []byte {
	d := new(ondisk.DevItem)
	d.SetDevID(id)
	d.SetTotalBytes(total)
	d.SetBytesUsed(used)
	return d[:]
}

func devExtent(chunkAt ondisk.Logical, n uint64) []byte {
	d := new(ondisk.DevExtent)
	d.SetChunkTree(ondisk.ChunkTree)
	d.SetChunkObjectID(ondisk.FirstChunkObjectID)
	d.SetChunkOffset(chunkAt)
	d.SetLength(n)
	return d[:]
}

func rootItem() []byte {
	r := new(ondisk.RootItem)
	r.SetGeneration(testGen)
	r.SetGenerationV2(testGen)
	r.SetBytenr(30 * mib)
	r.SetRefs(1)
	return r[:]
}

func rootRef(name string) []byte {
	b := make([]byte, ondisk.RootRefSize+len(name))
	ondisk.AsRootRef(b).SetNameLen(uint16(len(name)))
	copy(b[ondisk.RootRefSize:], name)
	return b
}

func freeInfo(n uint32) []byte {
	f := new(ondisk.FreeSpaceInfo)
	f.SetExtentCount(n)
	return f[:]
}

// Samples are valid leaves, one for each tree, that between them hold every item type which has a check.
var samples = map[string]func() (ondisk.TreeID, []entry){
	"fs": func() (ondisk.TreeID, []entry) {
		one := dirEntry(key(257, ondisk.InodeItemKey, 0), ondisk.FTReg, "a", "")
		return ondisk.FSTree, []entry{
			{key(256, ondisk.InodeItemKey, 0), inode(ondisk.ModeDir | 0o755)},                                                               // 0
			{key(256, ondisk.InodeRefKey, 256), inodeRef("..")},                                                                             // 1
			{key(256, ondisk.DirItemKey, ondisk.NameHash([]byte("a"))), one},                                                                // 2
			{key(256, ondisk.DirIndexKey, 2), one},                                                                                          // 3
			{key(256, ondisk.DirIndexKey, 3), dirEntry(key(300, ondisk.RootItemKey, ^uint64(0)), ondisk.FTDir, "sub", "")},                  // 4
			{key(257, ondisk.InodeItemKey, 0), inode(ondisk.ModeReg | 0o4644)},                                                              // 5
			{key(257, ondisk.InodeRefKey, 256), inodeRef("a", "bb")},                                                                        // 6
			{key(257, ondisk.InodeExtrefKey, 77), inodeExtref(256, "ccc")},                                                                  // 7
			{key(257, ondisk.XattrItemKey, ondisk.NameHash([]byte("user.x"))), dirEntry(ondisk.Key{}, ondisk.FTXattr, "user.x", "val")},     // 8
			{key(257, ondisk.ExtentDataKey, 0), inlineData("hello", 5, ondisk.CompressNone)},                                                // 9
			{key(257, ondisk.ExtentDataKey, 4096), fileExtent(ondisk.FileExtentReg, 40*mib, 8192, 4096, 4096, 8192, ondisk.CompressNone)},   // 10
			{key(257, ondisk.ExtentDataKey, 8192), fileExtent(ondisk.FileExtentPrealloc, 41*mib, 8192, 0, 8192, 8192, ondisk.CompressNone)}, // 11
			{key(257, ondisk.ExtentDataKey, 16384), fileExtent(ondisk.FileExtentReg, 42*mib, 4096, 0, 131072, 131072, ondisk.CompressZstd)}, // 12
			{key(257, ondisk.ExtentDataKey, 16384+131072), fileExtent(ondisk.FileExtentReg, 0, 0, 0, 4096, 4096, ondisk.CompressNone)},      // 13
			{key(258, ondisk.InodeItemKey, 0), inode(ondisk.ModeLnk | 0o777)},                                                               // 14
			{key(258, ondisk.ExtentDataKey, 0), inlineData("zz", 4000, ondisk.CompressZlib)},                                                // 15
			{key(ondisk.OrphanObjectID, ondisk.OrphanItemKey, 257), nil},                                                                    // 16
		}
	},
	"csum": func() (ondisk.TreeID, []entry) {
		return ondisk.CsumTree, []entry{
			{key(ondisk.ExtentCsumObjectID, ondisk.ExtentCsumKey, 40*mib), make([]byte, 8)},
			{key(ondisk.ExtentCsumObjectID, ondisk.ExtentCsumKey, 40*mib+8192), make([]byte, 4)},
		}
	},
	"extent": func() (ondisk.TreeID, []entry) {
		hi, lo := inRef{ondisk.ExtentDataRefKey, 5, 257, 0, 1}, inRef{ondisk.ExtentDataRefKey, 5, 258, 0, 2}
		if seqOf(hi) < seqOf(lo) {
			hi, lo = lo, hi
		}
		return ondisk.ExtentTree, []entry{
			{key(30*mib, ondisk.MetadataItemKey, 0), extentItem(ondisk.ExtentFlagTreeBlock, 2, false,
				inRef{t: ondisk.TreeBlockRefKey, off: 300}, inRef{t: ondisk.TreeBlockRefKey, off: 5})}, // 0
			{key(31*mib, ondisk.ExtentItemKey, testNode), extentItem(ondisk.ExtentFlagTreeBlock|ondisk.ExtentFlagFullBackref, 1, true,
				inRef{t: ondisk.SharedBlockRefKey, off: 30 * mib})}, // 1
			{key(32*mib, ondisk.MetadataItemKey, 1), extentItem(ondisk.ExtentFlagTreeBlock, 2, false)}, // 2
			{key(32*mib, ondisk.TreeBlockRefKey, 5), nil},                                              // 3
			{key(32*mib, ondisk.SharedBlockRefKey, 30*mib), nil},                                       // 4
			{key(40*mib, ondisk.ExtentItemKey, 8192), extentItem(ondisk.ExtentFlagData, 9, false,
				inRef{t: ondisk.ExtentOwnerRefKey, off: 5}, hi, lo, inRef{ondisk.SharedDataRefKey, 0, 0, 30 * mib, 3})}, // 5
			{key(40*mib, ondisk.ExtentDataRefKey, 99), dataRefItem(5, 257, 4096, 1)},        // 6
			{key(40*mib, ondisk.SharedDataRefKey, 30*mib), []byte{1, 0, 0, 0}},              // 7
			{key(50*mib, ondisk.BlockGroupItemKey, 8*mib), blockGroup(8192, ondisk.BGData)}, // 8
		}
	},
	"free": func() (ondisk.TreeID, []entry) {
		return ondisk.FreeSpaceTree, []entry{
			{key(8*mib, ondisk.FreeSpaceInfoKey, 8*mib), freeInfo(2)},
			{key(8*mib, ondisk.FreeSpaceExtentKey, 4096), nil},
			{key(8*mib+8192, ondisk.FreeSpaceExtentKey, 4096), nil},
			{key(16*mib, ondisk.FreeSpaceInfoKey, 16*mib), freeInfo(0)},
			{key(16*mib, ondisk.FreeSpaceBitmapKey, 8*mib), make([]byte, 256)},
			{key(24*mib, ondisk.FreeSpaceBitmapKey, 9*4096), make([]byte, 2)},
		}
	},
	"chunk": func() (ondisk.TreeID, []entry) {
		return ondisk.ChunkTree, []entry{
			{key(ondisk.DevItemsObjectID, ondisk.DevItemKey, 1), devItem(1, 100*mib, 50*mib)},
			{key(ondisk.FirstChunkObjectID, ondisk.ChunkItemKey, 8*mib), chunk(ondisk.BGData, 8*mib, 1, mib)},
			{key(ondisk.FirstChunkObjectID, ondisk.ChunkItemKey, 16*mib), chunk(ondisk.BGMetadata|ondisk.BGDup, 8*mib, 1, 16*mib, 24*mib)},
			{key(ondisk.FirstChunkObjectID, ondisk.ChunkItemKey, 24*mib), chunk(ondisk.BGSystem|ondisk.BGRaid10, 8*mib, 2, 32*mib, 40*mib, 48*mib, 56*mib)},
		}
	},
	"dev": func() (ondisk.TreeID, []entry) {
		return ondisk.DevTree, []entry{
			{key(1, ondisk.DevExtentKey, mib), devExtent(8*mib, 8*mib)},
			{key(1, ondisk.DevExtentKey, 16*mib), devExtent(16*mib, 8*mib)},
		}
	},
	"root": func() (ondisk.TreeID, []entry) {
		legacy := rootItem()[:LegacyRootItemSize]
		return ondisk.RootTree, []entry{
			{key(2, ondisk.RootItemKey, 0), rootItem()},
			{key(5, ondisk.RootRefKey, 300), rootRef("sub")},
			{key(300, ondisk.RootItemKey, 7), legacy},
			{key(300, ondisk.RootBackrefKey, 5), rootRef("sub")},
			{key(ondisk.ObjectID(ondisk.TreeRelocTree), ondisk.RootItemKey, 300), rootItem()},
		}
	},
	"quota": func() (ondisk.TreeID, []entry) {
		return ondisk.QuotaTree, []entry{
			{key(0, ondisk.QgroupStatusKey, 0), make([]byte, 40)},
			{key(0, ondisk.QgroupInfoKey, 5), make([]byte, 40)},
			{key(0, ondisk.QgroupLimitKey, 5), make([]byte, 40)},
			{key(5, ondisk.QgroupRelationKey, 6), nil},
			{key(7, ondisk.UUIDKeySubvol, 8), make([]byte, 8)},
		}
	},
	"stripe": func() (ondisk.TreeID, []entry) {
		return ondisk.RaidStripeTree, []entry{{key(8*mib, ondisk.RaidStripeKey, 65536), make([]byte, 32)}}
	},
}

func seqOf(r inRef) uint64 {
	return ondisk.ExtentDataRefHash(ondisk.TreeID(r.root), ondisk.ObjectID(r.ino), r.off)
}

func TestSamplesAreValid(t *testing.T) {
	for name, s := range samples {
		owner, es := s()
		if err := Block(buildLeaf(owner, es), testContext()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Block(buildNode(), testContext()); err != nil {
		t.Error(err)
	}
	for _, owner := range []ondisk.TreeID{ondisk.CsumTree, ondisk.UUIDTree, 300} {
		if err := Block(buildLeaf(owner, nil), testContext()); err != nil {
			t.Errorf("empty tree %s: %v", owner, err)
		}
	}
}
