package copytree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// ExportOptions say how Export copies.
type ExportOptions struct {
	// Owners sets owners and groups, which needs root; ExportOwners tells whether that is so.
	Owners bool
	// Progress is called now and then and once at the end. May be nil.
	Progress func(Progress)
	// Warn is told what the host would not take: xattrs of kinds that it does not know, devices without root. May be nil.
	Warn func(string)
}

// ExportOwners reports whether this process can set owners.
func ExportOwners() bool { return os.Geteuid() == 0 }

// Export copies everything below a directory of the image into the directory dest of the host, which is made if it is
// missing: data, holes, hard links, symbolic links, devices, xattrs, modes and times. Subvolumes become directories.
// Names that exist in dest are fs.ErrExist: nothing is overwritten. dest itself is left as it is.
func Export(ctx context.Context, ns *inode.Namespace, from inode.Node, dest string, o ExportOptions) (Progress, error) {
	if err := os.MkdirAll(dest, 0o777); err != nil {
		return Progress{}, err
	}
	root, err := unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Progress{}, &os.PathError{Op: "open", Path: dest, Err: err}
	}
	defer unix.Close(root)
	ex := &exporter{ns: ns, root: root, dest: dest, o: o, pool: disk.NewPool(), links: map[imageFile]*exported{}}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	ex.g = g
	err = ex.dir(gctx, from, root, "")
	if werr := g.Wait(); err == nil || errors.Is(err, context.Canceled) && werr != nil {
		err = werr
	}
	if err == nil {
		err = ex.finishDirs()
	}
	p := ex.progress()
	if o.Progress != nil {
		o.Progress(p)
	}
	return p, errors.Join(err, ex.pool.Close())
}

// imageFile names a file of the image, exported what became of it.
type imageFile struct {
	tree ondisk.TreeID
	ino  ondisk.ObjectID
}

type exported struct {
	path string // of its first name, from dest
	left uint32 // names to come
}

// madeDir is a directory whose attributes are set when everything is in it.
type madeDir struct {
	path string
	it   ondisk.InodeItem
}

// dir exports everything in a directory; fd is the host's.
func (ex *exporter) dir(ctx context.Context, n inode.Node, fd int, path string) error {
	if err := ex.seen.Enter(n); err != nil {
		return err
	}
	if n.IsPlaceholder() {
		return nil
	}
	return n.Tree.ReadDir(ctx, n.Ino, 0, func(e inode.Entry) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		child, err := ex.ns.Enter(ctx, n, &e)
		if err == nil {
			err = ex.entry(ctx, child, fd, e.Name, join(path, e.Name))
		}
		if err != nil && !errors.Is(err, errNamed) {
			err = named{join(path, e.Name), err}
		}
		return err == nil, err
	})
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}

// named is an error with the path within the image, put on once.
type named struct {
	path string
	err  error
}

var errNamed = errors.New("named")

func (n named) Error() string        { return fmt.Sprintf("%s: %v", n.path, n.err) }
func (n named) Unwrap() error        { return n.err }
func (n named) Is(target error) bool { return target == errNamed }

// entry exports one name into the host directory fd.
func (ex *exporter) entry(ctx context.Context, n inode.Node, fd int, name, path string) error {
	// What the image says is not to be trusted: these would lead out of the directory.
	if name == "" || name == "." || name == ".." || slices.Contains([]byte(name), '/') || slices.Contains([]byte(name), 0) {
		return fmt.Errorf("name %q cannot be made on the host: %w", name, fserr.ErrInvalid)
	}
	it, err := n.Inode(ctx)
	if err != nil {
		return err
	}
	if it.Mode()&ondisk.ModeFmt == ondisk.ModeDir {
		return ex.makeDir(ctx, n, &it, fd, name, path)
	}
	defer ex.counted()
	if it.NLink() > 1 {
		if done, err := ex.otherName(n, &it, fd, name, path); done || err != nil {
			return err
		}
	}
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeReg:
		return ex.makeFile(ctx, n, it, fd, name, path)
	case ondisk.ModeLnk:
		target, err := n.Tree.Readlink(ctx, n.Ino)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, fd, name); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
	default:
		major, minor := inode.SplitRdev(it.Rdev())
		err := unix.Mknodat(fd, name, it.Mode()&ondisk.ModeFmt|0o600, int(unix.Mkdev(major, minor)))
		if errors.Is(err, unix.EPERM) {
			ex.warn(path, "a device needs root, left out")
			return nil
		}
		if err != nil {
			return fmt.Errorf("mknod: %w", err)
		}
	}
	return ex.attrsAt(ctx, n, &it, fd, name, path)
}

func (ex *exporter) makeDir(ctx context.Context, n inode.Node, it *ondisk.InodeItem, fd int, name, path string) error {
	if err := unix.Mkdirat(fd, name, 0o700); err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(sub)
	if !n.IsPlaceholder() {
		if err := ex.xattrs(ctx, n, sub, path); err != nil {
			return err
		}
	}
	ex.dirs = append(ex.dirs, madeDir{path, *it})
	ex.counted()
	return ex.dir(ctx, n, sub, path)
}

// otherName makes a hard link if the file has been exported under another name.
func (ex *exporter) otherName(n inode.Node, it *ondisk.InodeItem, fd int, name, path string) (bool, error) {
	key := imageFile{n.Tree.ID(), n.Ino}
	first := ex.links[key]
	if first == nil {
		ex.links[key] = &exported{path, it.NLink() - 1}
		return false, nil
	}
	if first.left--; first.left == 0 {
		delete(ex.links, key)
	}
	old, err := ex.open(first.path, unix.O_PATH)
	if err != nil {
		return false, err
	}
	defer unix.Close(old)
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", old), fd, name, unix.AT_SYMLINK_FOLLOW); err != nil {
		return false, fmt.Errorf("hard link to %s: %w", first.path, err)
	}
	return true, nil
}

// open opens what was exported before, by its path from dest; no symbolic link is resolved on the way.
func (ex *exporter) open(path string, flags uint64) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat2(ex.root, path, &unix.OpenHow{
			Flags: flags | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
	})
	if err != nil {
		return -1, fmt.Errorf("open %s again: %w", path, err)
	}
	return fd, nil
}

// finishDirs sets the attributes of directories, the inner ones first: a mode may shut one, and times move when
// something is made in it.
func (ex *exporter) finishDirs() error {
	for _, d := range slices.Backward(ex.dirs) {
		fd, err := ex.open(d.path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			if err = ex.owner(&d.it, fd); err == nil {
				err = ex.modeAndTimes(&d.it, fd)
			}
			err = errors.Join(err, unix.Close(fd))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.path, err)
		}
	}
	return nil
}
