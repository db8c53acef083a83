package treecheck

import (
	"math/bits"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func (k *checker) blockGroup() *fserr.Corrupt {
	if k.key.Offset == 0 || uint64(k.key.ObjectID)+k.key.Offset < k.key.Offset {
		return k.errorf("invalid block group range, have start %d size %d", uint64(k.key.ObjectID), k.key.Offset)
	}
	if err := k.size(ondisk.BlockGroupItemSize); err != nil {
		return err
	}
	bg := ondisk.AsBlockGroupItem(k.item)
	if bg.ChunkObjectID() != ondisk.FirstChunkObjectID && k.c.Incompat&ondisk.IncompatExtentTreeV2 == 0 {
		return k.errorf("invalid block group chunk objectid, have %d expect %d", int64(bg.ChunkObjectID()), ondisk.FirstChunkObjectID)
	}
	if bg.Used() > k.key.Offset {
		return k.errorf("invalid block group used, have %d expect [0, %d]", bg.Used(), k.key.Offset)
	}
	if p := bg.Flags() & ondisk.BGProfileMask; bits.OnesCount64(p) > 1 {
		return k.errorf("invalid profile flags, have 0x%x (%d bits set) expect no more than 1 bit set", p, bits.OnesCount64(p))
	}
	switch t := bg.Flags() & ondisk.BGTypeMask; t {
	case ondisk.BGData, ondisk.BGMetadata, ondisk.BGSystem, ondisk.BGData | ondisk.BGMetadata:
		return nil
	default:
		return k.errorf("invalid type, have 0x%x (%d bits set) expect data, metadata, system, or data and metadata", t, bits.OnesCount64(t))
	}
}

// freeSpace checks the items of the free-space tree: the info of a block group comes first, then its free extents or
// its bitmaps, ascending and disjoint.
func (k *checker) freeSpace() *fserr.Corrupt {
	start, length := uint64(k.key.ObjectID), k.key.Offset
	if length == 0 || !k.aligned(start|length) || start+length < start {
		return k.errorf("invalid %s range, have start %d length %d, should be aligned to %d", k.key.Type, start, length, k.c.SectorSize)
	}
	switch k.key.Type {
	case ondisk.FreeSpaceInfoKey:
		if err := k.size(ondisk.FreeSpaceInfoSize); err != nil {
			return err
		}
		if f := ondisk.AsFreeSpaceInfo(k.item).Flags(); f&^ondisk.FreeSpaceUsingBitmaps != 0 {
			return k.errorf("unknown free space info flags, have 0x%x expect mask 0x%x", f, ondisk.FreeSpaceUsingBitmaps)
		}
	case ondisk.FreeSpaceExtentKey:
		if err := k.size(0); err != nil {
			return err
		}
	case ondisk.FreeSpaceBitmapKey:
		sectors := length / uint64(k.c.SectorSize)
		if want := (sectors + 7) / 8; want > ondisk.FreeSpaceBitmapBytes || uint64(len(k.item)) != want {
			return k.errorf("invalid free space bitmap size, have %d expect %d and at most %d", len(k.item), want, ondisk.FreeSpaceBitmapBytes)
		}
	}
	return k.freeSpaceOrder(start, start+length)
}

func (k *checker) freeSpaceOrder(start, end uint64) *fserr.Corrupt {
	if k.slot == 0 {
		return nil
	}
	prevEnd := uint64(k.prev.ObjectID) + k.prev.Offset
	switch k.prev.Type {
	case ondisk.FreeSpaceInfoKey:
		if k.key.Type == ondisk.FreeSpaceInfoKey {
			break
		}
		if end > prevEnd {
			return k.errorf("free space end (%d) goes beyond the end (%d) of its block group", end, prevEnd)
		}
		return nil
	case ondisk.FreeSpaceExtentKey, ondisk.FreeSpaceBitmapKey:
	default:
		return nil
	}
	if prevEnd > start {
		return k.errorf("previous free space %s overlaps current %s", k.prev, k.key)
	}
	if k.c.Write && prevEnd == start && k.key.Type == ondisk.FreeSpaceExtentKey && k.prev.Type == ondisk.FreeSpaceExtentKey {
		return k.errorf("free space extents %s and %s are neighbours and not merged", k.prev, k.key)
	}
	return nil
}

func (k *checker) chunkItem() *fserr.Corrupt {
	if k.key.ObjectID != ondisk.FirstChunkObjectID {
		return k.errorf("invalid key objectid for chunk item, have %d expect %d", int64(k.key.ObjectID), ondisk.FirstChunkObjectID)
	}
	if p := chunkProblem(ondisk.Logical(k.key.Offset), k.item, uint32(k.c.SectorSize), k.c.Incompat); p != "" {
		return k.errorf("chunk_start=%d, %s", k.key.Offset, p)
	}
	return nil
}

func (k *checker) devItem() *fserr.Corrupt {
	if k.key.ObjectID != ondisk.DevItemsObjectID {
		return k.errorf("invalid objectid for dev item, have %d expect %d", int64(k.key.ObjectID), ondisk.DevItemsObjectID)
	}
	if err := k.size(ondisk.DevItemSize); err != nil {
		return err
	}
	d := ondisk.AsDevItem(k.item)
	if d.DevID() != k.key.Offset {
		return k.errorf("devid mismatch, key has %d item has %d", k.key.Offset, d.DevID())
	}
	if d.BytesUsed() > d.TotalBytes() {
		return k.errorf("invalid bytes used of devid %d, have %d expect [0, %d]", d.DevID(), d.BytesUsed(), d.TotalBytes())
	}
	return nil
}

func (k *checker) devExtent() *fserr.Corrupt {
	if err := k.size(ondisk.DevExtentSize); err != nil {
		return err
	}
	d := ondisk.AsDevExtent(k.item)
	if d.ChunkTree() != ondisk.ChunkTree {
		return k.errorf("invalid dev extent chunk tree id, have %d expect %d", int64(d.ChunkTree()), int64(ondisk.ChunkTree))
	}
	if d.ChunkObjectID() != ondisk.FirstChunkObjectID {
		return k.errorf("invalid dev extent chunk objectid, have %d expect %d", int64(d.ChunkObjectID()), ondisk.FirstChunkObjectID)
	}
	if !k.aligned(k.key.Offset | uint64(d.ChunkOffset()) | d.Length()) {
		return k.errorf("unaligned dev extent, have offset %d chunk offset %d length %d, should be aligned to %d",
			k.key.Offset, uint64(d.ChunkOffset()), d.Length(), k.c.SectorSize)
	}
	if d.Length() == 0 || k.key.Offset+d.Length() < k.key.Offset {
		return k.errorf("invalid dev extent length, have offset %d length %d", k.key.Offset, d.Length())
	}
	if k.slot > 0 && k.prev.Type == ondisk.DevExtentKey && k.prev.ObjectID == k.key.ObjectID {
		n := ondisk.AsDevExtent(k.b.Item(k.slot - 1)).Length()
		if k.prev.Offset+n > k.key.Offset {
			return k.errorf("dev extent overlap, prev offset %d len %d current offset %d", k.prev.Offset, n, k.key.Offset)
		}
	}
	return nil
}
