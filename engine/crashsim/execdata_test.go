package crashsim

import (
	"context"
	"errors"
	"math/rand/v2"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

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
