package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/extent"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Encoded is a range of a file whose data comes compressed, as one frame (see package compress).
type Encoded struct {
	Off, Len       int64  // of the file, bytes
	Algorithm      uint8  // ondisk.CompressZlib, ...
	RAMLen, RAMOff uint64 // what the frame unpacks to, and where in that the range begins
}

// WriteEncoded stores a compressed frame as an extent as it is, without unpacking it, and makes the file as long as that
// takes (BTRFS_IOC_ENCODED_WRITE). It does not look into the frame; one that is damaged shows when it is read.
//
// fserr.ErrInvalid if the range cannot be such an extent, and nothing has changed then: offsets that are no multiples of
// the sector size, an end that is none and lies within the file, a frame that saves no sector, one of more than 128 KiB
// on either side, a file without checksums. The caller unpacks the frame and writes that. Other errors are WriteAt's.
func (t *FileTree) WriteEncoded(ctx context.Context, ino ondisk.ObjectID, e Encoded, frame []byte) error {
	if err := e.check(len(frame)); err != nil {
		return fmt.Errorf("compressed write of %d bytes at %d of inode %d: %w", e.Len, e.Off, ino, err)
	}
	l := t.lock(ino)
	defer l.unlock()
	it, err := t.prepareRange(ctx, ino, e.Off, e.Len)
	if err != nil {
		return err
	}
	off, end := uint64(e.Off), uint64(e.Off)+uint64(e.Len)
	if it.Flags()&(ondisk.InodeNoDataSum|ondisk.InodeNoDataCow) != 0 || end%sectorSize != 0 && end < it.Size() {
		return fmt.Errorf("compressed write of %d bytes at %d of inode %d: %w", e.Len, e.Off, ino, fserr.ErrInvalid)
	}
	if err := t.settleEOF(ctx, ino, &it, off); err != nil {
		return err
	}
	holes, err := t.fillHoles(ctx, ino, alignUp(it.Size()), off)
	if err != nil {
		return err
	}
	if len(holes) > 0 {
		at := holes[0].Start
		if err := t.store(ctx, ino, &it, &change{start: at, end: at, with: holes, size: it.Size(), quiet: true}); err != nil {
			return err
		}
	}
	c := change{start: off, end: alignUp(end), size: max(it.Size(), end)}
	if c.exts, err = t.extents(ctx, ino, c.start, c.end, nil, 0); err != nil {
		return err
	}
	return t.storeEncoded(ctx, ino, &c, &e, frame)
}

// check refuses a frame of n bytes that no compressed extent can hold, whatever the file.
func (e *Encoded) check(n int) error {
	switch {
	case e.Off < 0 || e.Len <= 0 || e.Len > math.MaxInt64-sectorSize-e.Off || e.Off%sectorSize != 0 || e.RAMOff%sectorSize != 0,
		e.Algorithm != ondisk.CompressZlib && e.Algorithm != ondisk.CompressLZO && e.Algorithm != ondisk.CompressZstd,
		n <= 0 || n > ondisk.MaxCompressed || e.RAMLen > ondisk.MaxUncompressed,
		e.RAMOff > e.RAMLen || uint64(e.Len) > e.RAMLen-e.RAMOff, alignUp(uint64(n)) >= alignUp(e.RAMLen):
		return fserr.ErrInvalid
	}
	return nil
}

// storeEncoded is the operation: one extent for the frame, padded with zeros.
func (t *FileTree) storeEncoded(ctx context.Context, ino ondisk.ObjectID, c *change, e *Encoded, frame []byte) error {
	if inlineConflict(c.exts, c.start, c.end) {
		return t.corrupt(ino, "inline extent beyond its sector, in the way of a change of %d to %d", c.start, c.end)
	}
	disk := alignUp(uint64(len(frame)))
	buf := t.getBuf(int(disk))
	defer t.putBuf(buf)
	clear(buf[copy(buf, frame):])
	res, err := t.cfg.Store.ReserveData(ctx, disk)
	if err != nil {
		return fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", disk, ino, t.id, err)
	}
	o, err := t.begin(ctx, itemsExtent+neighbours(2*len(c.exts)), false)
	if err != nil {
		res.Release()
		return err
	}
	return o.end(ctx, o.storeEncoded(ctx, ino, c, e, buf, &res))
}

func (o *op) storeEncoded(ctx context.Context, ino ondisk.ObjectID, c *change, e *Encoded, buf []byte, res *extent.Reservation) error {
	n := uint64(len(buf))
	addr, _, err := o.t.cfg.Store.AllocData(ctx, o.tx, n, n, 0)
	res.Release()
	if err != nil {
		return fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", n, ino, o.t.id, err)
	}
	parts := []Extent{{Start: c.start, Len: c.end - c.start, Type: ondisk.FileExtentReg, Compression: e.Algorithm,
		Addr: addr, DiskLen: n, Offset: e.RAMOff, RAMBytes: alignUp(e.RAMLen)}}
	sums, err := o.t.writeData(ctx, parts, buf, true)
	if err != nil {
		o.t.cfg.Store.UnallocData(addr, n)
		return fmt.Errorf("write %d bytes of inode %d of tree %v at %d: %w", n, ino, o.t.id, c.start, err)
	}
	return o.record(o.start(ctx), ino, c, parts, sums)
}
