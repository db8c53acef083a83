package inode

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/ondisk"
)

// Writes into preallocated space. An unwritten extent reads as zeros, whatever its sectors hold, until the commit that
// makes it a written one; so it may be written where it is without breaking what a crash, or a reader of an older commit
// root, finds. That needs no data space, which is what fallocate promised. Only the file's own extent is written in place:
// with a snapshot or a clone the other one still says that it is unwritten, but would become a written one here only, and
// the two could no longer share it as a whole.

// writable reports whether an extent may be one to write in place, as far as its item tells.
func (t *FileTree) writable(e *Extent) bool {
	return e.Type == ondisk.FileExtentPrealloc && e.Addr != 0 && e.Compression == ondisk.CompressNone && e.Generation > t.tree.LastSnapshot()
}

// storeParts is store for a change that writes data: what of the range is preallocated is written in place, in
// operations of its own, and the rest to new space. The size grows with the parts.
func (t *FileTree) storeParts(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change) error {
	parts := t.cutAtPrealloc(c)
	if len(parts) == 1 && !parts[0].inPlace {
		return t.store(ctx, ino, it, c)
	}
	for _, p := range parts {
		if err := t.storePart(ctx, ino, it, c, p); err != nil {
			return &partlyWritten{upTo: p.start, err: err}
		}
	}
	return nil
}

// partlyWritten is the error of a write in parts, of which the file has those before upTo, an offset in it.
type partlyWritten struct {
	upTo uint64
	err  error
}

func (e *partlyWritten) Error() string { return e.err.Error() }
func (e *partlyWritten) Unwrap() error { return e.err }

// written returns how much the file has of a write of n bytes at off that ended with err.
func written(err error, off uint64, n int) int {
	var part *partlyWritten
	switch {
	case err == nil:
		return n
	case errors.As(err, &part) && part.upTo > off:
		return min(n, int(part.upTo-off))
	}
	return 0
}

// storePart writes one part, and reads the inode anew for it: the parts before have changed it.
func (t *FileTree) storePart(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change, p filePart) error {
	now := *it
	if p.start > c.start {
		var err error
		if now, err = t.Inode(ctx, ino); err != nil {
			return err
		}
	}
	part := change{start: p.start, end: p.end, data: c.data[p.start-c.start : p.end-c.start], size: max(now.Size(), min(c.size, p.end))}
	if p.inPlace {
		if done, err := t.storeInPlace(ctx, ino, &now, &part); done || err != nil {
			return err
		}
	}
	var err error
	if part.exts, err = t.extents(ctx, ino, part.start, part.end, nil, 0); err != nil {
		return err
	}
	return t.store(ctx, ino, &now, &part)
}

// filePart is a range of a file that is written in one way.
type filePart struct {
	start, end uint64
	inPlace    bool
}

// cutAtPrealloc cuts a change's data where preallocated extents that may be written in place begin and end.
func (t *FileTree) cutAtPrealloc(c *change) (parts []filePart) {
	at, end := c.start, c.start+uint64(len(c.data))
	for i := range c.exts {
		e := &c.exts[i]
		from, to := max(e.Start, at), min(e.End(), end)
		if from >= to || !t.writable(e) {
			continue
		}
		if at < from {
			parts = append(parts, filePart{at, from, false})
		}
		parts = append(parts, filePart{from, to, true})
		at = to
	}
	if at < end {
		parts = append(parts, filePart{at, end, false})
	}
	return parts
}

// storeInPlace writes a change's data into the one preallocated extent that holds its range. done is false, and nothing
// has changed, when others may refer to the extent. The caller holds the inode's lock.
func (t *FileTree) storeInPlace(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change) (done bool, err error) {
	// The neighbours, too: the new item becomes one with those of the same extent.
	exts, err := t.extents(ctx, ino, max(c.start, 1)-1, c.end+1, nil, 0)
	if err != nil {
		return false, err
	}
	o, err := t.begin(ctx, itemsExtent+neighbours(2*len(exts)), false)
	if err != nil {
		return false, err
	}
	done, err = o.storeInPlace(ctx, ino, it, c, exts)
	return done, o.end(ctx, err)
}

func (o *op) storeInPlace(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change, exts []Extent) (done bool, err error) {
	var e *Extent
	for i := range exts {
		if exts[i].Start <= c.start && c.end <= exts[i].End() {
			e = &exts[i]
		}
	}
	if e == nil || !o.t.writable(e) {
		return false, nil // a snapshot since
	}
	r, st := e.ref(), o.t.cfg.Store
	sole, err := st.SoleDataRef(ctx, o.tx, r.addr, r.n, o.t.id, ino, r.offset, o.t.tree.LastSnapshot())
	if err != nil || !sole {
		return false, o.t.at(ino, err)
	}
	part := e.slice(c.start, c.end)
	where := Extent{Start: c.start, Addr: part.Addr + ondisk.Logical(part.Offset), DiskLen: c.end - c.start}
	if _, have, err := st.LookupCsums(ctx, where.Addr, where.DiskLen); err != nil || anyTrue(have) {
		return false, o.t.at(ino, err) // checksums of unwritten space: somebody else's business
	}
	sums, err := o.t.writeData(ctx, []Extent{where}, c.data, it.Flags()&ondisk.InodeNoDataSum == 0)
	if err != nil {
		return false, fmt.Errorf("write %d bytes of inode %d of tree %v at %d: %w", len(c.data), ino, o.t.id, c.start, err)
	}
	return true, o.recordInPlace(o.start(ctx), ino, c, exts, part, where, sums)
}

// recordInPlace makes a part of a preallocated extent a written one: the item is cut in up to three, and the part
// joined with written neighbours of the same extent.
func (o *op) recordInPlace(ctx context.Context, ino ondisk.ObjectID, c *change, exts []Extent, part, where Extent, sums []byte) error {
	part.Type, part.Generation = ondisk.FileExtentReg, o.tx.Generation()
	hit := exts[:0]
	for _, x := range exts {
		switch {
		case x.Start < c.end && x.End() > c.start:
			hit = append(hit, x)
		case joins(&x, &part):
			part.Start, part.Offset, part.Len = x.Start, x.Offset, x.Len+part.Len
			hit = append(hit, x)
		case joins(&part, &x):
			part.Len += x.Len
			hit = append(hit, x)
		}
	}
	// The reference comes before others go: the extent never looks unreferenced.
	r := part.ref()
	if err := o.t.cfg.Store.AddDataRef(o.tx, r.addr, r.n, o.t.id, ino, r.offset, false); err != nil {
		return o.t.at(ino, err)
	}
	delta, err := o.replace(ctx, ino, hit, part.Start, part.End(), []Extent{part})
	if err != nil {
		return err
	}
	if err := o.addSums(ctx, []Extent{where}, sums); err != nil {
		return o.t.at(ino, err)
	}
	return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) {
		it.SetSize(c.size)
		it.SetNBytes(uint64(int64(it.NBytes()) + delta))
		it.SetMTime(o.now)
		it.SetCTime(o.now)
	})
}

// joins reports whether b goes on in the file and on disk where a ends, both written.
func joins(a, b *Extent) bool {
	return a.Type == ondisk.FileExtentReg && b.Type == ondisk.FileExtentReg && a.Addr != 0 && a.Addr == b.Addr && a.DiskLen == b.DiskLen &&
		a.Compression == ondisk.CompressNone && b.Compression == ondisk.CompressNone && a.End() == b.Start && a.Offset+a.Len == b.Offset
}

func anyTrue(bs []bool) bool {
	for _, b := range bs {
		if b {
			return true
		}
	}
	return false
}
