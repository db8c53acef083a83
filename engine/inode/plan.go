package inode

import (
	"imgtool/engine/ondisk"
)

// dataRef is one reference of an EXTENT_DATA item on a data extent. The offset of the backref is the item's offset in
// the file less the offset in the extent: all pieces that are left of one item have the same.
type dataRef struct {
	addr   ondisk.Logical
	n      uint64 // size of the whole extent on disk
	offset uint64
}

func (e *Extent) ref() dataRef { return dataRef{e.Addr, e.DiskLen, e.Start - e.Offset} }

// holdsRef reports whether the item refers to a data extent.
func (e *Extent) holdsRef() bool { return e.Type != ondisk.FileExtentInline && e.Addr != 0 }

// moved is an item whose front is cut off: its key changes.
type moved struct {
	from uint64 // old offset
	ext  Extent
}

// dropPlan is how the items that overlap a range of a file are changed so that the range is free of them. Items are
// deleted, shortened in place, moved behind the range, or cut in two.
type dropPlan struct {
	deletes []uint64 // offsets of the keys
	shorten []Extent // same key, less of it
	move    []moved
	inserts []Extent  // the rear parts of items that are cut in two
	drops   []dataRef // references that go
	adds    []dataRef // references that come (one for each insert that is no hole)
	bytes   uint64    // what goes from the inode's nbytes
}

// planDrop plans to free [start, end) of a file, multiples of the sector size, of the given items, all of which overlap
// it and which are in order. An inline extent must lie in it wholly. The caller checks by conflict that it does.
func planDrop(exts []Extent, start, end uint64) dropPlan {
	var p dropPlan
	for _, e := range exts {
		stop := e.span()
		switch {
		case e.Start >= start && stop <= end: // all of it
			p.deletes = append(p.deletes, e.Start)
			p.bytes += e.bytes()
			if e.holdsRef() {
				p.drops = append(p.drops, e.ref())
			}
		case e.Start >= start: // its front
			rear := e.slice(end, stop)
			p.move = append(p.move, moved{e.Start, rear})
			p.bytes += e.bytes() - rear.bytes()
		default:
			front := e.slice(e.Start, start)
			p.shorten = append(p.shorten, front)
			p.bytes += e.bytes() - front.bytes()
			if stop > end { // its middle
				rear := e.slice(end, stop)
				p.inserts = append(p.inserts, rear)
				p.bytes -= rear.bytes()
				if rear.holdsRef() {
					p.adds = append(p.adds, rear.ref())
				}
			}
		}
	}
	return p
}

// slice is the part [from, to) of an item that is not inline. Of a hole, which has no extent to point into, the
// unpacked size is that of the part.
func (e *Extent) slice(from, to uint64) Extent {
	s := *e
	s.Start, s.Len = from, to-from
	if e.Addr == 0 {
		s.Offset, s.RAMBytes = 0, s.Len
	} else {
		s.Offset += from - e.Start
	}
	return s
}

// inlineConflict reports whether an inline extent overlaps [start, end) without lying in it: its data must move to
// a regular extent first.
func inlineConflict(exts []Extent, start, end uint64) bool {
	for i := range exts {
		if e := &exts[i]; e.Type == ondisk.FileExtentInline && (e.Start < start || e.span() > end) {
			return true
		}
	}
	return false
}
