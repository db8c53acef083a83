package oracle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	sparseAbove = 256 << 20 // files larger than this have sparse_sha256 in place of sha256
	sparseBlock = 1 << 20   // its block size
)

// hashFile returns the sha256 of a file's content, or for a large one the sparse_sha256.
func hashFile(path string, size int64) (plain, sparse string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	if size > sparseAbove {
		sparse, err = sparseHash(f, size)
		return "", sparse, err
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err == nil && n != size {
		err = fmt.Errorf("read %d bytes of %d", n, size)
	}
	return hex.EncodeToString(h.Sum(nil)), "", err
}

// sparseHash is the hash over each 1 MiB-aligned block that is not all zero, of its index in decimal, a colon and the
// block padded with zeros to 1 MiB. Holes are skipped by SEEK_DATA; blocks of written zeros are read and left out.
func sparseHash(f *os.File, size int64) (string, error) {
	h := sha256.New()
	block, zero := make([]byte, sparseBlock), make([]byte, sparseBlock)
	for pos := int64(0); pos < size; {
		data, err := f.Seek(pos, unix.SEEK_DATA)
		if pe, ok := err.(*os.PathError); ok && pe.Err == unix.ENXIO {
			break // nothing but a hole up to the end
		}
		if err != nil {
			return "", err
		}
		index := data / sparseBlock
		want := min(size-index*sparseBlock, sparseBlock)
		clear(block)
		if n, err := f.ReadAt(block[:want], index*sparseBlock); int64(n) != want {
			return "", fmt.Errorf("read %d bytes of %d at block %d: %w", n, want, index, err)
		}
		if !bytes.Equal(block, zero) {
			fmt.Fprintf(h, "%d:", index)
			h.Write(block)
		}
		pos = (index + 1) * sparseBlock
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
