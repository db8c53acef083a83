package disk

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// bounceSize bounds a bounce buffer, in bytes: larger transfers go in pieces of it.
const bounceSize = 1 << 20

// ReadAt implements [Device].
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	g := f.geo.Load()
	n, end := clipRead(g.size, off, len(p))
	if end == syscall.EINVAL {
		return 0, &Error{OpRead, f.name, off, int64(len(p)), end}
	}
	done := 0
	if direct := min(int64(n), g.limit-off); direct > 0 {
		m, err := f.readDirect(ctx, p[:direct], off)
		done = m
		if err != nil {
			return done, f.ioError(OpRead, off, len(p), err)
		}
	}
	if done < n {
		m, err := f.readTail(ctx, p[done:n], off+int64(done))
		done += m
		if err != nil {
			return done, f.ioError(OpRead, off, len(p), err)
		}
	}
	f.read(done)
	return done, end
}

// WriteAt implements [Device].
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	done, err := f.writeAt(ctx, p, off)
	if err != nil {
		return done, f.ioError(OpWrite, off, len(p), err)
	}
	f.written(done)
	return done, nil
}

func (f *File) writeAt(ctx context.Context, p []byte, off int64) (int, error) {
	if f.readonly {
		return 0, syscall.EROFS
	}
	whole := f.isAligned(off) && f.isAligned(int64(len(p)))
	if whole {
		f.write.RLock()
		defer f.write.RUnlock()
	} else {
		f.write.Lock()
		defer f.write.Unlock()
	}
	g := f.geo.Load() // under the lock: Truncate holds it too
	if err := checkWrite(g.size, off, len(p)); err != nil {
		return 0, err
	}
	done := 0
	if direct := min(int64(len(p)), g.limit-off); direct > 0 {
		m, err := f.writeDirect(ctx, p[:direct], off)
		done = m
		if err != nil {
			return done, err
		}
	}
	if done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		m, err := f.tailFile().WriteAt(p[done:], off+int64(done))
		return done + m, err
	}
	return done, nil
}

// ioError adds the place to an error and drops the path that package os put in.
func (f *File) ioError(op Op, off int64, n int, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return &Error{op, f.name, off, int64(n), err}
}

// isAligned reports whether an offset or a length is a whole number of blocks.
func (f *File) isAligned(n int64) bool { return n&int64(f.align.Offset-1) == 0 }

// straight reports whether a transfer needs no bounce buffer.
func (f *File) straight(p []byte, off int64) bool {
	return f.isAligned(off) && f.isAligned(int64(len(p))) && address(p)&uintptr(f.align.Memory-1) == 0
}

// tailFile is the buffered descriptor; after Close it is the closed direct one, whose errors say so.
func (f *File) tailFile() *os.File {
	if tail := f.tail.Load(); tail != nil {
		return tail
	}
	return f.f
}

// readTail reads through the page cache, past geometry.limit.
func (f *File) readTail(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return cutShort(f.tailFile().ReadAt(p, off))
}

// cutShort turns the end of the file, where the geometry says there is more, into what it means.
func cutShort(n int, err error) (int, error) {
	if err == io.EOF {
		err = errCutShort
	}
	return n, err
}

var errCutShort = errors.New("the file has been cut short by somebody else since it was opened")

// readDirect fills p from below geometry.limit, straight or in aligned pieces through a bounce buffer. package os
// repeats short and interrupted system calls.
func (f *File) readDirect(ctx context.Context, p []byte, off int64) (int, error) {
	if f.straight(p, off) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return cutShort(f.f.ReadAt(p, off))
	}
	f.write.RLock() // for bounce; see there
	defer f.write.RUnlock()
	unit := int64(f.align.Offset)
	buf, err := f.bounce(off, len(p))
	if err != nil {
		return 0, err
	}
	defer f.pool.Put(buf)
	done := 0
	for done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		at := off + int64(done)
		first := at &^ (unit - 1)
		last := min((off+int64(len(p))+unit-1)&^(unit-1), first+int64(len(buf)))
		if n, err := cutShort(f.f.ReadAt(buf[:last-first], first)); err != nil {
			return done + copy(p[done:], buf[min(at-first, int64(n)):n]), err
		}
		done += copy(p[done:], buf[at-first:last-first])
	}
	return done, nil
}

// writeDirect writes p below geometry.limit, straight or in aligned pieces through a bounce buffer. Blocks that p covers
// in part are read first; the caller holds f.write alone if there can be any.
func (f *File) writeDirect(ctx context.Context, p []byte, off int64) (int, error) {
	if f.straight(p, off) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return f.f.WriteAt(p, off)
	}
	unit := int64(f.align.Offset)
	buf, err := f.bounce(off, len(p))
	if err != nil {
		return 0, err
	}
	defer f.pool.Put(buf)
	done := 0
	for done < len(p) {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		at := off + int64(done)
		first := at &^ (unit - 1)
		end := min(off+int64(len(p)), first+int64(len(buf)))
		last := (end + unit - 1) &^ (unit - 1)
		if err := f.readEdges(buf, first, at, end, last); err != nil {
			return done, err
		}
		n := copy(buf[at-first:end-first], p[done:])
		if m, err := f.f.WriteAt(buf[:last-first], first); err != nil {
			return done + int(max(0, min(int64(n), int64(m)-(at-first)))), err
		}
		done += n
	}
	return done, nil
}

// readEdges reads the first and the last block of [first, last) into buf where [at, end) leaves bytes of them as they
// are.
func (f *File) readEdges(buf []byte, first, at, end, last int64) error {
	unit := int64(f.align.Offset)
	if at != first {
		if _, err := cutShort(f.f.ReadAt(buf[:unit], first)); err != nil {
			return err
		}
		if last-first == unit {
			return nil
		}
	}
	if end != last {
		if _, err := cutShort(f.f.ReadAt(buf[last-unit-first:last-first], last-unit)); err != nil {
			return err
		}
	}
	return nil
}

// bounce takes a buffer that holds the blocks around n bytes at off, or as much of them as is moved at once. The caller
// holds f.write, at least shared, until it has put the buffer back: Close empties the pool under it.
func (f *File) bounce(off int64, n int) ([]byte, error) {
	if f.closed {
		return nil, os.ErrClosed
	}
	unit := int64(f.align.Offset)
	span := (off+int64(n)+unit-1)&^(unit-1) - off&^(unit-1)
	return f.pool.Get(int(min(span, max(bounceSize, unit)))), nil
}
