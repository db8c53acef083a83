package manifest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// Trees gives the file trees to read, all of one moment if they come from a view.
type Trees interface {
	// Reader returns the reader of a subvolume. fserr.ErrNotFound if there is no such subvolume.
	Reader(ctx context.Context, id ondisk.TreeID) (*inode.Reader, error)
	// Enters reports whether a directory's entry of a subvolume leads there: a snapshot has copies of such entries that
	// do not.
	Enters(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, e inode.Entry) (bool, error)
}

// maxDepth bounds the depth of directories, so that a loop on disk ends. The kernel's own limit, by the length of
// paths, is lower.
const maxDepth = 1 << 14

// queueLen is how many lines may wait for their hash.
const queueLen = 256

// Write writes the manifest of a subvolume to w. Files are read and hashed by several goroutines.
func Write(ctx context.Context, w io.Writer, trees Trees, subvol ondisk.TreeID) error {
	g, ctx := errgroup.WithContext(ctx)
	wk := &walker{ctx: ctx, trees: trees, order: make(chan *job, queueLen), work: make(chan *job, queueLen)}
	g.Go(func() error {
		defer close(wk.order)
		defer close(wk.work)
		return wk.top(subvol)
	})
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(wk.hash)
	}
	g.Go(func() error { return wk.print(w) })
	return g.Wait()
}

// job is a line on its way: from the walker, past a hasher, to the printer.
type job struct {
	line *line
	path string
	tree *inode.Reader // to read a regular file from; nil for other lines
	done chan struct{} // closed when the line is whole; nil if it is
}

// walker goes through the trees and sends every line in order.
type walker struct {
	ctx   context.Context
	trees Trees
	order chan *job // all lines, as they are printed
	work  chan *job // those that want a hash
}

func (w *walker) top(id ondisk.TreeID) error {
	r, err := w.trees.Reader(w.ctx, id)
	if err != nil {
		return err
	}
	it, err := r.Inode(w.ctx, inode.RootDir)
	if err != nil {
		return err
	}
	return w.dir(r, inode.RootDir, &it, "", 0)
}

// step is what to do at one place of a directory's order: print an entry, or what is below it.
type step struct {
	key   string // the name; with a slash behind it for what is below
	entry int    // index; -1 is the top directory itself
}

// dir sends the lines of everything below a directory; for the top, whose prefix is "", its own as well. Among paths
// sorted by their bytes, what is below "a" comes where "a/" sorts, which may be behind "a.b".
func (w *walker) dir(r *inode.Reader, dir ondisk.ObjectID, item *ondisk.InodeItem, prefix string, depth int) error {
	if depth > maxDepth {
		return &fserr.Corrupt{What: "inode", Root: uint64(r.ID()), Slot: fserr.NoSlot, Ino: uint64(dir), Msg: "directories form a loop"}
	}
	entries, err := r.Entries(w.ctx, dir)
	if err != nil {
		return fmt.Errorf("directory /%s: %w", prefix, err)
	}
	for _, s := range steps(entries, prefix == "") {
		switch {
		case s.entry < 0:
			err = w.inode(r, dir, item, ".")
		case strings.HasSuffix(s.key, "/"):
			err = w.below(r, dir, &entries[s.entry], prefix, depth)
		default:
			err = w.entry(r, dir, item, &entries[s.entry], prefix)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func steps(entries []inode.Entry, top bool) []step {
	order := make([]step, 0, len(entries)+1)
	if top {
		order = append(order, step{".", -1})
	}
	for i := range entries {
		order = append(order, step{entries[i].Name, i})
		if entries[i].Type == ondisk.FTDir {
			order = append(order, step{entries[i].Name + "/", i})
		}
	}
	slices.SortFunc(order, func(a, b step) int { return strings.Compare(a.key, b.key) })
	return order
}

// target is where an entry leads: a tree and an inode of it; no tree if it is a subvolume that is not there.
func (w *walker) target(r *inode.Reader, dir ondisk.ObjectID, e *inode.Entry) (*inode.Reader, ondisk.ObjectID, error) {
	if !e.IsSubvol() {
		return r, e.Ino(), nil
	}
	enters, err := w.trees.Enters(w.ctx, r.ID(), dir, *e)
	if err != nil || !enters {
		return nil, 0, err
	}
	sub, err := w.trees.Reader(w.ctx, e.Subvol())
	if errors.Is(err, fserr.ErrNotFound) {
		return nil, 0, nil
	}
	return sub, inode.RootDir, err
}

// entry sends the line of one entry.
func (w *walker) entry(r *inode.Reader, dir ondisk.ObjectID, parent *ondisk.InodeItem, e *inode.Entry, prefix string) error {
	path := prefix + e.Name
	in, ino, err := w.target(r, dir, e)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if in == nil {
		return w.send(&job{line: newPlaceholder(path, parent), path: path})
	}
	it, err := in.Inode(w.ctx, ino)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	return w.inode(in, ino, &it, path)
}

// below sends the lines of what is inside an entry's directory.
func (w *walker) below(r *inode.Reader, dir ondisk.ObjectID, e *inode.Entry, prefix string, depth int) error {
	path := prefix + e.Name
	in, ino, err := w.target(r, dir, e)
	if err != nil || in == nil {
		return err
	}
	it, err := in.Inode(w.ctx, ino)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if it.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
		return nil // the entry's type is wrong; the line has said what it is
	}
	return w.dir(in, ino, &it, path+"/", depth+1)
}

// inode sends the line of one inode under a path.
func (w *walker) inode(r *inode.Reader, ino ondisk.ObjectID, it *ondisk.InodeItem, path string) error {
	j := &job{line: newLine(path, ino, it), path: path}
	xs, err := r.Xattrs(w.ctx, ino)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	j.line.setXattrs(xs)
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeLnk:
		target, err := r.Readlink(w.ctx, ino)
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		j.line.Target, j.line.TargetB64 = textOrBytes(target)
	case ondisk.ModeReg:
		j.tree, j.done = r, make(chan struct{})
	}
	return w.send(j)
}

func (w *walker) send(j *job) error {
	if j.done != nil {
		select {
		case w.work <- j:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
	select {
	case w.order <- j:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// hash completes the lines of regular files.
func (w *walker) hash() (err error) {
	h := newHasher()
	defer func() { err = errors.Join(err, h.close()) }()
	for j := range w.work {
		if err := h.file(w.ctx, j.tree, j.line); err != nil {
			return fmt.Errorf("/%s: %w", j.path, err)
		}
		close(j.done)
	}
	return nil
}

// print writes the lines in their order.
func (w *walker) print(out io.Writer) error {
	buf := bufio.NewWriterSize(out, 64<<10)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	for j := range w.order {
		if j.done != nil {
			select {
			case <-j.done:
			case <-w.ctx.Done():
				return w.ctx.Err()
			}
		}
		if err := enc.Encode(j.line); err != nil {
			return err
		}
	}
	return buf.Flush()
}
