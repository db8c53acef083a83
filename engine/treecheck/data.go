package treecheck

import (
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func (k *checker) extentData() *fserr.Corrupt {
	if !k.aligned(k.key.Offset) {
		return k.inof("unaligned file_offset for file extent, have %d should be aligned to %d", k.key.Offset, k.c.SectorSize)
	}
	if err := k.sameIno(); err != nil {
		return err
	}
	if len(k.item) < ondisk.FileExtentInlineStart {
		return k.inof("invalid item size for file extent, have %d expect at least %d", len(k.item), ondisk.FileExtentInlineStart)
	}
	// These fields lie before FileExtentInlineStart, so they are read from the item's bytes: an inline item may be
	// shorter than a FileExtentItem.
	comp, encryption, typ := k.item[16], k.item[17], k.item[20]
	if typ > ondisk.FileExtentPrealloc {
		return k.inof("invalid type for file extent, have %d expect range [0, %d]", typ, ondisk.FileExtentPrealloc)
	}
	if comp > ondisk.CompressZstd {
		return k.inof("invalid compression for file extent, have %d expect range [0, %d]", comp, ondisk.CompressZstd)
	}
	if encryption != 0 {
		return k.inof("invalid encryption for file extent, have %d expect 0", encryption)
	}
	if typ == ondisk.FileExtentInline {
		return k.inlineExtent(comp)
	}
	if len(k.item) != ondisk.FileExtentItemSize {
		return k.inof("invalid item size for reg/prealloc file extent, have %d expect %d", len(k.item), ondisk.FileExtentItemSize)
	}
	if err := k.regularExtent(ondisk.AsFileExtentItem(k.item)); err != nil {
		return err
	}
	return k.extentOverlap()
}

func (k *checker) inlineExtent(comp uint8) *fserr.Corrupt {
	if k.key.Offset != 0 {
		return k.inof("invalid file_offset for inline file extent, have %d expect 0", k.key.Offset)
	}
	ram := ramBytes(k.item)
	if comp == ondisk.CompressNone {
		if uint64(len(k.item)) != ondisk.FileExtentInlineStart+ram {
			return k.inof("invalid ram_bytes for uncompressed inline extent, have %d expect %d", ram, len(k.item)-ondisk.FileExtentInlineStart)
		}
		return nil
	}
	if ram > ondisk.MaxUncompressed {
		return k.inof("invalid ram_bytes for compressed inline extent, have %d expect [0, %d]", ram, ondisk.MaxUncompressed)
	}
	return nil
}

// ramBytes reads ram_bytes of an item that may be inline and short; its length is checked.
func ramBytes(item []byte) uint64 {
	var f ondisk.FileExtentItem
	copy(f[:], item)
	return f.RAMBytes()
}

func (k *checker) regularExtent(f *ondisk.FileExtentItem) *fserr.Corrupt {
	if all := f.RAMBytes() | uint64(f.DiskBytenr()) | f.DiskNumBytes() | f.Offset() | f.NumBytes(); !k.aligned(all) {
		return k.inof("unaligned file extent, have ram_bytes %d disk_bytenr %d disk_num_bytes %d offset %d num_bytes %d, should be aligned to %d",
			f.RAMBytes(), uint64(f.DiskBytenr()), f.DiskNumBytes(), f.Offset(), f.NumBytes(), k.c.SectorSize)
	}
	if f.NumBytes() == 0 || k.key.Offset+f.NumBytes() < k.key.Offset {
		return k.inof("extent end overflow, have file offset %d extent num bytes %d", k.key.Offset, f.NumBytes())
	}
	if f.DiskBytenr() == 0 {
		return nil
	}
	if end := uint64(f.DiskBytenr()) + f.DiskNumBytes(); f.DiskNumBytes() == 0 || end < f.DiskNumBytes() {
		return k.inof("invalid disk range of file extent, have %d length %d", uint64(f.DiskBytenr()), f.DiskNumBytes())
	}
	return k.extentSource(f)
}

// extentSource bounds what a file extent takes from its data extent. ram_bytes of an uncompressed extent is not relied
// on: kernels before 6.10 wrote wrong ones.
func (k *checker) extentSource(f *ondisk.FileExtentItem) *fserr.Corrupt {
	have := f.DiskNumBytes()
	if f.Compression() != ondisk.CompressNone {
		have = f.RAMBytes()
		if have > ondisk.MaxUncompressed || f.DiskNumBytes() > ondisk.MaxCompressed {
			return k.inof("compressed file extent too long, have ram_bytes %d disk_num_bytes %d max %d", have, f.DiskNumBytes(), ondisk.MaxCompressed)
		}
	}
	if end := f.Offset() + f.NumBytes(); end < f.Offset() || end > have {
		return k.inof("file extent goes beyond its data, have offset %d num bytes %d expect at most %d", f.Offset(), f.NumBytes(), have)
	}
	return nil
}

// extentOverlap compares with the file extent in the slot before, which has passed its own checks.
func (k *checker) extentOverlap() *fserr.Corrupt {
	if k.slot == 0 || k.prev.ObjectID != k.key.ObjectID || k.prev.Type != ondisk.ExtentDataKey {
		return nil
	}
	p := k.b.Item(k.slot - 1)
	end := k.prev.Offset
	if p[20] == ondisk.FileExtentInline {
		end += (ramBytes(p) + k.align) &^ k.align
	} else {
		end += ondisk.AsFileExtentItem(p).NumBytes()
	}
	if end > k.key.Offset {
		return k.inof("file extent end range (%d) goes beyond start offset (%d) of the next file extent", end, k.key.Offset)
	}
	return nil
}

func (k *checker) extentCsum() *fserr.Corrupt {
	if k.key.ObjectID != ondisk.ExtentCsumObjectID {
		return k.errorf("invalid key objectid for csum item, have %d expect %d", int64(k.key.ObjectID), signed(ondisk.ExtentCsumObjectID))
	}
	if !k.aligned(k.key.Offset) {
		return k.errorf("unaligned key offset for csum item, have %d should be aligned to %d", k.key.Offset, k.c.SectorSize)
	}
	size := k.c.Csum.Size()
	if size == 0 {
		return k.errorf("csum item of an unknown checksum algorithm %d", uint16(k.c.Csum))
	}
	if len(k.item) == 0 || len(k.item)%size != 0 {
		return k.errorf("unaligned item size for csum item, have %d should be a multiple of %d", len(k.item), size)
	}
	if k.key.Offset+k.csumRange(len(k.item)) < k.key.Offset {
		return k.errorf("csum end overflow, have start %d item size %d", k.key.Offset, len(k.item))
	}
	if k.slot > 0 && k.prev.Type == ondisk.ExtentCsumKey {
		if end := k.prev.Offset + k.csumRange(k.b.ItemSize(k.slot-1)); end > k.key.Offset {
			return k.errorf("csum end range (%d) goes beyond the start range (%d) of the next csum item", end, k.key.Offset)
		}
	}
	return nil
}

// csumRange returns how many bytes of data a csum item of the given size covers.
func (k *checker) csumRange(itemSize int) uint64 {
	return uint64(itemSize/k.c.Csum.Size()) * uint64(k.c.SectorSize)
}
