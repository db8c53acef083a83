package copytree

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// scanner walks the host and fills batches. It belongs to one goroutine.
type scanner struct {
	im    *importer
	cur   *batch
	top   string              // the source's path with a slash behind it
	links map[fileKey]*linked // files with several names, until all have been seen
	dents []byte
}

// linked is a file of which more names may come.
type linked struct {
	ino  ondisk.ObjectID
	left uint64 // names
}

// run walks the tree below top and sends all batches.
func (s *scanner) run(ctx context.Context, top *hostDir) error {
	err := s.walk(ctx, top)
	if s.cur != nil {
		s.send() // of a walk that failed, too: it is given back there
	}
	return err
}

// walk visits a directory and then, depth first, those inside it. The stack holds directories with what is left to do
// in them; it takes one descriptor a level.
func (s *scanner) walk(ctx context.Context, top *hostDir) error {
	type level struct {
		dir  *hostDir
		subs []subdir
	}
	subs, err := s.visit(ctx, top)
	stack := []level{{top.retain(), subs}}
	defer func() {
		for _, l := range stack {
			l.dir.release()
		}
	}()
	if err != nil {
		return err
	}
	for len(stack) > 0 {
		l := &stack[len(stack)-1]
		if len(l.subs) == 0 {
			l.dir.release()
			stack = stack[:len(stack)-1]
			continue
		}
		sub := l.subs[0]
		l.subs = l.subs[1:]
		dir, err := openHostDir(l.dir.fd, sub.name, l.dir.join(sub.name))
		if err != nil {
			return err
		}
		dir.ino = sub.ino
		subs, err := s.visit(ctx, dir)
		stack = append(stack, level{dir, subs})
		if err != nil {
			return err
		}
	}
	return nil
}

type subdir struct {
	name string
	ino  ondisk.ObjectID
}

// visit numbers and packs everything in one directory. Directories get the lower numbers, so that the names that go
// into them later find their place close to each other.
func (s *scanner) visit(ctx context.Context, dir *hostDir) ([]subdir, error) {
	names, err := dir.names(s.dents)
	if err != nil {
		return nil, err
	}
	if skip := s.im.o.Skip; skip != nil {
		names = slices.DeleteFunc(names, func(n hostName) bool { return skip(strings.TrimPrefix(dir.join(n.name), s.top)) })
	}
	if len(names) == 0 {
		return nil, nil
	}
	var subs []subdir
	for _, n := range names {
		if n.isDir {
			subs = append(subs, subdir{name: n.name})
		}
	}
	ino, err := s.im.tree.ReserveInos(ctx, len(names))
	if err != nil {
		return nil, err
	}
	nextSub, nextFile := ino, ino+ondisk.ObjectID(len(subs))
	for i := range subs {
		subs[i].ino = nextSub + ondisk.ObjectID(i)
	}
	for _, n := range names {
		next := &nextFile
		if n.isDir {
			next = &nextSub
		}
		if err := s.entry(ctx, dir, n, *next); err != nil {
			return nil, err
		}
		*next++
	}
	return subs, nil
}

// entry packs one name.
func (s *scanner) entry(ctx context.Context, dir *hostDir, n hostName, ino ondisk.ObjectID) error {
	src := source{dir: dir}
	if err := unix.Fstatat(dir.fd, n.name, &src.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: dir.join(n.name), Err: err}
	}
	st := &src.st
	if isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR; isDir != n.isDir {
		return fmt.Errorf("%s: changed while it was read", dir.join(n.name))
	}
	if len(n.name) > ondisk.MaxNameLen {
		return fmt.Errorf("%s: %w", dir.join(n.name), fserr.ErrNameTooLong)
	}
	if first := s.otherName(st, ino); first != 0 {
		return s.add(ctx, &extra{src: src, name: n.name, ino: first, link: true}, nil, 0, 0)
	}
	e := &inode.BulkEntry{Dir: dir.ino, Name: n.name, Ino: ino, Attr: attrOf(st)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return s.file(ctx, src, e)
	case unix.S_IFBLK, unix.S_IFCHR:
		e.Rdev = inode.MakeRdev(unix.Major(st.Rdev), unix.Minor(st.Rdev))
	case unix.S_IFDIR, unix.S_IFLNK, unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return fmt.Errorf("%s: file of unknown type, mode %#o", dir.join(n.name), st.Mode)
	}
	return s.add(ctx, nil, &packed{src, *e}, 0, 0)
}

// packed is an entry with its source.
type packed struct {
	src   source
	entry inode.BulkEntry
}

func (s *scanner) file(ctx context.Context, src source, e *inode.BulkEntry) error {
	st := &src.st
	switch {
	case st.Size <= int64(s.im.tree.InlineLimit()):
		e.Size = uint64(st.Size)
		return s.add(ctx, nil, &packed{src, *e}, 0, int(st.Size))
	case st.Size < largeFile && !isSparse(st):
		e.Size = uint64(st.Size)
		return s.add(ctx, nil, &packed{src, *e}, align(st.Size), 0)
	}
	return s.add(ctx, &extra{src: src, name: e.Name, ino: e.Ino}, &packed{src, *e}, 0, 0)
}

// otherName remembers files with several names and returns the number that the first name got, 0 if this is it.
func (s *scanner) otherName(st *unix.Stat_t, ino ondisk.ObjectID) ondisk.ObjectID {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return 0
	}
	key := fileKey{uint64(st.Dev), st.Ino}
	l := s.links[key]
	if l == nil {
		s.links[key] = &linked{ino, uint64(st.Nlink) - 1}
		return 0
	}
	if l.left--; l.left == 0 {
		delete(s.links, key)
	}
	return l.ino
}

// add puts an entry, an extra, or an entry with its extra into the current batch, or a new one.
func (s *scanner) add(ctx context.Context, x *extra, p *packed, data, inline int) error {
	dir := ondisk.ObjectID(0)
	if p != nil {
		dir = p.entry.Dir
	}
	if s.cur != nil && p != nil && !s.cur.fits(dir, data, inline) {
		s.send()
	}
	if s.cur == nil {
		if err := s.open(ctx); err != nil {
			return err
		}
	}
	b := s.cur
	if p != nil {
		b.dirs[dir] = true
		e := p.entry
		if inline > 0 {
			e.Inline = b.inline[b.inUsed : b.inUsed+inline : b.inUsed+inline]
			b.inUsed += inline
		}
		e.DataOff = b.used
		b.used += data
		p.src.dir.retain()
		b.Entries, b.srcs = append(b.Entries, e), append(b.srcs, p.src)
	}
	if x != nil {
		x.src.dir.retain()
		b.extras = append(b.extras, *x)
		if len(b.extras) >= batchEntries {
			s.send()
		}
	}
	return nil
}

// open takes a new batch, once one of those on their way has come home.
func (s *scanner) open(ctx context.Context) error {
	select {
	case b := <-s.im.free:
		if b == nil {
			b = newBatch(s.im.pool)
		}
		b.Existing = s.im.top
		s.cur = b
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// send hands the current batch over to the loaders and the placer. Both take what is sent until the end, whatever goes
// wrong, so it does not wait for long.
func (s *scanner) send() {
	b := s.cur
	s.cur = nil
	b.Data = b.buf[:b.used]
	b.Sums = b.sums[:b.used/ondisk.SectorSize*s.im.csum.Size()]
	const part = 16     // entries that a loader takes at a time
	n := len(b.Entries) // with the last part gone the batch may be anywhere
	b.parts.Add((n + part - 1) / part)
	s.im.order <- b
	for from := 0; from < n; from += part {
		s.im.work <- loadPart{b, from, min(from+part, n)}
	}
}
