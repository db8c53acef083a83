package inode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"imgtool/engine/fserr"
	"imgtool/engine/inode/compress"
	"imgtool/engine/ondisk"
)

const (
	readPiece   = 512 << 10 // largest single read of a device, bytes
	readWorkers = 8         // queue depth of one ReadAt
)

// unpacked remembers the last compressed extent that a file handle unpacked, so that small sequential reads unpack it
// once. A compressed extent never changes, so address and generation name its content. It belongs to one goroutine.
type unpacked struct {
	addr ondisk.Logical
	gen  ondisk.Generation
	data []byte
}

// ReadAt reads the file's bytes at off into p, as io.ReaderAt does: fewer than len(p) bytes come with an error, io.EOF
// at the end of the file. Holes and preallocated extents read as zeros. Every sector with a checksum is verified, and
// another copy is tried where one is bad; if none is good, the error is a *fserr.Corrupt and nothing of the bad sector is
// returned as good. Directories give fserr.ErrIsDir.
func (r *Reader) ReadAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64) (int, error) {
	return r.readAt(ctx, ino, p, off, nil)
}

func (r *Reader) readAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64, u *unpacked) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read of inode %d at %d: %w", ino, off, fserr.ErrInvalid)
	}
	it, err := r.Inode(ctx, ino)
	if err != nil {
		return 0, err
	}
	if it.Mode()&ondisk.ModeFmt == ondisk.ModeDir {
		return 0, r.at(ino, fserr.ErrIsDir)
	}
	if uint64(off) >= it.Size() {
		return 0, io.EOF
	}
	short := uint64(len(p)) > it.Size()-uint64(off)
	if short {
		p = p[:it.Size()-uint64(off)]
	}
	if err := r.readRaw(ctx, ino, it.Flags(), p, uint64(off), u); err != nil {
		return 0, err
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// readRaw fills p from the extents at off, whatever the file's size; what no extent covers is zero.
func (r *Reader) readRaw(ctx context.Context, ino ondisk.ObjectID, flags uint64, p []byte, off uint64, u *unpacked) error {
	rd := fileRead{r: r, ino: ino, verify: flags&ondisk.InodeNoDataSum == 0, p: p, off: off, u: u}
	end := off + uint64(len(p))
	var few [4]Extent
	exts := few[:0]
	for at := off; at < end; {
		var err error
		if exts, err = r.extents(ctx, ino, at, end, exts[:0], extentBatch); err != nil {
			return err
		}
		for i := range exts {
			e := &exts[i]
			rd.zero(at, min(max(e.Start, at), end))
			from, to := max(e.Start, at), min(e.End(), end)
			if from < to {
				if err := rd.extent(ctx, e, from, to); err != nil {
					return err
				}
			}
			at = max(at, min(to, end))
		}
		if err := rd.flush(ctx); err != nil {
			return err
		}
		if len(exts) < extentBatch {
			rd.zero(at, end)
			break
		}
	}
	return nil
}

// fileRead is one read of a file: its pieces of uncompressed extents are gathered and then read side by side.
type fileRead struct {
	r      *Reader
	ino    ondisk.ObjectID
	verify bool
	p      []byte
	off    uint64
	u      *unpacked
	pieces []piece
}

// piece is a range of an uncompressed extent to be read into dst.
type piece struct {
	addr ondisk.Logical // of dst's first byte
	file uint64         // the same as offset in the file
	dst  []byte
}

func (rd *fileRead) window(from, to uint64) []byte { return rd.p[from-rd.off : to-rd.off] }

func (rd *fileRead) zero(from, to uint64) {
	if from < to {
		clear(rd.window(from, to))
	}
}

// extent reads [from, to) of the file, which e covers.
func (rd *fileRead) extent(ctx context.Context, e *Extent, from, to uint64) error {
	dst := rd.window(from, to)
	switch {
	case e.Type == ondisk.FileExtentInline:
		return rd.inline(e, dst, from-e.Start)
	case e.IsHole() || e.Type == ondisk.FileExtentPrealloc:
		clear(dst)
		return nil
	case e.Compression != ondisk.CompressNone:
		return rd.compressed(ctx, e, dst, e.Offset+from-e.Start)
	}
	addr := e.Addr + ondisk.Logical(e.Offset+from-e.Start)
	for len(dst) > 0 {
		// Pieces end at multiples of their size in the file, so that only the first and last need a buffer.
		n := min(uint64(len(dst)), readPiece-from%readPiece)
		rd.pieces = append(rd.pieces, piece{addr, from, dst[:n]})
		addr, from, dst = addr+ondisk.Logical(n), from+n, dst[n:]
	}
	return nil
}

func (rd *fileRead) inline(e *Extent, dst []byte, at uint64) error {
	if e.Compression == ondisk.CompressNone {
		n := 0
		if at < uint64(len(e.Inline)) {
			n = copy(dst, e.Inline[at:])
		}
		clear(dst[n:])
		return nil
	}
	whole := make([]byte, e.RAMBytes)
	if err := compress.Decompress(e.Compression, whole, e.Inline, sectorSize); err != nil {
		return rd.bad(e.Start, "inline extent: %v", err)
	}
	copy(dst, whole[at:])
	return nil
}

func (rd *fileRead) bad(file uint64, format string, args ...any) error {
	return rd.r.corrupt(rd.ino, "file offset %d: %s", file, fmt.Sprintf(format, args...))
}

// compressed unpacks e and copies what lies at offset at of it. The checksums are of the packed bytes.
func (rd *fileRead) compressed(ctx context.Context, e *Extent, dst []byte, at uint64) error {
	if rd.u != nil && rd.u.addr == e.Addr && rd.u.gen == e.Generation && uint64(len(rd.u.data)) == e.RAMBytes {
		copy(dst, rd.u.data[at:])
		return nil
	}
	if e.DiskLen > ondisk.MaxCompressed || e.RAMBytes > ondisk.MaxUncompressed {
		return rd.bad(e.Start, "compressed extent of %d bytes that unpack to %d, at most %d are possible", e.DiskLen, e.RAMBytes, ondisk.MaxUncompressed)
	}
	packed := rd.r.getBuf(int(e.DiskLen))
	defer rd.r.putBuf(packed)
	if err := rd.sectors(ctx, e.Addr, e.Start, packed); err != nil {
		return err
	}
	var whole []byte
	if rd.u != nil && uint64(cap(rd.u.data)) >= e.RAMBytes {
		whole = rd.u.data[:e.RAMBytes]
		rd.u.addr = 0 // until it is whole again
	} else {
		whole = make([]byte, e.RAMBytes)
	}
	if err := compress.Decompress(e.Compression, whole, packed, sectorSize); err != nil {
		return rd.bad(e.Start, "extent at %d: %v", e.Addr, err)
	}
	if rd.u != nil {
		*rd.u = unpacked{e.Addr, e.Generation, whole}
	}
	copy(dst, whole[at:])
	return nil
}

// flush reads the gathered pieces, several at a time.
func (rd *fileRead) flush(ctx context.Context) error {
	ps := rd.pieces
	rd.pieces = rd.pieces[:0]
	switch len(ps) {
	case 0:
		return nil
	case 1:
		return rd.piece(ctx, ps[0])
	}
	next := make(chan piece)
	errs := make([]error, min(readWorkers, len(ps)))
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for p := range next {
				if errs[w] == nil {
					errs[w] = rd.piece(ctx, p)
				}
			}
		})
	}
	for _, p := range ps {
		next <- p
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

// piece reads one piece; one that is not whole sectors goes through a buffer that is, because checksums are of whole
// sectors.
func (rd *fileRead) piece(ctx context.Context, p piece) error {
	head := uint64(p.addr) % sectorSize
	n := alignUp(head + uint64(len(p.dst)))
	if n == uint64(len(p.dst)) {
		return rd.sectors(ctx, p.addr, p.file, p.dst)
	}
	buf := rd.r.getBuf(int(n))
	defer rd.r.putBuf(buf)
	if err := rd.sectors(ctx, p.addr-ondisk.Logical(head), p.file-min(head, p.file), buf); err != nil {
		return err
	}
	copy(p.dst, buf[head:])
	return nil
}

// sectors fills p with the whole sectors at addr and verifies each, trying every copy. file is for messages.
func (rd *fileRead) sectors(ctx context.Context, addr ondisk.Logical, file uint64, p []byte) error {
	copies := rd.r.src.Copies(addr)
	var readErr error
	got := 0
	for ; got < max(copies, 1); got++ {
		if readErr = rd.r.src.ReadCopy(ctx, addr, p, got); readErr == nil || ctx.Err() != nil {
			break
		}
	}
	if readErr != nil {
		return fmt.Errorf("data of inode %d of tree %v at offset %d: %w", rd.ino, rd.r.id, file, readErr)
	}
	if !rd.verify {
		return nil
	}
	sums, have, err := rd.r.src.LookupCsums(ctx, addr, uint64(len(p)))
	if err != nil {
		return rd.r.at(rd.ino, err)
	}
	size := rd.r.csum.Size()
	var sum [ondisk.CsumSize]byte
	for i := 0; i < len(p)/sectorSize; i++ {
		at := uint64(i) * sectorSize
		if !have[i] {
			return rd.bad(file+at, "no checksum for the data at %d", uint64(addr)+at)
		}
		want := sums[i*size : (i+1)*size]
		sector := p[at : at+sectorSize]
		rd.r.csum.Sum(sum[:], sector)
		if string(sum[:size]) == string(want) {
			continue
		}
		if err := rd.repair(ctx, addr+ondisk.Logical(at), file+at, sector, want, got, copies); err != nil {
			return err
		}
	}
	return nil
}

// repair fills one sector from a copy whose checksum is right; bad is the copy known to be wrong. The disk is not
// changed.
func (rd *fileRead) repair(ctx context.Context, addr ondisk.Logical, file uint64, sector, want []byte, bad, copies int) error {
	var sum [ondisk.CsumSize]byte
	rd.r.csum.Sum(sum[:], sector)
	have := sum
	for c := range copies {
		if c == bad {
			continue
		}
		if err := rd.r.src.ReadCopy(ctx, addr, sector, c); err != nil {
			continue // another copy may still be good; the mismatch is what gets reported
		}
		rd.r.csum.Sum(sum[:], sector)
		if string(sum[:len(want)]) == string(want) {
			return nil
		}
	}
	clear(sector)
	return rd.bad(file, "%v of the data at %d, have %x expect %x in %d of %d copies", rd.r.csum, addr, have[:len(want)], want, copies, copies)
}

// Readlink returns the target of a symbolic link.
func (r *Reader) Readlink(ctx context.Context, ino ondisk.ObjectID) (string, error) {
	it, err := r.Inode(ctx, ino)
	if err != nil {
		return "", err
	}
	if it.Mode()&ondisk.ModeFmt != ondisk.ModeLnk {
		return "", r.at(ino, fserr.ErrInvalid)
	}
	if it.Size() > 1<<16 {
		return "", r.corrupt(ino, "symbolic link of %d bytes", it.Size())
	}
	p := make([]byte, it.Size())
	if err := r.readRaw(ctx, ino, it.Flags(), p, 0, nil); err != nil {
		return "", err
	}
	return string(p), nil
}
