package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// dropBatch is how many extent items one operation removes at most, so that a handle's reservation stays small.
const dropBatch = 256

// Truncate sets the size of a regular file. Growing adds a hole. Shrinking a file of very many extents takes several
// operations: the first sets the size and adds an orphan item, which makes CleanOrphans finish the work if the process
// does not.
func (t *FileTree) Truncate(ctx context.Context, ino ondisk.ObjectID, size int64) error {
	if size < 0 || size > math.MaxInt64-sectorSize {
		return fmt.Errorf("truncate inode %d to %d: %w", ino, size, fserr.ErrFileTooBig)
	}
	l := t.lock(ino)
	defer l.unlock()
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return err
	}
	if err := t.checkWritable(ino, &it); err != nil {
		return err
	}
	if it.Flags()&ondisk.InodeAppend != 0 {
		return fmt.Errorf("truncate append-only inode %d of tree %v: %w", ino, t.id, fserr.ErrPerm)
	}
	if uint64(size) > it.Size() {
		return t.grow(ctx, ino, &it, uint64(size))
	}
	return t.shrink(ctx, ino, &it, uint64(size))
}

// grow makes the file longer, under its lock.
func (t *FileTree) grow(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, size uint64) error {
	content, exts, inline, err := t.inlineOnly(ctx, ino, it)
	if err != nil {
		return err
	}
	if inline && len(exts) > 0 && size <= t.cfg.maxInline() {
		whole := make([]byte, size)
		copy(whole, content)
		return t.storeInline(ctx, ino, it, exts, whole, false)
	}
	if err := t.settleEOF(ctx, ino, it, math.MaxInt64); err != nil {
		return err
	}
	holes, err := t.fillHoles(ctx, ino, alignUp(it.Size()), alignUp(size))
	if err != nil {
		return err
	}
	return t.store(ctx, ino, it, &change{with: holes, size: size})
}

// shrink cuts the file, under its lock; size may be the file's own, then space behind the end goes.
func (t *FileTree) shrink(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, size uint64) error {
	content, exts, inline, err := t.inlineOnly(ctx, ino, it)
	if err != nil {
		return err
	}
	if inline && len(exts) > 0 && size <= t.cfg.maxInline() {
		return t.storeInline(ctx, ino, it, exts, content[:size], true)
	}
	c := change{start: alignUp(size), size: size, freeing: true}
	if size%sectorSize != 0 {
		if c.data, err = t.cutSector(ctx, ino, it, size); err != nil {
			return err
		}
		if c.data != nil {
			c.start = alignDown(size)
			// Space for the sector is not given back; the reserve is only for what frees.
			c.freeing = false
		}
	}
	last, err := t.takeBatch(ctx, ino, &c)
	if err != nil {
		return err
	}
	if last {
		return t.store(ctx, ino, it, &c)
	}
	c.orphan = orphanAdd
	if err := t.store(ctx, ino, it, &c); err != nil {
		return err
	}
	return t.dropBehind(context.WithoutCancel(ctx), ino, alignUp(size))
}

// cutSector returns the sector in which a file of the new size ends, with zeros behind the end; nil if it is a hole or
// preallocated and so has nothing to hide.
func (t *FileTree) cutSector(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, size uint64) ([]byte, error) {
	start := alignDown(size)
	exts, err := t.extents(ctx, ino, start, start+sectorSize, nil, 0)
	if err != nil || len(exts) == 0 {
		return nil, err
	}
	if e := &exts[0]; e.IsHole() || e.Type == ondisk.FileExtentPrealloc {
		return nil, nil
	}
	sector := make([]byte, sectorSize)
	if err := t.readRaw(ctx, ino, it.Flags(), sector, start, nil); err != nil {
		return nil, err
	}
	if exts[0].Type != ondisk.FileExtentInline && allZero(sector[size-start:]) {
		return nil, nil
	}
	clear(sector[size-start:])
	return sector, nil
}

// takeBatch sets a change that removes everything from its start on to what one operation takes; last says that it is
// all.
func (t *FileTree) takeBatch(ctx context.Context, ino ondisk.ObjectID, c *change) (last bool, err error) {
	if c.exts, err = t.extents(ctx, ino, c.start, math.MaxInt64, nil, dropBatch); err != nil {
		return false, err
	}
	c.end = c.start + uint64(len(c.data))
	if n := len(c.exts); n > 0 {
		c.end = max(c.end, c.exts[n-1].span())
	}
	return len(c.exts) < dropBatch, nil
}

// dropBehind removes all extents from an offset on, in as many operations as it takes, and with the last the orphan
// item.
func (t *FileTree) dropBehind(ctx context.Context, ino ondisk.ObjectID, from uint64) error {
	for last := false; !last; {
		it, err := t.Inode(ctx, ino)
		if err != nil {
			return err
		}
		c := change{start: from, size: it.Size(), freeing: true, quiet: true}
		if last, err = t.takeBatch(ctx, ino, &c); err != nil {
			return err
		}
		if last {
			c.orphan = orphanDelete
		}
		if err := t.store(ctx, ino, &it, &c); err != nil {
			return err
		}
	}
	return nil
}
