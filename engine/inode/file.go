package inode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// FileReader is what a Reader and a FileTree have in common.
type FileReader interface {
	ID() ondisk.TreeID
	Inode(ctx context.Context, ino ondisk.ObjectID) (ondisk.InodeItem, error)
	Lookup(ctx context.Context, dir ondisk.ObjectID, name string) (Entry, error)
	ReadDir(ctx context.Context, dir ondisk.ObjectID, after uint64, fn func(Entry) (more bool, err error)) error
	Entries(ctx context.Context, dir ondisk.ObjectID) ([]Entry, error)
	Refs(ctx context.Context, ino ondisk.ObjectID) ([]NameRef, error)
	Parent(ctx context.Context, dir ondisk.ObjectID) (ondisk.ObjectID, error)
	Readlink(ctx context.Context, ino ondisk.ObjectID) (string, error)
	Xattr(ctx context.Context, ino ondisk.ObjectID, name string) ([]byte, error)
	Xattrs(ctx context.Context, ino ondisk.ObjectID) ([]Xattr, error)
	Extents(ctx context.Context, ino ondisk.ObjectID, from, to uint64, fn func(Extent) (more bool, err error)) error
	ReadAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64) (int, error)
	readAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64, u *unpacked) (int, error)
}

var (
	_ FileReader = (*Reader)(nil)
	_ FileReader = (*FileTree)(nil)
)

// ReadAt is Reader.ReadAt under the inode's shared lock, so that the extents that it finds stay.
func (t *FileTree) ReadAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64) (int, error) {
	return t.readAt(ctx, ino, p, off, nil)
}

func (t *FileTree) readAt(ctx context.Context, ino ondisk.ObjectID, p []byte, off int64, u *unpacked) (int, error) {
	mu := &t.locks[stripe(ino)]
	mu.RLock()
	defer mu.RUnlock()
	return t.Reader.readAt(ctx, ino, p, off, u)
}

// ReadFile is an open file for reading: io.Reader, io.ReaderAt, io.Seeker, io.WriterTo, io.Closer. Every method uses the
// context that it was opened with. ReadAt may be called concurrently; Read, Seek and WriteTo share the position and
// take turns.
type ReadFile struct {
	ctx context.Context
	r   FileReader
	ino ondisk.ObjectID

	mu  sync.Mutex // guards pos and u
	pos int64
	u   unpacked
}

// OpenFile opens a file of a tree for reading.
func OpenFile(ctx context.Context, r FileReader, ino ondisk.ObjectID) (*ReadFile, error) {
	it, err := r.Inode(ctx, ino)
	if err != nil {
		return nil, err
	}
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeReg, ondisk.ModeLnk:
	case ondisk.ModeDir:
		return nil, fmt.Errorf("inode %d of tree %v: %w", ino, r.ID(), fserr.ErrIsDir)
	default: // a device, fifo or socket has no content here; it reads as empty
	}
	return &ReadFile{ctx: ctx, r: r, ino: ino}, nil
}

// Ino returns the inode number.
func (f *ReadFile) Ino() ondisk.ObjectID { return f.ino }

// Inode returns the inode item as it is now.
func (f *ReadFile) Inode() (ondisk.InodeItem, error) { return f.r.Inode(f.ctx, f.ino) }

// Read implements io.Reader.
func (f *ReadFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.r.readAt(f.ctx, f.ino, p, f.pos, &f.u)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *ReadFile) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(f.ctx, f.ino, p, off) }

// Seek implements io.Seeker.
func (f *ReadFile) Seek(off int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		off += f.pos
	case io.SeekEnd:
		it, err := f.Inode()
		if err != nil {
			return 0, err
		}
		off += int64(it.Size())
	default:
		off = -1
	}
	if off < 0 {
		return 0, fmt.Errorf("seek in inode %d: %w", f.ino, fserr.ErrInvalid)
	}
	f.pos = off
	return off, nil
}

// streamBuf is what WriteTo reads at once, in bytes: a large compressed file's buffers hold whole extents.
const streamBuf = 4 << 20

// WriteTo implements io.WriterTo: while one piece is written to w the next is read.
func (f *ReadFile) WriteTo(w io.Writer) (total int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	it, err := f.Inode()
	if err != nil || it.Size() <= uint64(f.pos) {
		return 0, err
	}
	size := int(min(streamBuf, it.Size()-uint64(f.pos)))
	free, full := make(chan []byte, 2), make(chan filled, 2)
	free <- make([]byte, size)
	free <- make([]byte, size)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(full)
		for pos := f.pos; ; {
			select {
			case buf := <-free:
				n, err := f.r.readAt(f.ctx, f.ino, buf[:size], pos, &f.u)
				full <- filled{buf[:n], err}
				if pos += int64(n); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	for b := range full {
		n, werr := w.Write(b.p)
		total += int64(n)
		f.pos += int64(n)
		if werr != nil {
			return total, werr
		}
		if b.err != nil && b.err != io.EOF {
			return total, b.err
		}
		free <- b.p
	}
	return total, nil
}

// filled is a buffer that one goroutine filled for another, with the error that ended it.
type filled struct {
	p   []byte
	err error
}

// Close does nothing: a file opened for reading only does not keep its inode from being removed.
func (f *ReadFile) Close() error { return nil }

// File is an open file of a FileTree, for reading and writing. While it is open its inode stays, even without a name.
// Read, Write and Seek share the position; ReadAt and WriteAt may be called concurrently.
type File struct {
	ReadFile
	t      *FileTree
	closed bool // guarded by mu
}

var (
	_ io.ReaderFrom = (*File)(nil)
	_ io.WriterTo   = (*File)(nil)
	_ io.ReaderAt   = (*File)(nil)
	_ io.WriterAt   = (*File)(nil)
)

// Open opens a regular file. ctx is used by all methods of the File. Close it.
func (t *FileTree) Open(ctx context.Context, ino ondisk.ObjectID) (*File, error) {
	mu := &t.locks[stripe(ino)]
	mu.RLock() // its removal, which asks isOpen, has the lock exclusively
	defer mu.RUnlock()
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return nil, err
	}
	if it.Mode()&ondisk.ModeFmt == ondisk.ModeDir {
		return nil, t.at(ino, fserr.ErrIsDir)
	}
	if it.NLink() == 0 && !t.isOpen(ino) {
		return nil, t.at(ino, fserr.ErrNotFound)
	}
	t.openMu.Lock()
	t.open[ino]++
	t.openMu.Unlock()
	return &File{ReadFile: ReadFile{ctx: ctx, r: t, ino: ino}, t: t}, nil
}

// Write implements io.Writer.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.t.WriteAt(f.ctx, f.ino, p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt implements io.WriterAt.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.t.WriteAt(f.ctx, f.ino, p, off) }

// ReadFrom implements io.ReaderFrom by CopyFrom.
func (f *File) ReadFrom(r io.Reader) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.t.CopyFrom(f.ctx, f.ino, f.pos, r, -1)
	f.pos += n
	return n, err
}

// Truncate sets the size.
func (f *File) Truncate(size int64) error { return f.t.Truncate(f.ctx, f.ino, size) }

// Close lets go of the inode; if it has lost its last name meanwhile, it is removed now. A second Close gives
// fserr.ErrClosed.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fserr.ErrClosed
	}
	f.closed = true
	return f.t.close(context.WithoutCancel(f.ctx), f.ino)
}

func (t *FileTree) close(ctx context.Context, ino ondisk.ObjectID) error {
	l := t.lock(ino)
	defer l.unlock()
	t.openMu.Lock()
	t.open[ino]--
	last := t.open[ino] == 0
	if last {
		delete(t.open, ino)
	}
	t.openMu.Unlock()
	if !last {
		return nil
	}
	if t.ReadOnly() { // nothing can be removed, and the subvolume may have been deleted meanwhile, its tree dropped
		return nil
	}
	it, err := t.Inode(ctx, ino)
	if errors.Is(err, fserr.ErrNotFound) {
		return nil
	}
	if err != nil || it.NLink() > 0 {
		return err
	}
	return t.evict(ctx, ino)
}
