package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// writeChunk is how much of a large WriteAt one operation takes, in bytes.
const writeChunk = 16 << 20

// WriteAt writes p into a regular file at off, copying on write, and makes the file as long as that takes. It is done
// in operations of 16 MiB, or smaller ones where preallocated space is written in place; n says how much of p the file
// has. When it returns the running transaction has the write, and what reads it afterwards sees it; small pieces of data
// may still be on their way to the device, where the next commit waits for them (see Store.WriteBatch). p must not change
// meanwhile and is the caller's again then; aligned memory saves a copy.
//
// Errors: fserr.ErrIsDir, ErrInvalid (no regular file), ErrPerm (immutable; append-only and off not the end),
// ErrReadOnly, ErrFileTooBig, ErrNoSpace.
func (t *FileTree) WriteAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("write to inode %d at %d: %w", ino, off, fserr.ErrInvalid)
	}
	if int64(len(p)) > math.MaxInt64-sectorSize-off {
		return 0, fmt.Errorf("write to inode %d up to %d: %w", ino, uint64(off)+uint64(len(p)), fserr.ErrFileTooBig)
	}
	l := t.lock(ino)
	defer l.unlock()
	for n < len(p) {
		at := uint64(off) + uint64(n)
		m := min(uint64(len(p)-n), writeChunk-at%writeChunk)
		err := t.writeAt(ctx, ino, p[n:n+int(m)], at, false)
		n += written(err, at, int(m))
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// writeAt is one operation of WriteAt, under the inode's lock. spare says that the capacity of p behind its length is the
// caller's to be written over, up to the end of a sector, which saves a copy at the end of a file.
func (t *FileTree) writeAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off uint64, spare bool) error {
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return err
	}
	if err := t.checkWritable(ino, &it); err != nil {
		return err
	}
	if it.Flags()&ondisk.InodeAppend != 0 && off != it.Size() {
		return fmt.Errorf("write to append-only inode %d of tree %v: %w", ino, t.id, fserr.ErrPerm)
	}
	size := max(it.Size(), off+uint64(len(p)))
	if done, err := t.writeInline(ctx, ino, &it, p, off, size); done || err != nil {
		return err
	}
	if err := t.settleEOF(ctx, ino, &it, off); err != nil {
		return err
	}
	if n := uint64(len(p)); spare && off%sectorSize == 0 && off+n >= it.Size() && uint64(cap(p)) >= alignUp(n) {
		p = p[:alignUp(n)]
		clear(p[n:])
	}
	return t.writeSectors(ctx, ino, &it, p, off, size)
}

// inlineOnly returns the file's content if that lies inline or is nothing, and whether it does. The content is at most
// a sector; it is as long as the file.
func (t *FileTree) inlineOnly(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem) (content []byte, exts []Extent, ok bool, err error) {
	if it.Size() == 0 && it.NBytes() == 0 && t.cfg.NoHoles {
		return nil, nil, true, nil // no item can be there: there are no holes' items, and others count in nbytes
	}
	if it.Size() > sectorSize {
		return nil, nil, false, nil
	}
	exts, err = t.extents(ctx, ino, 0, math.MaxInt64, nil, 2)
	if err != nil || len(exts) > 1 || len(exts) == 1 && exts[0].Type != ondisk.FileExtentInline || len(exts) == 0 && it.Size() > 0 {
		return nil, nil, false, err
	}
	if len(exts) == 1 {
		content = make([]byte, it.Size())
		if err := t.readRaw(ctx, ino, it.Flags(), content, 0, nil); err != nil {
			return nil, nil, false, err
		}
	}
	return content, exts, true, nil
}

// writeInline writes p if the file is, and stays, small enough to lie inline.
func (t *FileTree) writeInline(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, p []byte, off, size uint64) (done bool, err error) {
	if size > t.cfg.maxInline() || it.Flags()&(ondisk.InodeNoDataCow|ondisk.InodeNoDataSum) != 0 {
		return false, nil
	}
	content, exts, ok, err := t.inlineOnly(ctx, ino, it)
	if err != nil || !ok {
		return false, err
	}
	whole := p
	if off > 0 || uint64(len(p)) < size {
		whole = make([]byte, size)
		copy(whole, content)
		copy(whole[off:], p)
	}
	return true, t.storeInline(ctx, ino, it, exts, whole, false)
}

// storeInline replaces the inline extent, or nothing, in exts by whole, the file's new content.
func (t *FileTree) storeInline(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, exts []Extent, whole []byte, freeing bool) error {
	c := change{exts: exts, end: sectorSize, size: uint64(len(whole)), freeing: freeing}
	if len(whole) > 0 {
		c.with = []Extent{{Len: uint64(len(whole)), Type: ondisk.FileExtentInline, Inline: whole, RAMBytes: uint64(len(whole))}}
	}
	return t.store(ctx, ino, it, &c)
}

// settleEOF prepares the file's last sector for data behind it, from off on: inline data moves to a sector of its own, and
// what lies in the sector behind the end becomes zero (the kernel keeps it so, others may not). The content stays the
// same. A write into the last sector needs none of it, because it replaces the sector.
func (t *FileTree) settleEOF(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, off uint64) error {
	start := alignDown(it.Size())
	if it.Size()%sectorSize == 0 || alignDown(off) <= start {
		return nil
	}
	exts, err := t.extents(ctx, ino, start, start+sectorSize, nil, 0)
	if err != nil || len(exts) == 0 {
		return err
	}
	sector := make([]byte, sectorSize)
	if err := t.readRaw(ctx, ino, it.Flags(), sector, start, nil); err != nil {
		return err
	}
	if exts[0].Type != ondisk.FileExtentInline && allZero(sector[it.Size()-start:]) {
		return nil
	}
	clear(sector[it.Size()-start:])
	err = t.store(ctx, ino, it, &change{exts: exts, start: start, end: start + sectorSize, data: sector, size: it.Size(), quiet: true})
	if err != nil {
		return err
	}
	*it, err = t.Inode(ctx, ino)
	return err
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// writeSectors writes p to newly allocated sectors, or to those preallocated for it (see storeParts); what a first or
// last sector holds beside p goes with it. Gaps between the file's old end and off become holes.
func (t *FileTree) writeSectors(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, p []byte, off, size uint64) error {
	start, end := alignDown(off), alignUp(off+uint64(len(p)))
	c := change{start: start, end: end, data: p, size: size}
	if uint64(len(p)) != end-start {
		buf := t.getBuf(int(end - start))
		defer t.putBuf(buf)
		if err := t.edges(ctx, ino, it, buf, off, uint64(len(p))); err != nil {
			return err
		}
		copy(buf[off-start:], p)
		c.data = buf
	}
	var err error
	if it.Size() != 0 || it.NBytes() != 0 || !t.cfg.NoHoles {
		if c.exts, err = t.extents(ctx, ino, start, end, nil, 0); err != nil {
			return err
		}
	}
	holes, err := t.fillHoles(ctx, ino, alignUp(it.Size()), start)
	if err != nil {
		return err
	}
	if len(holes) > 0 {
		// A gap lies in front of the data and overlaps no item, so that the range may simply begin with it.
		if err := t.store(ctx, ino, it, &change{start: holes[0].Start, end: holes[0].Start, with: holes, size: it.Size(), quiet: true}); err != nil {
			return err
		}
	}
	return t.storeParts(ctx, ino, it, &c)
}

// edges fills the parts of the first and the last sector in buf that a write of n bytes at off leaves alone with what
// the file has there: its content before its end, zeros behind.
func (t *FileTree) edges(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, buf []byte, off, n uint64) error {
	start := alignDown(off)
	last := alignDown(off + n - 1)
	if off > start {
		if err := t.readSector(ctx, ino, it, buf[:sectorSize], start); err != nil {
			return err
		}
		if last == start {
			return nil
		}
	}
	if (off+n)%sectorSize != 0 {
		return t.readSector(ctx, ino, it, buf[last-start:][:sectorSize], last)
	}
	return nil
}

// readSector reads the sector at a multiple of the sector size, with zeros behind the file's end.
func (t *FileTree) readSector(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, p []byte, at uint64) error {
	n := uint64(0)
	if it.Size() > at {
		n = min(it.Size()-at, uint64(len(p)))
		if err := t.readRaw(ctx, ino, it.Flags(), p[:n], at, nil); err != nil {
			return err
		}
	}
	clear(p[n:])
	return nil
}
