package treecheck

import (
	"fmt"
	"math"
	"math/bits"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// profile says what a chunk of one RAID profile must look like (kernel fs/btrfs/volumes.c, btrfs_raid_array).
type profile struct {
	bit         uint64
	min, max    int // stripes
	sub, parity int // sub_stripes that the item must name, 0 any; stripes of parity
	multiple    int // the number of stripes is a multiple of it
}

var profiles = [...]profile{
	{bit: 0, min: 1, max: 1, multiple: 1},
	{bit: ondisk.BGDup, min: 2, max: 2, multiple: 1},
	{bit: ondisk.BGRaid0, min: 1, max: math.MaxUint16, multiple: 1},
	{bit: ondisk.BGRaid1, min: 2, max: 2, multiple: 1},
	{bit: ondisk.BGRaid1C3, min: 3, max: 3, multiple: 1},
	{bit: ondisk.BGRaid1C4, min: 4, max: 4, multiple: 1},
	{bit: ondisk.BGRaid10, min: 2, max: math.MaxUint16, sub: 2, multiple: 2},
	{bit: ondisk.BGRaid5, min: 2, max: math.MaxUint16, parity: 1, multiple: 1},
	{bit: ondisk.BGRaid6, min: 3, max: math.MaxUint16, parity: 2, multiple: 1},
}

// Chunk checks the body of a CHUNK_ITEM, or of an entry of the superblock's sys_chunk_array, that maps the addresses
// from start on. item must be exactly as long as its number of stripes asks for. The error is a *fserr.Corrupt.
func Chunk(start ondisk.Logical, item []byte, sb *ondisk.SuperBlock) error {
	if p := chunkProblem(start, item, sb.SectorSize(), sb.IncompatFlags()); p != "" {
		return fserr.Corruptf("chunk", uint64(ondisk.ChunkTree), 0, "chunk_start=%d, %s", uint64(start), p)
	}
	return nil
}

// chunkProblem returns what is wrong with a chunk item, "" when nothing is. incompat 0 means not known.
func chunkProblem(start ondisk.Logical, item []byte, sectorSize uint32, incompat uint64) string {
	if len(item) < ondisk.ChunkItemSize(1) {
		return fmt.Sprintf("invalid chunk item size, have %d expect at least %d", len(item), ondisk.ChunkItemSize(1))
	}
	c := ondisk.AsChunk(item)
	n := int(c.NumStripes())
	if n == 0 {
		return "invalid chunk num_stripes, have 0"
	}
	if len(item) != ondisk.ChunkItemSize(n) {
		return fmt.Sprintf("invalid chunk item size, have %d expect %d", len(item), ondisk.ChunkItemSize(n))
	}
	if p := chunkRangeProblem(uint64(start), c, sectorSize); p != "" {
		return p
	}
	if p := chunkTypeProblem(c, incompat); p != "" {
		return p
	}
	return stripesProblem(c, item, n, sectorSize)
}

func chunkRangeProblem(start uint64, c *ondisk.Chunk, sectorSize uint32) string {
	mask := uint64(sectorSize) - 1
	switch length := c.Length(); {
	case start&mask != 0:
		return fmt.Sprintf("invalid chunk logical, have %d should be aligned to %d", start, sectorSize)
	case c.SectorSize() != sectorSize:
		return fmt.Sprintf("invalid chunk sectorsize, have %d expect %d", c.SectorSize(), sectorSize)
	case length == 0 || length&mask != 0:
		return fmt.Sprintf("invalid chunk length, have %d", length)
	case start+length < start:
		return fmt.Sprintf("invalid chunk logical start and length, have logical start %d length %d", start, length)
	case c.StripeLen() != ondisk.StripeLen:
		return fmt.Sprintf("invalid chunk stripe length, have %d expect %d", c.StripeLen(), ondisk.StripeLen)
	case length >= math.MaxUint32*ondisk.StripeLen:
		return fmt.Sprintf("chunk length too large, have %d limit %d", length, uint64(math.MaxUint32)*ondisk.StripeLen)
	}
	return ""
}

func chunkTypeProblem(c *ondisk.Chunk, incompat uint64) string {
	t := c.Type()
	switch kind := t & ondisk.BGTypeMask; {
	case t&^(ondisk.BGTypeMask|ondisk.BGProfileMask) != 0:
		return fmt.Sprintf("unrecognized chunk type: 0x%x", t&^(ondisk.BGTypeMask|ondisk.BGProfileMask))
	case bits.OnesCount64(t&ondisk.BGProfileMask) > 1:
		return fmt.Sprintf("invalid chunk profile flag: 0x%x, expect 0 or 1 bit set", t&ondisk.BGProfileMask)
	case kind == 0:
		return fmt.Sprintf("missing chunk type flag, have 0x%x one bit must be set in 0x%x", t, ondisk.BGTypeMask)
	case kind&ondisk.BGSystem != 0 && kind != ondisk.BGSystem:
		return fmt.Sprintf("system chunk with data or metadata type: 0x%x", t)
	case kind == ondisk.BGData|ondisk.BGMetadata && incompat != 0 && incompat&ondisk.IncompatMixedGroups == 0:
		return fmt.Sprintf("mixed chunk type in non-mixed mode: 0x%x", t)
	}
	return ""
}

func stripesProblem(c *ondisk.Chunk, item []byte, n int, sectorSize uint32) string {
	bit := c.Type() & ondisk.BGProfileMask
	for i := range profiles {
		p := &profiles[i]
		if p.bit != bit {
			continue
		}
		if n < p.min || n > p.max || n%p.multiple != 0 || n == p.parity || (p.sub != 0 && int(c.SubStripes()) != p.sub) {
			return fmt.Sprintf("invalid num_stripes:sub_stripes %d:%d for profile %s", n, c.SubStripes(), ondisk.BGProfileName(bit))
		}
	}
	for i := range n {
		off := uint64(ondisk.ChunkStripe(item, i).Offset())
		if off&uint64(sectorSize-1) != 0 || off+c.Length() < off {
			return fmt.Sprintf("invalid offset of stripe %d, have %d for a chunk of length %d", i, off, c.Length())
		}
	}
	return ""
}
