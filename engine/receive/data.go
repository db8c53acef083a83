package receive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/inode/compress"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// gatherMax is how many bytes of neighbouring writes are gathered before they are written.
const gatherMax = 4 << 20

// gather holds data of one file that is written behind the batch. Every other command, and a write that does not follow,
// sends it on its way. buf is pooled.
type gather struct {
	ino ondisk.ObjectID
	at  place // of the first command
	off int64
	buf []byte
}

// offset is a number that can be an offset in a file, or its size.
func offset(c *sendstream.Command, t sendstream.AttrType) (int64, error) {
	v := c.Uint(t)
	if v > math.MaxInt64 {
		return 0, fmt.Errorf("%v %d: %w", t, v, fserr.ErrFileTooBig)
	}
	return int64(v), nil
}

// write gathers a piece of data: for the batch if that makes the file, and else to be written behind it.
func (r *receiver) write(ctx context.Context, c *sendstream.Command) error {
	off, err := offset(c, sendstream.AttrFileOffset)
	if err != nil {
		return err
	}
	data, path := c.Bytes(sendstream.AttrData), c.Bytes(sendstream.AttrPath)
	g := &r.gather
	if len(g.buf) > 0 && (string(path) != g.at.path || g.off+int64(len(g.buf)) != off || len(g.buf)+len(data) > gatherMax) {
		r.flush(ctx)
	}
	if len(g.buf) == 0 {
		if r.entryData(ctx, path, off, data) {
			return nil
		}
		ino, err := r.paths.inode(ctx, string(path))
		if err != nil || len(data) == 0 {
			return err
		}
		g.ino, g.at, g.off, g.buf = ino, placeOf(c), off, r.buffers.Get(gatherMax)[:0]
	}
	g.buf = append(g.buf, data...)
	return nil
}

// flush sends what has been gathered behind the batch on its way.
func (r *receiver) flush(ctx context.Context) {
	g := r.gather
	if len(g.buf) == 0 {
		return
	}
	r.gather = gather{}
	tree := r.sub.Tree
	r.after(ctx, g.buf, func(ctx context.Context) error {
		_, err := tree.WriteAt(ctx, g.ino, g.buf, g.off)
		return g.at.wrap(err)
	})
}

func (r *receiver) truncate(ctx context.Context, c *sendstream.Command) error {
	path := c.String(sendstream.AttrPath)
	ino, err := r.paths.inode(ctx, path)
	if err != nil {
		return err
	}
	size, err := offset(c, sendstream.AttrSize)
	if err != nil {
		return err
	}
	if e := r.entry(path); e != nil && e.Attr.Mode&ondisk.ModeFmt == ondisk.ModeReg && e.Size == uint64(size) {
		e.touch(r.sub.Tree)
		return nil // it is as long as that
	}
	tree := r.sub.Tree
	r.later(ctx, c, func(ctx context.Context) error { return tree.Truncate(ctx, ino, size) })
	return nil
}

// clone shares data of another file, of this subvolume or another.
func (r *receiver) clone(ctx context.Context, c *sendstream.Command) error {
	ino, err := r.paths.inode(ctx, c.String(sendstream.AttrPath))
	if err != nil {
		return err
	}
	id, path := ondisk.UUID(c.UUID(sendstream.AttrCloneUUID)), c.String(sendstream.AttrClonePath)
	src := r.sources[id]
	if src == nil {
		in, err := r.fs.Subvols().FindSent(ctx, id, ondisk.Generation(c.Uint(sendstream.AttrCloneCTransID)))
		if err != nil {
			return fmt.Errorf("clone source, receive it first: %w", err)
		}
		tree, err := r.fs.Subvolume(ctx, in.ID)
		if err != nil {
			return err
		}
		src = newPaths(tree)
		if in.Readonly {
			r.sources[id] = src // one that can be changed is looked at afresh each time
		}
	}
	from, err := src.inode(ctx, path)
	if err != nil {
		return fmt.Errorf("clone from %q: %w", path, err)
	}
	var v [3]int64
	for i, t := range []sendstream.AttrType{sendstream.AttrFileOffset, sendstream.AttrCloneOffset, sendstream.AttrCloneLen} {
		if v[i], err = offset(c, t); err != nil {
			return err
		}
	}
	if v[2] == 0 {
		return nil
	}
	tree := r.sub.Tree
	r.later(ctx, c, func(ctx context.Context) error {
		return tree.CloneRange(ctx, inode.Clone{Src: src.tree, SrcIno: from, SrcOff: v[1], N: v[2], Ino: ino, Off: v[0]})
	})
	return nil
}

// The modes of fallocate(2) that streams have.
const (
	fallocKeepSize  = 1
	fallocPunchHole = 2
)

func (r *receiver) fallocate(ctx context.Context, c *sendstream.Command) error {
	ino, err := r.paths.inode(ctx, c.String(sendstream.AttrPath))
	if err != nil {
		return err
	}
	off, err := offset(c, sendstream.AttrFileOffset)
	if err != nil {
		return err
	}
	n, err := offset(c, sendstream.AttrSize)
	if err != nil {
		return err
	}
	tree := r.sub.Tree
	switch mode := c.Uint(sendstream.AttrFallocateMode); mode {
	case 0, fallocKeepSize:
		r.later(ctx, c, func(ctx context.Context) error { return tree.Fallocate(ctx, ino, off, n, mode == fallocKeepSize) })
	case fallocPunchHole | fallocKeepSize:
		r.later(ctx, c, func(ctx context.Context) error { return tree.PunchHole(ctx, ino, off, n) })
	default:
		return fmt.Errorf("fallocate mode %#x: %w", mode, fserr.ErrNotSup)
	}
	return nil
}

// frame is the data of an encoded write.
type frame struct {
	off, n         int64  // range of the file
	ramLen, ramOff uint64 // size when unpacked, and where in it the range begins
	algorithm      uint8  // ondisk.CompressZlib, ...
	sector         int    // of an LZO frame
	data           []byte
}

// encodedWrite stores compressed data as it is, or unpacks it where that cannot be.
func (r *receiver) encodedWrite(ctx context.Context, c *sendstream.Command) error {
	ino, err := r.paths.inode(ctx, c.String(sendstream.AttrPath))
	if err != nil {
		return err
	}
	f, err := parseFrame(c)
	if err != nil {
		return err
	}
	if done, err := r.entryFrame(ctx, c.Bytes(sendstream.AttrPath), &f); done || err != nil {
		return err
	}
	f.data = bytes.Clone(f.data)
	r.later(ctx, c, func(ctx context.Context) error { return r.writeFrame(ctx, ino, &f) })
	return nil
}

// writeFrame is the pipeline's part of encodedWrite.
func (r *receiver) writeFrame(ctx context.Context, ino ondisk.ObjectID, f *frame) error {
	if f.keepable(&r.o) {
		if err := r.allow(ctx, f.algorithm); err != nil {
			return err
		}
		if err := r.sub.Tree.WriteEncoded(ctx, ino, f.encoded(), f.data); err == nil {
			r.o.Stats.Stored.Add(1)
			return nil
		} else if !errors.Is(err, fserr.ErrInvalid) {
			return err
		}
	}
	plain, err := f.unpack()
	if err != nil {
		return err
	}
	if _, err = r.sub.Tree.WriteAt(ctx, ino, plain, f.off); err == nil {
		r.o.Stats.Unpacked.Add(1)
	}
	return err
}

// sectorSize is that of the file systems that the engine writes.
const sectorSize = 4096

// keepable reports whether the frame may be stored as it is.
func (f *frame) keepable(o *Options) bool {
	return !o.ForceDecompress && f.algorithm != ondisk.CompressNone && (f.algorithm != ondisk.CompressLZO || f.sector == sectorSize)
}

func (f *frame) encoded() inode.Encoded {
	return inode.Encoded{Off: f.off, Len: f.n, Algorithm: f.algorithm, RAMLen: f.ramLen, RAMOff: f.ramOff}
}

// parseFrame reads an encoded write. Its numbers are bounded here: nothing unpacks to more than 128 KiB.
func parseFrame(c *sendstream.Command) (f frame, err error) {
	if f.off, err = offset(c, sendstream.AttrFileOffset); err != nil {
		return f, err
	}
	f.ramLen, f.ramOff, f.data = c.Uint(sendstream.AttrUnencodedLen), c.Uint(sendstream.AttrUnencodedOffset), c.Bytes(sendstream.AttrData)
	n, kind := c.Uint(sendstream.AttrUnencodedFileLen), c.Uint(sendstream.AttrCompression)
	switch {
	case f.ramLen > ondisk.MaxUncompressed || len(f.data) > ondisk.MaxCompressed, f.ramOff > f.ramLen || n > f.ramLen-f.ramOff, n == 0:
		return f, fmt.Errorf("%d bytes at %d of %d unpacked from %d: %w", n, f.ramOff, f.ramLen, len(f.data), fserr.ErrInvalid)
	case c.Uint(sendstream.AttrEncryption) != 0:
		return f, fmt.Errorf("encrypted data: %w", fserr.ErrNotSup)
	}
	f.n = int64(n)
	switch {
	case kind == sendstream.EncodedNone:
		f.algorithm = ondisk.CompressNone
	case kind == sendstream.EncodedZlib:
		f.algorithm = ondisk.CompressZlib
	case kind == sendstream.EncodedZstd:
		f.algorithm = ondisk.CompressZstd
	case kind >= sendstream.EncodedLZO4K && kind <= sendstream.EncodedLZO64K:
		f.algorithm, f.sector = ondisk.CompressLZO, 4096<<(kind-sendstream.EncodedLZO4K)
	default:
		return f, fmt.Errorf("compression %d: %w", kind, fserr.ErrNotSup)
	}
	return f, nil
}

// unpack returns the bytes of the range.
func (f *frame) unpack() ([]byte, error) {
	plain := make([]byte, f.ramLen)
	if f.algorithm == ondisk.CompressNone {
		copy(plain, f.data)
	} else if err := compress.Decompress(f.algorithm, plain, f.data, max(f.sector, sectorSize)); err != nil {
		return nil, fmt.Errorf("%s frame: %w", compress.Name(f.algorithm), errors.Join(sendstream.ErrDamaged, err))
	}
	return plain[f.ramOff:][:f.n], nil
}

// allow sets the feature that old kernels do not have which an algorithm needs.
func (r *receiver) allow(ctx context.Context, algorithm uint8) error {
	bits := map[uint8]uint64{ondisk.CompressLZO: ondisk.IncompatCompressLZO, ondisk.CompressZstd: ondisk.IncompatCompressZstd}[algorithm]
	if r.bits.Load()&bits == bits {
		return nil
	}
	if err := r.fs.Incompat(ctx, bits); err != nil {
		return err
	}
	r.bits.Or(bits)
	return nil
}
