// Package compress reads the three compressed encodings of btrfs file extents.
//
// A compressed extent is one frame of at most 128 KiB on disk, padded with anything to a multiple of the sector size,
// that unpacks to at most 128 KiB; an inline extent is one frame without padding. zlib and zstd frames are streams of
// their usual formats. LZO has no frame of its own, so btrfs defines one, described at [lzoFrame]. The kernel writes
// nothing else into these frames (fs/btrfs/zlib.c, zstd.c, lzo.c).
package compress

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"imgtool/engine/ondisk"
)

// Errors of damaged frames.
var (
	errShort = errors.New("frame ends early")
)

// Decompress unpacks the frame at the start of src into dst, whose length is what the extent unpacks to (ram_bytes,
// at most [ondisk.MaxUncompressed] in anything the kernel wrote). If the frame holds less, the rest of dst is zeroed, as
// the kernel does at the end of a file. What follows the frame in src is ignored. sectorSize is the file system's.
//
// Decompress is safe for concurrent use and never panics on what src holds.
func Decompress(algorithm uint8, dst, src []byte, sectorSize int) error {
	var n int
	var err error
	switch algorithm {
	case ondisk.CompressZlib:
		n, err = unzlib(dst, src)
	case ondisk.CompressLZO:
		n, err = unlzo(dst, src, sectorSize)
	case ondisk.CompressZstd:
		n, err = unzstd(dst, src)
	default:
		return fmt.Errorf("compression type %d is not known", algorithm)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", Name(algorithm), err)
	}
	clear(dst[n:])
	return nil
}

// Name is the algorithm's name as the compress mount option takes it.
func Name(algorithm uint8) string {
	switch algorithm {
	case ondisk.CompressNone:
		return "none"
	case ondisk.CompressZlib:
		return "zlib"
	case ondisk.CompressLZO:
		return "lzo"
	case ondisk.CompressZstd:
		return "zstd"
	}
	return fmt.Sprintf("compression-%d", algorithm)
}

var zlibReaders sync.Pool // of io.ReadCloser that are zlib.Resetters

func unzlib(dst, src []byte) (int, error) {
	in := bytes.NewReader(src)
	r, _ := zlibReaders.Get().(io.ReadCloser)
	if r == nil {
		var err error
		if r, err = zlib.NewReader(in); err != nil {
			return 0, err
		}
	} else if err := r.(zlib.Resetter).Reset(in, nil); err != nil {
		return 0, err
	}
	n, err := fill(r, dst)
	if err == nil {
		zlibReaders.Put(r)
	}
	return n, err
}

var zstdReaders sync.Pool // of *zstd.Decoder without goroutines

// noFrame follows what is to be unpacked: with it, padding of one to three bytes, too, is seen to be no frame.
var noFrame [4]byte

func unzstd(dst, src []byte) (int, error) {
	in := io.MultiReader(bytes.NewReader(src), bytes.NewReader(noFrame[:]))
	d, _ := zstdReaders.Get().(*zstd.Decoder)
	if d == nil {
		var err error
		// Concurrency 1 decodes in Read and starts no goroutine. The kernel's windows are at most 128 KiB.
		d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(1<<20))
		if err != nil {
			return 0, err
		}
	} else if err := d.Reset(in); err != nil {
		return 0, err
	}
	n, err := fill(&oneFrame{d: d}, dst)
	if err == nil {
		zstdReaders.Put(d)
	}
	return n, err
}

// oneFrame ends the stream where padding behind the first frame is no frame.
type oneFrame struct {
	d   *zstd.Decoder
	got bool
}

func (f *oneFrame) Read(p []byte) (int, error) {
	n, err := f.d.Read(p)
	f.got = f.got || n > 0
	if n == 0 && f.got && errors.Is(err, zstd.ErrMagicMismatch) {
		err = io.EOF
	}
	return n, err
}

// fill reads r into dst. A stream that is shorter than dst is fine; one that is longer is not looked at beyond dst.
func fill(r io.Reader, dst []byte) (int, error) {
	n := 0
	for n < len(dst) {
		m, err := r.Read(dst[n:])
		n += m
		if err == io.EOF {
			return n, nil
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return n, errShort
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
