package inode

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"

	"imgtool/engine/ondisk"
)

// FSView shows a Namespace as an io/fs file system: fs.FS, fs.ReadDirFS, fs.ReadFileFS, fs.StatFS, fs.ReadLinkFS. As in
// os.DirFS, symbolic links are followed within the namespace, and names that are not valid paths of io/fs are
// refused; the target of a link is given as it stands. Files are *ReadFile underneath and implement io.ReaderAt,
// io.Seeker and io.WriterTo too.
type FSView struct {
	ctx context.Context
	ns  *Namespace
}

// NewFSView makes the view; ctx is used by everything done through it.
func NewFSView(ctx context.Context, ns *Namespace) *FSView { return &FSView{ctx, ns} }

var (
	_ fs.ReadDirFS  = (*FSView)(nil)
	_ fs.ReadFileFS = (*FSView)(nil)
	_ fs.StatFS     = (*FSView)(nil)
	_ fs.ReadLinkFS = (*FSView)(nil)
)

// Stat is what Sys of the view's fs.FileInfo returns.
type Stat struct {
	Tree  ondisk.TreeID
	Ino   ondisk.ObjectID
	Inode ondisk.InodeItem
}

// fileInfo implements fs.FileInfo.
type fileInfo struct {
	name string
	stat Stat
}

func (i *fileInfo) Name() string       { return i.name }
func (i *fileInfo) Size() int64        { return int64(min(i.stat.Inode.Size(), math.MaxInt64)) }
func (i *fileInfo) Mode() fs.FileMode  { return ondisk.FileMode(i.stat.Inode.Mode()) }
func (i *fileInfo) ModTime() time.Time { return i.stat.Inode.MTime().Time() }
func (i *fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i *fileInfo) Sys() any           { return &i.stat }

func (v *FSView) info(n Node, name string) (*fileInfo, error) {
	it, err := n.Inode(v.ctx)
	if err != nil {
		return nil, err
	}
	return &fileInfo{name, Stat{n.Tree.ID(), n.Ino, it}}, nil
}

// find walks a path of io/fs.
func (v *FSView) find(op, name string, follow bool) (Node, *fileInfo, error) {
	if !fs.ValidPath(name) {
		return Node{}, nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	w := walk{ns: v.ns, at: v.ns.top, follow: follow}
	err := w.run(v.ctx, name)
	if err == nil {
		var info *fileInfo
		if info, err = v.info(w.at, name[strings.LastIndexByte(name, '/')+1:]); err == nil {
			return w.at, info, nil
		}
	}
	return Node{}, nil, &fs.PathError{Op: op, Path: name, Err: err}
}

// Stat implements fs.StatFS.
func (v *FSView) Stat(name string) (fs.FileInfo, error) {
	_, info, err := v.find("stat", name, true)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// Lstat implements fs.ReadLinkFS.
func (v *FSView) Lstat(name string) (fs.FileInfo, error) {
	_, info, err := v.find("lstat", name, false)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ReadLink implements fs.ReadLinkFS.
func (v *FSView) ReadLink(name string) (string, error) {
	n, info, err := v.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if info.Mode().Type() != fs.ModeSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	target, err := n.Tree.Readlink(v.ctx, n.Ino)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// Open implements fs.FS.
func (v *FSView) Open(name string) (fs.File, error) {
	n, info, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return &openDir{v: v, node: n, info: info, path: name}, nil
	}
	f, err := OpenFile(v.ctx, n.Tree, n.Ino)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &openFile{f, info}, nil
}

// ReadFile implements fs.ReadFileFS.
func (v *FSView) ReadFile(name string) ([]byte, error) {
	n, info, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	// A sparse file may claim any size: memory grows with what is read.
	p := make([]byte, 0, min(info.Size(), 64<<20)+1)
	for {
		m, err := n.Tree.ReadAt(v.ctx, n.Ino, p[len(p):cap(p)], int64(len(p)))
		p = p[:len(p)+m]
		if errors.Is(err, io.EOF) {
			return p, nil
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		p = slices.Grow(p, len(p)) // full, and not at the end
	}
}

// ReadDir implements fs.ReadDirFS: all entries, sorted by name.
func (v *FSView) ReadDir(name string) ([]fs.DirEntry, error) {
	n, info, err := v.find("open", name, true)
	if err != nil {
		return nil, err
	}
	d := openDir{v: v, node: n, info: info, path: name}
	if !info.IsDir() {
		return nil, d.fail(errors.New("not a directory"))
	}
	return d.ReadDir(-1)
}

// openFile is an open file of a view.
type openFile struct {
	*ReadFile
	info *fileInfo
}

// Stat returns what was known when the file was opened.
func (f *openFile) Stat() (fs.FileInfo, error) { return f.info, nil }

// openDir is an open directory of a view.
type openDir struct {
	v       *FSView
	node    Node
	info    *fileInfo
	path    string
	entries []fs.DirEntry // what is still to be read, once read
	loaded  bool
}

func (d *openDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *openDir) Close() error               { return nil }
func (d *openDir) fail(err error) error {
	return &fs.PathError{Op: "read", Path: d.path, Err: err}
}

func (d *openDir) Read([]byte) (int, error) { return 0, d.fail(errors.New("is a directory")) }

// ReadDir implements fs.ReadDirFile; the order is by name.
func (d *openDir) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.loaded {
		if err := d.load(); err != nil {
			return nil, d.fail(err)
		}
	}
	if n <= 0 {
		n = len(d.entries)
	} else if len(d.entries) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.entries))
	out := d.entries[:n:n]
	d.entries = d.entries[n:]
	return out, nil
}

func (d *openDir) load() error {
	if !d.node.IsPlaceholder() {
		all, err := d.node.Tree.Entries(d.v.ctx, d.node.Ino)
		if err != nil {
			return err
		}
		for _, e := range all {
			d.entries = append(d.entries, &dirEntry{d.v, d.node, e})
		}
		slices.SortFunc(d.entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	}
	d.loaded = true
	return nil
}

// dirEntry implements fs.DirEntry.
type dirEntry struct {
	v   *FSView
	dir Node
	e   Entry
}

var ftModes = [...]fs.FileMode{
	ondisk.FTChr: fs.ModeDevice | fs.ModeCharDevice, ondisk.FTBlk: fs.ModeDevice, ondisk.FTDir: fs.ModeDir,
	ondisk.FTFifo: fs.ModeNamedPipe, ondisk.FTSock: fs.ModeSocket, ondisk.FTSymlink: fs.ModeSymlink,
}

func (e *dirEntry) Name() string { return e.e.Name }
func (e *dirEntry) IsDir() bool  { return e.e.Type == ondisk.FTDir }

func (e *dirEntry) Type() fs.FileMode {
	if int(e.e.Type) < len(ftModes) {
		return ftModes[e.e.Type]
	}
	return fs.ModeIrregular
}

func (e *dirEntry) String() string { return fs.FormatDirEntry(e) }

func (e *dirEntry) Info() (fs.FileInfo, error) {
	n, err := e.v.ns.Enter(e.v.ctx, e.dir, &e.e)
	if err != nil {
		return nil, err
	}
	info, err := e.v.info(n, e.e.Name)
	if err != nil {
		return nil, err
	}
	return info, nil
}
