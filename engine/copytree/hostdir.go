package copytree

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"imgtool/engine/ondisk"
)

// hostDir is an open directory of the host that is being imported. It is shared by the scanner and by the entries that
// are on their way; the last one closes it.
type hostDir struct {
	fd   int
	path string
	ino  ondisk.ObjectID // its number in the image
	st   unix.Stat_t
	refs atomic.Int32
}

// openHostDir opens a directory with one reference. A symbolic link is followed only for the top, whose parent is
// AT_FDCWD.
func openHostDir(parent int, name, path string) (*hostDir, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	if parent == unix.AT_FDCWD {
		flags &^= unix.O_NOFOLLOW
	}
	fd, err := openNoAtime(parent, name, flags)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &hostDir{fd: fd, path: path}
	d.refs.Store(1)
	if err := unix.Fstat(fd, &d.st); err != nil {
		d.release()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return d, nil
}

// openNoAtime leaves the source's access time alone where the caller may (owner or CAP_FOWNER, open(2)).
func openNoAtime(dir int, name string, flags int) (int, error) {
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_NOATIME, 0) })
	if err == unix.EPERM {
		fd, err = retry(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	}
	return fd, err
}

// retry repeats a system call that a signal interrupted.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (d *hostDir) retain() *hostDir {
	d.refs.Add(1)
	return d
}

func (d *hostDir) release() {
	if d.refs.Add(-1) == 0 {
		_ = unix.Close(d.fd) // read only: nothing can be lost
	}
}

// hostName is one name of a directory.
type hostName struct {
	name  string
	isDir bool
}

// names reads the whole directory, sorted by bytes.
func (d *hostDir) names(buf []byte) ([]hostName, error) {
	var all []hostName
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(d.fd, buf) })
		if err != nil {
			return nil, &fs.PathError{Op: "read directory", Path: d.path, Err: err}
		}
		if n <= 0 {
			break
		}
		if all, err = d.parse(all, buf[:n]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b hostName) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// Layout of struct linux_dirent64 (getdents(2)).
const (
	direntReclenAt = 16
	direntTypeAt   = 18
	direntNameAt   = 19
)

func (d *hostDir) parse(all []hostName, buf []byte) ([]hostName, error) {
	for len(buf) > direntNameAt {
		n := int(binary.NativeEndian.Uint16(buf[direntReclenAt:]))
		if n <= direntNameAt || n > len(buf) {
			return nil, fmt.Errorf("%s: directory entry of %d bytes", d.path, n)
		}
		raw, _, _ := bytes.Cut(buf[direntNameAt:n], []byte{0})
		name, typ := string(raw), buf[direntTypeAt]
		buf = buf[n:]
		if name == "." || name == ".." {
			continue
		}
		h := hostName{name: name, isDir: typ == unix.DT_DIR}
		if typ == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return nil, &fs.PathError{Op: "stat", Path: d.join(name), Err: err}
			}
			h.isDir = st.Mode&unix.S_IFMT == unix.S_IFDIR
		}
		all = append(all, h)
	}
	return all, nil
}

func pathError(op, path string, err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }

func (d *hostDir) join(name string) string {
	if strings.HasSuffix(d.path, "/") {
		return d.path + name
	}
	return d.path + "/" + name
}

// procPath names an entry for system calls that know no directory descriptors, the xattr calls among them.
func (d *hostDir) procPath(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", d.fd, name) }
