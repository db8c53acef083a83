package crashsim

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

// stream is a send stream with what must come out of it.
type stream struct {
	raw      []byte
	name     string // that it gives the subvolume
	uuid     ondisk.UUID
	transid  ondisk.Generation
	needs    map[ondisk.UUID]bool // parent and clone sources, but for itself
	want     []byte               // asReceived
	clones   int
	encoded  int
	snapshot bool // incremental
}

// newStream parses a stream of a subvolume with manifest m.
func newStream(raw, m []byte) (*stream, error) {
	s := &stream{raw: raw, needs: map[ondisk.UUID]bool{}}
	var err error
	if s.want, err = asReceived(m); err != nil {
		return nil, err
	}
	r := sendstream.NewReader(bytes.NewReader(raw))
	if err := r.Begin(); err != nil {
		return nil, err
	}
	for {
		c, err := r.Next()
		if err != nil {
			return nil, err
		}
		switch c.Cmd {
		case sendstream.CmdEnd:
			return s, nil
		case sendstream.CmdSubvol, sendstream.CmdSnapshot:
			s.name, s.uuid, s.transid = c.String(sendstream.AttrPath), c.UUID(sendstream.AttrUUID), ondisk.Generation(c.Uint(sendstream.AttrCTransID))
			if s.snapshot = c.Cmd == sendstream.CmdSnapshot; s.snapshot {
				s.needs[c.UUID(sendstream.AttrCloneUUID)] = true
			}
		case sendstream.CmdClone:
			s.clones++
			if u := c.UUID(sendstream.AttrCloneUUID); u != s.uuid {
				s.needs[u] = true
			}
		case sendstream.CmdEncodedWrite:
			s.encoded++
		}
	}
}

// parts cuts the stream into about n parts between commands, the first of which begins the subvolume. With settled each
// ends with a file that is made and removed again: a receiver that works behind its reading has done everything by then,
// since it waits before it removes a name.
func (s *stream) parts(n int, settled bool) (parts [][]byte, err error) {
	r := sendstream.NewReader(bytes.NewReader(s.raw))
	if err := r.Begin(); err != nil {
		return nil, err
	}
	from := 0
	for {
		c, err := r.Next()
		if err != nil {
			return nil, err
		}
		at := int(r.Offset())
		if c.Cmd == sendstream.CmdEnd {
			return append(parts, s.raw[from:]), nil
		}
		if at-from <= len(s.raw)/n {
			continue
		}
		part := bytes.Clone(s.raw[from:at])
		if settled {
			var more bytes.Buffer
			if err := pause(&more, r.Version()); err != nil {
				return nil, err
			}
			part = append(part, more.Bytes()...)
		}
		parts, from = append(parts, part), at
	}
}

// pause writes the commands that make a file and remove it.
func pause(out io.Writer, version uint32) error {
	w, err := sendstream.NewWriter(out, version)
	if err != nil {
		return err
	}
	const name = ".pause"
	w.Begin(sendstream.CmdMkfile)
	w.String(sendstream.AttrPath, name)
	w.Uint(sendstream.AttrIno, 1<<40)
	err = w.End()
	w.Begin(sendstream.CmdUnlink)
	w.String(sendstream.AttrPath, name)
	return errors.Join(err, w.End())
}

func (s *stream) String() string {
	return fmt.Sprintf("stream %s of %d bytes, incremental %v, %d clones, %d encoded writes", s.name, len(s.raw), s.snapshot, s.clones, s.encoded)
}

// foreign are the streams of another image, the same in every run but for their UUIDs: of a subvolume, and of what has
// become of it, each in versions 1 and 2, the latter with compressed data.
var foreign = sync.OnceValues(func() ([]*stream, error) {
	ctx := context.Background()
	fs, err := engine.FormatDevice(ctx, disk.NewMem("foreign", 128<<20), engine.FormatOptions{Options: mkfs.Default(), Size: 128 << 20})
	if err != nil {
		return nil, err
	}
	list, err := makeForeign(ctx, fs)
	return list, errors.Join(err, fs.Close())
})

func makeForeign(ctx context.Context, fs *engine.FS) (list []*stream, err error) {
	id, err := fs.CreateSubvolume(ctx, "s", subvol.CreateOptions{})
	if err != nil {
		return nil, err
	}
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, v := range []struct {
		name, parent string
		fill         func(*author)
	}{{"fa", "", firstVersion}, {"fb", "fa", secondVersion}} {
		a := &author{ctx: ctx, tree: tree}
		if v.fill(a); a.err != nil {
			return nil, a.err
		}
		if id, err = fs.Snapshot(ctx, "s", v.name, true); err != nil {
			return nil, err
		}
		m, err := manifestOf(ctx, fs, id)
		if err != nil {
			return nil, err
		}
		for version := uint32(1); version <= 2; version++ {
			var raw bytes.Buffer
			o := engine.SendOptions{Path: v.name, ParentPath: v.parent}
			o.Version, o.Compressed = version, version == 2
			if err := fs.Send(ctx, &raw, o); err != nil {
				return nil, err
			}
			s, err := newStream(raw.Bytes(), m)
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
	}
	return list, nil
}

// author writes a tree, until the first error.
type author struct {
	ctx  context.Context
	tree *inode.FileTree
	err  error
}

func (a *author) did(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *author) file(name string, data []byte) ondisk.ObjectID {
	ino, err := a.tree.Create(a.ctx, inode.RootDir, name, inode.Attr{Mode: 0o640})
	a.did(err)
	a.write(ino, 0, data)
	return ino
}

func (a *author) write(ino ondisk.ObjectID, off int64, data []byte) {
	if len(data) > 0 {
		_, err := a.tree.WriteAt(a.ctx, ino, data, off)
		a.did(err)
	}
}

// packedSize is what one compressed extent unpacks to.
const packedSize = 32 << 10

// packed writes a compressed extent.
func (a *author) packed(ino ondisk.ObjectID, off int64, algorithm uint8, text string) {
	const n = packedSize
	plain := bytes.Repeat([]byte(text), n/len(text)+1)[:n]
	var frame bytes.Buffer
	if algorithm == ondisk.CompressZlib {
		z := zlib.NewWriter(&frame)
		_, err := z.Write(plain)
		a.did(errors.Join(err, z.Close()))
	} else {
		z, err := zstd.NewWriter(&frame, zstd.WithWindowSize(n)) // what the format allows
		a.did(err)
		_, err = z.Write(plain)
		a.did(errors.Join(err, z.Close()))
	}
	a.did(a.tree.WriteEncoded(a.ctx, ino, inode.Encoded{Off: off, Len: n, Algorithm: algorithm, RAMLen: n}, frame.Bytes()))
}

func (a *author) clone(src, dst ondisk.ObjectID, srcOff, n, off int64) {
	a.did(a.tree.CloneRange(a.ctx, inode.Clone{Src: a.tree, SrcIno: src, SrcOff: srcOff, N: n, Ino: dst, Off: off}))
}

func firstVersion(a *author) {
	plain := a.file("plain", content(1, 80_000))
	small := a.file("small", content(2, 700))
	packed := a.file("packed", nil)
	a.packed(packed, 0, ondisk.CompressZlib, "zlib and ")
	a.packed(packed, packedSize, ondisk.CompressZstd, "zstd and ")
	shared := a.file("shared", content(3, 5000))
	a.clone(plain, shared, 16<<10, 32<<10, 64<<10)
	dir, err := a.tree.Mkdir(a.ctx, inode.RootDir, "dir", inode.Attr{Mode: 0o750})
	a.did(err)
	a.did(a.tree.Link(a.ctx, small, dir, "hard"))
	_, err = a.tree.Symlink(a.ctx, dir, "symbolic", "../plain", inode.Attr{})
	a.did(err)
	_, err = a.tree.Mknod(a.ctx, dir, "device", inode.MakeRdev(8, 300), inode.Attr{Mode: ondisk.ModeBlk | 0o600})
	a.did(err)
	a.did(a.tree.SetXattr(a.ctx, plain, "user.x", []byte("value"), inode.XattrAny))
	for i := range 30 {
		a.file(fmt.Sprintf("many%d", i), content(uint32(10+i), 300+40*i))
	}
	prealloc := a.file("prealloc", content(4, 10))
	a.did(a.tree.Fallocate(a.ctx, prealloc, 0, 60_000, false))
}

func secondVersion(a *author) {
	ino := func(name string) ondisk.ObjectID {
		e, err := a.tree.Lookup(a.ctx, inode.RootDir, name)
		a.did(err)
		return e.Ino()
	}
	plain, packed := ino("plain"), ino("packed")
	a.write(plain, 20_000, content(5, 9000))
	a.did(a.tree.Truncate(a.ctx, plain, 70_000))
	a.did(a.tree.PunchHole(a.ctx, ino("shared"), 64<<10, 8<<10))
	a.packed(packed, 0, ondisk.CompressZstd, "other and ")
	again := a.file("again", nil)
	a.clone(packed, again, 0, 48<<10, 0)
	a.clone(plain, again, 40<<10, 16<<10, 128<<10)
	a.did(a.tree.Rename(a.ctx, inode.RootDir, "dir", inode.RootDir, "moved", inode.RenameReplace))
	a.did(a.tree.Rename(a.ctx, inode.RootDir, "many1", inode.RootDir, "many2", inode.RenameExchange))
	a.did(a.tree.Rename(a.ctx, inode.RootDir, "many3", inode.RootDir, "many4", inode.RenameReplace))
	a.did(a.tree.Unlink(a.ctx, inode.RootDir, "small")) // its other name stays
	a.did(a.tree.RemoveXattr(a.ctx, plain, "user.x"))
	a.did(a.tree.Chmod(a.ctx, again, 0o604))
	for i := 10; i < 20; i++ {
		a.did(a.tree.Unlink(a.ctx, inode.RootDir, fmt.Sprintf("many%d", i)))
	}
	_, err := a.tree.Mkdir(a.ctx, inode.RootDir, "many10", inode.Attr{Mode: 0o700})
	a.did(err)
}
