package crashsim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// The names that operations choose from.
var (
	volumes  = []string{"", "", "sv1", "sv2", "sv1/in", "sn1", "sn2", "sv2/sn3", "big"}
	dirNames = []string{"", "", "d1", "d2"}
)

const (
	fileNames = 8  // f0 to f7 in each directory
	fillNames = 40 // preallocated files that take the space
	keepFree  = 384 << 10
)

// do carries one operation out. What the operation itself can meet (a name that is taken, no space) is no error; any
// other is one of the engine.
func (w *world) do(ctx context.Context, o op) error {
	err := w.try(ctx, o)
	if w.seen != nil {
		w.seen(o.kind, err)
	}
	if err != nil && !expected(err) {
		return fmt.Errorf("%v: %w", o, err)
	}
	return w.fs.DB().Err()
}

// expected reports whether an operation may end in err.
func expected(err error) bool {
	if errors.Is(err, fserr.ErrAborted) || errors.Is(err, fserr.ErrCorrupt) || errors.Is(err, syscall.EIO) {
		return false
	}
	var errno syscall.Errno
	return errors.As(err, &errno) || errors.Is(err, context.Canceled)
}

func (w *world) try(ctx context.Context, o op) error {
	switch o.kind {
	case opSubvolume, opSnapshot, opDeleteSubvolume, opClean, opCleanInterrupted, opGrow, opReadonly:
		return w.trySubvolume(ctx, o)
	case opCommit:
		return w.commit(ctx, nil)
	case opCommitOverlapped:
		if w.cfg.full { // what this commit frees shall be most of what is free
			if err := w.fill(ctx, keepFree); err != nil && !errors.Is(err, fserr.ErrNoSpace) {
				return err
			}
		}
		return w.commit(ctx, generateOverlap(o))
	case opReopen:
		return w.reopen(ctx)
	case opLabel:
		return w.fs.SetLabel(ctx, fmt.Sprintf("label %d", o.a%100))
	case opFill:
		return w.fill(ctx, keepFree+uint64(o.a%4)<<19)
	case opDrain:
		return w.drain(ctx, o)
	case opCloseFile:
		if len(w.open) == 0 {
			return nil
		}
		f := w.open[0]
		w.open = w.open[1:]
		return f.Close()
	}
	at, err := w.at(ctx, o.a, o.b)
	if err != nil {
		return err
	}
	if o.kind >= opUnlink {
		return w.tryName(ctx, at, o)
	}
	return w.tryData(ctx, at, o)
}

// generateOverlap makes the operations that run inside a commit: writes mostly, into what was just freed.
func generateOverlap(o op) []op {
	rng := rand.New(rand.NewPCG(uint64(o.a)<<32|uint64(o.b), 11))
	kinds := []kind{opWrite, opWrite, opWrite, opWrite, opRewrite, opRewrite, opRewrite, opTruncate, opUnlink, opMany}
	ops := make([]op, 1+rng.IntN(8))
	for i := range ops {
		ops[i] = op{kind: kinds[rng.IntN(len(kinds))], a: rng.Uint32(), b: rng.Uint32(), c: rng.Uint32(), d: rng.Uint32()}
	}
	return ops
}

// spot is a directory of a subvolume and a name for it.
type spot struct {
	tree *inode.FileTree
	dir  ondisk.ObjectID
	name string
}

func (w *world) tree(ctx context.Context, a uint32) (*inode.FileTree, error) {
	id, err := w.fs.SubvolumeAt(ctx, volumes[a%uint32(len(volumes))])
	if errors.Is(err, fserr.ErrNotFound) {
		id, err = ondisk.FSTree, nil
	}
	if err != nil {
		return nil, err
	}
	return w.fs.Subvolume(ctx, id)
}

// at finds a spot: the top directory stands in for a directory that is not there, as the top tree does for a subvolume.
func (w *world) at(ctx context.Context, a, b uint32) (spot, error) {
	tree, err := w.tree(ctx, a)
	if err != nil {
		return spot{}, err
	}
	s := spot{tree: tree, dir: inode.RootDir, name: fmt.Sprintf("f%d", b/8%fileNames)}
	if d := dirNames[b%uint32(len(dirNames))]; d != "" {
		e, err := tree.Lookup(ctx, inode.RootDir, d)
		if err != nil && !errors.Is(err, fserr.ErrNotFound) {
			return spot{}, err
		}
		if err == nil && e.Type == ondisk.FTDir && !e.IsSubvol() {
			s.dir = e.Ino()
		}
	}
	return s, nil
}

// settle moves the spot to a name that is there, of a type that ok accepts, unless its own is such a one.
func (s *spot) settle(ctx context.Context, ok func(e inode.Entry) bool) (inode.Entry, error) {
	e, err := s.tree.Lookup(ctx, s.dir, s.name)
	if err == nil && ok(e) {
		return e, nil
	}
	if err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return e, err
	}
	list, err := s.tree.Entries(ctx, s.dir)
	if err != nil {
		return e, err
	}
	list = slices.DeleteFunc(list, func(e inode.Entry) bool { return e.Name[0] != 'f' && e.Name[0] != 'm' || !ok(e) })
	if len(list) == 0 {
		return e, fserr.ErrNotFound
	}
	e = list[int(s.name[1])%len(list)]
	s.name = e.Name
	return e, nil
}

func anyType(inode.Entry) bool   { return true }
func regular(e inode.Entry) bool { return e.Type == ondisk.FTReg }

func (s *spot) ino(ctx context.Context) (ondisk.ObjectID, error) {
	e, err := s.settle(ctx, regular)
	if err != nil {
		return 0, err
	}
	return e.Ino(), nil
}

// tryData does an operation on a regular file.
func (w *world) tryData(ctx context.Context, s spot, o op) error {
	if o.kind == opCreate {
		_, err := s.tree.Create(ctx, s.dir, s.name, inode.Attr{Mode: 0o600 + o.c%0o100, Flags: noDataCow(o.d)})
		return err
	}
	var ino ondisk.ObjectID
	err := error(fserr.ErrExist)
	if o.kind == opWrite {
		ino, err = s.tree.Create(ctx, s.dir, s.name, inode.Attr{Mode: 0o644})
	}
	if errors.Is(err, fserr.ErrExist) {
		ino, err = s.ino(ctx)
	}
	if err != nil {
		return err
	}
	off, n := span(o.c, o.d)
	switch o.kind {
	case opWrite, opRewrite:
		if o.kind == opRewrite {
			off = 0
		}
		_, err = s.tree.WriteAt(ctx, ino, content(o.c, n), off)
	case opTruncate:
		err = s.tree.Truncate(ctx, ino, off)
	case opPunch:
		err = s.tree.PunchHole(ctx, ino, off, int64(n))
	case opFallocate:
		err = s.tree.Fallocate(ctx, ino, off, int64(n), o.d%2 == 0)
	case opClone:
		from, ferr := w.at(ctx, o.d, o.c)
		if ferr != nil {
			return ferr
		}
		src, ferr := from.ino(ctx)
		if ferr != nil {
			return ferr
		}
		err = s.tree.CloneRange(ctx, inode.Clone{Src: from.tree, SrcIno: src, Ino: ino, Off: int64(o.d/64%16) * 4096})
	}
	return err
}

func noDataCow(d uint32) uint64 {
	if d%8 == 0 {
		return ondisk.InodeNoDataCow | ondisk.InodeNoDataSum
	}
	return 0
}

// span chooses a range of a file: inline sizes, sectors, and a few of many sectors, aligned or not.
func span(c, d uint32) (off int64, n int) {
	switch c % 4 {
	case 0:
		return 0, 1 + int(d%2100)
	case 1:
		return int64(d%32) * 4096, 4096 * (1 + int(d/32%16))
	case 2:
		return int64(d % 70000), 1 + int(d/7%60000)
	default:
		return int64(d%4) * 4096, 4096 * (1 + int(d/4%32))
	}
}

// content is data that no other call returns.
func content(seed uint32, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = rng.Read(p) // never fails
	return p
}

// tryName does an operation on names, and what else is not a file's data.
func (w *world) tryName(ctx context.Context, s spot, o op) error {
	switch o.kind {
	case opUnlink:
		if _, err := s.settle(ctx, anyType); err != nil {
			return err
		}
		return s.tree.Unlink(ctx, s.dir, s.name)
	case opLink:
		ino, err := s.ino(ctx)
		if err != nil {
			return err
		}
		return s.tree.Link(ctx, ino, inode.RootDir, fmt.Sprintf("f%d", o.c%fileNames))
	case opSymlink:
		_, err := s.tree.Symlink(ctx, s.dir, s.name, fmt.Sprintf("../%0*d", 1+o.c%300, o.d), inode.Attr{})
		return err
	case opMknod:
		mode := []uint32{ondisk.ModeFifo, ondisk.ModeChr, ondisk.ModeReg}[o.c%3]
		_, err := s.tree.Mknod(ctx, s.dir, s.name, inode.MakeRdev(o.d%10, o.d%99), inode.Attr{Mode: mode | 0o600})
		return err
	case opMkdir:
		_, err := s.tree.Mkdir(ctx, inode.RootDir, dirNames[2+o.c%2], inode.Attr{Mode: 0o755})
		return err
	case opRmdir:
		return s.tree.Rmdir(ctx, inode.RootDir, dirNames[2+o.c%2])
	case opRename:
		if _, err := s.settle(ctx, anyType); err != nil {
			return err
		}
		return s.tree.Rename(ctx, s.dir, s.name, inode.RootDir, fmt.Sprintf("f%d", o.c%fileNames), inode.RenameMode(o.d%3))
	case opXattr:
		e, err := s.settle(ctx, anyType)
		if err != nil {
			return err
		}
		name := fmt.Sprintf("user.x%d", o.c%3)
		if o.c/3%4 == 0 {
			return s.tree.RemoveXattr(ctx, e.Ino(), name)
		}
		return s.tree.SetXattr(ctx, e.Ino(), name, content(o.d, int(o.d%600)), inode.XattrAny)
	case opAttr:
		return w.tryAttr(ctx, s, o)
	case opChurn:
		return churn(ctx, s, o)
	case opMany:
		return many(ctx, s, o, 24, int(o.c%1500))
	case opPrune:
		return prune(ctx, s, o)
	case opOpenUnlink:
		ino, err := s.ino(ctx)
		if err != nil {
			return err
		}
		f, err := s.tree.Open(w.fileCtx, ino)
		if err != nil {
			return err
		}
		w.open = append(w.open, f)
		return s.tree.Unlink(ctx, s.dir, s.name)
	}
	return fmt.Errorf("no operation of kind %d", o.kind)
}

func (w *world) tryAttr(ctx context.Context, s spot, o op) error {
	e, err := s.settle(ctx, anyType)
	if err != nil {
		return err
	}
	switch o.c % 3 {
	case 0:
		return s.tree.Chmod(ctx, e.Ino(), o.d%0o10000)
	case 1:
		return s.tree.Chown(ctx, e.Ino(), o.d%7, o.d%5)
	}
	at := ondisk.Timespec{Sec: int64(o.d), Nsec: o.d % 1e9}
	return s.tree.Utimes(ctx, e.Ino(), at, at)
}

// churn writes all files of a directory anew, as long as they are, which frees all that they had.
func churn(ctx context.Context, s spot, o op) error {
	list, err := s.tree.Entries(ctx, s.dir)
	if err != nil {
		return err
	}
	for i, e := range list {
		if !regular(e) || e.Name[0] != 'f' {
			continue
		}
		it, err := s.tree.Inode(ctx, e.Ino())
		if err != nil {
			return err
		}
		if _, err := s.tree.WriteAt(ctx, e.Ino(), content(o.d+uint32(i), int(min(it.Size(), 128<<10))), 0); err != nil {
			return err
		}
	}
	return nil
}

// many makes n small files of about size bytes in one operation.
func many(ctx context.Context, s spot, o op, n, size int) error {
	first, err := s.tree.ReserveInos(ctx, n)
	if err != nil {
		return err
	}
	b := &inode.Batch{Existing: s.dir}
	for i := range n {
		data := content(o.d+uint32(i), min(size+i, s.tree.InlineLimit()))
		b.Entries = append(b.Entries, inode.BulkEntry{
			Dir: s.dir, Name: fmt.Sprintf("m%d-%d", o.d%1000, i), Ino: first + ondisk.ObjectID(i),
			Attr: inode.Attr{Mode: ondisk.ModeReg | 0o644}, Size: uint64(len(data)), Inline: data,
		})
	}
	k, err := s.tree.StartBulk(ctx, b)
	if err != nil {
		return err
	}
	return k.Insert(ctx)
}

// prune removes three of four such files.
func prune(ctx context.Context, s spot, o op) error {
	list, err := s.tree.Entries(ctx, s.dir)
	if err != nil {
		return err
	}
	for i, e := range list {
		if e.Name[0] == 'm' && (uint32(i)+o.c)%4 != 0 {
			if err := s.tree.Unlink(ctx, s.dir, e.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// trySubvolume does an operation on whole subvolumes.
func (w *world) trySubvolume(ctx context.Context, o op) error {
	path := func(names ...string) string { return names[o.b%uint32(len(names))] }
	switch o.kind {
	case opSubvolume:
		_, err := w.fs.CreateSubvolume(ctx, path("sv1", "sv2", "sv1/in"), subvol.CreateOptions{})
		return err
	case opSnapshot:
		return w.snapshot(ctx, volumes[o.a%uint32(len(volumes))], path("sn1", "sn2", "sv2/sn3"), o.c%2 == 0)
	case opDeleteSubvolume:
		return w.fs.DeleteSubvolume(ctx, path("sv1", "sv2", "sv1/in", "sn1", "sn2", "sv2/sn3", "big", "big"))
	case opClean:
		return w.fs.CleanSubvolumes(ctx)
	case opCleanInterrupted:
		return w.fs.CleanSubvolumes(&tiredContext{Context: ctx, left: int(o.c % 4)})
	case opReadonly:
		id, err := w.fs.SubvolumeAt(ctx, path("sv1", "sn1", "sn2"))
		if err != nil {
			return err
		}
		return w.fs.SetReadonly(ctx, id, o.c%2 == 0)
	}
	return w.grow(ctx, o)
}

// grow makes a subvolume of more leaves than are dropped under one handle, where the node size allows.
func (w *world) grow(ctx context.Context, o op) error {
	id, err := w.fs.CreateSubvolume(ctx, "big", subvol.CreateOptions{})
	if err != nil {
		return err
	}
	tree, err := w.fs.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	for i := range uint32(25) {
		o.d = i
		if err := many(ctx, spot{tree: tree, dir: inode.RootDir}, o, 24, 1900); err != nil {
			return err
		}
	}
	return nil
}

// tiredContext is cancelled once it has been asked often enough: so a deletion is interrupted at a place that does not
// depend on time.
type tiredContext struct {
	context.Context
	left int
}

func (c *tiredContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return c.Context.Err()
}

// fill preallocates until no more than keep bytes are free, in files of size 0: the space is taken and there is
// nothing to read.
func (w *world) fill(ctx context.Context, keep uint64) error {
	tree, err := w.fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	for i, n := 0, uint64(8<<20); i < fillNames && n >= 64<<10; i++ {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("pad%d", i), inode.Attr{Mode: 0o600})
		if err != nil && !errors.Is(err, fserr.ErrExist) {
			return err
		}
		if err != nil {
			continue
		}
		for n >= 64<<10 {
			u := w.fs.Usage()
			if err = nil; u.Unallocated < 16<<20 && u.Data.Free() < keep+n {
				err = fserr.ErrNoSpace
			} else {
				err = tree.Fallocate(ctx, ino, 0, int64(n), true)
			}
			if !errors.Is(err, fserr.ErrNoSpace) {
				break
			}
			n /= 2
		}
		if err != nil && !errors.Is(err, fserr.ErrNoSpace) {
			return err
		}
	}
	return nil
}

// drain gives some of that space back.
func (w *world) drain(ctx context.Context, o op) error {
	tree, err := w.fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	for i := range 1 + o.b%4 {
		if err := tree.Unlink(ctx, inode.RootDir, fmt.Sprintf("pad%d", (o.a+i)%fillNames)); err != nil && !errors.Is(err, fserr.ErrNotFound) {
			return err
		}
	}
	return nil
}
