package inode

import (
	"context"

	"imgtool/engine/ondisk"
)

// Extent is one EXTENT_DATA item: a range of a file and where its bytes are.
type Extent struct {
	Start       uint64 // offset in the file, bytes
	Len         uint64 // bytes of the file that it covers; of an inline extent its unpacked size
	Type        uint8  // ondisk.FileExtentReg, ...
	Compression uint8
	Generation  ondisk.Generation
	Addr        ondisk.Logical // of the whole extent on disk; 0 is a hole
	DiskLen     uint64         // size of the whole extent on disk
	Offset      uint64         // where in the (unpacked) extent this range begins
	RAMBytes    uint64         // unpacked size of the whole extent
	Inline      []byte         // a copy of an inline extent's bytes as stored
}

// End is the first offset behind the range.
func (e *Extent) End() uint64 { return e.Start + e.Len }

// IsHole reports whether the range has no disk space.
func (e *Extent) IsHole() bool { return e.Type != ondisk.FileExtentInline && e.Addr == 0 }

// span is the end of what the item takes of the file's offsets: an inline extent takes its whole sector.
func (e *Extent) span() uint64 {
	if e.Type == ondisk.FileExtentInline {
		return alignUp(e.End())
	}
	return e.End()
}

// bytes is what the item contributes to the inode's nbytes.
func (e *Extent) bytes() uint64 {
	if e.IsHole() {
		return 0
	}
	return e.Len
}

// parseExtent decodes an EXTENT_DATA item.
func (r *Reader) parseExtent(k ondisk.Key, item []byte) (Extent, error) {
	if len(item) < ondisk.FileExtentInlineStart {
		return Extent{}, r.corrupt(k.ObjectID, "file extent at %d of %d bytes", k.Offset, len(item))
	}
	typ := item[20]
	if typ != ondisk.FileExtentInline && len(item) < ondisk.FileExtentItemSize {
		return Extent{}, r.corrupt(k.ObjectID, "file extent at %d of %d bytes", k.Offset, len(item))
	}
	var whole ondisk.FileExtentItem // an inline item may be shorter than the structure
	copy(whole[:], item)
	e := Extent{Start: k.Offset, Type: typ, Compression: whole.Compression(), Generation: whole.Generation(), RAMBytes: whole.RAMBytes()}
	if enc := whole.Encryption(); enc != 0 || whole.OtherEncoding() != 0 {
		return e, r.corrupt(k.ObjectID, "file extent at %d with encryption %d and other encoding %d", k.Offset, enc, whole.OtherEncoding())
	}
	switch typ {
	case ondisk.FileExtentInline:
		if e.RAMBytes > ondisk.MaxUncompressed {
			return e, r.corrupt(k.ObjectID, "inline extent at %d of %d bytes", k.Offset, e.RAMBytes)
		}
		e.Len = e.RAMBytes
		e.Inline = append([]byte(nil), item[ondisk.FileExtentInlineStart:]...)
	case ondisk.FileExtentReg, ondisk.FileExtentPrealloc:
		e.Addr, e.DiskLen, e.Offset, e.Len = whole.DiskBytenr(), whole.DiskNumBytes(), whole.Offset(), whole.NumBytes()
		if e.Len == 0 || e.Start+e.Len < e.Start || e.Addr != 0 && (e.Offset+e.Len < e.Offset || e.Offset+e.Len > e.RAMBytes) {
			return e, r.corrupt(k.ObjectID, "file extent at %d: %d bytes from %d on of %d", k.Offset, e.Len, e.Offset, e.RAMBytes)
		}
	default:
		return e, r.corrupt(k.ObjectID, "file extent at %d of unknown type %d", k.Offset, typ)
	}
	return e, nil
}

// extentBatch is how many extents one search of a read gathers.
const extentBatch = 128

// extents appends to buf the extents that overlap [from, to), in order, at most limit of them (0: all). Ranges between
// them are holes.
func (r *Reader) extents(ctx context.Context, ino ondisk.ObjectID, from, to uint64, buf []Extent, limit int) ([]Extent, error) {
	if from >= to {
		return buf, nil
	}
	k, item, ok, err := r.src.SeekLE(ctx, typeKey(ino, ondisk.ExtentDataKey, from))
	if err != nil {
		return buf, r.at(ino, err)
	}
	if ok && k.ObjectID == ino && k.Type == ondisk.ExtentDataKey {
		e, err := r.parseExtent(k, item)
		if err != nil {
			return buf, err
		}
		if e.span() > from {
			buf = append(buf, e)
		}
	}
	if from+1 >= to || limit > 0 && len(buf) >= limit || len(buf) > 0 && buf[len(buf)-1].span() >= to {
		return buf, nil
	}
	err = r.src.Scan(ctx, typeKey(ino, ondisk.ExtentDataKey, from+1), typeKey(ino, ondisk.ExtentDataKey, to-1),
		func(k ondisk.Key, item []byte) (bool, error) {
			e, err := r.parseExtent(k, item)
			if err != nil {
				return false, err
			}
			if n := len(buf); n > 0 && buf[n-1].span() > e.Start {
				return false, r.corrupt(ino, "file extents at %d and %d overlap", buf[n-1].Start, e.Start)
			}
			buf = append(buf, e)
			return limit == 0 || len(buf) < limit, nil
		})
	return buf, r.at(ino, err)
}

// Extents calls fn for each extent that overlaps [from, to), in order, until it says no more. Ranges between them are
// holes. fn runs without locks.
func (r *Reader) Extents(ctx context.Context, ino ondisk.ObjectID, from, to uint64, fn func(Extent) (more bool, err error)) error {
	buf := make([]Extent, 0, 8)
	for from < to {
		var err error
		if buf, err = r.extents(ctx, ino, from, to, buf[:0], extentBatch); err != nil {
			return err
		}
		for _, e := range buf {
			if more, err := fn(e); err != nil || !more {
				return err
			}
		}
		if len(buf) < extentBatch {
			return nil
		}
		from = buf[len(buf)-1].span()
	}
	return nil
}

// put encodes the extent as an EXTENT_DATA item written in generation gen. Not for inline extents.
func (e *Extent) put(b *[ondisk.FileExtentItemSize]byte, gen ondisk.Generation) []byte {
	f := ondisk.AsFileExtentItem(b[:])
	f.SetGeneration(gen)
	f.SetRAMBytes(e.RAMBytes)
	f.SetCompression(e.Compression)
	f.SetType(e.Type)
	f.SetDiskBytenr(e.Addr)
	f.SetDiskNumBytes(e.DiskLen)
	f.SetOffset(e.Offset)
	f.SetNumBytes(e.Len)
	return b[:]
}
