package inspect

import (
	"encoding/binary"

	"imgtool/engine/ondisk"
)

// extentBody prints the items of the extent, checksum and free-space trees; false when the type is none of them.
func (p *printer) extentBody(key ondisk.Key, item []byte) bool {
	switch key.Type {
	case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
		p.extentItem(key, item)
	case ondisk.TreeBlockRefKey:
		p.item("tree block backref")
	case ondisk.SharedBlockRefKey:
		p.item("shared block backref")
	case ondisk.ExtentDataRefKey:
		p.item("%s", dataRef(ondisk.AsExtentDataRef(item)))
	case ondisk.SharedDataRefKey:
		p.item("shared data backref count %d", ondisk.AsSharedDataRef(item).Count())
	case ondisk.ExtentOwnerRefKey:
		p.item("extent owner root %d", binary.LittleEndian.Uint64(item))
	case ondisk.ExtentCsumKey:
		if p.csum == 0 {
			p.item("range start %d", key.Offset)
			break
		}
		n := uint64(len(item)/p.csum) * p.sector
		p.item("range start %d end %d length %d", key.Offset, key.Offset+n, n)
	case ondisk.BlockGroupItemKey:
		b := ondisk.AsBlockGroupItem(item)
		p.item("block group used %d chunk_objectid %d flags %s", b.Used(), uint64(b.ChunkObjectID()), groupString(b.Flags()))
	case ondisk.FreeSpaceInfoKey:
		f := ondisk.AsFreeSpaceInfo(item)
		p.item("free space info extent count %d flags %d", f.ExtentCount(), f.Flags())
	case ondisk.FreeSpaceExtentKey:
		p.item("free space extent")
	case ondisk.FreeSpaceBitmapKey:
		p.item("free space bitmap")
	default:
		return false
	}
	return true
}

func (p *printer) extentItem(key ondisk.Key, item []byte) {
	if len(item) < ondisk.ExtentItemSize {
		p.item("invalid item size, have %d expect at least %d", len(item), ondisk.ExtentItemSize)
		return
	}
	ei := ondisk.AsExtentItem(item)
	p.item("refs %d gen %d flags %s", ei.Refs(), uint64(ei.Generation()), flagString(ei.Flags(), extentBits, ""))
	if key.Type == ondisk.MetadataItemKey {
		p.item("tree block skinny level %d", int32(key.Offset))
	} else if ei.Flags()&ondisk.ExtentFlagTreeBlock != 0 {
		if len(item) < ondisk.ExtentItemSize+ondisk.TreeBlockInfoSize {
			p.item("invalid item size, have %d expect at least %d", len(item), ondisk.ExtentItemSize+ondisk.TreeBlockInfoSize)
			return
		}
		info := ondisk.AsTreeBlockInfo(item[ondisk.ExtentItemSize:])
		p.item("tree block %s level %d", keyString(info.Key()), info.Level())
	}
	p.iterate(ondisk.InlineRefs(item, key.Type, func(r ondisk.InlineRef) bool {
		p.inlineRef(r)
		return true
	}))
}

// inlineRef prints a backref behind its type and its place in the order: hash or offset.
func (p *printer) inlineRef(r ondisk.InlineRef) {
	head := []any{uint8(r.Type), r.Offset}
	switch r.Type {
	case ondisk.TreeBlockRefKey:
		p.item("(%d 0x%x) tree block backref root %s", append(head, objectString(ondisk.ObjectID(r.Offset), 0))...)
	case ondisk.SharedBlockRefKey:
		p.item("(%d 0x%x) shared block backref parent %d", append(head, r.Offset)...)
	case ondisk.ExtentDataRefKey:
		p.item("(%d 0x%x) %s", append(head, dataRef(r.Data))...)
	case ondisk.SharedDataRefKey:
		p.item("(%d 0x%x) shared data backref parent %d count %d", append(head, r.Offset, r.Count)...)
	case ondisk.ExtentOwnerRefKey:
		p.item("(%d 0x%x) extent owner root %d", append(head, r.Offset)...)
	}
}
