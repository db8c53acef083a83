package send

import (
	"imgtool/engine/inode/compress"
	"imgtool/engine/ondisk"
)

// extent is an EXTENT_DATA item. inline aliases the item.
type extent struct {
	start       uint64 // offset in the file
	typ, comp   uint8
	gen         ondisk.Generation
	ram         uint64 // unpacked size of the whole extent
	disk        ondisk.Logical
	diskLen     uint64
	off, num    uint64 // which part of the unpacked extent; not of inline ones
	inline      []byte
	owner       ondisk.TreeID // of the leaf that the item is in
	leafGen     ondisk.Generation
	firstInLeaf bool
}

// end is where the item's range ends: an inline extent takes its sector.
func (e *extent) end() uint64 {
	if e.typ == ondisk.FileExtentInline {
		return e.start + sectorSize
	}
	return e.start + e.num
}

// length is the number of bytes of the file that the item covers, to whole sectors.
func (e *extent) length() uint64 {
	if e.typ == ondisk.FileExtentInline {
		return (e.ram + sectorSize - 1) &^ (sectorSize - 1)
	}
	return e.num
}

func (t *tree) parseExtent(k ondisk.Key, data []byte) (e extent, err error) {
	bad := func(why string) (extent, error) {
		return e, t.corrupt(k.ObjectID, "file extent at %d of %d bytes: %s", k.Offset, len(data), why)
	}
	if len(data) < ondisk.FileExtentInlineStart {
		return bad("too short")
	}
	var it ondisk.FileExtentItem // an inline one may be shorter than the structure
	copy(it[:], data)
	e = extent{start: k.Offset, typ: it.Type(), comp: it.Compression(), gen: it.Generation(), ram: it.RAMBytes()}
	if it.Encryption() != 0 || it.OtherEncoding() != 0 || e.comp > ondisk.CompressZstd {
		return bad("unknown encoding")
	}
	switch e.typ {
	case ondisk.FileExtentInline:
		e.inline = data[ondisk.FileExtentInlineStart:]
		if e.ram > ondisk.MaxUncompressed || e.comp == 0 && e.ram > uint64(len(e.inline)) {
			return bad("inline data")
		}
		if e.comp == 0 {
			e.inline = e.inline[:e.ram]
		}
	case ondisk.FileExtentReg, ondisk.FileExtentPrealloc:
		if len(data) < ondisk.FileExtentItemSize {
			return bad("too short")
		}
		e.disk, e.diskLen, e.off, e.num = it.DiskBytenr(), it.DiskNumBytes(), it.Offset(), it.NumBytes()
		if e.num == 0 || e.start+e.num < e.start || e.disk != 0 && (e.off+e.num < e.off || e.off+e.num > e.ram) {
			return bad("range")
		}
		if e.comp != 0 && (e.diskLen > ondisk.MaxCompressed || e.ram > ondisk.MaxUncompressed) {
			return bad("compressed extent")
		}
	default:
		return bad("unknown type")
	}
	return e, nil
}

func (t *tree) extentOf(it *item) (extent, error) {
	e, err := t.parseExtent(it.key, it.data)
	e.owner, e.leafGen, e.firstInLeaf = it.owner, it.gen, it.slot == 0
	return e, err
}

// noExtent says that where the extent before the current one ends is not known.
const noExtent = ^uint64(0)

// holesCount reports whether holes of the current inode must be told: when a file that the receiver has is changed. In
// a new one what is not written is a hole anyway.
func (s *sender) holesCount() bool {
	return s.parent != nil && !s.cur.isNew && !s.cur.newGen && !s.cur.deleted && s.cur.isReg()
}

// processExtent sends what an extent of the current inode has, unless the receiver has it.
func (s *sender) processExtent(e *extent) error {
	if s.cur.mode&ondisk.ModeFmt == ondisk.ModeLnk {
		return nil
	}
	if s.parent != nil && !s.cur.isNew {
		same, err := s.sameInParent(e)
		if err != nil {
			return err
		}
		if same {
			return s.holeBefore(e)
		}
	} else if e.typ == ondisk.FileExtentPrealloc || e.typ == ondisk.FileExtentReg && e.disk == 0 {
		return nil // a hole, for which a stream has no better word in a new file
	}
	if err := s.sendExtent(e); err != nil {
		return err
	}
	return s.holeBefore(e)
}

// sendExtent sends an extent's data, from another file if there is one with the same.
func (s *sender) sendExtent(e *extent) error {
	end := min(e.end(), s.cur.size)
	if e.start >= end {
		return nil
	}
	if err := s.sendOldEnd(); err != nil { // first: what follows may be cloned from there
		return err
	}
	src, err := s.findClone(e)
	if err != nil {
		return err
	}
	n := end - e.start
	clone := src != nil && end%sectorSize == 0
	if src != nil && !clone && end == s.cur.size {
		// Cloning what ends within a sector wants both files to end there.
		in, err := src.tree.inode(src.ino)
		if err != nil {
			return err
		}
		if src.off+n == in.size {
			clone = true
			if s.parent != nil { // the receiver's file may be longer yet
				if err := s.truncate(e.start); err != nil {
					return err
				}
			}
		}
	}
	if clone {
		err = s.cloneRange(e, src, e.start, n)
	} else {
		err = s.sendData(e, e.start, n)
	}
	if s.cur.written = end; s.cur.cut != 0 {
		s.cur.written, s.cur.cut = s.cur.cut, 0
	}
	return err
}

// sendOldEnd sends the sector in which the parent's file ends, if both trees have the same extent there and the sent file
// goes on. A file that is cut off keeps its extent up to the whole sector, and shows what lies in it again when it is
// cloned back from an older snapshot, or when the older snapshot is what is sent. The receiver's file has zeros there as
// soon as it is longer. The kernel forgets that.
func (s *sender) sendOldEnd() error {
	if s.cur.endDone || !s.holesCount() {
		return nil
	}
	s.cur.endDone = true
	was, err := s.parent.inode(s.cur.ino)
	if err != nil || was.size >= s.cur.size || was.size%sectorSize == 0 {
		return err
	}
	e, ok, err := s.send.lastExtent(s.cur.ino, was.size)
	if err != nil || !ok || e.disk == 0 || e.end() <= was.size {
		return err
	}
	same, err := s.sameInParent(&e)
	if err != nil || !same {
		return err // sent whole
	}
	from := was.size &^ (sectorSize - 1)
	return s.sendData(&e, from, min(from+sectorSize, s.cur.size)-from)
}

func (s *sender) truncate(size uint64) error {
	path, err := s.curPath()
	if err != nil {
		return err
	}
	return s.sendTruncate(path, size)
}

// pieceSize is how much data one write has.
func (s *sender) pieceSize() uint64 {
	if s.enc.Version() >= 2 {
		return ondisk.MaxUncompressed
	}
	return 48 << 10
}

// sendData sends n bytes of the file at off, all within the extent.
func (s *sender) sendData(e *extent, off, n uint64) error {
	path, err := s.curPath()
	if err != nil {
		return err
	}
	s.sent.Data += n
	s.stats.Data.Add(n)
	if s.o.NoData {
		return s.sendUpdateExtent(path, off, n)
	}
	if s.mayEncode(e, n) {
		return s.sendStored(path, e, off, n)
	}
	for n > 0 {
		piece := min(n, s.pieceSize())
		if err := s.sendWrite(path, e, off, piece); err != nil {
			return err
		}
		off, n = off+piece, n-piece
	}
	return nil
}

// mayEncode reports whether an extent is sent as it is stored.
func (s *sender) mayEncode(e *extent, n uint64) bool {
	if !s.o.Compressed || e.comp == 0 {
		return false
	}
	if e.typ == ondisk.FileExtentInline {
		return uint64(len(e.inline)) <= n
	}
	return e.diskLen <= n
}

// sendStored sends an extent as it is stored. An inline extent may unpack to less than its range in the file, whose rest
// is zeros: in a file that the receiver has they are written, in a new one the file's size is to be set (cut). The kernel
// forgets both.
func (s *sender) sendStored(path string, e *extent, off, n uint64) error {
	if err := s.sendEncoded(path, e, off, n); err != nil || e.typ != ondisk.FileExtentInline || e.ram >= n {
		return err
	}
	rest := e.start + e.ram
	if s.parent == nil || s.cur.isNew {
		s.cur.cut = rest
		return nil
	}
	return s.sendWrite(path, e, rest, off+n-rest)
}

// sendWrite sends one write, whose data may come later.
func (s *sender) sendWrite(path string, e *extent, off, n uint64) error {
	at := s.beginWrite(path, off, n)
	dst := s.enc.Buf[at : at+int(n)]
	in := off - e.start
	switch {
	case e.typ == ondisk.FileExtentInline:
		data := e.inline
		if e.comp != 0 {
			data = make([]byte, e.ram)
			if err := compress.Decompress(e.comp, data, e.inline, sectorSize); err != nil {
				return s.send.corrupt(s.cur.ino, "inline extent: %v", err)
			}
		}
		copied := 0
		if in < uint64(len(data)) {
			copied = copy(dst, data[in:])
		}
		clear(dst[copied:])
		return s.end()
	case e.disk == 0 || e.typ == ondisk.FileExtentPrealloc:
		clear(dst)
		return s.end()
	}
	f := fill{pos: at, n: int(n), addr: e.disk, ino: s.cur.ino, file: off, verify: s.cur.flags&ondisk.InodeNoDataSum == 0}
	if e.comp == 0 {
		f.addr += ondisk.Logical(e.off + in)
	} else {
		f.comp, f.packed, f.ram, f.off = e.comp, e.diskLen, e.ram, e.off+in
	}
	return s.endLater(f)
}

// holeBefore sends the hole between the extent before and this one, unless the parent has it, too.
func (s *sender) holeBefore(e *extent) error {
	if !s.holesCount() {
		return nil
	}
	if s.cur.lastEnd == noExtent || e.firstInLeaf && s.cur.lastEnd < e.start {
		if err := s.findLastEnd(e.start - 1); err != nil {
			return err
		}
	}
	if err := s.holeUpTo(e.start); err != nil {
		return err
	}
	s.cur.lastEnd = e.end()
	return nil
}

// holeUpTo sends the hole from the last extent's end up to an offset, if it is one that the parent has not.
func (s *sender) holeUpTo(end uint64) error {
	if s.cur.lastEnd >= end {
		return nil
	}
	hole, err := s.holeInParent(s.cur.lastEnd, end)
	if err != nil || hole {
		return err
	}
	return s.sendHole(s.cur.lastEnd, end)
}

// findLastEnd finds the end of the last extent that begins at or before an offset.
func (s *sender) findLastEnd(off uint64) error {
	s.cur.lastEnd = 0
	e, ok, err := s.send.lastExtent(s.cur.ino, off)
	if ok {
		s.cur.lastEnd = e.end()
	}
	return err
}

// sendHole makes a hole at the receiver: in version 1 by writing zeros.
func (s *sender) sendHole(off, end uint64) error {
	path, err := s.curPath()
	if err != nil {
		return err
	}
	if s.punches {
		return s.sendPunchHole(path, off, end-off)
	}
	if off >= s.cur.size {
		return nil
	}
	end = min(end, s.cur.size)
	if s.o.NoData {
		return s.sendUpdateExtent(path, off, end-off)
	}
	for off < end {
		n := min(end-off, s.pieceSize())
		at := s.beginWrite(path, off, n)
		clear(s.enc.Buf[at : at+int(n)])
		if err := s.end(); err != nil {
			return err
		}
		off += n
	}
	s.cur.written = off
	return nil
}

// holeInParent reports whether the parent's file has no data in a range.
func (s *sender) holeInParent(from, to uint64) (bool, error) {
	hole := true
	k, err := s.startAt(s.parent, s.cur.ino, from)
	if err != nil {
		return false, err
	}
	err = s.parent.each(k, keyOf(s.cur.ino, ondisk.ExtentDataKey, to-1), 0, func(it *item) (bool, error) {
		e, err := s.parent.extentOf(it)
		if err != nil || e.end() <= from {
			return true, err
		}
		hole = e.typ != ondisk.FileExtentInline && e.disk == 0
		return hole, nil
	})
	return hole, err
}

// startAt is the key of the extent that covers an offset or, if none does, the offset's own.
func (s *sender) startAt(t *tree, ino ondisk.ObjectID, off uint64) (ondisk.Key, error) {
	e, ok, err := t.lastExtent(ino, off)
	if ok {
		off = e.start
	}
	return keyOf(ino, ondisk.ExtentDataKey, off), err
}

// sameInParent reports whether the parent's items show the same parts of the same extent throughout the extent's range. A
// hole is the same where the parent has nothing. Items with a gap between them are taken for different, as the kernel
// does.
func (s *sender) sameInParent(e *extent) (bool, error) {
	if e.typ != ondisk.FileExtentReg {
		return false, nil
	}
	before, ok, err := s.parent.lastExtent(s.cur.ino, e.start)
	if err != nil {
		return false, err
	}
	hole := e.disk == 0
	if !ok {
		return hole, nil
	}
	first, same := true, true
	at := before.start // up to here they are the same
	err = s.parent.each(keyOf(s.cur.ino, ondisk.ExtentDataKey, at), keyOf(s.cur.ino, ondisk.ExtentDataKey, noExtent), 0, func(it *item) (bool, error) {
		p, err := s.parent.extentOf(it)
		switch {
		case err != nil:
		case !first && p.start != at:
			same = false
		case p.start >= e.end():
		case p.typ != ondisk.FileExtentPrealloc && first && p.start+p.length() <= e.start:
			at, same = e.end(), hole
		case p.typ != ondisk.FileExtentReg || !sharesWith(e, &p):
			same = false
		default:
			first, at = false, p.end()
			return true, nil
		}
		return false, err
	})
	return same && at >= e.end(), err
}

// sharesWith reports whether two items that overlap show the same bytes of one extent where they do.
func sharesWith(a, b *extent) bool {
	aOff, bOff := a.off, b.off
	if b.start < a.start {
		bOff += a.start - b.start
	} else {
		aOff += b.start - a.start
	}
	return a.disk == b.disk && aOff == bOff && a.gen == b.gen
}
