package treecheck

import (
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// LegacyRootItemSize is the length of the root items that kernels before 3.6 wrote: all up to generation_v2.
const LegacyRootItemSize = 239

func (k *checker) rootItem() *fserr.Corrupt {
	if k.key.ObjectID == 0 {
		return k.errorf("invalid root id 0")
	}
	if ondisk.TreeID(k.key.ObjectID) == ondisk.TreeRelocTree && k.key.Offset == 0 {
		return k.errorf("invalid root id 0 for reloc tree")
	}
	if n := len(k.item); n != ondisk.RootItemSize && n != LegacyRootItemSize {
		return k.errorf("invalid root item size, have %d expect %d or %d", n, ondisk.RootItemSize, LegacyRootItemSize)
	}
	var full ondisk.RootItem // what a legacy item lacks reads as zero
	copy(full[:], k.item)
	r := &full
	if k.future(r.Generation()) || k.future(r.GenerationV2()) || k.future(r.LastSnapshot()) {
		return k.errorf("invalid root generation, have generation %d generation_v2 %d last_snapshot %d expect [0, %d]",
			uint64(r.Generation()), uint64(r.GenerationV2()), uint64(r.LastSnapshot()), uint64(k.c.MaxGeneration))
	}
	if !k.aligned(uint64(r.Bytenr())) {
		return k.errorf("invalid root bytenr, have %d expect to be aligned to %d", uint64(r.Bytenr()), k.c.SectorSize)
	}
	if r.Level() >= ondisk.MaxLevel {
		return k.errorf("invalid root level, have %d expect [0, %d]", r.Level(), ondisk.MaxLevel-1)
	}
	if r.DropLevel() >= ondisk.MaxLevel {
		return k.errorf("invalid root drop level, have %d expect [0, %d]", r.DropLevel(), ondisk.MaxLevel-1)
	}
	if valid := ondisk.RootSubvolReadonly | ondisk.RootSubvolDead; r.Flags()&^valid != 0 {
		return k.errorf("invalid root flags, have 0x%x expect mask 0x%x", r.Flags(), valid)
	}
	return nil
}

func (k *checker) rootRef() *fserr.Corrupt {
	if len(k.item) <= ondisk.RootRefSize {
		return k.errorf("invalid item size for %s, have %d expect more than %d", k.key.Type, len(k.item), ondisk.RootRefSize)
	}
	n := int(ondisk.AsRootRef(k.item).NameLen())
	if n == 0 || n > ondisk.MaxNameLen || ondisk.RootRefSize+n != len(k.item) {
		return k.errorf("invalid name len of %s, have %d expect %d", k.key.Type, n, len(k.item)-ondisk.RootRefSize)
	}
	return nil
}

// Sizes of the quota items (include/uapi/linux/btrfs_tree.h): simple quotas add eight bytes to the status.
const (
	qgroupStatusSimpleSize = ondisk.QgroupStatusItemSize + 8
	qgroupInfoSize         = 40
	qgroupLimitSize        = 40
)

// otherItem checks the items that need no more than a size.
func (k *checker) otherItem() *fserr.Corrupt {
	switch k.key.Type {
	case ondisk.OrphanItemKey:
		if k.key.ObjectID != ondisk.OrphanObjectID {
			return k.errorf("invalid key objectid for orphan item, have %d expect %d", int64(k.key.ObjectID), signed(ondisk.OrphanObjectID))
		}
		return k.size(0)
	case ondisk.UUIDKeySubvol, ondisk.UUIDKeyReceived:
		if len(k.item) == 0 || len(k.item)%8 != 0 {
			return k.errorf("invalid item size for %s, have %d expect a multiple of 8", k.key.Type, len(k.item))
		}
	case ondisk.QgroupStatusKey:
		if n := len(k.item); n != ondisk.QgroupStatusItemSize && n != qgroupStatusSimpleSize {
			return k.errorf("invalid item size for %s, have %d expect %d or %d", k.key.Type, n, ondisk.QgroupStatusItemSize, qgroupStatusSimpleSize)
		}
	case ondisk.QgroupInfoKey:
		return k.size(qgroupInfoSize)
	case ondisk.QgroupLimitKey:
		return k.size(qgroupLimitSize)
	case ondisk.QgroupRelationKey:
		return k.size(0)
	case ondisk.RaidStripeKey:
		if len(k.item) == 0 || len(k.item)%16 != 0 || !k.aligned(uint64(k.key.ObjectID)|k.key.Offset) {
			return k.errorf("invalid %s, have start %d length %d item size %d", k.key.Type, uint64(k.key.ObjectID), k.key.Offset, len(k.item))
		}
	}
	return nil
}
