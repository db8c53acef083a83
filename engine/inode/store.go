package inode

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"imgtool/engine/extent"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// change is one change of a file's data: a range is freed of what it held and filled anew.
type change struct {
	exts       []Extent // the items that overlap [start, end)
	start, end uint64   // multiples of the sector size
	data       []byte   // whole sectors that go to start
	with       []Extent // items behind data, or instead of it: holes, preallocated or inline extents, in order
	size       uint64   // of the file afterwards
	freeing    bool     // gives space back
	flags      uint64   // inode flags to set
	orphan     orphanOp
	quiet      bool // the content does not change: no new time stamps
}

type orphanOp uint8

const (
	orphanKeep orphanOp = iota
	orphanAdd
	orphanDelete
)

// store carries out a change as one operation. The caller holds the inode's lock and has read its item. New data is
// on the device before any item tells of it.
func (t *FileTree) store(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change) error {
	if inlineConflict(c.exts, c.start, c.end) {
		return t.corrupt(ino, "inline extent beyond its sector, in the way of a change of %d to %d", c.start, c.end)
	}
	res, err := t.cfg.Store.ReserveData(ctx, uint64(len(c.data)))
	if err != nil {
		return fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", len(c.data), ino, t.id, err)
	}
	o, err := t.begin(ctx, itemsExtent+neighbours(2*len(c.exts)+len(c.with)), c.freeing)
	if err != nil {
		res.Release()
		return err
	}
	return o.end(ctx, o.store(ctx, ino, it, c, &res))
}

// neighbours is how many items to reserve for changes to so many extent items of one file, which lie side by side in a
// few leaves.
func neighbours(n int) int { return (n + 23) / 24 }

// store is the operation itself; it releases the reservation when the space has been allocated.
func (o *op) store(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, c *change, res *extent.Reservation) error {
	var few [2]Extent
	parts, err := o.allocate(ctx, c, few[:0])
	res.Release()
	if err != nil {
		return fmt.Errorf("space for %d bytes of inode %d of tree %v: %w", len(c.data), ino, o.t.id, err)
	}
	noSum := it.Flags()&ondisk.InodeNoDataSum != 0
	sums, err := o.t.writeData(ctx, parts, c.data, !noSum)
	if err != nil {
		for _, e := range parts {
			o.t.cfg.Store.UnallocData(e.Addr, e.DiskLen)
		}
		return fmt.Errorf("write %d bytes of inode %d of tree %v at %d: %w", len(c.data), ino, o.t.id, c.start, err)
	}
	return o.record(o.start(ctx), ino, c, parts, sums)
}

// allocate takes space for the change's data, in as few extents as there are.
func (o *op) allocate(ctx context.Context, c *change, parts []Extent) ([]Extent, error) {
	for at, left := c.start, uint64(len(c.data)); left > 0; {
		addr, n, err := o.t.cfg.Store.AllocData(ctx, o.tx, sectorSize, min(left, ondisk.MaxDataExtent), 0)
		if err != nil {
			for _, e := range parts {
				o.t.cfg.Store.UnallocData(e.Addr, e.DiskLen)
			}
			return nil, err
		}
		parts = append(parts, Extent{Start: at, Len: n, Type: ondisk.FileExtentReg, Addr: addr, DiskLen: n, RAMBytes: n})
		at, left = at+n, left-n
	}
	return parts, nil
}

// record makes the trees tell of what has been written.
func (o *op) record(ctx context.Context, ino ondisk.ObjectID, c *change, parts []Extent, sums []byte) error {
	if c.orphan == orphanAdd {
		if err := o.addOrphan(ctx, ino); err != nil {
			return err
		}
	}
	with := parts
	if len(c.with) > 0 {
		with = append(parts[:len(parts):len(parts)], c.with...)
	}
	delta, err := o.replace(ctx, ino, c.exts, c.start, c.end, with)
	if err != nil {
		return err
	}
	for i := range with {
		e := &with[i]
		if !e.holdsRef() {
			continue
		}
		r := e.ref()
		if err := o.t.cfg.Store.AddDataRef(o.tx, r.addr, r.n, o.t.id, ino, r.offset, e.Generation == 0); err != nil {
			return o.t.at(ino, err)
		}
	}
	if err := o.addSums(ctx, parts, sums); err != nil {
		return o.t.at(ino, err)
	}
	if c.orphan == orphanDelete {
		if err := o.dropOrphan(ctx, ino); err != nil {
			return err
		}
	}
	return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) {
		it.SetSize(c.size)
		it.SetNBytes(uint64(int64(it.NBytes()) + delta))
		it.SetFlags(it.Flags() | c.flags)
		if !c.quiet {
			it.SetMTime(o.now)
			it.SetCTime(o.now)
		}
	})
}

func (o *op) addSums(ctx context.Context, parts []Extent, sums []byte) error {
	if len(sums) == 0 {
		return nil
	}
	for _, e := range parts {
		n := int(e.DiskLen/sectorSize) * o.t.csum.Size()
		if err := o.t.cfg.Store.AddCsums(ctx, o.tx, e.Addr, sums[:n]); err != nil {
			return err
		}
		sums = sums[n:]
	}
	return nil
}

const (
	sumPiece   = 256 << 10 // bytes that one goroutine checksums
	writePiece = 1 << 20   // largest single write, so that a big extent is written at a queue depth above one
)

// writeData writes data to the extents and checksums it, at the same time. It returns when the device has the data.
func (t *FileTree) writeData(ctx context.Context, parts []Extent, data []byte, sum bool) ([]byte, error) {
	if len(data) == 0 {
		return nil, nil
	}
	var sums []byte
	var wg sync.WaitGroup
	if sum {
		sums = make([]byte, len(data)/sectorSize*t.csum.Size())
		if len(data) <= sumPiece {
			t.sumInto(sums, data)
		} else {
			t.sumParallel(&wg, sums, data)
		}
	}
	var few [4]volume.Write
	ws := few[:0]
	for _, e := range parts {
		for at := uint64(0); at < e.DiskLen; at += writePiece {
			n := min(writePiece, e.DiskLen-at)
			ws = append(ws, volume.Write{Addr: e.Addr + ondisk.Logical(at), Buf: data[:n:n]})
			data = data[n:]
		}
	}
	err := t.cfg.Store.WriteBatch(ctx, ws)
	wg.Wait()
	return sums, err
}

// sumInto writes the checksums of all sectors of data into sums.
func (t *FileTree) sumInto(sums, data []byte) {
	n := t.csum.Size()
	for i := 0; i*sectorSize < len(data); i++ {
		t.csum.Sum(sums[i*n:(i+1)*n], data[i*sectorSize:(i+1)*sectorSize])
	}
}

// sumParallel does the same on as many goroutines as there are processors; wg tells when they are done.
func (t *FileTree) sumParallel(wg *sync.WaitGroup, sums, data []byte) {
	workers := min(runtime.GOMAXPROCS(0), (len(data)+sumPiece-1)/sumPiece)
	share := (len(data)/sectorSize + workers - 1) / workers // sectors
	for at := 0; at < len(data)/sectorSize; at += share {
		end := min(at+share, len(data)/sectorSize)
		wg.Go(func() {
			t.sumInto(sums[at*t.csum.Size():end*t.csum.Size()], data[at*sectorSize:end*sectorSize])
		})
	}
}

// fillHoles returns hole items for the gaps between extents in [from, to), for file systems whose holes need items.
func (t *FileTree) fillHoles(ctx context.Context, ino ondisk.ObjectID, from, to uint64) ([]Extent, error) {
	if t.cfg.NoHoles || from >= to {
		return nil, nil
	}
	exts, err := t.extents(ctx, ino, from, to, nil, 0)
	if err != nil {
		return nil, err
	}
	return gaps(exts, from, to), nil
}

// gaps returns hole items for what the extents leave free of [from, to).
func gaps(exts []Extent, from, to uint64) []Extent {
	var holes []Extent
	for i := range exts {
		if e := &exts[i]; e.Start > from {
			holes = append(holes, hole(from, e.Start))
		}
		from = max(from, exts[i].span())
	}
	if from < to {
		holes = append(holes, hole(from, to))
	}
	return holes
}

// hole is the item of a hole.
func hole(from, to uint64) Extent {
	return Extent{Start: from, Len: to - from, Type: ondisk.FileExtentReg, RAMBytes: to - from}
}

// checkWritable refuses changes of a file's data that its type or flags forbid.
func (t *FileTree) checkWritable(ino ondisk.ObjectID, it *ondisk.InodeItem) error {
	switch {
	case it.Mode()&ondisk.ModeFmt == ondisk.ModeDir:
		return t.at(ino, fserr.ErrIsDir)
	case it.Mode()&ondisk.ModeFmt != ondisk.ModeReg:
		return t.at(ino, fserr.ErrInvalid)
	case it.Flags()&ondisk.InodeROVerity != 0:
		return fmt.Errorf("inode %d of tree %v is protected by fs-verity: %w", ino, t.id, errors.Join(fserr.ErrPerm, fserr.ErrReadOnly))
	case it.Flags()&ondisk.InodeReadonly != 0:
		return fmt.Errorf("inode %d of tree %v is read-only: %w", ino, t.id, fserr.ErrReadOnly)
	case it.Flags()&ondisk.InodeImmutable != 0:
		return fmt.Errorf("inode %d of tree %v is immutable: %w", ino, t.id, fserr.ErrPerm)
	}
	return nil
}
