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
)

// The names that operations choose from.
var (
	volumes  = []string{"", "", "sv1", "sv2", "sv1/in", "sn1", "sn2", "sv2/sn3", "big", "", "sv1", "sv2", "rx1", "fa"}
	dirNames = []string{"", "", "d1", "d2"}     // where files go
	newDirs  = []string{"d1", "d2", "e1", "e2"} // the last two stay empty
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
	case opSend:
		return w.send(ctx, o)
	case opReceive, opReceiveForeign, opReceiveCut:
		return w.tryReceive(ctx, o)
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
