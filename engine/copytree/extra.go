package copytree

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// extras does what a batch leaves for after it. Nothing else is being inserted meanwhile.
func (im *importer) extras(ctx context.Context, b *batch) error {
	for i := range b.extras {
		x := &b.extras[i]
		var err error
		if x.link {
			err = im.link(ctx, x)
		} else {
			err = im.fill(ctx, x)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", x.src.dir.join(x.name), err)
		}
		im.report()
	}
	return nil
}

// link gives a file another name, and sets the times that this changes back.
func (im *importer) link(ctx context.Context, x *extra) error {
	dir := x.src.dir
	if err := im.tree.Link(ctx, x.ino, dir.ino, x.name); err != nil {
		return err
	}
	im.done.Inodes++
	if err := im.times(ctx, x.ino, &x.src.st); err != nil {
		return err
	}
	if dir.ino == im.top {
		return nil
	}
	return im.times(ctx, dir.ino, &dir.st)
}

func (im *importer) times(ctx context.Context, ino ondisk.ObjectID, st *unix.Stat_t) error {
	t := attrOf(st).Times
	return im.tree.SetAttrs(ctx, ino, inode.SetAttr{Access: &t.Access, Modify: &t.Modify, Change: &t.Change})
}

// fill copies the content of a large or sparse file.
func (im *importer) fill(ctx context.Context, x *extra) error {
	f, err := x.open()
	if err != nil {
		return err
	}
	defer f.Close() // only read
	end, err := im.segments(ctx, x, f)
	if err != nil {
		return err
	}
	if end < x.src.st.Size { // the file ends with a hole
		if err := im.tree.Truncate(ctx, x.ino, x.src.st.Size); err != nil {
			return err
		}
	}
	return im.times(ctx, x.ino, &x.src.st)
}

// segments copies the ranges that hold data and returns where the last one ends.
func (im *importer) segments(ctx context.Context, x *extra, f *os.File) (end int64, err error) {
	for size := x.src.st.Size; end < size; {
		data, err := f.Seek(end, unix.SEEK_DATA)
		if errIs(err, unix.ENXIO) {
			return end, nil // nothing but a hole up to the end
		}
		hole := size
		if errIs(err, unix.EINVAL) {
			data, err = end, nil // a file system that knows no holes
		} else if err == nil {
			if hole, err = f.Seek(data, unix.SEEK_HOLE); errIs(err, unix.ENXIO) {
				return end, nil // cut short meanwhile
			}
		}
		if err != nil {
			return end, err
		}
		if hole = min(hole, size); data >= hole {
			return end, nil
		}
		n, err := im.tree.CopyFrom(ctx, x.ino, data, &counted{im, io.NewSectionReader(f, data, hole-data)}, hole-data)
		if err != nil {
			return end, err
		}
		if end = data + n; n < hole-data {
			return end, nil
		}
	}
	return end, nil
}

// counted counts and reports what is read. CopyFrom reads from one goroutine, while nothing else counts.
type counted struct {
	im *importer
	r  io.Reader
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.im.done.Bytes += uint64(n)
	return n, err
}

func errIs(err error, errno unix.Errno) bool {
	pe, ok := err.(*fs.PathError)
	return ok && pe.Err == errno
}
