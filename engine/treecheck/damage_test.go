package treecheck

import (
	"errors"
	"math"
	"strings"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// damage is one seeded fault: either of a sample's entries before they are packed, or of the packed block.
type damage struct {
	sample string // "node" for buildNode
	want   string // part of the message
	edit   func(es []entry)
	raw    func(b ondisk.Block)
	ctx    func(c *Context)
}

// grow returns b with n zero bytes more; negative n cuts.
func grow(b []byte, n int) []byte {
	if n < 0 {
		return b[:len(b)+n]
	}
	return append(b[:len(b):len(b)], make([]byte, n)...)
}

var headerDamages = []damage{
	{sample: "fs", want: "invalid level, have 8 expect [0, 7]", raw: func(b ondisk.Block) { b.Header().SetLevel(8) }},
	{sample: "fs", want: "invalid bytenr, have 1 expect", raw: func(b ondisk.Block) { b.Header().SetBytenr(1) }},
	{sample: "fs", want: "invalid owner, root 0", raw: func(b ondisk.Block) { b.Header().SetOwner(0) }},
	{sample: "fs", want: "invalid fsid", raw: func(b ondisk.Block) { b.Header().SetFSID(ondisk.UUID{9}) }},
	{sample: "fs", want: "invalid chunk tree uuid", raw: func(b ondisk.Block) { b.Header().SetChunkTreeUUID(ondisk.UUID{9}) }},
	{sample: "fs", want: "invalid generation, have 12 expect [1, 11]", raw: func(b ondisk.Block) { b.Header().SetGeneration(testGen + 2) }},
	{sample: "fs", want: "invalid generation, have 0", raw: func(b ondisk.Block) { b.Header().SetGeneration(0) }},
	{sample: "fs", want: "invalid backref revision, have 0 expect 1", raw: func(b ondisk.Block) { b.Header().SetRawFlags(1) }},
	{sample: "fs", want: "invalid root, root 5 must never be empty", raw: func(b ondisk.Block) { b.SetNrItems(0) }},
	{sample: "fs", want: "invalid nritems, have 160 expect [0, 159]", raw: func(b ondisk.Block) { b.SetNrItems(160) }},
	{sample: "fs", want: "invalid nritems, have 4294967295", raw: func(b ondisk.Block) { b.SetNrItems(math.MaxUint32) }},
	{sample: "fs", want: "bad key order, prev (256 INODE_REF 256) current (256 INODE_REF 256)", raw: func(b ondisk.Block) { b.SetKey(2, b.Key(1)) }},
	{sample: "fs", want: "slot=0, bad key order", raw: func(b ondisk.Block) { b.SetKey(0, ondisk.Key{}) }},
	{sample: "fs", want: "invalid item end, have 3994 expect 3995", raw: func(b ondisk.Block) { b.SetItem(0, b.Key(0), b.ItemOffset(0)-1, b.ItemSize(0)) }},
	{sample: "fs", want: "invalid item end", raw: func(b ondisk.Block) { b.SetItem(3, b.Key(3), math.MaxUint32, math.MaxUint32) }},
	{sample: "csum", want: "slot overlaps with its data, item end 50 data start 44", raw: func(b ondisk.Block) {
		b.SetItem(0, b.Key(0), 48, ondisk.LeafDataSize(testNode)-48)
		b.SetItem(1, b.Key(1), 44, 4)
		b.SetItem(0, key(ondisk.ExtentCsumObjectID, ondisk.UntypedKey, 0), 44, ondisk.LeafDataSize(testNode)-44)
	}},
	{sample: "node", want: "invalid nritems, have 0 expect [1, 121]", raw: func(b ondisk.Block) { b.SetNrItems(0) }},
	{sample: "node", want: "invalid nritems, have 122", raw: func(b ondisk.Block) { b.SetNrItems(122) }},
	{sample: "node", want: "bad key order", raw: func(b ondisk.Block) { b.SetKey(2, b.Key(1)) }},
	{sample: "node", want: "invalid NULL node pointer", raw: func(b ondisk.Block) { b.SetPtr(2, b.Key(2), 0, 1) }},
	{sample: "node", want: "unaligned pointer, have 4097", raw: func(b ondisk.Block) { b.SetPtr(1, b.Key(1), 4097, 1) }},
	{sample: "node", want: "invalid pointer generation, have 11 expect [1, 10]", raw: func(b ondisk.Block) { b.SetPtr(1, b.Key(1), 4096, testGen+1) }},
}

func inodeOf(es []entry, i int) *ondisk.InodeItem       { return ondisk.AsInodeItem(es[i].data) }
func extentOf(es []entry, i int) *ondisk.FileExtentItem { return ondisk.AsFileExtentItem(es[i].data) }

var inodeDamages = []damage{
	{sample: "fs", want: "invalid key objectid, have 255 expect 6 or [256, -256] or -12", edit: func(es []entry) { es[0].key.ObjectID = 255 }},
	{sample: "fs", want: "ino=258, invalid key offset, have 1 expect 0", edit: func(es []entry) { es[14].key.Offset = 1 }},
	{sample: "fs", want: "invalid item size for INODE_ITEM, have 159 expect 160", edit: func(es []entry) { es[0].data = grow(es[0].data, -1) }},
	{sample: "fs", want: "invalid inode generation, have 12 expect [0, 11]", edit: func(es []entry) { inodeOf(es, 5).SetGeneration(12) }},
	{sample: "fs", want: "invalid inode transid, have 12 expect [0, 11]", edit: func(es []entry) { inodeOf(es, 5).SetTransID(12) }},
	{sample: "fs", want: "invalid inode size", edit: func(es []entry) { inodeOf(es, 5).SetSize(1 << 63) }},
	{sample: "fs", want: "unknown mode bit detected: 0x10000", edit: func(es []entry) { inodeOf(es, 5).SetMode(0x10000 | ondisk.ModeReg) }},
	{sample: "fs", want: "invalid mode, have 0160000", edit: func(es []entry) { inodeOf(es, 5).SetMode(0o160000) }},
	{sample: "fs", want: "invalid nlink, have 2 expect no more than 1 for dir", edit: func(es []entry) { inodeOf(es, 0).SetNLink(2) }},
	{sample: "fs", want: "unknown incompat flags detected: 0x1000", edit: func(es []entry) { inodeOf(es, 0).SetFlags(1 << 12) }},
	{sample: "fs", want: "unknown ro-compat flags detected in a block to write: 0x2", edit: func(es []entry) { inodeOf(es, 0).SetFlags(1 << 33) }},
	{sample: "fs", want: "ino=257, invalid previous key objectid, have 256 expect 257", edit: func(es []entry) { es[5].key = key(256, ondisk.DirIndexKey, 9); es[5].data = es[4].data }},
	{sample: "fs", want: "invalid item size for INODE_REF, have 0", edit: func(es []entry) { es[1].data = nil }},
	{sample: "fs", want: "inode ref overflow, offset 0 end 9 inode_ref_size 10", edit: func(es []entry) { es[1].data = es[1].data[:9] }},
	{sample: "fs", want: "inode ref overflow, offset 0 end 12 namelen 3", edit: func(es []entry) { ondisk.AsInodeRef(es[1].data).SetNameLen(3) }},
	{sample: "fs", want: "inode ref overflow, offset 0 end 21 namelen 4", edit: func(es []entry) { ondisk.AsInodeExtref(es[7].data).SetNameLen(4) }},
	{sample: "fs", want: "invalid inode ref name len, have 0", edit: func(es []entry) { es[1].data = inodeRef("x", "") }},
	{sample: "fs", want: "invalid inode ref name len, have 256", edit: func(es []entry) { es[1].data = inodeRef(strings.Repeat("n", 256)) }},
	{sample: "fs", want: "invalid item size for DIR_ITEM, have 0", edit: func(es []entry) { es[2].data = nil }},
	{sample: "fs", want: "dir item header crosses item boundary, have 61 boundary 32", edit: func(es []entry) { es[2].data = grow(es[2].data, 1) }},
	{sample: "fs", want: "dir item data crosses item boundary, have 40 boundary 31", edit: func(es []entry) { ondisk.AsDirItem(es[2].data).SetNameLen(10) }},
	{sample: "fs", want: "name hash mismatch with key", edit: func(es []entry) { es[2].data[30] = 'b' }},
	{sample: "fs", want: "name hash mismatch with key", edit: func(es []entry) { es[8].key.Offset++ }},
	{sample: "fs", want: "invalid dir item type, have 9 expect [0, 8]", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetType(9) }},
	{sample: "fs", want: "invalid dir item type for XATTR key, have 1 expect 8", edit: func(es []entry) { ondisk.AsDirItem(es[8].data).SetType(1) }},
	{sample: "fs", want: "xattr dir type found for non-XATTR key", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetType(8) }},
	{sample: "fs", want: "invalid dir item name len, have 0", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetNameLen(0) }},
	{sample: "fs", want: "invalid dir item name len, have 256", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetNameLen(256) }},
	{sample: "fs", want: "dir item name and data len too long, have 3941 max 3940", edit: func(es []entry) { ondisk.AsDirItem(es[8].data).SetDataLen(3935) }},
	{sample: "fs", want: "dir item with invalid data len, have 1 expect 0", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetDataLen(1) }},
	{sample: "fs", want: "invalid location key of an xattr, have (1 UNTYPED 0) expect zeros", edit: func(es []entry) { ondisk.AsDirItem(es[8].data).SetLocation(key(1, 0, 0)) }},
	{sample: "fs", want: "invalid location key objectid, have 7 expect 5 or [256, -256]", edit: func(es []entry) { ondisk.AsDirItem(es[4].data).SetLocation(key(7, ondisk.RootItemKey, 0)) }},
	{sample: "fs", want: "invalid location key objectid, have 7 expect 6 or [256, -256] or -12", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetLocation(key(7, ondisk.InodeItemKey, 0)) }},
	{sample: "fs", want: "invalid location key offset, have 1 expect 0", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetLocation(key(257, ondisk.InodeItemKey, 1)) }},
	{sample: "fs", want: "invalid location key type, have 12", edit: func(es []entry) { ondisk.AsDirItem(es[3].data).SetLocation(key(257, ondisk.InodeRefKey, 0)) }},
	{sample: "fs", want: "invalid key objectid for orphan item, have -6 expect -5", edit: func(es []entry) { es[16].key.ObjectID-- }},
	{sample: "fs", want: "invalid item size for ORPHAN_ITEM, have 1 expect 0", edit: func(es []entry) { es[16].data = []byte{0} }},
}

var dataDamages = []damage{
	{sample: "fs", want: "unaligned file_offset for file extent, have 8193", edit: func(es []entry) { es[11].key.Offset++ }},
	{sample: "fs", want: "invalid item size for file extent, have 20 expect at least 21", edit: func(es []entry) { es[9].data = es[9].data[:20] }},
	{sample: "fs", want: "invalid type for file extent, have 3", edit: func(es []entry) { extentOf(es, 10).SetType(3) }},
	{sample: "fs", want: "invalid compression for file extent, have 4", edit: func(es []entry) { extentOf(es, 10).SetCompression(4) }},
	{sample: "fs", want: "invalid encryption for file extent, have 1", edit: func(es []entry) { extentOf(es, 10).SetEncryption(1) }},
	{sample: "fs", want: "invalid file_offset for inline file extent, have 4096 expect 0", edit: func(es []entry) { es[15].key.Offset = 4096 }},
	{sample: "fs", want: "invalid ram_bytes for uncompressed inline extent, have 5 expect 6", edit: func(es []entry) { es[9].data = grow(es[9].data, 1) }},
	{sample: "fs", want: "invalid ram_bytes for compressed inline extent, have 131073", edit: func(es []entry) { es[15].data = inlineData("zz", 131073, 1) }},
	{sample: "fs", want: "invalid item size for reg/prealloc file extent, have 54 expect 53", edit: func(es []entry) { es[10].data = grow(es[10].data, 1) }},
	{sample: "fs", want: "unaligned file extent, have ram_bytes 8193", edit: func(es []entry) { extentOf(es, 10).SetRAMBytes(8193) }},
	{sample: "fs", want: "unaligned file extent", edit: func(es []entry) { extentOf(es, 10).SetDiskBytenr(40*mib + 1) }},
	{sample: "fs", want: "unaligned file extent", edit: func(es []entry) { extentOf(es, 10).SetDiskNumBytes(8191) }},
	{sample: "fs", want: "unaligned file extent", edit: func(es []entry) { extentOf(es, 10).SetOffset(5) }},
	{sample: "fs", want: "unaligned file extent", edit: func(es []entry) { extentOf(es, 10).SetNumBytes(100) }},
	{sample: "fs", want: "extent end overflow, have file offset 151552", edit: func(es []entry) { es[13].key.Offset += 4096; extentOf(es, 13).SetNumBytes(math.MaxUint64 - 4095) }},
	{sample: "fs", want: "extent num bytes 0", edit: func(es []entry) { extentOf(es, 13).SetNumBytes(0) }},
	{sample: "fs", want: "invalid disk range of file extent", edit: func(es []entry) { extentOf(es, 10).SetDiskBytenr(math.MaxUint64 - 4095) }},
	{sample: "fs", want: "compressed file extent too long, have ram_bytes 135168", edit: func(es []entry) { extentOf(es, 12).SetRAMBytes(135168) }},
	{sample: "fs", want: "file extent goes beyond its data, have offset 8192 num bytes 4096 expect at most 8192", edit: func(es []entry) { extentOf(es, 10).SetOffset(8192) }},
	{sample: "fs", want: "file extent goes beyond its data", edit: func(es []entry) { extentOf(es, 12).SetRAMBytes(4096) }},
	{sample: "fs", want: "file extent end range (20480) goes beyond start offset (16384) of the next file extent", edit: func(es []entry) { extentOf(es, 11).SetNumBytes(12288); extentOf(es, 11).SetDiskNumBytes(12288) }},
	{sample: "fs", want: "file extent end range (8192) goes beyond start offset (4096)", edit: func(es []entry) { es[9].data = inlineData("z", 5000, 1) }},
	{sample: "csum", want: "invalid key objectid for csum item, have -11 expect -10", edit: func(es []entry) { es[0].key.ObjectID-- }},
	{sample: "csum", want: "unaligned key offset for csum item", edit: func(es []entry) { es[0].key.Offset++ }},
	{sample: "csum", want: "csum item of an unknown checksum algorithm 9", ctx: func(c *Context) { c.Csum = 9 }},
	{sample: "csum", want: "unaligned item size for csum item, have 7 should be a multiple of 4", edit: func(es []entry) { es[0].data = es[0].data[:7] }},
	{sample: "csum", want: "unaligned item size for csum item, have 0", edit: func(es []entry) { es[0].data = nil }},
	{sample: "csum", want: "csum end overflow", edit: func(es []entry) { es[1].key.Offset = math.MaxUint64 - 4095; es[1].data = make([]byte, 8) }},
	{sample: "csum", want: "csum end range (41955328) goes beyond the start range (41951232) of the next csum item", edit: func(es []entry) { es[0].data = make([]byte, 12) }},
}

func run(t *testing.T, d damage) error {
	c := testContext()
	if d.ctx != nil {
		d.ctx(c)
	}
	b := buildNode()
	if d.sample != "node" {
		owner, es := samples[d.sample]()
		if d.edit != nil {
			d.edit(es)
		}
		b = buildLeaf(owner, es)
	}
	if d.raw != nil {
		d.raw(b)
	}
	return Block(b, c)
}

// TestDamages seeds every fault and looks for its message, the coordinates, and that reading is not refused for what
// only writing must fulfil.
func TestDamages(t *testing.T) {
	for _, d := range allDamages() {
		err := run(t, d)
		if err == nil {
			t.Errorf("%s: not found: %s", d.sample, d.want)
			continue
		}
		var c *fserr.Corrupt
		if !errors.As(err, &c) || !errors.Is(err, fserr.ErrCorrupt) {
			t.Errorf("%s: %v is no *fserr.Corrupt", d.sample, err)
		}
		if !strings.Contains(err.Error(), d.want) {
			t.Errorf("%s: have %q expect %q", d.sample, err, d.want)
		}
	}
}

func allDamages() []damage {
	var all []damage
	for _, ds := range [][]damage{headerDamages, inodeDamages, dataDamages, extentDamages, spaceDamages, rootDamages} {
		all = append(all, ds...)
	}
	return all
}

func TestGrammar(t *testing.T) {
	err := run(t, damage{sample: "fs", raw: func(b ondisk.Block) { b.SetItem(0, b.Key(0), b.ItemOffset(0)-1, b.ItemSize(0)) }})
	if want := "corrupt leaf: root=5 block=31457280 slot=0, invalid item end, have 3994 expect 3995"; err.Error() != want {
		t.Errorf("have %q expect %q", err, want)
	}
}

func TestReadIsLenientWhereTheKernelIs(t *testing.T) {
	for _, want := range []string{"invalid chunk tree uuid", "unknown ro-compat flags", "are neighbours and not merged"} {
		found := false
		for _, d := range allDamages() {
			if strings.Contains(d.want, want) {
				found = true
				d.ctx = func(c *Context) { c.Write = false }
				if err := run(t, d); err != nil {
					t.Errorf("reading refuses: %v", err)
				}
			}
		}
		if !found {
			t.Errorf("no damage %q", want)
		}
	}
}
