package treecheck

import (
	"math"

	"imgtool/engine/ondisk"
)

func eiOf(es []entry, i int) *ondisk.ExtentItem { return ondisk.AsExtentItem(es[i].data) }

// dataExtentItem replaces the data extent of sample "extent" by one with these inline refs.
func dataExtentItem(refs uint64, rs ...inRef) func(es []entry) {
	return func(es []entry) { es[5].data = extentItem(ondisk.ExtentFlagData, refs, false, rs...) }
}

func treeExtentItem(refs uint64, rs ...inRef) func(es []entry) {
	return func(es []entry) { es[0].data = extentItem(ondisk.ExtentFlagTreeBlock, refs, false, rs...) }
}

var extentDamages = []damage{
	{sample: "extent", want: "METADATA_ITEM type invalid when SKINNY_METADATA feature disabled", ctx: func(c *Context) { c.Incompat = ondisk.IncompatMixedBackref }},
	{sample: "extent", want: "invalid tree level, have 8 expect [0, 7]", edit: func(es []entry) { es[2].key.Offset = 8 }},
	{sample: "extent", want: "invalid key objectid, have 31457281", edit: func(es []entry) { es[0].key.ObjectID++ }},
	{sample: "extent", want: "invalid extent range", edit: func(es []entry) { es[5].key.Offset = math.MaxUint64 - 4095 }},
	{sample: "extent", want: "invalid item size for METADATA_ITEM, have 23 expect at least 24", edit: func(es []entry) { es[0].data = es[0].data[:23] }},
	{sample: "extent", want: "invalid extent generation, have 12 expect [0, 11]", edit: func(es []entry) { eiOf(es, 0).SetGeneration(12) }},
	{sample: "extent", want: "invalid extent flag, have 0x3 expect 1 bit set in 0x3", edit: func(es []entry) { eiOf(es, 0).SetFlags(3) }},
	{sample: "extent", want: "invalid extent flag, have 0x0", edit: func(es []entry) { eiOf(es, 0).SetFlags(0) }},
	{sample: "extent", want: "invalid key type, have 169 expect 168 for data backref", edit: func(es []entry) { eiOf(es, 0).SetFlags(1) }},
	{sample: "extent", want: "invalid extent length, have 0 expect aligned to 4096", edit: func(es []entry) { es[5].key.Offset = 0 }},
	{sample: "extent", want: "invalid extent length, have 4097 expect aligned to 4096", edit: func(es []entry) { es[5].key.Offset = 4097 }},
	{sample: "extent", want: "invalid extent flag, data has full backref set", edit: func(es []entry) { eiOf(es, 5).SetFlags(0x101) }},
	{sample: "extent", want: "invalid extent length, have 8192 expect 4096", edit: func(es []entry) { es[1].key.Offset = 8192 }},
	{sample: "extent", want: "invalid item size for a tree block, have 41 expect at least 42", edit: func(es []entry) { es[1].data = es[1].data[:41] }},
	{sample: "extent", want: "invalid tree block info level, have 8 expect [0, 7]", edit: func(es []entry) { es[1].data[41] = 8 }},
	{sample: "extent", want: "unknown inline ref type: 1", edit: func(es []entry) { es[0].data[24] = 1 }},
	{sample: "extent", want: "unknown inline ref type: 0", edit: func(es []entry) { es[0].data = grow(es[0].data, 1) }},
	{sample: "extent", want: "inline ref item overflows extent item, offset 33 iref size 9 end 41", edit: func(es []entry) { es[0].data = grow(es[0].data, -1) }},
	{sample: "extent", want: "inline ref out-of-order, have type 176 prev type 182", edit: treeExtentItem(2, inRef{t: ondisk.SharedBlockRefKey, off: mib}, inRef{t: ondisk.TreeBlockRefKey, off: 5})},
	{sample: "extent", want: "inline ref out-of-order, have type 176 seq 0x12c prev seq 0x5", edit: treeExtentItem(2, inRef{t: ondisk.TreeBlockRefKey, off: 5}, inRef{t: ondisk.TreeBlockRefKey, off: 300})},
	{sample: "extent", want: "inline ref out-of-order, have type 178 seq", edit: func(es []entry) {
		hi, lo := inRef{ondisk.ExtentDataRefKey, 5, 257, 0, 1}, inRef{ondisk.ExtentDataRefKey, 5, 258, 0, 2}
		if seqOf(hi) < seqOf(lo) {
			hi, lo = lo, hi
		}
		dataExtentItem(9, lo, hi)(es)
	}},
	{sample: "extent", want: "inline ref out-of-order, have type 184 seq", edit: dataExtentItem(9, inRef{ondisk.SharedDataRefKey, 0, 0, mib, 1}, inRef{ondisk.SharedDataRefKey, 0, 0, 2 * mib, 1})},
	{sample: "extent", want: "invalid inline ref type 178 for an extent with tree block flag true", edit: treeExtentItem(2, inRef{ondisk.ExtentDataRefKey, 5, 257, 0, 1})},
	{sample: "extent", want: "invalid inline ref type 176 for an extent with tree block flag false", edit: dataExtentItem(2, inRef{t: ondisk.TreeBlockRefKey, off: 5})},
	{sample: "extent", want: "invalid tree block ref, root 0 is not defined", edit: treeExtentItem(2, inRef{t: ondisk.TreeBlockRefKey})},
	{sample: "extent", want: "invalid tree parent bytenr, have 5 expect", edit: treeExtentItem(2, inRef{t: ondisk.SharedBlockRefKey, off: 5})},
	{sample: "extent", want: "invalid data parent bytenr, have 5 expect", edit: dataExtentItem(2, inRef{ondisk.SharedDataRefKey, 0, 0, 5, 1})},
	{sample: "extent", want: "invalid shared data ref count", edit: dataExtentItem(2, inRef{ondisk.SharedDataRefKey, 0, 0, mib, 0})},
	{sample: "extent", want: "invalid data ref root, have 2", edit: dataExtentItem(2, inRef{ondisk.ExtentDataRefKey, 2, 257, 0, 1})},
	{sample: "extent", want: "invalid data ref objectid, have 3", edit: dataExtentItem(2, inRef{ondisk.ExtentDataRefKey, 5, 3, 0, 1})},
	{sample: "extent", want: "invalid data ref offset, have 1", edit: dataExtentItem(2, inRef{ondisk.ExtentDataRefKey, 5, 257, 1, 1})},
	{sample: "extent", want: "invalid data ref count", edit: dataExtentItem(2, inRef{ondisk.ExtentDataRefKey, 5, 257, 0, 0})},
	{sample: "extent", want: "invalid extent refs, have 1 expect >= inline 2", edit: func(es []entry) { eiOf(es, 0).SetRefs(1) }},
	{sample: "extent", want: "invalid extent refs, have 0", edit: func(es []entry) { eiOf(es, 2).SetRefs(0) }},
	{sample: "extent", want: "previous extent (31457280 METADATA_ITEM 0) overlaps current extent (31457280 METADATA_ITEM 1)", edit: func(es []entry) { es[1] = es[2]; es[1].key.ObjectID = 30 * mib }},
	{sample: "extent", want: "invalid key objectid for TREE_BLOCK_REF, have 33554433", edit: func(es []entry) { es[3].key.ObjectID++; es[4] = entry{key(34*mib, ondisk.UntypedKey, 0), nil} }},
	{sample: "extent", want: "invalid item size for TREE_BLOCK_REF, have 1 expect 0", edit: func(es []entry) { es[3].data = []byte{1} }},
	{sample: "extent", want: "invalid item size for SHARED_BLOCK_REF, have 1 expect 0", edit: func(es []entry) { es[4].data = []byte{1} }},
	{sample: "extent", want: "invalid tree parent bytenr, have 31457281", edit: func(es []entry) { es[4].key.Offset++ }},
	{sample: "extent", want: "invalid item size for SHARED_DATA_REF, have 5 expect 4", edit: func(es []entry) { es[7].data = grow(es[7].data, 1) }},
	{sample: "extent", want: "invalid shared data ref count", edit: func(es []entry) { es[7].data[0] = 0 }},
	{sample: "extent", want: "invalid item size for EXTENT_DATA_REF, have 27 expect a multiple of 28", edit: func(es []entry) { es[6].data = es[6].data[:27] }},
	{sample: "extent", want: "invalid data ref offset, have 4097", edit: func(es []entry) { es[6].data = dataRefItem(5, 257, 4097, 1) }},
}

func chunkOf(es []entry, i int) *ondisk.Chunk { return ondisk.AsChunk(es[i].data) }

var spaceDamages = []damage{
	{sample: "extent", want: "invalid block group range", edit: func(es []entry) { es[8].key.Offset = 0 }},
	{sample: "extent", want: "invalid block group range", edit: func(es []entry) { es[8].key.Offset = math.MaxUint64 }},
	{sample: "extent", want: "invalid item size for BLOCK_GROUP_ITEM, have 23 expect 24", edit: func(es []entry) { es[8].data = es[8].data[:23] }},
	{sample: "extent", want: "invalid block group chunk objectid, have 257 expect 256", edit: func(es []entry) { ondisk.AsBlockGroupItem(es[8].data).SetChunkObjectID(257) }},
	{sample: "extent", want: "invalid block group used, have 8388609 expect [0, 8388608]", edit: func(es []entry) { ondisk.AsBlockGroupItem(es[8].data).SetUsed(8*mib + 1) }},
	{sample: "extent", want: "invalid profile flags, have 0x30 (2 bits set)", edit: func(es []entry) { ondisk.AsBlockGroupItem(es[8].data).SetFlags(0x31) }},
	{sample: "extent", want: "invalid type, have 0x3 (2 bits set)", edit: func(es []entry) { ondisk.AsBlockGroupItem(es[8].data).SetFlags(3) }},
	{sample: "free", want: "invalid FREE_SPACE_INFO range, have start 8388608 length 0", edit: func(es []entry) { es[0].key.Offset = 0 }},
	{sample: "free", want: "invalid FREE_SPACE_EXTENT range, have start 8388609", edit: func(es []entry) { es[1].key.ObjectID++ }},
	{sample: "free", want: "invalid item size for FREE_SPACE_INFO, have 9 expect 8", edit: func(es []entry) { es[0].data = grow(es[0].data, 1) }},
	{sample: "free", want: "unknown free space info flags, have 0x2", edit: func(es []entry) { ondisk.AsFreeSpaceInfo(es[0].data).SetFlags(2) }},
	{sample: "free", want: "invalid item size for FREE_SPACE_EXTENT, have 1 expect 0", edit: func(es []entry) { es[1].data = []byte{1} }},
	{sample: "free", want: "invalid free space bitmap size, have 3 expect 2", edit: func(es []entry) { es[5].data = make([]byte, 3) }},
	{sample: "free", want: "invalid free space bitmap size, have 258 expect 258 and at most 256", edit: func(es []entry) { es[4].data = make([]byte, 258); es[4].key.Offset = 8*mib + 65536 }},
	{sample: "free", want: "free space end (25165824) goes beyond the end (16777216) of its block group", edit: func(es []entry) { es[1].key.Offset = 16 * mib }},
	{sample: "free", want: "previous free space (8388608 FREE_SPACE_EXTENT 12288) overlaps current (8396800 FREE_SPACE_EXTENT 4096)", edit: func(es []entry) { es[1].key.Offset = 12288 }},
	{sample: "free", want: "overlaps current (16777216 FREE_SPACE_INFO 16777216)", edit: func(es []entry) { es[2].key.Offset = 16 * mib }},
	{sample: "free", want: "are neighbours and not merged", edit: func(es []entry) { es[1].key.Offset = 8192 }},
	{sample: "chunk", want: "invalid key objectid for chunk item, have 257 expect 256", edit: func(es []entry) { es[3].key.ObjectID = 257 }},
	{sample: "chunk", want: "chunk_start=8388608, invalid chunk item size, have 79 expect at least 80", edit: func(es []entry) { es[1].data = es[1].data[:79] }},
	{sample: "chunk", want: "invalid chunk num_stripes, have 0", edit: func(es []entry) { chunkOf(es, 1).SetNumStripes(0) }},
	{sample: "chunk", want: "invalid chunk item size, have 80 expect 2097168", edit: func(es []entry) { chunkOf(es, 1).SetNumStripes(65535) }},
	{sample: "chunk", want: "invalid chunk logical, have 8388609 should be aligned to 4096", edit: func(es []entry) { es[1].key.Offset++ }},
	{sample: "chunk", want: "invalid chunk sectorsize, have 512 expect 4096", edit: func(es []entry) { chunkOf(es, 1).SetSectorSize(512) }},
	{sample: "chunk", want: "invalid chunk length, have 0", edit: func(es []entry) { chunkOf(es, 1).SetLength(0) }},
	{sample: "chunk", want: "invalid chunk length, have 4097", edit: func(es []entry) { chunkOf(es, 1).SetLength(4097) }},
	{sample: "chunk", want: "invalid chunk logical start and length", edit: func(es []entry) { chunkOf(es, 1).SetLength(math.MaxUint64 - 4095) }},
	{sample: "chunk", want: "invalid chunk stripe length, have 4096 expect 65536", edit: func(es []entry) { chunkOf(es, 1).SetStripeLen(4096) }},
	{sample: "chunk", want: "chunk length too large", edit: func(es []entry) { chunkOf(es, 1).SetLength(1 << 50) }},
	{sample: "chunk", want: "unrecognized chunk type: 0x800", edit: func(es []entry) { chunkOf(es, 1).SetType(0x801) }},
	{sample: "chunk", want: "invalid chunk profile flag: 0x30", edit: func(es []entry) { chunkOf(es, 1).SetType(0x31) }},
	{sample: "chunk", want: "missing chunk type flag, have 0x20", edit: func(es []entry) { chunkOf(es, 1).SetType(0x20) }},
	{sample: "chunk", want: "system chunk with data or metadata type: 0x3", edit: func(es []entry) { chunkOf(es, 1).SetType(3) }},
	{sample: "chunk", want: "mixed chunk type in non-mixed mode: 0x5", edit: func(es []entry) { chunkOf(es, 1).SetType(5) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 1:1 for profile DUP", edit: func(es []entry) { chunkOf(es, 1).SetType(0x21) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 2:1 for profile single", edit: func(es []entry) { chunkOf(es, 2).SetType(1) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 4:1 for profile RAID10", edit: func(es []entry) { chunkOf(es, 3).SetSubStripes(1) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 3:2 for profile RAID10", edit: func(es []entry) { es[3].data = chunk(ondisk.BGSystem|ondisk.BGRaid10, 8*mib, 2, 0, 0, 0) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 2:1 for profile RAID1C3", edit: func(es []entry) { chunkOf(es, 2).SetType(ondisk.BGData | ondisk.BGRaid1C3) }},
	{sample: "chunk", want: "invalid num_stripes:sub_stripes 2:1 for profile RAID6", edit: func(es []entry) { chunkOf(es, 2).SetType(ondisk.BGData | ondisk.BGRaid6) }},
	{sample: "chunk", want: "invalid offset of stripe 1, have 5", edit: func(es []entry) { ondisk.ChunkStripe(es[2].data, 1).SetOffset(5) }},
	{sample: "chunk", want: "invalid offset of stripe 0", edit: func(es []entry) { ondisk.ChunkStripe(es[2].data, 0).SetOffset(math.MaxUint64 - 4095) }},
	{sample: "chunk", want: "invalid objectid for dev item, have 2 expect 1", edit: func(es []entry) { es[0].key.ObjectID = 2 }},
	{sample: "chunk", want: "invalid item size for DEV_ITEM, have 97 expect 98", edit: func(es []entry) { es[0].data = es[0].data[:97] }},
	{sample: "chunk", want: "devid mismatch, key has 2 item has 1", edit: func(es []entry) { es[0].key.Offset = 2 }},
	{sample: "chunk", want: "invalid bytes used of devid 1, have 104857601 expect [0, 104857600]", edit: func(es []entry) { ondisk.AsDevItem(es[0].data).SetBytesUsed(100*mib + 1) }},
	{sample: "dev", want: "invalid item size for DEV_EXTENT, have 47 expect 48", edit: func(es []entry) { es[0].data = es[0].data[:47] }},
	{sample: "dev", want: "invalid dev extent chunk tree id, have 4 expect 3", edit: func(es []entry) { ondisk.AsDevExtent(es[0].data).SetChunkTree(4) }},
	{sample: "dev", want: "invalid dev extent chunk objectid, have 1 expect 256", edit: func(es []entry) { ondisk.AsDevExtent(es[0].data).SetChunkObjectID(1) }},
	{sample: "dev", want: "unaligned dev extent, have offset 1048577", edit: func(es []entry) { es[0].key.Offset++ }},
	{sample: "dev", want: "invalid dev extent length, have offset 1048576 length 0", edit: func(es []entry) { ondisk.AsDevExtent(es[0].data).SetLength(0) }},
	{sample: "dev", want: "dev extent overlap, prev offset 1048576 len 16777216 current offset 16777216", edit: func(es []entry) { ondisk.AsDevExtent(es[0].data).SetLength(16 * mib) }},
}

func rootOf(es []entry, i int) *ondisk.RootItem { return ondisk.AsRootItem(es[i].data) }

var rootDamages = []damage{
	{sample: "root", want: "invalid root id 0", edit: func(es []entry) { es[0].key.ObjectID = 0 }},
	{sample: "root", want: "invalid root id 0 for reloc tree", edit: func(es []entry) { es[4].key.Offset = 0 }},
	{sample: "root", want: "invalid root item size, have 240 expect 439 or 239", edit: func(es []entry) { es[2].data = grow(es[2].data, 1) }},
	{sample: "root", want: "invalid root generation, have generation 12", edit: func(es []entry) { rootOf(es, 0).SetGeneration(12) }},
	{sample: "root", want: "generation_v2 12", edit: func(es []entry) { rootOf(es, 0).SetGenerationV2(12) }},
	{sample: "root", want: "last_snapshot 12", edit: func(es []entry) { rootOf(es, 0).SetLastSnapshot(12) }},
	{sample: "root", want: "invalid root bytenr, have 1 expect to be aligned to 4096", edit: func(es []entry) { rootOf(es, 0).SetBytenr(1) }},
	{sample: "root", want: "invalid root level, have 8 expect [0, 7]", edit: func(es []entry) { rootOf(es, 0).SetLevel(8) }},
	{sample: "root", want: "invalid root drop level, have 8 expect [0, 7]", edit: func(es []entry) { rootOf(es, 0).SetDropLevel(8) }},
	{sample: "root", want: "invalid root flags, have 0x2 expect mask 0x1000000000001", edit: func(es []entry) { rootOf(es, 0).SetFlags(2) }},
	{sample: "root", want: "invalid item size for ROOT_REF, have 18 expect more than 18", edit: func(es []entry) { es[1].data = es[1].data[:18] }},
	{sample: "root", want: "invalid name len of ROOT_BACKREF, have 3 expect 4", edit: func(es []entry) { es[3].data = grow(es[3].data, 1) }},
	{sample: "quota", want: "invalid item size for QGROUP_STATUS, have 39 expect 32 or 40", edit: func(es []entry) { es[0].data = es[0].data[:39] }},
	{sample: "quota", want: "invalid item size for QGROUP_INFO, have 39 expect 40", edit: func(es []entry) { es[1].data = es[1].data[:39] }},
	{sample: "quota", want: "invalid item size for QGROUP_LIMIT, have 39 expect 40", edit: func(es []entry) { es[2].data = es[2].data[:39] }},
	{sample: "quota", want: "invalid item size for QGROUP_RELATION, have 1 expect 0", edit: func(es []entry) { es[3].data = []byte{1} }},
	{sample: "quota", want: "invalid item size for UUID_KEY_SUBVOL, have 7 expect a multiple of 8", edit: func(es []entry) { es[4].data = es[4].data[:7] }},
	{sample: "stripe", want: "invalid RAID_STRIPE, have start 8388608 length 65536 item size 31", edit: func(es []entry) { es[0].data = es[0].data[:31] }},
}
