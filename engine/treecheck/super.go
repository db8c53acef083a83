package treecheck

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Features that this engine reads and those that it writes. Reading ignores compat_ro bits, as their name says.
const (
	ReadIncompat = ondisk.IncompatMixedBackref | ondisk.IncompatDefaultSubvol | ondisk.IncompatMixedGroups |
		ondisk.IncompatCompressLZO | ondisk.IncompatCompressZstd | ondisk.IncompatBigMetadata | ondisk.IncompatExtendedIref |
		ondisk.IncompatSkinnyMetadata | ondisk.IncompatNoHoles | ondisk.IncompatMetadataUUID | ondisk.IncompatRaid1C34 |
		ondisk.IncompatSimpleQuota
	WriteIncompat = ReadIncompat &^ (ondisk.IncompatMixedGroups | ondisk.IncompatSimpleQuota)
	WriteCompatRO = ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid | ondisk.CompatROVerity | ondisk.CompatROBlockGroupTree
)

// minUsedBlocks is the least number of tree blocks of any file system: root, extent, chunk, device, fs and csum tree.
const minUsedBlocks = 6

// Super checks a superblock as the kernel's btrfs_validate_super does, its features included (Features, for reading).
// Its own checksum and the chunks of its sys_chunk_array are not looked at. Findings are *fserr.Corrupt, refused
// features match fserr.ErrUnsupported.
func Super(sb *ondisk.SuperBlock) error {
	if p := superProblem(sb); p != "" {
		return fserr.Corruptf("super", 0, uint64(sb.Bytenr()), "%s", p)
	}
	return Features(sb, false)
}

func superProblem(sb *ondisk.SuperBlock) string {
	for _, f := range []func(*ondisk.SuperBlock) string{superIdentity, superSizes, superRoots, superCounts} {
		if p := f(sb); p != "" {
			return p
		}
	}
	return ""
}

func superIdentity(sb *ondisk.SuperBlock) string {
	switch {
	case sb.Magic() != ondisk.Magic:
		return fmt.Sprintf("invalid magic, have 0x%x expect 0x%x: not a btrfs file system", sb.Magic(), ondisk.Magic)
	case !slices.Contains(ondisk.SuperOffsets[:], sb.Bytenr()):
		return fmt.Sprintf("invalid bytenr, have %d expect one of %d", uint64(sb.Bytenr()), ondisk.SuperOffsets)
	case !sb.Checksum().Valid():
		return fmt.Sprintf("unknown checksum algorithm, have %d", sb.CsumType())
	case sb.DevItem().FSID() != sb.MetadataFSID():
		return fmt.Sprintf("dev_item fsid does not match, have %s expect %s", sb.DevItem().FSID(), sb.MetadataFSID())
	case sb.Flags()&ondisk.SuperFlagChangingFSID != 0:
		return "a change of the fsid was not finished: run btrfstune to finish it"
	}
	return ""
}

func powerOfTwo(v uint32) bool { return bits.OnesCount32(v) == 1 }

func superSizes(sb *ondisk.SuperBlock) string {
	sector, node := sb.SectorSize(), sb.NodeSize()
	switch {
	case !powerOfTwo(sector) || sector < 4096 || sector > 65536:
		return fmt.Sprintf("invalid sectorsize, have %d expect a power of two in [4096, 65536]", sector)
	case !powerOfTwo(node) || node < sector || node > 65536:
		return fmt.Sprintf("invalid nodesize, have %d expect a power of two in [%d, 65536]", node, sector)
	case sb.LeafSize() != node:
		return fmt.Sprintf("invalid leafsize, have %d expect %d", sb.LeafSize(), node)
	case !powerOfTwo(sb.StripeSize()):
		return fmt.Sprintf("invalid stripesize, have %d expect a power of two", sb.StripeSize())
	}
	return ""
}

func superRoots(sb *ondisk.SuperBlock) string {
	mask := uint64(sb.SectorSize()) - 1
	for _, r := range []struct {
		name  string
		addr  ondisk.Logical
		level uint8
		must  bool
	}{
		{"tree_root", sb.Root(), sb.RootLevel(), true}, {"chunk_root", sb.ChunkRoot(), sb.ChunkRootLevel(), true},
		{"log_root", sb.LogRoot(), sb.LogRootLevel(), false},
	} {
		if r.level >= ondisk.MaxLevel {
			return fmt.Sprintf("invalid %s level, have %d expect [0, %d]", r.name, r.level, ondisk.MaxLevel-1)
		}
		if uint64(r.addr)&mask != 0 || (r.must && r.addr == 0) {
			return fmt.Sprintf("invalid %s block, have %d expect a multiple of %d", r.name, uint64(r.addr), sb.SectorSize())
		}
	}
	return ""
}

func superCounts(sb *ondisk.SuperBlock) string {
	switch {
	case sb.BytesUsed() < minUsedBlocks*uint64(sb.NodeSize()):
		return fmt.Sprintf("invalid bytes_used, have %d expect at least %d", sb.BytesUsed(), minUsedBlocks*uint64(sb.NodeSize()))
	case sb.NumDevices() == 0:
		return "invalid number of devices, have 0"
	case sb.Generation() == 0:
		return "invalid generation, have 0"
	case sb.SysChunkArraySize() > ondisk.SysChunkArrayMax:
		return fmt.Sprintf("system chunk array too big, have %d max %d", sb.SysChunkArraySize(), ondisk.SysChunkArrayMax)
	case int(sb.SysChunkArraySize()) < ondisk.KeySize+ondisk.ChunkItemSize(1):
		return fmt.Sprintf("system chunk array too small, have %d min %d", sb.SysChunkArraySize(), ondisk.KeySize+ondisk.ChunkItemSize(1))
	}
	if sb.HasCompatRO(ondisk.CompatROBlockGroupTree) &&
		(!sb.HasCompatRO(ondisk.CompatROFreeSpaceTree) || !sb.HasIncompat(ondisk.IncompatNoHoles)) {
		return "block-group-tree feature requires free-space-tree and no-holes"
	}
	return ""
}

// Features names what the engine does not support of a file system's features, for reading or also for writing. The
// error matches fserr.ErrUnsupported.
func Features(sb *ondisk.SuperBlock, write bool) error {
	incompat, compatRO := uint64(ReadIncompat), ^uint64(0)
	verb := "read"
	if write {
		incompat, compatRO, verb = WriteIncompat, WriteCompatRO, "write"
	}
	if bad := sb.IncompatFlags() &^ incompat; bad != 0 {
		return fmt.Errorf("%w to %s: incompat feature %s; use btrfs-progs and the kernel for this image", fserr.ErrUnsupported, verb, featureNames(bad, ondisk.IncompatNames))
	}
	if bad := sb.CompatROFlags() &^ compatRO; bad != 0 {
		return fmt.Errorf("%w to %s: compat_ro feature %s; open the image read-only", fserr.ErrUnsupported, verb, featureNames(bad, ondisk.CompatRONames))
	}
	if sb.SectorSize() != ondisk.SectorSize {
		return fmt.Errorf("%w to %s: sector size %d, only %d is supported", fserr.ErrUnsupported, verb, sb.SectorSize(), ondisk.SectorSize)
	}
	return nil
}

// featureNames lists the bits by name, unknown ones in hex.
func featureNames(bad uint64, names []ondisk.FeatureName) string {
	var out []string
	for _, n := range names {
		if bad&n.Bit != 0 {
			out = append(out, n.Name)
			bad &^= n.Bit
		}
	}
	if bad != 0 {
		out = append(out, fmt.Sprintf("0x%x", bad))
	}
	return strings.Join(out, ", ")
}

// SysChunkArray calls fn for each SYSTEM chunk that the superblock carries: its first logical address and its checked
// chunk item, which aliases sb. It stops at fn's first error and returns it; a damaged array is a *fserr.Corrupt.
func SysChunkArray(sb *ondisk.SuperBlock, fn func(start ondisk.Logical, item []byte) error) error {
	size := int(sb.SysChunkArraySize())
	if size > ondisk.SysChunkArrayMax {
		return arrayErrorf(sb, size, "array is %d bytes long, at most %d fit", size, ondisk.SysChunkArrayMax)
	}
	arr := sb.SysChunkArray()[:size]
	for off := 0; off < size; {
		if size-off < ondisk.KeySize+ondisk.ChunkItemSize(1) {
			return arrayErrorf(sb, off, "short entry, have %d bytes expect at least %d", size-off, ondisk.KeySize+ondisk.ChunkItemSize(1))
		}
		key := ondisk.GetKey(arr[off:])
		if key.Type != ondisk.ChunkItemKey || key.ObjectID != ondisk.FirstChunkObjectID {
			return arrayErrorf(sb, off, "unexpected key %s", key)
		}
		at := off + ondisk.KeySize
		end := at + ondisk.ChunkItemSize(int(ondisk.AsChunk(arr[at:]).NumStripes()))
		if end > size {
			return arrayErrorf(sb, off, "chunk item crosses the array's end, have %d boundary %d", end, size)
		}
		item := arr[at:end:end]
		if err := Chunk(ondisk.Logical(key.Offset), item, sb); err != nil {
			return fmt.Errorf("sys_chunk_array offset %d: %w", off, err)
		}
		if t := ondisk.AsChunk(item).Type(); t&ondisk.BGSystem == 0 {
			return arrayErrorf(sb, off, "invalid chunk type 0x%x, expect a SYSTEM chunk", t)
		}
		if err := fn(ondisk.Logical(key.Offset), item); err != nil {
			return err
		}
		off = end
	}
	return nil
}

func arrayErrorf(sb *ondisk.SuperBlock, off int, format string, args ...any) error {
	return fserr.Corruptf("super", 0, uint64(sb.Bytenr()), "sys_chunk_array offset %d: %s", off, fmt.Sprintf(format, args...))
}
