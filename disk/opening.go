package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// open does the work of Open and Create: the kind of file, the descriptor, the lock, the other users, the geometry.
func open(path string, extra int, o Options) (*File, error) {
	if err := checkKind(path, extra); err != nil {
		return nil, err
	}
	f := &File{name: path, readonly: o.readOnly(), pool: NewPool(), align: Alignment{1, 1}}
	flags := os.O_RDWR
	if f.readonly {
		flags = os.O_RDONLY
	}
	if err := f.openDescriptor(flags|extra, o); err != nil {
		return nil, f.explainBusy(err)
	}
	if err := f.setUp(o); err != nil {
		f.Close()
		if extra&os.O_CREATE != 0 {
			os.Remove(path)
		}
		return nil, f.explainBusy(err)
	}
	return f, nil
}

// explainBusy tells who only wants to read what can be done besides.
func (f *File) explainBusy(err error) error {
	if f.readonly && errors.Is(err, ErrBusy) {
		return fmt.Errorf("%w, or read it as it is with --force-readonly", err)
	}
	return err
}

// checkKind refuses what cannot hold an image before it is opened: opening a FIFO would block, opening a tape would
// rewind it.
func checkKind(path string, extra int) error {
	st, err := os.Stat(path)
	if extra&os.O_CREATE != 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var cause error
	switch mode := st.Mode(); {
	case mode.IsDir():
		cause = syscall.EISDIR
	case mode.IsRegular(), mode&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice:
		return nil
	default:
		cause = fmt.Errorf("neither a regular file nor a block device: %w", fs.ErrInvalid)
	}
	return &fs.PathError{Op: "open", Path: path, Err: cause}
}

// openDescriptor opens the path, direct if o says so and the host agrees. Opening is not yet using: alignment, and
// whether direct transfers really work, is for setUp.
func (f *File) openDescriptor(flags int, o Options) (err error) {
	// A block device is taken alone by O_EXCL, which without O_CREAT means: nobody else with O_EXCL, nothing mounted
	// (open(2)). For a regular file it means nothing, so there is no need to know yet.
	if !f.readonly {
		if st, err := os.Stat(f.name); err == nil && !st.Mode().IsRegular() {
			flags |= os.O_EXCL
		}
	}
	if o.Direct != DirectOff {
		f.f, err = os.OpenFile(f.name, flags|unix.O_DIRECT, 0o644)
		if err == nil {
			f.direct = true
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return f.explainOpen(err)
		}
		// The kernel creates the file before it refuses O_DIRECT.
		if flags&os.O_CREATE != 0 {
			os.Remove(f.name)
		}
		if err := f.refusedDirect(o, "open"); err != nil {
			return err
		}
	}
	f.f, err = os.OpenFile(f.name, flags, 0o644)
	return f.explainOpen(err)
}

// explainOpen says who is meant by EBUSY.
func (f *File) explainOpen(err error) error {
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if st, serr := os.Stat(f.name); serr == nil {
		if busy := checkUsers(f.name, st.Sys().(*syscall.Stat_t)); busy != nil {
			return busy
		}
	}
	return busyError(f.name, "another process, or a device-mapper or md device, has it exclusively", "end its user")
}

// refusedDirect is the fall-back to buffered transfers: nil and a warning, or an error for DirectOn.
func (f *File) refusedDirect(o Options, where string) error {
	if o.Direct == DirectOn {
		return fmt.Errorf("%s %s: the host file system refuses O_DIRECT; use --direct=auto or off: %w", where, f.name, unix.EINVAL)
	}
	if o.Warn != nil {
		o.Warn(fmt.Sprintf("%s: the host file system refuses O_DIRECT; using the page cache", f.name))
	}
	return nil
}

// setUp makes an open descriptor a File: it learns kind and size, takes the lock, and looks for other users.
func (f *File) setUp(o Options) error {
	st, err := f.f.Stat()
	if err != nil {
		return err
	}
	f.block = st.Mode()&fs.ModeDevice != 0
	if !o.ForceReadonly {
		// The lock first, then the look around: who comes later sees our lock.
		if err := f.lock(); err != nil {
			return err
		}
		if err := checkUsers(f.name, st.Sys().(*syscall.Stat_t)); err != nil {
			return err
		}
	}
	size := st.Size()
	if f.block {
		if size, err = blockSize(f); err != nil {
			return err
		}
	}
	if f.direct {
		if err := f.alignDirect(o, size); err != nil {
			return err
		}
	}
	return f.setSize(size)
}

// lock takes the flock of an image file. Block devices have O_EXCL instead: udev takes a flock on them whenever they
// change, so ours would fail now and then.
func (f *File) lock() error {
	if f.block {
		return nil
	}
	how := unix.LOCK_EX
	if f.readonly {
		how = unix.LOCK_SH
	}
	err := f.control(func(fd int) error { return unix.Flock(fd, how|unix.LOCK_NB) })
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return busyError(f.name, "another process has locked it", "wait for it or end it")
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOLCK):
		return nil // a host file system without locks; the other checks remain
	}
	return err
}

// alignDirect asks what direct transfers must be aligned to, and goes back to the page cache when there are none.
func (f *File) alignDirect(o Options, size int64) error {
	align, known, err := f.askAlignment()
	if err != nil {
		return err
	}
	if align.Offset == 0 || !known && !f.probeDirect(align, size) {
		if err := f.refusedDirect(o, "open"); err != nil {
			return err
		}
		f.direct = false
		return f.control(func(fd int) error {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil {
				return err
			}
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_DIRECT)
			return err
		})
	}
	f.align = align
	return nil
}

// askAlignment returns the alignment of direct transfers; an Offset of 0 says that there are none. known is false when
// the kernel or the file system has no answer (statx(2): STATX_DIOALIGN is since Linux 6.1, by file system) and a
// page is a guess that is safe wherever direct transfers work at all.
func (f *File) askAlignment() (align Alignment, known bool, err error) {
	var sx unix.Statx_t
	err = f.control(func(fd int) error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &sx)
	})
	if err == nil && sx.Mask&unix.STATX_DIOALIGN != 0 {
		return Alignment{int(sx.Dio_offset_align), int(sx.Dio_mem_align)}, true, nil
	}
	align = Alignment{PoolAlign, PoolAlign}
	if f.block {
		err = f.control(func(fd int) error {
			n, err := unix.IoctlGetUint32(fd, unix.BLKSSZGET)
			align.Offset = int(n)
			return err
		})
		if err != nil {
			return align, false, fmt.Errorf("block size of %s: %w", f.name, err)
		}
	}
	return align, false, nil
}

// probeDirect tries to read the first block. Some file systems accept O_DIRECT when opening and refuse the transfer.
func (f *File) probeDirect(align Alignment, size int64) bool {
	if size < int64(align.Offset) {
		return true // nothing to read, nothing yet to write
	}
	buf := f.pool.Get(align.Offset)
	defer f.pool.Put(buf)
	_, err := f.f.ReadAt(buf, 0)
	return !errors.Is(err, unix.EINVAL)
}

// blockSize is the length of a block device in bytes.
func blockSize(f *File) (int64, error) {
	var size uint64
	err := f.control(func(fd int) error {
		return ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&size))
	})
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.name, err)
	}
	return int64(size), nil
}

// blkDiscard discards whole blocks of a block device.
func blkDiscard(fd int, off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	return ioctl(fd, unix.BLKDISCARD, unsafe.Pointer(&span))
}

// ioctl is ioctl(2) with a pointer to what the request reads or writes.
func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
