package inspect

import (
	"encoding/binary"
	"fmt"

	"imgtool/engine/ondisk"
)

// dataRef prints an EXTENT_DATA_REF.
func dataRef(d *ondisk.ExtentDataRef) string {
	return fmt.Sprintf("extent data backref root %s objectid %d offset %d count %d",
		objectString(ondisk.ObjectID(d.Root()), 0), uint64(d.ObjectID()), d.Offset(), d.Count())
}

// systemBody prints the items of the chunk, device, quota and uuid trees, and those of no tree of their own.
func (p *printer) systemBody(key ondisk.Key, item []byte) {
	switch key.Type {
	case ondisk.ChunkItemKey:
		p.chunk(item)
	case ondisk.DevItemKey:
		p.devItem(ondisk.AsDevItem(item))
	case ondisk.DevExtentKey:
		d := ondisk.AsDevExtent(item)
		p.item("dev extent chunk_tree %d", uint64(d.ChunkTree()))
		p.item("chunk_objectid %d chunk_offset %d length %d", uint64(d.ChunkObjectID()), uint64(d.ChunkOffset()), d.Length())
		p.item("chunk_tree_uuid %s", d.ChunkTreeUUID())
	case ondisk.RaidStripeKey:
		for i := 0; (i+1)*16 <= len(item); i++ {
			p.line("\t\t\tstripe %d devid %d physical %d", i, u64(item, 2*i), u64(item, 2*i+1))
		}
	case ondisk.UUIDKeySubvol, ondisk.UUIDKeyReceived:
		for i := 0; (i+1)*8 <= len(item); i++ {
			p.item("subvol_id %d", u64(item, i))
		}
	case ondisk.QgroupStatusKey, ondisk.QgroupInfoKey, ondisk.QgroupLimitKey:
		p.qgroup(key.Type, item)
	case ondisk.StringItemKey:
		p.item("item data %s", escape(item))
	case ondisk.PersistentItemKey:
		p.persistent(key, item)
	case ondisk.TemporaryItemKey:
		p.temporary(key, item)
	case ondisk.UntypedKey:
		p.freeSpaceHeader(key, item)
	}
}

// u64 reads the i-th 64-bit number of an item that is long enough.
func u64(item []byte, i int) uint64 { return binary.LittleEndian.Uint64(item[8*i:]) }

func u32(item []byte, off int) uint32 { return binary.LittleEndian.Uint32(item[off:]) }

// chunk prints a chunk item of at least ChunkSize bytes and as many of its stripes as the item holds.
func (p *printer) chunk(item []byte) {
	c := ondisk.AsChunk(item)
	p.item("length %d owner %d stripe_len %d type %s", c.Length(), uint64(c.Owner()), c.StripeLen(), groupString(c.Type()))
	p.item("io_align %d io_width %d sector_size %d", c.IOAlign(), c.IOWidth(), c.SectorSize())
	p.item("num_stripes %d sub_stripes %d", c.NumStripes(), c.SubStripes())
	for i := range int(c.NumStripes()) {
		if ondisk.ChunkItemSize(i+1) > len(item) {
			p.item("chunk item invalid")
			return
		}
		s := ondisk.ChunkStripe(item, i)
		p.line("\t\t\tstripe %d devid %d offset %d", i, s.DevID(), uint64(s.Offset()))
		p.line("\t\t\tdev_uuid %s", s.DevUUID())
	}
}

func (p *printer) devItem(d *ondisk.DevItem) {
	p.item("devid %d total_bytes %d bytes_used %d", d.DevID(), d.TotalBytes(), d.BytesUsed())
	p.item("io_align %d io_width %d sector_size %d type %d", d.IOAlign(), d.IOWidth(), d.SectorSize(), d.Type())
	p.item("generation %d start_offset %d dev_group %d", uint64(d.Generation()), d.StartOffset(), d.DevGroup())
	p.item("seek_speed %d bandwidth %d", d.SeekSpeed(), d.Bandwidth())
	p.item("uuid %s", d.UUID())
	p.item("fsid %s", d.FSID())
}

var qgroupBits = []bit{{ondisk.QgroupStatusRescan, "SCANNING"}, {ondisk.QgroupStatusInconsistent, "INCONSISTENT"}, {ondisk.QgroupStatusSimple, "SIMPLE_MODE"}}

// qgroup prints the quota items, whose sizes are checked (struct btrfs_qgroup_*_item).
func (p *printer) qgroup(t ondisk.ItemType, item []byte) {
	switch t {
	case ondisk.QgroupStatusKey:
		s := ondisk.AsQgroupStatusItem(item)
		flags := "OFF"
		if s.Flags()&ondisk.QgroupStatusOn != 0 {
			flags = "ON"
		}
		if more := flagString(s.Flags(), qgroupBits, ""); more != "" {
			flags += "|" + more
		}
		since := ""
		if s.Flags()&ondisk.QgroupStatusSimple != 0 && len(item) >= ondisk.QgroupStatusItemSize+8 {
			since = fmt.Sprintf(" enable_gen %d", u64(item, ondisk.QgroupStatusItemSize/8)) // only simple quotas have it
		}
		p.item("version %d generation %d flags %s scan %d%s", s.Version(), uint64(s.Generation()), flags, s.Rescan(), since)
	case ondisk.QgroupInfoKey:
		p.item("generation %d", u64(item, 0))
		p.item("referenced %d referenced_compressed %d", u64(item, 1), u64(item, 2))
		p.item("exclusive %d exclusive_compressed %d", u64(item, 3), u64(item, 4))
	case ondisk.QgroupLimitKey:
		p.item("flags %x", u64(item, 0))
		p.item("max_referenced %d max_exclusive %d", int64(u64(item, 1)), int64(u64(item, 2)))
		p.item("rsv_referenced %d rsv_exclusive %d", int64(u64(item, 3)), int64(u64(item, 4)))
	}
}

// devStats is how many error counters btrfs-progs knows.
const devStats = 5

func (p *printer) persistent(key ondisk.Key, item []byte) {
	p.item("persistent item objectid %s offset %d", objectString(key.ObjectID, key.Type), key.Offset)
	if key.ObjectID != ondisk.DevStatsObjectID {
		p.item("unknown persistent item objectid %d", uint64(key.ObjectID))
		return
	}
	p.item("device stats")
	var v [devStats]uint64 // an older, shorter item reads as zeros
	for i := range min(devStats, len(item)/8) {
		v[i] = u64(item, i)
	}
	p.item("write_errs %d read_errs %d flush_errs %d corruption_errs %d generation %d", v[0], v[1], v[2], v[3], v[4])
}

// Layout of struct btrfs_balance_item: flags, then the arguments for data, metadata and system chunks.
const (
	balanceArgsSize = 136
	balanceItemSize = 8 + 3*balanceArgsSize
)

func (p *printer) temporary(key ondisk.Key, item []byte) {
	p.item("temporary item objectid %s offset %d", objectString(key.ObjectID, key.Type), key.Offset)
	if key.ObjectID != ondisk.BalanceObjectID {
		p.item("unknown temporary item objectid %d", uint64(key.ObjectID))
		return
	}
	if len(item) < balanceItemSize {
		p.item("invalid item size, have %d expect at least %d", len(item), balanceItemSize)
		return
	}
	p.item("balance status flags %d", u64(item, 0))
	for i, kind := range []string{"DATA", "METADATA", "SYSTEM"} {
		a := item[8+i*balanceArgsSize:]
		p.item("%s", kind)
		p.item("profiles %d devid %d target %d flags %d", u64(a, 0), u64(a, 2), u64(a, 7), u64(a, 8))
		p.item("usage_min %d usage_max %d pstart %d pend %d", u32(a, 8), u32(a, 12), u64(a, 3), u64(a, 4))
		p.item("vstart %d vend %d limit_min %d limit_max %d", u64(a, 5), u64(a, 6), u32(a, 72), u32(a, 76))
		p.item("stripes_min %d stripes_max %d", u32(a, 80), u32(a, 84))
	}
}

// freeSpaceHeader prints the untyped item of the free-space cache of version 1 (struct btrfs_free_space_header).
func (p *printer) freeSpaceHeader(key ondisk.Key, item []byte) {
	if key.ObjectID != ondisk.FreeSpaceObjectID || len(item) < ondisk.KeySize+24 {
		return
	}
	p.item("location %s", keyString(ondisk.GetKey(item)))
	n := item[ondisk.KeySize:]
	p.item("cache generation %d entries %d bitmaps %d", u64(n, 0), u64(n, 1), u64(n, 2))
}
