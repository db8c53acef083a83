package copytree

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// Import copies everything in hostDir into the directory dir of a file tree: data, holes, hard links, symbolic links,
// devices, fifos, sockets, xattrs, owners, modes, and access and modification times to the nanosecond. It does not
// commit; what it did is gone with the next failed commit or unclean close, and transactions that grow too large are
// committed in between.
//
// Names that exist in dir are fserr.ErrExist. After an error part of the tree is there.
func Import(ctx context.Context, tree *inode.FileTree, dir ondisk.ObjectID, hostDir string, o ImportOptions) (Progress, error) {
	top, err := openHostDir(unix.AT_FDCWD, hostDir, hostDir)
	if err != nil {
		return Progress{}, err
	}
	top.ino = dir
	defer top.release()
	im := &importer{
		tree: tree, top: dir, csum: tree.Csum(), o: o, pool: disk.NewPool(),
		free: make(chan *batch, maxBatches), order: make(chan *batch, maxBatches),
		work: make(chan loadPart, 4*maxBatches), placed: make(chan placed, 4),
	}
	err = im.run(ctx, top)
	if err == nil && o.TopAttrs {
		err = im.topAttrs(ctx, top)
	}
	if o.Progress != nil {
		o.Progress(im.done)
	}
	return im.done, errors.Join(err, im.pool.Close())
}

// importer is one Import. Each channel is closed by its only sender, and read until then whatever goes wrong.
type importer struct {
	tree *inode.FileTree
	top  ondisk.ObjectID
	csum ondisk.CsumType
	o    ImportOptions
	pool *disk.Pool

	free   chan *batch // batches to fill; nil for one that has not been made yet
	order  chan *batch // scanner to placer
	work   chan loadPart
	placed chan placed // placer to inserter

	inserted  sync.WaitGroup // batches that are with the inserter; the placer waits for them before extras
	insertErr error          // the inserter's, as done: the placer reads them while the inserter has nothing
	done      Progress
}

// placed is a batch whose data is on the device.
type placed struct {
	b    *batch
	bulk *inode.Bulk
}

func (im *importer) run(ctx context.Context, top *hostDir) error {
	for range maxBatches {
		im.free <- nil
	}
	g, ctx := errgroup.WithContext(ctx)
	workers := im.o.Workers
	if workers <= 0 {
		workers = 2 * runtime.GOMAXPROCS(0)
	}
	g.Go(func() error {
		defer close(im.work)
		defer close(im.order)
		s := &scanner{im: im, top: top.join(""), links: map[fileKey]*linked{}, dents: make([]byte, 64<<10)}
		return s.run(ctx, top)
	})
	for range workers {
		g.Go(func() error {
			l := newLoader(im.csum)
			for p := range im.work {
				l.load(p)
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(im.placed)
		return im.place(ctx)
	})
	g.Go(func() error { return im.insert(ctx) })
	err := g.Wait()
	close(im.free)
	for b := range im.free {
		if b != nil {
			im.pool.Put(b.buf)
		}
	}
	return err
}

// place starts the operation of each batch in turn, and does what comes behind it.
func (im *importer) place(ctx context.Context) error {
	var failed error
	for b := range im.order {
		b.parts.Wait()
		if failed == nil {
			failed = im.placeBatch(ctx, b)
			continue
		}
		im.recycle(b)
	}
	im.inserted.Wait()
	return failed
}

// placeBatch hands b on, or recycles it.
func (im *importer) placeBatch(ctx context.Context, b *batch) error {
	err := b.err
	if err == nil {
		err = context.Cause(ctx)
	}
	extras := len(b.extras) > 0
	if err == nil && len(b.Entries) > 0 {
		var bulk *inode.Bulk
		if bulk, err = im.tree.StartBulk(ctx, &b.Batch); err == nil {
			im.inserted.Add(1)
			im.placed <- placed{b, bulk}
			if !extras {
				return nil // the inserter recycles it
			}
			im.inserted.Wait()
			err = im.insertErr
		}
	}
	if err == nil && extras {
		err = im.extras(ctx, b)
	}
	im.recycle(b)
	return err
}

// insert finishes the operations that place has started, all of them: after a failure the file system is aborted, and
// those that were already started fail quickly.
func (im *importer) insert(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for p := range im.placed {
		if err := p.bulk.Insert(ctx); err != nil {
			im.insertErr = errors.Join(im.insertErr, err)
		} else {
			im.count(p.b)
		}
		if len(p.b.extras) == 0 {
			im.recycle(p.b)
		}
		im.inserted.Done()
	}
	return im.insertErr
}

func (im *importer) count(b *batch) {
	for i := range b.Entries {
		im.done.Inodes++
		im.done.Bytes += b.Entries[i].Size
	}
	im.report()
}

func (im *importer) report() {
	if im.o.Progress != nil {
		im.o.Progress(im.done)
	}
}

func (im *importer) recycle(b *batch) {
	b.reset()
	im.free <- b
}

// topAttrs makes the destination look like the source. Its times come last of all.
func (im *importer) topAttrs(ctx context.Context, top *hostDir) error {
	xs, err := newLoader(im.csum).xattrs(top.path, top.fd, "")
	if err != nil {
		return err
	}
	for _, x := range xs {
		if err := im.tree.SetXattr(ctx, im.top, x.Name, x.Value, inode.XattrAny); err != nil {
			return fmt.Errorf("%s: %w", top.path, err)
		}
	}
	a := attrOf(&top.st)
	mode := a.Mode & ondisk.ModePerm
	return im.tree.SetAttrs(ctx, im.top, inode.SetAttr{
		Mode: &mode, UID: &a.UID, GID: &a.GID, Access: &a.Times.Access, Modify: &a.Times.Modify, Change: &a.Times.Change,
	})
}
