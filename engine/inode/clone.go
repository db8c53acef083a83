package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Clone is a range of one file that is to appear in another (FICLONERANGE).
type Clone struct {
	Src       *FileTree
	SrcIno    ondisk.ObjectID
	SrcOff, N int64 // bytes; N 0 means up to the end of the source
	Ino       ondisk.ObjectID
	Off       int64 // in the file that it goes to
}

// cloneBatch is how many extents one operation shares.
const cloneBatch = 64

// CloneRange makes a range of a file of this tree share the data of a range of another, in this tree or another of the
// same file system. Offsets are multiples of the sector size, and so is the length, unless the range ends where the
// source ends and reaches the end of the target. Preallocated space and holes are taken over as such. A range of more
// than 64 extents takes several operations. Errors: fserr.ErrInvalid for ranges (also one that overlaps itself) and for
// files of which only one has checksums, and WriteAt's.
func (t *FileTree) CloneRange(ctx context.Context, c Clone) error {
	defer lockBoth(c.Src, c.SrcIno, t, c.Ino)()
	src, err := c.Src.Inode(ctx, c.SrcIno)
	if err != nil {
		return err
	}
	if src.Mode()&ondisk.ModeFmt != ondisk.ModeReg {
		return c.Src.at(c.SrcIno, fserr.ErrInvalid)
	}
	if c.N == 0 {
		c.N = int64(src.Size()) - c.SrcOff
		if c.N == 0 {
			return nil
		}
	}
	dst, err := t.prepareRange(ctx, c.Ino, c.Off, c.N)
	if err != nil {
		return err
	}
	if err := t.checkClone(&c, &src, &dst); err != nil {
		return err
	}
	size := max(dst.Size(), uint64(c.Off)+uint64(c.N))
	if err := t.settleEOF(ctx, c.Ino, &dst, uint64(c.Off)); err != nil {
		return err
	}
	holes, err := t.fillHoles(ctx, c.Ino, alignUp(dst.Size()), uint64(c.Off))
	if err != nil {
		return err
	}
	if len(holes) > 0 {
		at := holes[0].Start
		if err := t.store(ctx, c.Ino, &dst, &change{start: at, end: at, with: holes, size: dst.Size(), quiet: true}); err != nil {
			return err
		}
	}
	from, to := uint64(c.SrcOff), uint64(c.SrcOff)+alignUp(uint64(c.N))
	for from < to {
		if from, err = t.clonePart(ctx, &c, &src, from, to, size); err != nil {
			return err
		}
	}
	return nil
}

// lockBoth locks an inode of each of two trees, which may be the same, and returns what unlocks them. Trees come in the
// order of their ids.
func lockBoth(a *FileTree, aIno ondisk.ObjectID, b *FileTree, bIno ondisk.ObjectID) func() {
	if a == b {
		l := a.lock(aIno, bIno)
		return l.unlock
	}
	if a.id > b.id {
		a, aIno, b, bIno = b, bIno, a, aIno
	}
	first, second := a.lock(aIno), b.lock(bIno)
	return func() {
		second.unlock()
		first.unlock()
	}
}

func (t *FileTree) checkClone(c *Clone, src, dst *ondisk.InodeItem) error {
	end := uint64(c.SrcOff) + uint64(c.N)
	whole := c.N%sectorSize == 0 || end == src.Size() && uint64(c.Off)+uint64(c.N) >= dst.Size()
	overlap := c.Src == t && c.SrcIno == c.Ino && c.SrcOff < c.Off+int64(alignUp(uint64(c.N))) && c.Off < c.SrcOff+int64(alignUp(uint64(c.N)))
	switch {
	case c.SrcOff < 0 || c.N > math.MaxInt64-sectorSize-c.SrcOff || c.SrcOff%sectorSize != 0 || c.Off%sectorSize != 0,
		!whole, end > src.Size(), overlap, (src.Flags()^dst.Flags())&ondisk.InodeNoDataSum != 0:
		return fmt.Errorf("clone %d bytes at %d of inode %d to %d of inode %d: %w", c.N, c.SrcOff, c.SrcIno, c.Off, c.Ino, fserr.ErrInvalid)
	}
	return nil
}

// clonePart shares the extents at the start of [from, to) and returns where to go on. size is the target's in the end.
func (t *FileTree) clonePart(ctx context.Context, c *Clone, src *ondisk.InodeItem, from, to, size uint64) (uint64, error) {
	exts, err := c.Src.extents(ctx, c.SrcIno, from, to, nil, cloneBatch)
	if err != nil {
		return 0, err
	}
	if len(exts) > 0 && exts[0].Type == ondisk.FileExtentInline {
		return exts[0].span(), t.cloneInline(ctx, c, src, &exts[0], size)
	}
	if len(exts) == cloneBatch {
		to = min(to, exts[cloneBatch-1].span())
	}
	shift := uint64(c.Off) - uint64(c.SrcOff) // modulo 2^64
	ch := change{start: from + shift, end: to + shift}
	at := from
	for i := range exts {
		e := exts[i].slice(max(exts[i].Start, from), min(exts[i].End(), to))
		ch.with = t.appendHole(ch.with, at+shift, e.Start+shift)
		at = e.End()
		if e.Addr == 0 {
			ch.with = t.appendHole(ch.with, e.Start+shift, at+shift)
			continue
		}
		e.Start += shift
		ch.with = append(ch.with, e)
	}
	ch.with = t.appendHole(ch.with, at+shift, to+shift)
	it, err := t.Inode(ctx, c.Ino)
	if err != nil {
		return 0, err
	}
	ch.size = max(it.Size(), min(size, ch.end))
	if ch.exts, err = t.extents(ctx, c.Ino, ch.start, ch.end, nil, 0); err != nil {
		return 0, err
	}
	return to, t.store(ctx, c.Ino, &it, &ch)
}

// appendHole adds the item of a hole where holes have items.
func (t *FileTree) appendHole(items []Extent, from, to uint64) []Extent {
	if t.cfg.NoHoles || from >= to {
		return items
	}
	return append(items, hole(from, to))
}

// cloneInline copies the data of an inline extent, which cannot be shared.
func (t *FileTree) cloneInline(ctx context.Context, c *Clone, src *ondisk.InodeItem, e *Extent, size uint64) error {
	n := min(e.span(), src.Size())
	data := make([]byte, n)
	if err := c.Src.readRaw(ctx, c.SrcIno, src.Flags(), data, 0, nil); err != nil {
		return err
	}
	it, err := t.Inode(ctx, c.Ino)
	if err != nil {
		return err
	}
	size = max(it.Size(), min(size, uint64(c.Off)+n))
	if done, err := t.writeInline(ctx, c.Ino, &it, data, uint64(c.Off), size); done || err != nil {
		return err
	}
	return t.writeSectors(ctx, c.Ino, &it, data, uint64(c.Off), size)
}
