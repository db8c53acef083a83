package copytree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// exporter is one Export. One goroutine walks and makes everything; those of g fill regular files.
type exporter struct {
	ns    *inode.Namespace
	root  int // descriptor of dest
	dest  string
	o     ExportOptions
	pool  *disk.Pool
	g     *errgroup.Group
	links map[imageFile]*exported
	seen  inode.DirSet
	dirs  []madeDir

	inodes, bytes atomic.Uint64
	mu            sync.Mutex // one caller of Progress and Warn at a time
}

func (ex *exporter) progress() Progress { return Progress{ex.inodes.Load(), ex.bytes.Load()} }

func (ex *exporter) counted() {
	ex.inodes.Add(1)
	ex.report()
}

func (ex *exporter) report() {
	if ex.o.Progress == nil {
		return
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.o.Progress(ex.progress())
}

func (ex *exporter) warn(path, what string) {
	if ex.o.Warn == nil {
		return
	}
	ex.mu.Lock()
	defer ex.mu.Unlock()
	ex.o.Warn(path + ": " + what)
}

// makeFile makes a regular file; its content comes from another goroutine.
func (ex *exporter) makeFile(ctx context.Context, n inode.Node, it ondisk.InodeItem, dir int, name, path string) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	ex.g.Go(func() error {
		err := ex.fillFile(ctx, n, &it, fd, path)
		if err = errors.Join(err, unix.Close(fd)); err != nil {
			return named{path, err}
		}
		return nil
	})
	return nil
}

const exportPiece = 1 << 20 // bytes of one read

// fillFile copies the ranges that hold data; what lies between them stays a hole.
func (ex *exporter) fillFile(ctx context.Context, n inode.Node, it *ondisk.InodeItem, fd int, path string) error {
	size := it.Size()
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return fmt.Errorf("truncate to %d bytes: %w", size, err)
	}
	buf := ex.pool.Get(exportPiece)
	defer ex.pool.Put(buf)
	err := n.Tree.Extents(ctx, n.Ino, 0, size, func(e inode.Extent) (bool, error) {
		if e.IsHole() || e.Type == ondisk.FileExtentPrealloc {
			return true, nil
		}
		for at, end := e.Start, min(e.End(), size); at < end; {
			m := min(end-at, exportPiece)
			got, err := n.Tree.ReadAt(ctx, n.Ino, buf[:m], int64(at))
			if err != nil && (!errors.Is(err, io.EOF) || got == 0) {
				return false, err
			}
			if err := writeFull(fd, buf[:got], int64(at)); err != nil {
				return false, err
			}
			at += uint64(got)
			ex.bytes.Add(uint64(got))
		}
		ex.report()
		return true, nil
	})
	if err != nil {
		return err
	}
	// A change of the owner drops security.capability, so xattrs come after it.
	if err := ex.owner(it, fd); err != nil {
		return err
	}
	if err := ex.xattrs(ctx, n, fd, path); err != nil {
		return err
	}
	return ex.modeAndTimes(it, fd)
}

func writeFull(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := retry(func() (int, error) { return unix.Pwrite(fd, p, at) })
		if err != nil {
			return fmt.Errorf("at %d: %w", at, os.NewSyscallError("write", err)) // the host's, not the image's
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

func (ex *exporter) owner(it *ondisk.InodeItem, fd int) error {
	if !ex.o.Owners {
		return nil
	}
	if err := unix.Fchown(fd, int(it.UID()), int(it.GID())); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	return nil
}

// modeAndTimes sets both of an open file or directory. Without owners the set-user-ID and set-group-ID bits would give
// the caller's rights away: they are dropped.
func (ex *exporter) modeAndTimes(it *ondisk.InodeItem, fd int) error {
	mode := it.Mode() & ondisk.ModePerm
	if !ex.o.Owners {
		mode &^= 0o6000
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	times := hostTimes(it)
	// futimens(2): a nil path is not allowed by the wrapper, /proc names the descriptor.
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), times, 0); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func hostTimes(it *ondisk.InodeItem) []unix.Timespec {
	a, m := it.ATime(), it.MTime()
	return []unix.Timespec{{Sec: a.Sec, Nsec: int64(a.Nsec)}, {Sec: m.Sec, Nsec: int64(m.Nsec)}}
}

// attrsAt sets the attributes of what cannot be opened, relative to its directory and without following it.
func (ex *exporter) attrsAt(ctx context.Context, n inode.Node, it *ondisk.InodeItem, dir int, name, path string) error {
	if ex.o.Owners {
		if err := unix.Fchownat(dir, name, int(it.UID()), int(it.GID()), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
	}
	proc := fmt.Sprintf("/proc/self/fd/%d/%s", dir, name)
	err := ex.setXattrs(ctx, n, path, func(attr string, value []byte) error { return unix.Lsetxattr(proc, attr, value, 0) })
	if err != nil {
		return err
	}
	if it.Mode()&ondisk.ModeFmt != ondisk.ModeLnk {
		if err := chmodAt(dir, name, it.Mode()); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := unix.UtimesNanoAt(dir, name, hostTimes(it), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// chmodAt sets the mode of a device, fifo or socket, which cannot simply be opened. The descriptor makes sure that a
// link in its place is not followed.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != mode&ondisk.ModeFmt {
		return unix.ESTALE
	}
	return unix.Fchmodat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), mode&ondisk.ModePerm, 0)
}

func (ex *exporter) xattrs(ctx context.Context, n inode.Node, fd int, path string) error {
	return ex.setXattrs(ctx, n, path, func(attr string, value []byte) error { return unix.Fsetxattr(fd, attr, value, 0) })
}

// setXattrs sets all that the host takes. What it refuses for its kind, and what only root may set, is left out with a
// warning.
func (ex *exporter) setXattrs(ctx context.Context, n inode.Node, path string, set func(attr string, value []byte) error) error {
	xs, err := n.Tree.Xattrs(ctx, n.Ino)
	if err != nil {
		return err
	}
	for _, x := range xs {
		if strings.HasPrefix(x.Name, "btrfs.") {
			continue // a property of the image's file system
		}
		err := set(x.Name, x.Value)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.E2BIG):
			ex.warn(path, fmt.Sprintf("xattr %s: %v, left out", x.Name, err))
		case err != nil:
			return fmt.Errorf("xattr %s: %w", x.Name, err)
		}
	}
	return nil
}
