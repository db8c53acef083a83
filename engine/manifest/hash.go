package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

const (
	sparseAbove = 256 << 20 // bytes; files larger than this have sparse_sha256 in place of sha256
	blockSize   = 1 << 20   // of sparse_sha256, and of reads
)

// hasher hashes the content of files, one at a time.
type hasher struct {
	pool *disk.Pool
	sum  hash.Hash
	buf  []byte
}

func newHasher() *hasher {
	h := &hasher{pool: disk.NewPool(), sum: sha256.New()}
	h.buf = h.pool.Get(blockSize)
	return h
}

func (h *hasher) close() error {
	h.pool.Put(h.buf)
	return h.pool.Close()
}

// file fills in the hash of a regular file.
func (h *hasher) file(ctx context.Context, r inode.FileReader, l *line) error {
	h.sum.Reset()
	ino := ondisk.ObjectID(l.Ino)
	if l.Size > sparseAbove {
		if err := h.sparse(ctx, r, ino, l.Size); err != nil {
			return err
		}
		l.SparseSHA256 = hex.EncodeToString(h.sum.Sum(nil))
		return nil
	}
	for off := uint64(0); off < l.Size; off += blockSize {
		n := min(blockSize, l.Size-off)
		if err := h.read(ctx, r, ino, off, n); err != nil {
			return err
		}
		h.sum.Write(h.buf[:n])
	}
	l.SHA256 = hex.EncodeToString(h.sum.Sum(nil))
	return nil
}

func (h *hasher) read(ctx context.Context, r inode.FileReader, ino ondisk.ObjectID, off, n uint64) error {
	m, err := r.ReadAt(ctx, ino, h.buf[:n], int64(off))
	if uint64(m) == n {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%d bytes of %d at offset %d: %w", m, n, off, io.ErrUnexpectedEOF)
	}
	return err
}

// sparse looks at the blocks that extents with data touch, each once.
func (h *hasher) sparse(ctx context.Context, r inode.FileReader, ino ondisk.ObjectID, size uint64) error {
	next := uint64(0) // first block not looked at
	return r.Extents(ctx, ino, 0, size, func(e inode.Extent) (bool, error) {
		if e.IsHole() || e.Type == ondisk.FileExtentPrealloc {
			return true, nil
		}
		for b := max(next, e.Start/blockSize); b*blockSize < min(e.End(), size); b++ {
			if err := h.block(ctx, r, ino, b, size); err != nil {
				return false, err
			}
			next = b + 1
		}
		return true, nil
	})
}

func (h *hasher) block(ctx context.Context, r inode.FileReader, ino ondisk.ObjectID, b, size uint64) error {
	n := min(blockSize, size-b*blockSize)
	if err := h.read(ctx, r, ino, b*blockSize, n); err != nil {
		return err
	}
	clear(h.buf[n:])
	for _, x := range h.buf {
		if x != 0 {
			fmt.Fprintf(h.sum, "%d:", b)
			h.sum.Write(h.buf)
			break
		}
	}
	return nil
}
