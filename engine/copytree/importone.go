package copytree

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// ImportFile copies one file of the host, which is no directory, to a new name in the directory dir of a file tree, with
// all that Import carries: a symbolic link is copied as a link, a device as a device. A file in /proc or /sys, whose size
// shows as 0, is read to its end. It does not commit, but a file that is too large for one transaction is committed in
// between; after an error a part of it may be there under its name.
//
// Of the options only Progress counts. Errors: the host's as *fs.PathError; fserr.ErrIsDir for a directory,
// fserr.ErrExist if the name is taken, and those of writing.
func ImportFile(ctx context.Context, tree *inode.FileTree, dir ondisk.ObjectID, name, hostPath string, o ImportOptions) (Progress, error) {
	parent, err := openParent(hostPath)
	if err != nil {
		return Progress{}, err
	}
	defer parent.release()
	base := filepath.Base(hostPath)
	x := extra{src: source{dir: parent}, name: base}
	if err := unix.Fstatat(parent.fd, base, &x.src.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Progress{}, pathError("stat", hostPath, err)
	}
	im := &importer{tree: tree, top: dir, csum: tree.Csum(), o: o}
	if err := im.one(ctx, &x, dir, name); err != nil {
		return im.done, fmt.Errorf("%s: %w", hostPath, err)
	}
	im.done.Inodes++
	im.report()
	return im.done, nil
}

// openParent opens the directory of a file, with one reference. It need not be readable, only searchable.
func openParent(path string) (*hostDir, error) {
	dir := filepath.Dir(path)
	fd, err := retry(func() (int, error) { return unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, pathError("open", dir, err)
	}
	d := &hostDir{fd: fd, path: dir}
	d.refs.Store(1)
	return d, nil
}

// one makes the inode with its attributes, and then fills it: what is read of a file that is being written may be
// longer than its size was. The times come last, since filling moves them.
func (im *importer) one(ctx context.Context, x *extra, dir ondisk.ObjectID, name string) (err error) {
	st, attr := &x.src.st, attrOf(&x.src.st)
	attr.Xattrs, err = newLoader(im.csum).xattrs(x.src.dir.join(x.name), -1, x.src.dir.procPath(x.name))
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if x.ino, err = im.tree.Create(ctx, dir, name, attr); err != nil {
			return err
		}
		if st.Size == 0 {
			return im.unsized(ctx, x)
		}
		return im.fill(ctx, x)
	case unix.S_IFLNK:
		target, err := readlink(x.src.dir, x.name)
		if err != nil {
			return err
		}
		_, err = im.tree.Symlink(ctx, dir, name, target, attr)
		return err
	case unix.S_IFDIR:
		return fserr.ErrIsDir
	case unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
		rdev := inode.MakeRdev(unix.Major(st.Rdev), unix.Minor(st.Rdev))
		if t := st.Mode & unix.S_IFMT; t == unix.S_IFIFO || t == unix.S_IFSOCK {
			rdev = 0
		}
		_, err = im.tree.Mknod(ctx, dir, name, rdev, attr)
		return err
	}
	return fmt.Errorf("file of unknown type, mode %#o: %w", st.Mode, fserr.ErrInvalid)
}

// unsized copies what a file of size 0 gives: nothing, or what the kernel makes up in /proc and /sys.
func (im *importer) unsized(ctx context.Context, x *extra) error {
	f, err := x.open()
	if err != nil {
		return err
	}
	defer f.Close() // only read
	if _, err := im.tree.CopyFrom(ctx, x.ino, 0, &counted{im, f}, 0); err != nil {
		return err
	}
	return im.times(ctx, x.ino, &x.src.st)
}

// open opens the file that the extra fills, and makes sure that it still is the one that was seen.
func (x *extra) open() (*os.File, error) {
	path := x.src.dir.join(x.name)
	fd, err := openNoAtime(x.src.dir.fd, x.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, pathError("open", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := sameFile(fd, &x.src.st); err != nil {
		_ = f.Close() // only read
		return nil, err
	}
	return f, nil
}
