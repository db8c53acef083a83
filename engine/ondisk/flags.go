package ondisk

import (
	"io/fs"
	"strings"
)

// Magic stands at byte 64 of a superblock: "_BHRfS_M".
const Magic uint64 = 0x4D5F53665248425F

// Block group and chunk type bits.
const (
	BGData     uint64 = 1 << 0
	BGSystem   uint64 = 1 << 1
	BGMetadata uint64 = 1 << 2
	BGRaid0    uint64 = 1 << 3
	BGRaid1    uint64 = 1 << 4
	BGDup      uint64 = 1 << 5
	BGRaid10   uint64 = 1 << 6
	BGRaid5    uint64 = 1 << 7
	BGRaid6    uint64 = 1 << 8
	BGRaid1C3  uint64 = 1 << 9
	BGRaid1C4  uint64 = 1 << 10

	BGTypeMask    = BGData | BGSystem | BGMetadata
	BGProfileMask = BGRaid0 | BGRaid1 | BGDup | BGRaid10 | BGRaid5 | BGRaid6 | BGRaid1C3 | BGRaid1C4
)

// BGTypeName returns "Data", "Metadata", "System" or a combination as btrfs filesystem df prints it.
func BGTypeName(flags uint64) string {
	var p []string
	for _, x := range []struct {
		bit  uint64
		name string
	}{{BGData, "Data"}, {BGMetadata, "Metadata"}, {BGSystem, "System"}} {
		if flags&x.bit != 0 {
			p = append(p, x.name)
		}
	}
	return strings.Join(p, "+")
}

// BGProfileName returns the profile's name: "single", "DUP", "RAID1", ...
func BGProfileName(flags uint64) string {
	for _, x := range []struct {
		bit  uint64
		name string
	}{{BGRaid0, "RAID0"}, {BGRaid1, "RAID1"}, {BGDup, "DUP"}, {BGRaid10, "RAID10"}, {BGRaid5, "RAID5"},
		{BGRaid6, "RAID6"}, {BGRaid1C3, "RAID1C3"}, {BGRaid1C4, "RAID1C4"}} {
		if flags&x.bit != 0 {
			return x.name
		}
	}
	return "single"
}

// Extent item flags.
const (
	ExtentFlagData        uint64 = 1 << 0
	ExtentFlagTreeBlock   uint64 = 1 << 1
	ExtentFlagFullBackref uint64 = 1 << 8
)

// File extent types.
const (
	FileExtentInline   uint8 = 0
	FileExtentReg      uint8 = 1
	FileExtentPrealloc uint8 = 2

	// FileExtentInlineStart is where the data of an inline extent begins in its item.
	FileExtentInlineStart = 21
)

// Compression algorithms of file extents.
const (
	CompressNone uint8 = 0
	CompressZlib uint8 = 1
	CompressLZO  uint8 = 2
	CompressZstd uint8 = 3

	// MaxCompressed and MaxUncompressed bound both sides of one compressed extent.
	MaxCompressed   = 128 << 10
	MaxUncompressed = 128 << 10
	// MaxDataExtent is the largest data extent that the kernel writes.
	MaxDataExtent = 128 << 20
)

// Inode flags (struct btrfs_inode_item.flags).
const (
	InodeNoDataSum  uint64 = 1 << 0
	InodeNoDataCow  uint64 = 1 << 1
	InodeReadonly   uint64 = 1 << 2
	InodeNoCompress uint64 = 1 << 3
	InodePrealloc   uint64 = 1 << 4
	InodeSync       uint64 = 1 << 5
	InodeImmutable  uint64 = 1 << 6
	InodeAppend     uint64 = 1 << 7
	InodeNoDump     uint64 = 1 << 8
	InodeNoAtime    uint64 = 1 << 9
	InodeDirSync    uint64 = 1 << 10
	InodeCompress   uint64 = 1 << 11
	InodeRootInit   uint64 = 1 << 31
	InodeROVerity   uint64 = 1 << 32
)

// Root item flags.
const (
	RootSubvolReadonly uint64 = 1 << 0
	RootSubvolDead     uint64 = 1 << 48
)

// Free space info flags.
const FreeSpaceUsingBitmaps uint32 = 1 << 0

// FreeSpaceBitmapBytes is the size of one FREE_SPACE_BITMAP item; FreeSpaceBitmapBits its number of sectors.
const (
	FreeSpaceBitmapBytes = 256
	FreeSpaceBitmapBits  = FreeSpaceBitmapBytes * 8
)

// Superblock flags and feature bits.
const (
	SuperFlagSeeding      uint64 = 1 << 32
	SuperFlagMetadump     uint64 = 1 << 33
	SuperFlagMetadumpV2   uint64 = 1 << 34
	SuperFlagChangingFSID uint64 = 1 << 35

	CompatROFreeSpaceTree      uint64 = 1 << 0
	CompatROFreeSpaceTreeValid uint64 = 1 << 1
	CompatROVerity             uint64 = 1 << 2
	CompatROBlockGroupTree     uint64 = 1 << 3

	IncompatMixedBackref   uint64 = 1 << 0
	IncompatDefaultSubvol  uint64 = 1 << 1
	IncompatMixedGroups    uint64 = 1 << 2
	IncompatCompressLZO    uint64 = 1 << 3
	IncompatCompressZstd   uint64 = 1 << 4
	IncompatBigMetadata    uint64 = 1 << 5
	IncompatExtendedIref   uint64 = 1 << 6
	IncompatRaid56         uint64 = 1 << 7
	IncompatSkinnyMetadata uint64 = 1 << 8
	IncompatNoHoles        uint64 = 1 << 9
	IncompatMetadataUUID   uint64 = 1 << 10
	IncompatRaid1C34       uint64 = 1 << 11
	IncompatZoned          uint64 = 1 << 12
	IncompatExtentTreeV2   uint64 = 1 << 13
	IncompatRaidStripeTree uint64 = 1 << 14
	IncompatSimpleQuota    uint64 = 1 << 16
	IncompatRemapTree      uint64 = 1 << 17
)

// Qgroup status flags.
const (
	QgroupStatusOn           uint64 = 1 << 0
	QgroupStatusRescan       uint64 = 1 << 1
	QgroupStatusInconsistent uint64 = 1 << 2
	QgroupStatusSimple       uint64 = 1 << 3
)

// FeatureName is one bit of a feature word with the name that btrfs-progs prints for it.
type FeatureName struct {
	Bit  uint64
	Name string
}

// IncompatNames and CompatRONames list the known bits in ascending order.
var (
	IncompatNames = []FeatureName{
		{IncompatMixedBackref, "MIXED_BACKREF"}, {IncompatDefaultSubvol, "DEFAULT_SUBVOL"}, {IncompatMixedGroups, "MIXED_GROUPS"},
		{IncompatCompressLZO, "COMPRESS_LZO"}, {IncompatCompressZstd, "COMPRESS_ZSTD"}, {IncompatBigMetadata, "BIG_METADATA"},
		{IncompatExtendedIref, "EXTENDED_IREF"}, {IncompatRaid56, "RAID56"}, {IncompatSkinnyMetadata, "SKINNY_METADATA"},
		{IncompatNoHoles, "NO_HOLES"}, {IncompatMetadataUUID, "METADATA_UUID"}, {IncompatRaid1C34, "RAID1C34"},
		{IncompatZoned, "ZONED"}, {IncompatExtentTreeV2, "EXTENT_TREE_V2"}, {IncompatRaidStripeTree, "RAID_STRIPE_TREE"},
		{IncompatSimpleQuota, "SIMPLE_QUOTA"}, {IncompatRemapTree, "REMAP_TREE"},
	}
	CompatRONames = []FeatureName{
		{CompatROFreeSpaceTree, "FREE_SPACE_TREE"}, {CompatROFreeSpaceTreeValid, "FREE_SPACE_TREE_VALID"},
		{CompatROVerity, "VERITY"}, {CompatROBlockGroupTree, "BLOCK_GROUP_TREE"},
	}
)

// Directory entry types.
const (
	FTUnknown uint8 = 0
	FTReg     uint8 = 1
	FTDir     uint8 = 2
	FTChr     uint8 = 3
	FTBlk     uint8 = 4
	FTFifo    uint8 = 5
	FTSock    uint8 = 6
	FTSymlink uint8 = 7
	FTXattr   uint8 = 8
)

// Unix mode bits of InodeItem.Mode.
const (
	ModeFmt  uint32 = 0o170000
	ModeReg  uint32 = 0o100000
	ModeDir  uint32 = 0o040000
	ModeLnk  uint32 = 0o120000
	ModeBlk  uint32 = 0o060000
	ModeChr  uint32 = 0o020000
	ModeFifo uint32 = 0o010000
	ModeSock uint32 = 0o140000
	ModePerm uint32 = 0o007777
)

// ModeToFT returns the directory entry type of a Unix mode, FTUnknown for an impossible one.
func ModeToFT(mode uint32) uint8 {
	switch mode & ModeFmt {
	case ModeReg:
		return FTReg
	case ModeDir:
		return FTDir
	case ModeLnk:
		return FTSymlink
	case ModeBlk:
		return FTBlk
	case ModeChr:
		return FTChr
	case ModeFifo:
		return FTFifo
	case ModeSock:
		return FTSock
	}
	return FTUnknown
}

// FileMode converts a Unix mode to Go's fs.FileMode.
func FileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & ModeFmt {
	case ModeDir:
		m |= fs.ModeDir
	case ModeLnk:
		m |= fs.ModeSymlink
	case ModeBlk:
		m |= fs.ModeDevice
	case ModeChr:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case ModeFifo:
		m |= fs.ModeNamedPipe
	case ModeSock:
		m |= fs.ModeSocket
	}
	if mode&0o4000 != 0 {
		m |= fs.ModeSetuid
	}
	if mode&0o2000 != 0 {
		m |= fs.ModeSetgid
	}
	if mode&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	return m
}
