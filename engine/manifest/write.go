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

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// queueLen is how many lines may wait for their hash.
const queueLen = 256

// Write writes the manifest of what a namespace shows to w. Files are read and hashed by several goroutines.
func Write(ctx context.Context, w io.Writer, ns *inode.Namespace) error {
	g, ctx := errgroup.WithContext(ctx)
	wk := &walker{ctx: ctx, ns: ns, order: make(chan *job, queueLen), work: make(chan *job, queueLen)}
	g.Go(func() error {
		defer close(wk.order)
		defer close(wk.work)
		return wk.top()
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
	tree inode.FileReader // to read a regular file from; nil for other lines
	done chan struct{}    // closed when the line is whole; nil if it is
}

// walker goes through the trees and sends every line in order.
type walker struct {
	ctx   context.Context
	ns    *inode.Namespace
	order chan *job // all lines, as they are printed
	work  chan *job // those that want a hash
	dirs  inode.DirSet
}

func (w *walker) top() error {
	n := w.ns.Top()
	it, err := n.Inode(w.ctx)
	if err != nil {
		return err
	}
	return w.dir(n, &it, "")
}

// step is what to do at one place of a directory's order: print an entry, or what is below it.
type step struct {
	key   string // the name; with a slash behind it for what is below
	entry int    // index; -1 is the top directory itself
}

// dir sends the lines of everything below a directory; for the top, whose prefix is "", its own as well. Among paths
// sorted by their bytes, what is below "a" comes where "a/" sorts, which may be behind "a.b".
func (w *walker) dir(n inode.Node, item *ondisk.InodeItem, prefix string) error {
	if err := w.dirs.Enter(n); err != nil {
		return fmt.Errorf("/%s: %w", prefix, err)
	}
	entries, err := n.Tree.Entries(w.ctx, n.Ino)
	if err != nil {
		return fmt.Errorf("directory /%s: %w", prefix, err)
	}
	for _, s := range steps(entries, prefix == "") {
		if s.entry < 0 {
			err = w.inode(n, item, ".")
		} else {
			err = w.entry(n, &entries[s.entry], prefix, strings.HasSuffix(s.key, "/"))
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

// entry sends the line of one entry, or the lines of what is below it.
func (w *walker) entry(dir inode.Node, e *inode.Entry, prefix string, below bool) error {
	path := prefix + e.Name
	n, err := w.ns.Enter(w.ctx, dir, e)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if below && n.IsPlaceholder() {
		return nil
	}
	it, err := n.Inode(w.ctx)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	if !below {
		return w.inode(n, &it, path)
	}
	if it.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
		return nil // the entry's type is wrong; the line has said what it is
	}
	return w.dir(n, &it, path+"/")
}

// inode sends the line of one inode under a path.
func (w *walker) inode(n inode.Node, it *ondisk.InodeItem, path string) error {
	j := &job{line: newLine(path, n.Ino, it), path: path}
	if n.IsPlaceholder() {
		return w.send(j)
	}
	xs, err := n.Tree.Xattrs(w.ctx, n.Ino)
	if err != nil {
		return fmt.Errorf("/%s: %w", path, err)
	}
	j.line.setXattrs(xs)
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeLnk:
		target, err := n.Tree.Readlink(w.ctx, n.Ino)
		if err != nil {
			return fmt.Errorf("/%s: %w", path, err)
		}
		j.line.Target, j.line.TargetB64 = textOrBytes(target)
	case ondisk.ModeReg:
		j.tree, j.done = n.Tree, make(chan struct{})
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
