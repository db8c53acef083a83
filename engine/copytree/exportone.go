package copytree

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// ExportFile copies one file of the image, which is no directory, to dest on the host, with all that Export carries: a
// symbolic link is made as a link, a device as a device. What dest may name is replaced, and only when the new file is
// whole: it is written under another name in the same directory, and renamed. Its other hard links stay as they are.
//
// Errors: the host's; fserr.ErrIsDir for a directory; those of reading the image.
func ExportFile(ctx context.Context, ns *inode.Namespace, n inode.Node, dest string, o ExportOptions) (p Progress, err error) {
	it, err := n.Inode(ctx)
	if err != nil {
		return p, err
	}
	if it.Mode()&ondisk.ModeFmt == ondisk.ModeDir {
		return p, fmt.Errorf("%s: %w", dest, fserr.ErrIsDir)
	}
	parent, err := openParent(dest)
	if err != nil {
		return p, err
	}
	defer parent.release()
	ex := &exporter{ns: ns, root: parent.fd, dest: parent.path, o: o, pool: disk.NewPool(), links: map[imageFile]*exported{}}
	err = ex.one(ctx, n, parent.fd, filepath.Base(dest), dest)
	p = ex.progress()
	if o.Progress != nil {
		o.Progress(p)
	}
	return p, errors.Join(err, ex.pool.Close())
}

// one makes the file under a name that nobody else has, and then gives it its own.
func (ex *exporter) one(ctx context.Context, n inode.Node, dir int, name, dest string) (err error) {
	tmp := fmt.Sprintf(".imgtool-get-%x", rand.Uint64())
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(dir, tmp, 0) // it may not have been made; err is what counts
		}
	}()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	ex.g = g
	err = ex.entry(gctx, n, dir, tmp, dest)
	if werr := g.Wait(); err == nil {
		err = werr
	}
	if err != nil {
		if !errors.Is(err, errNamed) {
			err = named{dest, err}
		}
		return err
	}
	err = unix.Renameat(dir, tmp, dir, name)
	if errors.Is(err, unix.ENOENT) { // entry leaves out what the host does not let it make, with a warning
		err = unix.EPERM
	}
	if err != nil {
		return pathError("make", dest, err)
	}
	return nil
}
