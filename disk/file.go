package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is an image file or a block device of the host.
//
// Writers have it alone: an image file is held by flock(2), a block device by O_EXCL. See [Open] for who else is looked
// for. File is safe for concurrent use; Close waits for nothing but lets transfers under way end before the descriptor
// goes, and later ones fail with os.ErrClosed.
type File struct {
	counters
	name     string
	f        *os.File // direct or buffered, as direct says
	block    bool     // a block device
	direct   bool
	readonly bool
	align    Alignment // of direct transfers; {1, 1} when buffered

	// write orders read-modify-writes against all other changes: they hold it alone, aligned writes and discards
	// share it. Without it two writers of one block would each write back the other's old half.
	write  sync.RWMutex
	closed bool // protected by write: pool is gone

	geo atomic.Pointer[geometry] // replaced by Truncate, which holds write

	// tail is a buffered descriptor for the bytes past geometry.limit, opened when there first are any. nil else.
	tail atomic.Pointer[os.File]

	pool        *Pool       // bounce buffers, out only while write is held
	noDiscard   atomic.Bool // the host said it cannot
	sizeChanged atomic.Bool // the next flush must be an fsync
	newName     atomic.Bool // the next flush must sync the directory too

	flushMu  sync.Mutex // protects flushErr; not held over the system call
	flushErr error      // the first failure of a flush: sticky, see the package comment
}

// geometry is how long the file is and how far O_DIRECT reaches.
type geometry struct {
	size  int64
	limit int64 // direct transfers end here; size when it is aligned, and when the file is buffered
}

var _ Device = (*File)(nil)

// Open opens an image file or a block device that exists.
//
// Errors match fs.ErrNotExist, fs.ErrPermission, syscall.EISDIR, fs.ErrInvalid (an empty file, or neither a regular file
// nor a block device) and [ErrBusy]: another process has the lock, the file backs a loop device, or it or its loop
// device is mounted. The text of an ErrBusy names which, and what to do. ForceReadonly opens all the same.
func Open(path string, o Options) (*File, error) {
	f, err := open(path, 0, o)
	if err != nil {
		return nil, err
	}
	if f.Size() == 0 {
		f.Close()
		return nil, fmt.Errorf("open %s: the file is empty; give it a size (truncate -s SIZE) or remove it: %w", path, fs.ErrInvalid)
	}
	return f, nil
}

// Create makes a sparse, all-zero image file of size bytes, with mode 0644 less the umask. A file that exists is an
// error that matches fs.ErrExist, unless Options.Reuse: then it is opened as by Open, and cut or extended to size, with
// its content kept. On an error a file that Create made is removed again.
//
// The name is durable after the first flush.
func Create(path string, size int64, o Options) (*File, error) {
	if size <= 0 {
		return nil, &fs.PathError{Op: "create", Path: path, Err: fmt.Errorf("size of %d bytes: %w", size, fs.ErrInvalid)}
	}
	if o.readOnly() {
		return nil, &fs.PathError{Op: "create", Path: path, Err: syscall.EROFS}
	}
	f, err := open(path, os.O_CREATE|os.O_EXCL, o)
	created := err == nil
	if errors.Is(err, fs.ErrExist) && o.Reuse {
		f, err = open(path, 0, o)
		if err == nil && f.block {
			f.Close()
			err = &fs.PathError{Op: "create", Path: path, Err: fmt.Errorf("a block device: %w", fs.ErrExist)}
		}
	}
	if err != nil {
		return nil, err
	}
	f.newName.Store(created)
	if err := f.Truncate(size); err != nil {
		f.Close()
		if created {
			os.Remove(path)
		}
		return nil, err
	}
	return f, nil
}

// Name implements [Device].
func (f *File) Name() string { return f.name }

// Size implements [Device].
func (f *File) Size() int64 { return f.geo.Load().size }

// Align implements [Device].
func (f *File) Align() Alignment { return f.align }

// Direct reports whether transfers go around the page cache.
func (f *File) Direct() bool { return f.direct }

// IsBlockDevice reports whether the file is a block device, which Truncate refuses.
func (f *File) IsBlockDevice() bool { return f.block }

// Truncate cuts or extends an image file; new bytes are zeros and take no space. The next Flush makes it durable.
func (f *File) Truncate(size int64) error {
	f.write.Lock()
	defer f.write.Unlock()
	switch {
	case f.readonly:
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.EROFS}
	case f.block || size < 0:
		return &fs.PathError{Op: "truncate", Path: f.name, Err: syscall.EINVAL}
	case size == f.Size():
		return nil
	}
	if err := f.f.Truncate(size); err != nil {
		return err
	}
	f.sizeChanged.Store(true)
	return f.setSize(size)
}

// setSize computes the geometry and opens the tail if there is one. Callers hold write, or have the file alone.
func (f *File) setSize(size int64) error {
	g := &geometry{size: size, limit: size}
	if f.direct {
		// A whole page, even if blocks are smaller: the page cache works in pages, and the page of the tail must
		// hold no bytes that are also written directly, or its write-back could bring back older ones.
		unit := int64(max(f.align.Offset, os.Getpagesize()))
		g.limit = size &^ (unit - 1)
	}
	if g.limit != size && f.tail.Load() == nil {
		flags := os.O_RDWR
		if f.readonly {
			flags = os.O_RDONLY
		}
		tail, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.f.Fd()), flags, 0)
		if err != nil {
			return fmt.Errorf("open %s again for its last %d bytes: %w", f.name, size-g.limit, err)
		}
		f.tail.Store(tail)
	}
	f.geo.Store(g)
	return nil
}

// Flush implements [Device], with fdatasync, or fsync and a sync of the directory after Create and Truncate. The first
// failure is returned for ever after.
func (f *File) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return &Error{OpFlush, f.name, 0, 0, err}
	}
	if err := f.failedFlush(); err != nil {
		return err
	}
	if f.readonly {
		return nil
	}
	// Clear the marks before the call: a Truncate during it sets them again.
	sizeChanged, newName := f.sizeChanged.Swap(false), f.newName.Swap(false)
	err := f.sync(sizeChanged)
	if err == nil && newName {
		err = syncDir(filepath.Dir(f.name))
	}
	if err != nil {
		f.flushMu.Lock()
		defer f.flushMu.Unlock()
		if f.flushErr == nil && !errors.Is(err, os.ErrClosed) {
			f.flushErr = &Error{OpFlush, f.name, 0, 0, err}
		}
		return &Error{OpFlush, f.name, 0, 0, err}
	}
	f.flushes.Add(1)
	return nil
}

func (f *File) failedFlush() error {
	f.flushMu.Lock()
	defer f.flushMu.Unlock()
	return f.flushErr
}

// sync makes the data durable, and with whole the inode too.
func (f *File) sync(whole bool) error {
	return f.control(func(fd int) error {
		if whole {
			return unix.Fsync(fd)
		}
		return unix.Fdatasync(fd)
	})
}

// syncDir makes the entries of a directory durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// discardPiece bounds one discard call, in bytes, so that a context is looked at now and then.
const discardPiece = 1 << 30

// Discard implements [Device]: BLKDISCARD on the whole blocks of the range of a block device, a punched hole in a file.
func (f *File) Discard(ctx context.Context, off, n int64) error {
	fail := func(err error) error { return &Error{OpDiscard, f.name, off, n, err} }
	if err := checkDiscard(f.Size(), off, n); err != nil {
		return fail(err)
	}
	if f.readonly {
		return fail(syscall.EROFS)
	}
	start, end := off, off+n
	if f.block {
		unit := int64(f.align.Offset)
		if unit == 1 {
			unit = 4096 // buffered: no block is larger
		}
		start, end = (start+unit-1)&^(unit-1), end&^(unit-1)
	}
	for start < end {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if f.noDiscard.Load() {
			break
		}
		piece := min(end-start, discardPiece)
		if err := f.discardPiece(start, piece); err != nil {
			return fail(err)
		}
		start += piece
	}
	f.discarded(n)
	return nil
}

// discardPiece discards a range of whole blocks. A host that cannot is remembered and is no error.
func (f *File) discardPiece(off, n int64) error {
	f.write.RLock()
	defer f.write.RUnlock()
	err := f.control(func(fd int) error {
		if f.block {
			return blkDiscard(fd, off, n)
		}
		return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOTTY):
		f.noDiscard.Store(true)
		return nil
	}
	return err
}

// control runs a system call on the descriptor, which cannot be closed meanwhile, and again when it is interrupted.
func (f *File) control(call func(fd int) error) error {
	conn, err := f.f.SyscallConn()
	if err != nil {
		return err
	}
	var callErr error
	err = conn.Control(func(fd uintptr) {
		for {
			if callErr = call(int(fd)); callErr != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return os.ErrClosed // the only reason, which package os does not spell like this
	}
	return callErr
}

// Close implements [Device]. It gives up the locks and does not flush.
func (f *File) Close() error {
	errs := []error{f.f.Close()}
	if tail := f.tail.Swap(nil); tail != nil {
		errs = append(errs, tail.Close())
	}
	f.write.Lock() // bounced transfers have ended: their buffers are back
	defer f.write.Unlock()
	if !f.closed {
		f.closed = true
		errs = append(errs, f.pool.Close())
	}
	return errors.Join(errs...)
}
