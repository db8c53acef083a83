package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// prepareRange checks a range of a regular file that an operation changes and returns its inode, under its lock.
func (t *FileTree) prepareRange(ctx context.Context, ino ondisk.ObjectID, off, n int64) (ondisk.InodeItem, error) {
	if off < 0 || n <= 0 {
		return ondisk.InodeItem{}, fmt.Errorf("range of %d bytes at %d of inode %d: %w", n, off, ino, fserr.ErrInvalid)
	}
	if n > math.MaxInt64-sectorSize-off {
		return ondisk.InodeItem{}, fmt.Errorf("range of %d bytes at %d of inode %d: %w", n, off, ino, fserr.ErrFileTooBig)
	}
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return it, err
	}
	if err := t.checkWritable(ino, &it); err != nil {
		return it, err
	}
	if it.Flags()&ondisk.InodeAppend != 0 {
		return it, fmt.Errorf("range of append-only inode %d of tree %v: %w", ino, t.id, fserr.ErrPerm)
	}
	return it, nil
}

// PunchHole makes n bytes at off read as zeros and gives back the space of whole sectors among them. The size stays;
// what is preallocated behind the end goes as well.
func (t *FileTree) PunchHole(ctx context.Context, ino ondisk.ObjectID, off, n int64) error {
	l := t.lock(ino)
	defer l.unlock()
	it, err := t.prepareRange(ctx, ino, off, n)
	if err != nil {
		return err
	}
	from, to := uint64(off), uint64(off)+uint64(n)
	content, exts, inline, err := t.inlineOnly(ctx, ino, &it)
	if err != nil {
		return err
	}
	if inline {
		if len(exts) == 0 || from >= it.Size() {
			return nil
		}
		clear(content[from:min(to, it.Size())])
		if len(content) <= int(t.cfg.maxInline()) {
			return t.storeInline(ctx, ino, &it, exts, content, false)
		}
	}
	if to >= it.Size() { // the rest of the last sector is nothing anyway
		to = max(alignUp(to), from)
	}
	first, last := alignUp(from), alignDown(to)
	if first > last { // within one sector
		return t.zeroPart(ctx, ino, from, to)
	}
	if err := t.zeroPart(ctx, ino, from, first); err != nil {
		return err
	}
	if err := t.zeroPart(ctx, ino, last, to); err != nil {
		return err
	}
	return t.punchSectors(ctx, ino, first, last)
}

// zeroPart zeroes a part of one sector, unless that is zero already.
func (t *FileTree) zeroPart(ctx context.Context, ino ondisk.ObjectID, from, to uint64) error {
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return err
	}
	if to = min(to, it.Size()); from >= to {
		return nil
	}
	start := alignDown(from)
	sector := make([]byte, sectorSize)
	if err := t.readSector(ctx, ino, &it, sector, start); err != nil || allZero(sector[from-start:to-start]) {
		return err
	}
	return t.writeSectors(ctx, ino, &it, make([]byte, to-from), from, it.Size())
}

// punchSectors frees [start, end), whole sectors, of what it holds.
func (t *FileTree) punchSectors(ctx context.Context, ino ondisk.ObjectID, start, end uint64) error {
	for start < end {
		it, err := t.Inode(ctx, ino)
		if err != nil {
			return err
		}
		c := change{start: start, end: end, size: it.Size(), freeing: true}
		if c.exts, err = t.extents(ctx, ino, start, end, nil, dropBatch); err != nil {
			return err
		}
		if len(c.exts) == dropBatch {
			c.end = min(end, c.exts[dropBatch-1].span())
		}
		// Behind the end no hole needs an item.
		if stop := min(c.end, alignUp(it.Size())); !t.cfg.NoHoles && c.start < stop {
			c.with = []Extent{hole(c.start, stop)}
		}
		if err := t.store(ctx, ino, &it, &c); err != nil {
			return err
		}
		start = c.end
	}
	return nil
}

// Fallocate reserves space for n bytes at off: sectors that have none get preallocated extents, which read as zeros. The
// file grows to off+n unless keepSize. Data that is there stays.
func (t *FileTree) Fallocate(ctx context.Context, ino ondisk.ObjectID, off, n int64, keepSize bool) error {
	l := t.lock(ino)
	defer l.unlock()
	it, err := t.prepareRange(ctx, ino, off, n)
	if err != nil {
		return err
	}
	start, end := alignDown(uint64(off)), alignUp(uint64(off)+uint64(n))
	size := it.Size()
	if !keepSize {
		size = max(size, uint64(off)+uint64(n))
	}
	if size > it.Size() || end > alignUp(it.Size()) {
		if err := t.settleEOF(ctx, ino, &it, math.MaxInt64); err != nil {
			return err
		}
	}
	if size > it.Size() {
		holes, err := t.fillHoles(ctx, ino, alignUp(it.Size()), start)
		if err != nil {
			return err
		}
		if len(holes) > 0 {
			if err := t.store(ctx, ino, &it, &change{with: holes, size: it.Size(), quiet: true}); err != nil {
				return err
			}
		}
	}
	for at := start; at < end; {
		if at, err = t.preallocate(ctx, ino, at, end); err != nil {
			return err
		}
	}
	if it, err = t.Inode(ctx, ino); err != nil {
		return err
	}
	return t.store(ctx, ino, &it, &change{size: max(size, it.Size()), flags: ondisk.InodePrealloc})
}

// preallocate fills the start of the first gap in [at, end) with one extent and returns where to go on.
func (t *FileTree) preallocate(ctx context.Context, ino ondisk.ObjectID, at, end uint64) (uint64, error) {
	exts, err := t.extents(ctx, ino, at, end, nil, extentBatch)
	if err != nil {
		return 0, err
	}
	limit := end
	if len(exts) == extentBatch {
		limit = min(end, exts[extentBatch-1].span())
	}
	var holes []Extent
	for i := range exts {
		if e := &exts[i]; e.IsHole() {
			holes = append(holes, *e)
		} else if e.Start <= at {
			at = e.span()
		} else if at < e.Start {
			// Holes' items may lie between: the gap goes on to the first item that has space.
			limit = min(limit, e.Start)
			break
		}
	}
	if at >= limit {
		return at, nil
	}
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return 0, err
	}
	limit = min(limit, at+ondisk.MaxDataExtent)
	res, err := t.cfg.Store.ReserveData(ctx, limit-at)
	if err != nil {
		return 0, fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", limit-at, ino, t.id, err)
	}
	o, err := t.begin(ctx, itemsExtent+neighbours(2*len(holes)), false)
	if err != nil {
		res.Release()
		return 0, err
	}
	next, err := o.preallocate(ctx, ino, &it, holes, at, limit)
	res.Release()
	return next, o.end(ctx, err)
}

// preallocate puts one preallocated extent at the start of [at, limit), where there are holes at most.
func (o *op) preallocate(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, holes []Extent, at, limit uint64) (uint64, error) {
	addr, n, err := o.t.cfg.Store.AllocData(ctx, o.tx, sectorSize, limit-at, 0)
	if err != nil {
		return 0, fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", limit-at, ino, o.t.id, err)
	}
	var hit []Extent
	for _, h := range holes {
		if h.Start < at+n && h.End() > at {
			hit = append(hit, h)
		}
	}
	e := Extent{Start: at, Len: n, Type: ondisk.FileExtentPrealloc, Addr: addr, DiskLen: n, RAMBytes: n}
	c := change{exts: hit, start: at, end: at + n, with: []Extent{e}, size: it.Size(), flags: ondisk.InodePrealloc, quiet: true}
	return at + n, o.record(o.start(ctx), ino, &c, nil, nil)
}
