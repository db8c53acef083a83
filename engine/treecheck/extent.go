package treecheck

import (
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func (k *checker) extentItem() *fserr.Corrupt {
	if err := k.extentKey(); err != nil {
		return err
	}
	if len(k.item) < ondisk.ExtentItemSize {
		return k.errorf("invalid item size for %s, have %d expect at least %d", k.key.Type, len(k.item), ondisk.ExtentItemSize)
	}
	ei := ondisk.AsExtentItem(k.item)
	if k.future(ei.Generation()) {
		return k.errorf("invalid extent generation, have %d expect [0, %d]", uint64(ei.Generation()), uint64(k.c.MaxGeneration))
	}
	tree := ei.Flags()&ondisk.ExtentFlagTreeBlock != 0
	if tree == (ei.Flags()&ondisk.ExtentFlagData != 0) {
		return k.errorf("invalid extent flag, have 0x%x expect 1 bit set in 0x%x", ei.Flags(), ondisk.ExtentFlagData|ondisk.ExtentFlagTreeBlock)
	}
	refsAt := ondisk.ExtentItemSize
	if tree {
		if k.key.Type == ondisk.ExtentItemKey {
			if err := k.treeBlockInfo(); err != nil {
				return err
			}
			refsAt += ondisk.TreeBlockInfoSize
		}
	} else if err := k.dataExtent(ei.Flags()); err != nil {
		return err
	}
	refs, err := k.inlineRefs(refsAt, tree)
	if err != nil {
		return err
	}
	if ei.Refs() == 0 || refs > ei.Refs() {
		return k.errorf("invalid extent refs, have %d expect >= inline %d and not 0", ei.Refs(), refs)
	}
	return k.extentDisjoint()
}

func (k *checker) extentKey() *fserr.Corrupt {
	if k.key.Type == ondisk.MetadataItemKey {
		if k.c.Incompat != 0 && k.c.Incompat&ondisk.IncompatSkinnyMetadata == 0 {
			return k.errorf("invalid key type, METADATA_ITEM type invalid when SKINNY_METADATA feature disabled")
		}
		if k.key.Offset >= ondisk.MaxLevel {
			return k.errorf("invalid tree level, have %d expect [0, %d]", k.key.Offset, ondisk.MaxLevel-1)
		}
	}
	if !k.aligned(uint64(k.key.ObjectID)) {
		return k.errorf("invalid key objectid, have %d expect to be aligned to %d", uint64(k.key.ObjectID), k.c.SectorSize)
	}
	if start := uint64(k.key.ObjectID); start+k.extentLen(k.key) < start {
		return k.errorf("invalid extent range, have start %d length %d", start, k.extentLen(k.key))
	}
	return nil
}

// extentLen returns the length in bytes that an EXTENT_ITEM or METADATA_ITEM key stands for.
func (k *checker) extentLen(key ondisk.Key) uint64 {
	if key.Type == ondisk.MetadataItemKey {
		return uint64(k.c.NodeSize)
	}
	return key.Offset
}

func (k *checker) dataExtent(flags uint64) *fserr.Corrupt {
	if k.key.Type != ondisk.ExtentItemKey {
		return k.errorf("invalid key type, have %d expect %d for data backref", uint8(k.key.Type), ondisk.ExtentItemKey)
	}
	if k.key.Offset == 0 || !k.aligned(k.key.Offset) {
		return k.errorf("invalid extent length, have %d expect aligned to %d", k.key.Offset, k.c.SectorSize)
	}
	if flags&ondisk.ExtentFlagFullBackref != 0 {
		return k.errorf("invalid extent flag, data has full backref set")
	}
	return nil
}

// treeBlockInfo checks the first part of a tree block's EXTENT_ITEM, the form without skinny metadata.
func (k *checker) treeBlockInfo() *fserr.Corrupt {
	if k.key.Offset != uint64(k.c.NodeSize) {
		return k.errorf("invalid extent length, have %d expect %d", k.key.Offset, k.c.NodeSize)
	}
	if len(k.item) < ondisk.ExtentItemSize+ondisk.TreeBlockInfoSize {
		return k.errorf("invalid item size for a tree block, have %d expect at least %d", len(k.item), ondisk.ExtentItemSize+ondisk.TreeBlockInfoSize)
	}
	if l := ondisk.AsTreeBlockInfo(k.item[ondisk.ExtentItemSize:]).Level(); l >= ondisk.MaxLevel {
		return k.errorf("invalid tree block info level, have %d expect [0, %d]", l, ondisk.MaxLevel-1)
	}
	return nil
}

// inlineRefs checks the inline backrefs from offset off on and sums their counts. They are ordered by ascending type
// and, within a type, by descending hash (EXTENT_DATA_REF) or offset (the others), without padding.
func (k *checker) inlineRefs(off int, tree bool) (refs uint64, err *fserr.Corrupt) {
	lastType, lastSeq := ondisk.ItemType(0), uint64(math.MaxUint64)
	for off < len(k.item) {
		t := ondisk.ItemType(k.item[off])
		n := ondisk.InlineRefSize(t)
		if n == 0 {
			return 0, k.errorf("unknown inline ref type: %d", uint8(t))
		}
		if off+n > len(k.item) {
			return 0, k.errorf("inline ref item overflows extent item, offset %d iref size %d end %d", off, n, len(k.item))
		}
		count, seq, err := k.inlineRef(t, k.item[off:off+n], tree)
		if err != nil {
			return 0, err
		}
		if t < lastType {
			return 0, k.errorf("inline ref out-of-order, have type %d prev type %d", uint8(t), uint8(lastType))
		}
		if t == lastType && seq > lastSeq {
			return 0, k.errorf("inline ref out-of-order, have type %d seq 0x%x prev seq 0x%x", uint8(t), seq, lastSeq)
		}
		if t != ondisk.ExtentOwnerRefKey {
			refs += count
		}
		lastType, lastSeq = t, seq
		off += n
	}
	return refs, nil
}

// inlineRef checks one inline backref and returns its count and its place in the order.
func (k *checker) inlineRef(t ondisk.ItemType, r []byte, tree bool) (count, seq uint64, err *fserr.Corrupt) {
	if blockRef := t == ondisk.TreeBlockRefKey || t == ondisk.SharedBlockRefKey; blockRef != tree {
		return 0, 0, k.errorf("invalid inline ref type %d for an extent with tree block flag %t", uint8(t), tree)
	}
	if t == ondisk.ExtentDataRefKey {
		d := ondisk.AsExtentDataRef(r[1:])
		return uint64(d.Count()), ondisk.ExtentDataRefHash(d.Root(), d.ObjectID(), d.Offset()), k.dataRef(d)
	}
	seq, count = ondisk.AsExtentInlineRef(r).Offset(), 1
	switch t {
	case ondisk.TreeBlockRefKey:
		if seq == 0 {
			return 0, 0, k.errorf("invalid tree block ref, root 0 is not defined")
		}
	case ondisk.SharedBlockRefKey:
		if seq == 0 || !k.aligned(seq) {
			return 0, 0, k.errorf("invalid tree parent bytenr, have %d expect aligned to %d", seq, k.c.SectorSize)
		}
	case ondisk.SharedDataRefKey:
		if seq == 0 || !k.aligned(seq) {
			return 0, 0, k.errorf("invalid data parent bytenr, have %d expect aligned to %d", seq, k.c.SectorSize)
		}
		if count = uint64(ondisk.AsSharedDataRef(r[ondisk.ExtentInlineRefSize:]).Count()); count == 0 {
			return 0, 0, k.errorf("invalid shared data ref count, should have non-zero value")
		}
	}
	return count, seq, nil
}

// dataRef checks an EXTENT_DATA_REF. Data belongs to subvolumes, to the data relocation tree, or, with the free-space
// cache of version 1, to the root tree. The offset is a file offset less an extent offset, so it may wrap below zero.
func (k *checker) dataRef(d *ondisk.ExtentDataRef) *fserr.Corrupt {
	if r := d.Root(); !r.IsSubvolume() && r != ondisk.RootTree && r != ondisk.DataRelocTree {
		return k.errorf("invalid data ref root, have %d", int64(r))
	}
	if !isIno(d.ObjectID()) {
		return k.errorf("invalid data ref objectid, have %d", int64(d.ObjectID()))
	}
	if !k.aligned(d.Offset()) {
		return k.errorf("invalid data ref offset, have %d expect aligned to %d", d.Offset(), k.c.SectorSize)
	}
	if d.Count() == 0 {
		return k.errorf("invalid data ref count, should have non-zero value")
	}
	return nil
}

// extentDisjoint compares with the extent in the slot before.
func (k *checker) extentDisjoint() *fserr.Corrupt {
	if k.prev.Type != ondisk.ExtentItemKey && k.prev.Type != ondisk.MetadataItemKey {
		return nil
	}
	if uint64(k.prev.ObjectID)+k.extentLen(k.prev) > uint64(k.key.ObjectID) {
		return k.errorf("previous extent %s overlaps current extent %s", k.prev, k.key)
	}
	return nil
}

// keyedRef checks a backref that has an item of its own.
func (k *checker) keyedRef() *fserr.Corrupt {
	if !k.aligned(uint64(k.key.ObjectID)) {
		return k.errorf("invalid key objectid for %s, have %d expect aligned to %d", k.key.Type, uint64(k.key.ObjectID), k.c.SectorSize)
	}
	switch k.key.Type {
	case ondisk.ExtentDataRefKey:
		return k.keyedDataRefs()
	case ondisk.TreeBlockRefKey:
		return k.size(0)
	}
	if !k.aligned(k.key.Offset) {
		return k.errorf("invalid tree parent bytenr, have %d expect aligned to %d", k.key.Offset, k.c.SectorSize)
	}
	if k.key.Type == ondisk.SharedBlockRefKey {
		return k.size(0)
	}
	if err := k.size(ondisk.SharedDataRefSize); err != nil {
		return err
	}
	if ondisk.AsSharedDataRef(k.item).Count() == 0 {
		return k.errorf("invalid shared data ref count, should have non-zero value")
	}
	return nil
}

// keyedDataRefs does not compare the key with the hash: refs of equal hash move on to the next free key offset.
func (k *checker) keyedDataRefs() *fserr.Corrupt {
	if len(k.item) == 0 || len(k.item)%ondisk.ExtentDataRefSize != 0 {
		return k.errorf("invalid item size for %s, have %d expect a multiple of %d", k.key.Type, len(k.item), ondisk.ExtentDataRefSize)
	}
	for off := 0; off < len(k.item); off += ondisk.ExtentDataRefSize {
		if err := k.dataRef(ondisk.AsExtentDataRef(k.item[off:])); err != nil {
			return err
		}
	}
	return nil
}
