package copytree

import (
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// loadPart is some entries of a batch, for one loader.
type loadPart struct {
	b        *batch
	from, to int
}

// loader reads what batches hold. It belongs to one goroutine.
type loader struct {
	csum ondisk.CsumType
	list []byte // of xattr names
	val  []byte // of an xattr
}

func newLoader(csum ondisk.CsumType) *loader {
	return &loader{csum: csum, list: make([]byte, 4096), val: make([]byte, 64<<10)}
}

// load reads the entries of a part. The first failure is the batch's.
func (l *loader) load(p loadPart) {
	defer p.b.parts.Done()
	for i := p.from; i < p.to; i++ {
		if err := l.entry(p.b, i); err != nil {
			p.b.fail(err)
			return
		}
	}
}

func (l *loader) entry(b *batch, i int) (err error) {
	e, src := &b.Entries[i], &b.srcs[i]
	switch src.st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return l.file(b, e, src)
	case unix.S_IFLNK:
		e.Target, err = readlink(src.dir, e.Name)
		if err != nil {
			return err
		}
	}
	e.Attr.Xattrs, err = l.xattrs(src.dir.join(e.Name), -1, src.dir.procPath(e.Name))
	return err
}

// file reads a regular file's content into the batch. One that shrank meanwhile is as long as it is now.
func (l *loader) file(b *batch, e *inode.BulkEntry, src *source) error {
	path := src.dir.join(e.Name)
	fd, err := openNoAtime(src.dir.fd, e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := sameFile(fd, &src.st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if e.Inline != nil {
		n, err := readFull(fd, e.Inline)
		if err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
		e.Inline, e.Size = e.Inline[:n], uint64(n)
	} else if e.Size > 0 {
		if err := l.data(b, e, fd); err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
	}
	e.Attr.Xattrs, err = l.xattrs(path, fd, "")
	return err
}

// data fills the file's place in the batch's data, with zeros behind the end, and checksums it.
func (l *loader) data(b *batch, e *inode.BulkEntry, fd int) error {
	room := b.Data[e.DataOff : e.DataOff+align(int64(e.Size))]
	n, err := readFull(fd, room[:e.Size])
	if err != nil {
		return err
	}
	clear(room[n:])
	e.Size = uint64(n)
	size := l.csum.Size()
	first := e.DataOff / ondisk.SectorSize
	for i := 0; i < len(room)/ondisk.SectorSize; i++ {
		l.csum.Sum(b.Sums[(first+i)*size:(first+i+1)*size], room[i*ondisk.SectorSize:(i+1)*ondisk.SectorSize])
	}
	return nil
}

// sameFile makes sure that a name still is what the scanner saw: its attributes go with this content.
func sameFile(fd int, st *unix.Stat_t) error {
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Dev != st.Dev || now.Ino != st.Ino || now.Mode&unix.S_IFMT != st.Mode&unix.S_IFMT {
		return fmt.Errorf("replaced by another file while it was read")
	}
	return nil
}

func readFull(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := retry(func() (int, error) { return unix.Read(fd, p[n:]) })
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

func readlink(dir *hostDir, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(dir.fd, name, buf) })
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: dir.join(name), Err: err}
	}
	return string(buf[:n]), nil
}

// xattrs reads the extended attributes of an open file, or, where fd is -1, of what a path names without following it.
func (l *loader) xattrs(path string, fd int, proc string) ([]inode.Xattr, error) {
	n, err := l.grow(&l.list, func(b []byte) (int, error) {
		if fd >= 0 {
			return unix.Flistxattr(fd, b)
		}
		return unix.Llistxattr(proc, b)
	})
	if err == unix.EOPNOTSUPP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list xattrs", Path: path, Err: err}
	}
	var all []inode.Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(l.list[:n]), "\x00"), "\x00") {
		if !carried(name) {
			continue
		}
		n, err := l.grow(&l.val, func(b []byte) (int, error) {
			if fd >= 0 {
				return unix.Fgetxattr(fd, name, b)
			}
			return unix.Lgetxattr(proc, name, b)
		})
		if err == unix.ENODATA { // gone meanwhile
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "get xattr " + name, Path: path, Err: err}
		}
		all = append(all, inode.Xattr{Name: name, Value: append([]byte{}, l.val[:n]...)})
	}
	return all, nil
}

// carried reports whether an xattr is stored in btrfs as it is. Names in "system." are made up by the host's file
// system, but for the ACLs, whose format all share.
func carried(name string) bool {
	return !strings.HasPrefix(name, "system.") || name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

// grow calls get with a larger buffer until the answer fits.
func (l *loader) grow(buf *[]byte, get func([]byte) (int, error)) (int, error) {
	for {
		n, err := get(*buf)
		if err != unix.ERANGE || len(*buf) > 1<<20 {
			return n, err
		}
		*buf = make([]byte, 2*len(*buf))
	}
}
