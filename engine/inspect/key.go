package inspect

import (
	"fmt"
	"strings"

	"imgtool/engine/ondisk"
)

// Object ids that only have a name here.
const (
	multipleObjectID   = ^ondisk.ObjectID(0) - 254 // -255
	csumChangeObjectID = ^ondisk.ObjectID(0) - 12  // -13
	qgroupLevelShift   = 48                        // a qgroup id is level << 48 | subvolume
)

// objectNames holds the names that do not depend on the key's type.
var objectNames = map[ondisk.ObjectID]string{
	1: "ROOT_TREE", 2: "EXTENT_TREE", 3: "CHUNK_TREE", 4: "DEV_TREE", 5: "FS_TREE", 6: "ROOT_TREE_DIR", 7: "CSUM_TREE",
	8: "QUOTA_TREE", 9: "UUID_TREE", 10: "FREE_SPACE_TREE", 11: "BLOCK_GROUP_TREE", 12: "RAID_STRIPE_TREE",
	ondisk.BalanceObjectID: "BALANCE", ondisk.OrphanObjectID: "ORPHAN", ondisk.ObjectID(ondisk.TreeLogTree): "TREE_LOG",
	ondisk.ObjectID(ondisk.TreeLogFixup): "LOG_FIXUP", ondisk.ObjectID(ondisk.TreeRelocTree): "TREE_RELOC",
	ondisk.ObjectID(ondisk.DataRelocTree): "DATA_RELOC_TREE", ondisk.ExtentCsumObjectID: "EXTENT_CSUM",
	ondisk.FreeSpaceObjectID: "FREE_SPACE", ondisk.FreeInoObjectID: "FREE_INO", csumChangeObjectID: "CSUM_CHANGE",
	multipleObjectID: "MULTIPLE", ^ondisk.ObjectID(0): "-1",
}

// objectString names the first part of a key of type t, or with t 0 a tree.
func objectString(o ondisk.ObjectID, t ondisk.ItemType) string {
	switch t {
	case ondisk.PersistentItemKey:
		if o == ondisk.DevStatsObjectID {
			return "DEV_STATS"
		}
		return fmt.Sprint(uint64(o))
	case ondisk.DevExtentKey:
		return fmt.Sprint(uint64(o))
	case ondisk.QgroupRelationKey:
		return qgroupString(uint64(o))
	case ondisk.UUIDKeySubvol, ondisk.UUIDKeyReceived:
		return fmt.Sprintf("0x%016x", uint64(o))
	case ondisk.DevItemKey:
		if o == ondisk.DevItemsObjectID {
			return "DEV_ITEMS"
		}
	case ondisk.ChunkItemKey:
		if o == ondisk.FirstChunkObjectID {
			return "FIRST_CHUNK_TREE"
		}
	}
	if n, ok := objectNames[o]; ok {
		return n
	}
	return fmt.Sprint(uint64(o))
}

func qgroupString(id uint64) string {
	return fmt.Sprintf("%d/%d", id>>qgroupLevelShift, id&(1<<qgroupLevelShift-1))
}

func typeString(k ondisk.Key) string {
	if k.Type == ondisk.UntypedKey && k.ObjectID != ondisk.FreeSpaceObjectID {
		return "UNKNOWN.0"
	}
	return k.Type.String()
}

// keyString prints "key (257 INODE_ITEM 0)".
func keyString(k ondisk.Key) string {
	var off string
	switch k.Type {
	case ondisk.QgroupRelationKey, ondisk.QgroupInfoKey, ondisk.QgroupLimitKey:
		off = qgroupString(k.Offset)
	case ondisk.UUIDKeySubvol, ondisk.UUIDKeyReceived:
		off = fmt.Sprintf("0x%016x", k.Offset)
	case ondisk.RootItemKey:
		// The offset of a relocation tree's item is the tree that it stands for.
		if off = fmt.Sprint(k.Offset); ondisk.TreeID(k.ObjectID) == ondisk.TreeRelocTree {
			off = objectString(ondisk.ObjectID(k.Offset), k.Type)
		}
	default:
		if off = fmt.Sprint(k.Offset); k.Offset == ^uint64(0) {
			off = "-1"
		}
	}
	return "key (" + objectString(k.ObjectID, k.Type) + " " + typeString(k) + " " + off + ")"
}

// bit is one flag with its name.
type bit struct {
	mask uint64
	name string
}

// flagString joins the names of the flags that are set with "|", none when no known one is.
func flagString(flags uint64, bits []bit, none string) string {
	var names []string
	for _, b := range bits {
		if flags&b.mask != 0 {
			names = append(names, b.name)
		}
	}
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, "|")
}

var (
	headerBits = []bit{{ondisk.HeaderFlagWritten, "WRITTEN"}, {ondisk.HeaderFlagReloc, "RELOC"}}
	inodeBits  = []bit{
		{ondisk.InodeNoDataSum, "NODATASUM"}, {ondisk.InodeNoDataCow, "NODATACOW"}, {ondisk.InodeReadonly, "READONLY"},
		{ondisk.InodeNoCompress, "NOCOMPRESS"}, {ondisk.InodePrealloc, "PREALLOC"}, {ondisk.InodeSync, "SYNC"},
		{ondisk.InodeImmutable, "IMMUTABLE"}, {ondisk.InodeAppend, "APPEND"}, {ondisk.InodeNoDump, "NODUMP"},
		{ondisk.InodeNoAtime, "NOATIME"}, {ondisk.InodeDirSync, "DIRSYNC"}, {ondisk.InodeCompress, "COMPRESS"},
		{ondisk.InodeRootInit, "ROOT_ITEM_INIT"}, {ondisk.InodeROVerity, "VERITY"},
	}
	rootBits   = []bit{{ondisk.RootSubvolReadonly, "RDONLY"}, {ondisk.RootSubvolDead, "DEAD"}}
	extentBits = []bit{{ondisk.ExtentFlagData, "DATA"}, {ondisk.ExtentFlagTreeBlock, "TREE_BLOCK"}, {ondisk.ExtentFlagFullBackref, "FULL_BACKREF"}}
	typeBits   = []bit{{ondisk.BGData, "DATA"}, {ondisk.BGMetadata, "METADATA"}, {ondisk.BGSystem, "SYSTEM"}}
)

// groupString prints type and profile of a block group or chunk: "METADATA|DUP".
func groupString(flags uint64) string {
	return flagString(flags, typeBits, "0x0") + "|" + ondisk.BGProfileName(flags)
}

var escapes = map[byte]string{'\a': `\a`, '\b': `\b`, 0x1b: `\e`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\v': `\v`, '\\': `\\`}

// escape makes a name or an xattr's value printable on one line, bytes that are not ASCII in octal.
func escape(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		if e, ok := escapes[c]; ok {
			s.WriteString(e)
		} else if c < 0x20 || c > 0x7e {
			fmt.Fprintf(&s, `\%03o`, c)
		} else {
			s.WriteByte(c)
		}
	}
	return s.String()
}
