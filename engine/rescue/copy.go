package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/fserr"
)

// CopyImage copies an image file to a new one, holes as holes, and shares the data where the host's file system can. The
// source is locked against writers meanwhile. progress, which may be nil, is told how many bytes are behind it.
//
// Errors: the host's, fs.ErrExist if dest exists, disk.ErrBusy if the source is in use, fserr.ErrUnsupported for a block
// device. After an error there is no dest.
func CopyImage(ctx context.Context, source, dest string, progress func(uint64)) (err error) {
	lock, err := disk.Open(source, disk.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer lock.Close() // only read
	if lock.IsBlockDevice() {
		return fmt.Errorf("%s: a block device is not copied: %w", source, fserr.ErrUnsupported)
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			_ = os.Remove(dest) // err is what counts
		}
	}()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil { // not on this file system, or not between two of them
		if err := copySparse(ctx, out, in, progress); err != nil {
			return fmt.Errorf("copy of %s: %w", source, err)
		}
	}
	return out.Sync()
}

// copyPiece is how much is copied between two looks at the context, in bytes.
const copyPiece = 16 << 20

// copySparse copies the ranges that hold data.
func copySparse(ctx context.Context, out, in *os.File, progress func(uint64)) error {
	size, err := in.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if err := out.Truncate(size); err != nil {
		return err
	}
	for at := int64(0); at < size; {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole up to the end
		}
		hole := size
		if errors.Is(err, unix.EINVAL) {
			data, err = at, nil // a file system that knows no holes
		} else if err == nil {
			hole, err = in.Seek(data, unix.SEEK_HOLE)
		}
		if err != nil {
			return err
		}
		for at = data; at < hole; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(copyPiece, hole-at)
			if _, err := io.Copy(io.NewOffsetWriter(out, at), io.NewSectionReader(in, at, n)); err != nil {
				return err
			}
			if at += n; progress != nil {
				progress(uint64(at))
			}
		}
	}
	return nil
}
