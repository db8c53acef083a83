package inode

import (
	"context"
	"fmt"
	"io"
	"math"
	"sync"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// copyBuf is the largest buffer of CopyFrom, and so the size of the extents it makes, in bytes. Two of them are in
// use.
const copyBuf = 8 << 20

// CopyFrom writes what r gives into a file at off until r ends: while one buffer is checksummed and written, the next
// is read. size is how much is expected, -1 if that is not known; it only sizes the buffers (r may give more or less).
// It returns how much was written. The inode's lock is held for each buffer, not throughout.
func (t *FileTree) CopyFrom(ctx context.Context, ino ondisk.ObjectID, off int64, r io.Reader, size int64) (int64, error) {
	if off < 0 {
		return 0, fmt.Errorf("write to inode %d at %d: %w", ino, off, fserr.ErrInvalid)
	}
	n := uint64(copyBuf)
	if size < 0 {
		n = streamBuf
	} else if uint64(size) < n {
		n = alignUp(uint64(size) + 1) // one more byte shows the end without another buffer
	}
	buf := t.getBuf(int(n))
	m, err := fillBuf(r, buf)
	if err != nil || m == 0 { // all there is, or a failure
		defer t.putBuf(buf)
		if err != nil && err != io.EOF {
			return 0, err
		}
		return t.copyPiece(ctx, ino, buf[:m], off)
	}
	return t.copyPiped(ctx, ino, off, r, buf)
}

// fillBuf reads until buf is full or r ends, which is io.EOF beside what was read.
func fillBuf(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if n == len(buf) && err == io.EOF {
		err = nil // the next read says so again
	}
	return n, err
}

// copyPiped goes on after the first buffer, full of data, with two.
func (t *FileTree) copyPiped(ctx context.Context, ino ondisk.ObjectID, off int64, r io.Reader, first []byte) (total int64, err error) {
	free, full := make(chan []byte, 2), make(chan filled, 2)
	free <- t.getBuf(len(first))
	full <- filled{p: first}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(full)
		for {
			select {
			case buf := <-free:
				n, err := fillBuf(r, buf[:len(first)])
				full <- filled{buf[:n], err}
				if err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	})
	defer func() {
		close(stop)
		wg.Wait()
		close(free)
		for b := range full {
			t.putBuf(b.p[:len(first)])
		}
		for b := range free {
			t.putBuf(b[:len(first)])
		}
	}()
	for b := range full {
		n, werr := t.copyPiece(ctx, ino, b.p, off+total)
		total += n
		free <- b.p
		if werr != nil {
			return total, werr
		}
		if b.err != nil && b.err != io.EOF {
			return total, b.err
		}
	}
	return total, nil
}

// copyPiece writes one buffer, of which the rest of the last sector may be written over.
func (t *FileTree) copyPiece(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64) (int64, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > math.MaxInt64-sectorSize-off {
		return 0, fmt.Errorf("write to inode %d at %d: %w", ino, off, fserr.ErrFileTooBig)
	}
	l := t.lock(ino)
	defer l.unlock()
	n := len(p)
	err := t.writeAt(ctx, ino, p, uint64(off), true)
	return int64(written(err, uint64(off), n)), err
}
