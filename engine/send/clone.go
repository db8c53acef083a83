package send

import (
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// cloneSource is a place in a subvolume that the receiver has, or has as far as the walk has come, with the data of an
// extent.
type cloneSource struct {
	tree *tree
	ino  ondisk.ObjectID
	off  uint64
	num  uint64 // bytes that one item there shows of the extent
}

// cloneRange sends n bytes of the extent's file at off as clones of what lies at the source, item by item: where that
// shows other data, or a hole, as data.
func (s *sender) cloneRange(e *extent, src *cloneSource, off, n uint64) error {
	if src.off == 0 && n == sectorSize {
		// What is one sector at the beginning of a file may be inline at the receiver, and that cannot be cloned elsewhere.
		return s.sendData(e, off, n)
	}
	in, err := src.tree.inode(src.ino)
	if err != nil {
		return err
	}
	c := cloning{s: s, e: e, src: *src, size: in.size, at: e.off, off: off, left: n}
	from, err := s.startAt(src.tree, src.ino, src.off)
	if err != nil {
		return err
	}
	err = src.tree.each(from, keyOf(src.ino, ondisk.ExtentDataKey, noExtent), 0, func(it *item) (bool, error) {
		p, err := src.tree.extentOf(it)
		if err != nil {
			return false, err
		}
		return c.item(&p)
	})
	if err != nil || c.left == 0 {
		return err
	}
	return s.sendData(e, c.off, c.left)
}

// cloning is one cloneRange on its way. at is the offset in the unpacked extent that belongs to off, the place in the
// file; src.off is that in the source.
type cloning struct {
	s             *sender
	e             *extent
	src           cloneSource
	size          uint64 // of the source file
	at, off, left uint64
}

func (c *cloning) advance(n uint64) {
	c.left -= n
	c.off += n
	c.src.off += n
}

// item takes one item of the source; more is false when cloning ends there.
func (c *cloning) item(p *extent) (more bool, err error) {
	length := p.length()
	if p.start+length <= c.src.off {
		return true, nil
	}
	if p.start > c.src.off { // a hole in the source
		n := min(p.start-c.src.off, c.left)
		if err := c.s.sendData(c.e, c.off, n); err != nil {
			return false, err
		}
		c.advance(n)
		c.at += n
	}
	if c.left == 0 || p.start >= c.src.off+c.left || p.start >= c.size {
		return false, nil
	}
	crosses := p.start+length > c.size
	if crosses {
		length = c.size - p.start
	}
	pOff := p.off
	if p.disk == c.e.disk {
		c.src.off = p.start
		if pOff < c.at && pOff+length > c.at {
			skip := c.at - pOff
			length, pOff = length-skip, pOff+skip
			c.src.off += skip
		}
	}
	n := min(length, c.left)
	switch {
	case p.disk == c.e.disk && pOff == c.at:
		err = c.clone(n)
	case crosses && n < c.left:
		return false, nil // one write for all the rest
	default:
		err = c.s.sendData(c.e, c.off, n)
	}
	if err != nil {
		return false, err
	}
	c.advance(n)
	if c.left == 0 {
		return false, nil
	}
	if c.src.tree == c.s.send && c.src.ino == c.s.cur.ino && c.src.off >= c.s.cur.written {
		return false, nil // the receiver's file does not go further yet
	}
	c.at += n
	return true, nil
}

// cloneAlign is the largest sector size that a receiver may have: what ends with the source file, and not at a multiple
// of it, can only be cloned to the end of a file.
const cloneAlign = 64 << 10

func (c *cloning) clone(n uint64) error {
	end := c.src.off + n
	if end != c.size || end%cloneAlign == 0 || c.off+n >= c.s.cur.size {
		return c.s.sendClone(c.off, n, &c.src)
	}
	whole := n &^ (cloneAlign - 1)
	if whole > 0 {
		if err := c.s.sendClone(c.off, whole, &c.src); err != nil {
			return err
		}
	}
	return c.s.sendData(c.e, c.off+whole, n-whole)
}

func (s *sender) sendClone(off, n uint64, src *cloneSource) error {
	path, err := s.curPath()
	if err != nil {
		return err
	}
	from, err := s.clonePath(src)
	if err != nil {
		return err
	}
	s.sent.Data += n
	s.stats.Data.Add(n)
	s.enc.Begin(sendstream.CmdClone)
	s.enc.Uint64(sendstream.AttrFileOffset, off)
	s.enc.Uint64(sendstream.AttrCloneLen, n)
	s.enc.String(sendstream.AttrPath, path)
	s.identify(sendstream.AttrCloneUUID, sendstream.AttrCloneCTransID, src.tree)
	s.enc.String(sendstream.AttrClonePath, from)
	s.enc.Uint64(sendstream.AttrCloneOffset, src.off)
	return s.end()
}

// clonePath is the source's path: in the sent subvolume as it is at the receiver now.
func (s *sender) clonePath(src *cloneSource) (string, error) {
	if src.tree == s.send {
		gen, err := s.send.gen(src.ino)
		if err != nil {
			return "", err
		}
		return s.path(src.ino, gen)
	}
	path := ""
	for ino, depth := src.ino, 0; ino != topDir; depth++ {
		if depth > maxDepth {
			return "", src.tree.corrupt(ino, "its directories lead round in a circle")
		}
		r, _, err := src.tree.mustFirst(ino)
		if err != nil {
			return "", err
		}
		if path == "" {
			path = r.name
		} else {
			path = r.name + "/" + path
		}
		ino = r.dir
	}
	return path, nil
}

// sendEncoded sends an extent as it is on disk, packed.
func (s *sender) sendEncoded(path string, e *extent, off, n uint64) error {
	s.begin(sendstream.CmdEncodedWrite, path)
	length, at := e.num, off-e.start+e.off
	if e.typ == ondisk.FileExtentInline {
		length = e.ram
	}
	s.enc.Uint64(sendstream.AttrFileOffset, off)
	length = min(e.start+length-off, n)
	s.enc.Uint64(sendstream.AttrUnencodedFileLen, length)
	s.enc.Uint64(sendstream.AttrUnencodedLen, e.ram)
	s.enc.Uint64(sendstream.AttrUnencodedOffset, at)
	var comp uint32
	switch e.comp {
	case ondisk.CompressZlib:
		comp = sendstream.EncodedZlib
	case ondisk.CompressZstd:
		comp = sendstream.EncodedZstd
	case ondisk.CompressLZO:
		comp = sendstream.EncodedLZO4K
	}
	s.enc.Uint32(sendstream.AttrCompression, comp)
	if e.typ == ondisk.FileExtentInline {
		copy(s.enc.Buf[s.enc.Data(len(e.inline)):], e.inline)
		return s.end()
	}
	s.enc.Uint32(sendstream.AttrEncryption, 0)
	to := s.enc.Data(int(e.diskLen))
	return s.endLater(fill{pos: to, n: int(e.diskLen), addr: e.disk, comp: e.comp, packed: e.diskLen, raw: true,
		verify: s.cur.flags&ondisk.InodeNoDataSum == 0, ino: s.cur.ino, file: off})
}
