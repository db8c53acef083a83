package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"imgtool/disk"
	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/ordered"
	"imgtool/engine/subvol"
	"imgtool/engine/txn"
	"imgtool/engine/volume"
)

// FS is one open file system.
type FS struct {
	name    string
	devs    []disk.Device
	volume  *volume.Volume
	cache   *extbuf.Cache
	db      *txn.DB
	subvols *subvol.Manager
	pool    *disk.Pool
	ordered *ordered.Queue // small pieces of file data on their way to the devices
	config  inode.Config

	treesMu sync.Mutex // guards trees; not held while a tree is opened
	trees   map[ondisk.TreeID]*openTree

	closeOnce sync.Once
	closeErr  error
}

// openTree is a subvolume's file tree, opened by whoever asks for it first.
type openTree struct {
	ready chan struct{} // closed when tree or err is set
	tree  *inode.FileTree
	err   error
}

// Name is what messages call the file system: the path of the (first) image.
func (fs *FS) Name() string { return fs.name }

// DB returns the transactions.
func (fs *FS) DB() *txn.DB { return fs.db }

// Volume returns the devices and chunks.
func (fs *FS) Volume() *volume.Volume { return fs.volume }

// Subvols returns the subvolumes' manager; the methods of FS that take paths are made of it.
func (fs *FS) Subvols() *subvol.Manager { return fs.subvols }

// Super returns a copy of the superblock as of the last commit.
func (fs *FS) Super() ondisk.SuperBlock { return fs.db.Super() }

// ReadOnly reports whether the file system was opened for reading only.
func (fs *FS) ReadOnly() bool { return fs.db.ReadOnly() }

// mayRepair reports whether bad copies of tree blocks may be written over: not by whoever opened for reading only, and not
// after an abort, nor while opening, when what is read may still lead to a refusal.
func (fs *FS) mayRepair() bool {
	db := fs.db
	return db != nil && !db.ReadOnly() && db.Err() == nil
}

// Pool returns the buffer pool that data reads and writes use.
func (fs *FS) Pool() *disk.Pool { return fs.pool }

// Subvolume returns the file tree of a subvolume, always the same one for an id. fserr.ErrNotFound if there is none or
// if it is being deleted. In a file system opened for writing the first call removes files that a crash left without a
// name, unless the subvolume is read-only.
func (fs *FS) Subvolume(ctx context.Context, id ondisk.TreeID) (*inode.FileTree, error) {
	root, err := fs.db.Root(ctx, id)
	if err != nil {
		return nil, err
	}
	fs.treesMu.Lock()
	t := fs.trees[id]
	first := t == nil
	if first {
		t = &openTree{ready: make(chan struct{})}
		fs.trees[id] = t
	}
	fs.treesMu.Unlock()
	if !first {
		select {
		case <-t.ready:
			return t.tree, t.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	t.tree, t.err = fs.openTree(ctx, root)
	if t.err != nil {
		fs.treesMu.Lock()
		delete(fs.trees, id) // the next one tries again
		fs.treesMu.Unlock()
	}
	close(t.ready)
	return t.tree, t.err
}

func (fs *FS) openTree(ctx context.Context, root *txn.Root) (*inode.FileTree, error) {
	item := root.Snapshot()
	tree := inode.New(&fs.config, root.Tree)
	readonly := item.Flags()&ondisk.RootSubvolReadonly != 0
	tree.SetReadOnly(readonly || fs.ReadOnly())
	if readonly || fs.ReadOnly() {
		return tree, nil
	}
	if _, err := tree.CleanOrphans(ctx); err != nil {
		return nil, fmt.Errorf("subvolume %v: files without a name: %w", root.ID(), err)
	}
	return tree, nil
}

// forgetTree drops a deleted subvolume's file tree.
func (fs *FS) forgetTree(id ondisk.TreeID) {
	fs.treesMu.Lock()
	defer fs.treesMu.Unlock()
	delete(fs.trees, id)
}

// Commit makes everything done so far durable. The caller holds no handle.
func (fs *FS) Commit(ctx context.Context) error {
	if err := fs.db.Commit(ctx); err != nil {
		return fmt.Errorf("%s: %w", fs.name, err)
	}
	return nil
}

// Close lets go of everything. It does not commit: what was not committed is gone, as after a power cut. Its error
// tells of references and buffers that were not given back (I12), and of devices that could not be closed. Further
// calls return the first one's result.
func (fs *FS) Close() error {
	fs.closeOnce.Do(func() { fs.closeErr = fs.close() })
	return fs.closeErr
}

func (fs *FS) close() error {
	aborted := fs.db.Err() != nil
	errs := []error{fs.db.Close()}
	fs.ordered.Close()
	if !aborted && !fs.ReadOnly() {
		// The mirrors of the last commit's super are written behind its flush.
		errs = append(errs, fs.volume.Flush(context.Background()))
	}
	errs = append(errs, fs.closeMemory(aborted))
	for _, d := range fs.devs {
		errs = append(errs, d.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%s: close: %w", fs.name, err)
	}
	return nil
}

// SetLabel changes the label, at most 255 bytes.
func (fs *FS) SetLabel(ctx context.Context, label string) error {
	var probe ondisk.SuperBlock
	if err := probe.SetLabel(label); err != nil {
		return fmt.Errorf("%w: %w", err, fserr.ErrInvalid)
	}
	h, err := fs.db.Start(ctx, 0)
	if err != nil {
		return err
	}
	err = fs.db.UpdateSuper(h, func(sb *ondisk.SuperBlock) error { return sb.SetLabel(label) })
	return errors.Join(err, h.End(context.WithoutCancel(ctx)))
}

// clock keeps the zero value of options useful.
func clock(now func() time.Time) func() time.Time {
	if now == nil {
		return time.Now
	}
	return now
}
