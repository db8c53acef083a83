package receive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/inode/compress"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

// plain is a receiver without any cleverness: it carries out one command after the other by itself, looks each path up
// from the top, gathers nothing and remembers nothing. What package receive makes of a stream must be the same.
type plain struct {
	fs     *engine.FS
	dir    subvol.Place // but for the name
	sub    *subvol.Incoming
	uuid   ondisk.UUID
	trans  ondisk.Generation
	failed []error
}

var errPlain = errors.New("refused")

// receive receives a whole input, with any number of failing commands. An error is one that ends it.
func (p *plain) receive(ctx context.Context, in io.Reader) error {
	r := sendstream.NewReader(in)
	for first := true; ; first = false {
		if err := r.Begin(); err == io.EOF && !first {
			return nil
		} else if err != nil {
			return err
		}
		for end := false; !end; {
			c, err := r.Next()
			if err != nil {
				return err
			}
			switch end = c.Cmd == sendstream.CmdEnd; c.Cmd {
			case sendstream.CmdEnd:
				err = p.finish(ctx)
			case sendstream.CmdSubvol, sendstream.CmdSnapshot:
				if err = p.finish(ctx); err == nil {
					err = p.begin(ctx, c)
				}
			default:
				if p.sub == nil {
					return sendstream.ErrDamaged
				}
				if e := p.command(ctx, c); e != nil {
					p.failed = append(p.failed, fmt.Errorf("offset %d: %v: %w", c.Offset, c.Cmd, e))
				}
			}
			if err != nil {
				return err
			}
		}
	}
}

func (p *plain) begin(ctx context.Context, c *sendstream.Command) (err error) {
	p.uuid, p.trans = c.UUID(sendstream.AttrUUID), ondisk.Generation(c.Uint(sendstream.AttrCTransID))
	name, parent := c.String(attrPath), subvol.Info{}
	if p.uuid.IsZero() || badName(name) {
		return errPlain
	}
	if c.Cmd == sendstream.CmdSnapshot {
		parent, err = p.fs.Subvols().FindSent(ctx, c.UUID(sendstream.AttrCloneUUID), ondisk.Generation(c.Uint(sendstream.AttrCloneCTransID)))
		if err != nil || !parent.Readonly {
			return errors.Join(errPlain, err)
		}
	}
	place := p.dir
	place.Name = name
	p.sub, err = p.fs.Subvols().Begin(ctx, place, parent.ID)
	return err
}

func (p *plain) finish(ctx context.Context) error {
	if p.sub == nil {
		return nil
	}
	sub := p.sub
	p.sub = nil
	if err := sub.Finish(ctx, subvol.Received{UUID: p.uuid, STransID: p.trans}); err != nil {
		return err
	}
	return p.fs.Commit(ctx)
}

func badName(s string) bool {
	return s == "" || s == "." || s == ".." || strings.Contains(s, "/") || len(s) > 255
}

// parent walks to the directory of a path.
func (p *plain) parent(ctx context.Context, tree *inode.FileTree, path string) (ondisk.ObjectID, string, error) {
	names := strings.Split(path, "/")
	dir, last := ondisk.ObjectID(inode.RootDir), names[len(names)-1]
	if len(path) > 4095 || badName(last) {
		return 0, "", errPlain
	}
	for _, name := range names[:len(names)-1] {
		if badName(name) {
			return 0, "", errPlain
		}
		e, err := tree.Lookup(ctx, dir, name)
		if err != nil || e.IsSubvol() || e.Type != ondisk.FTDir {
			return 0, "", errors.Join(errPlain, err)
		}
		dir = e.Ino()
	}
	return dir, last, nil
}

func (p *plain) inode(ctx context.Context, tree *inode.FileTree, path string) (ondisk.ObjectID, error) {
	if path == "" {
		return inode.RootDir, nil
	}
	dir, name, err := p.parent(ctx, tree, path)
	if err != nil {
		return 0, err
	}
	e, err := tree.Lookup(ctx, dir, name)
	if err != nil || e.IsSubvol() {
		return 0, errors.Join(errPlain, err)
	}
	return e.Ino(), nil
}

func (p *plain) command(ctx context.Context, c *sendstream.Command) error {
	tree, path := p.sub.Tree, c.String(attrPath)
	for _, t := range []sendstream.AttrType{attrPath, attrPathTo, attrLink, sendstream.AttrClonePath} {
		if len(c.Bytes(t)) > 4095 {
			return errPlain
		}
	}
	switch c.Cmd {
	case sendstream.CmdUpdateExtent, sendstream.CmdFileattr:
		return nil
	case sendstream.CmdEnableVerity:
		return errPlain
	case sendstream.CmdMkfile, sendstream.CmdMkdir, sendstream.CmdMknod, sendstream.CmdMkfifo, sendstream.CmdMksock, sendstream.CmdSymlink,
		sendstream.CmdRename, sendstream.CmdLink, sendstream.CmdUnlink, sendstream.CmdRmdir:
		return p.name(ctx, tree, path, c)
	}
	ino, err := p.inode(ctx, tree, path)
	if err != nil {
		return err
	}
	num := func(t sendstream.AttrType) int64 {
		if c.Uint(t) > math.MaxInt64 {
			err = fserr.ErrFileTooBig
		}
		return int64(c.Uint(t))
	}
	off, size := num(sendstream.AttrFileOffset), num(sendstream.AttrSize)
	if err != nil {
		return err
	}
	switch c.Cmd {
	case sendstream.CmdWrite:
		if data := c.Bytes(sendstream.AttrData); len(data) > 0 {
			_, err = tree.WriteAt(ctx, ino, data, off)
		}
		return err
	case sendstream.CmdEncodedWrite:
		return p.encoded(ctx, tree, ino, c)
	case sendstream.CmdClone:
		return p.clone(ctx, tree, ino, c)
	case sendstream.CmdTruncate:
		return tree.Truncate(ctx, ino, size)
	case sendstream.CmdFallocate:
		switch mode := c.Uint(sendstream.AttrFallocateMode); mode {
		case 0, 1:
			return tree.Fallocate(ctx, ino, off, size, mode == 1)
		case 3:
			return tree.PunchHole(ctx, ino, off, size)
		}
		return errPlain
	case sendstream.CmdSetXattr, sendstream.CmdRemoveXattr:
		return p.xattr(ctx, tree, ino, c)
	}
	return p.attrs(ctx, tree, ino, c)
}

// name is a command about names.
func (p *plain) name(ctx context.Context, tree *inode.FileTree, path string, c *sendstream.Command) error {
	dir, name, err := p.parent(ctx, tree, path)
	if err != nil {
		return err
	}
	switch c.Cmd {
	case sendstream.CmdMkfile:
		_, err = tree.Create(ctx, dir, name, inode.Attr{Mode: 0o600})
	case sendstream.CmdMkdir:
		_, err = tree.Mkdir(ctx, dir, name, inode.Attr{Mode: 0o700})
	case sendstream.CmdSymlink:
		_, err = tree.Symlink(ctx, dir, name, c.String(attrLink), inode.Attr{})
	case sendstream.CmdMkfifo:
		_, err = tree.Mknod(ctx, dir, name, 0, inode.Attr{Mode: ondisk.ModeFifo | 0o600})
	case sendstream.CmdMksock:
		_, err = tree.Mknod(ctx, dir, name, 0, inode.Attr{Mode: ondisk.ModeSock | 0o600})
	case sendstream.CmdMknod:
		m, d := c.Uint(sendstream.AttrMode), c.Uint(sendstream.AttrRdev)
		if typ := uint32(m) & ondisk.ModeFmt; typ != ondisk.ModeChr && typ != ondisk.ModeBlk || m>>16 != 0 || d>>32 != 0 {
			return errPlain
		}
		major, minor := d>>8&0xfff, d&0xff|d>>12&0xfff00
		_, err = tree.Mknod(ctx, dir, name, inode.MakeRdev(uint32(major), uint32(minor)), inode.Attr{Mode: uint32(m)})
	case sendstream.CmdRename:
		toDir, toName, err := p.parent(ctx, tree, c.String(attrPathTo))
		if err != nil {
			return err
		}
		return tree.Rename(ctx, dir, name, toDir, toName, inode.RenameReplace)
	case sendstream.CmdLink:
		ino, err := p.inode(ctx, tree, c.String(attrLink))
		if err != nil {
			return err
		}
		return tree.Link(ctx, ino, dir, name)
	case sendstream.CmdUnlink:
		err = tree.Unlink(ctx, dir, name)
	case sendstream.CmdRmdir:
		err = tree.Rmdir(ctx, dir, name)
	}
	return err
}

func (p *plain) xattr(ctx context.Context, tree *inode.FileTree, ino ondisk.ObjectID, c *sendstream.Command) error {
	name := c.String(sendstream.AttrXattrName)
	space, rest, _ := strings.Cut(name, ".")
	switch {
	case name == "system.posix_acl_access" || name == "system.posix_acl_default":
	case rest != "" && (space == "user" || space == "trusted" || space == "security" || space == "btrfs"):
	default:
		return errPlain
	}
	if c.Cmd == sendstream.CmdRemoveXattr {
		return tree.RemoveXattr(ctx, ino, name)
	}
	return tree.SetXattr(ctx, ino, name, c.Bytes(sendstream.AttrXattrData), inode.XattrAny)
}

func (p *plain) attrs(ctx context.Context, tree *inode.FileTree, ino ondisk.ObjectID, c *sendstream.Command) error {
	var a inode.SetAttr
	switch c.Cmd {
	case sendstream.CmdChmod:
		mode := uint32(c.Uint(sendstream.AttrMode)) & ondisk.ModePerm
		a.Mode = &mode
	case sendstream.CmdChown:
		u, g := c.Uint(sendstream.AttrUID), c.Uint(sendstream.AttrGID)
		if u>>32 != 0 || g>>32 != 0 {
			return errPlain
		}
		uid, gid := uint32(u), uint32(g)
		a.UID, a.GID = &uid, &gid
	case sendstream.CmdUtimes:
		for t, to := range map[sendstream.AttrType]**ondisk.Timespec{sendstream.AttrATime: &a.Access, sendstream.AttrMTime: &a.Modify, sendstream.AttrOTime: &a.Birth} {
			if _, ok := c.Get(t); ok {
				sec, nsec := c.Time(t)
				*to = &ondisk.Timespec{Sec: sec, Nsec: nsec}
			}
		}
	}
	return tree.SetAttrs(ctx, ino, a)
}

func (p *plain) clone(ctx context.Context, tree *inode.FileTree, ino ondisk.ObjectID, c *sendstream.Command) error {
	src := tree
	if id := c.UUID(sendstream.AttrCloneUUID); id != p.uuid {
		in, err := p.fs.Subvols().FindSent(ctx, id, ondisk.Generation(c.Uint(sendstream.AttrCloneCTransID)))
		if err != nil {
			return err
		}
		if src, err = p.fs.Subvolume(ctx, in.ID); err != nil {
			return err
		}
	}
	if len(c.Bytes(sendstream.AttrClonePath)) > 4095 {
		return errPlain
	}
	from, err := p.inode(ctx, src, c.String(sendstream.AttrClonePath))
	off, n, to := c.Uint(sendstream.AttrCloneOffset), c.Uint(sendstream.AttrCloneLen), c.Uint(sendstream.AttrFileOffset)
	if err != nil || max(off, n, to) > math.MaxInt64 {
		return errors.Join(errPlain, err)
	}
	if n == 0 {
		return nil
	}
	return tree.CloneRange(ctx, inode.Clone{Src: src, SrcIno: from, SrcOff: int64(off), N: int64(n), Ino: ino, Off: int64(to)})
}

// encoded always unpacks.
func (p *plain) encoded(ctx context.Context, tree *inode.FileTree, ino ondisk.ObjectID, c *sendstream.Command) error {
	ram, off, n := c.Uint(sendstream.AttrUnencodedLen), c.Uint(sendstream.AttrUnencodedOffset), c.Uint(sendstream.AttrUnencodedFileLen)
	data, kind := c.Bytes(sendstream.AttrData), c.Uint(sendstream.AttrCompression)
	if ram > 128<<10 || len(data) > 128<<10 || off > ram || n > ram-off || n == 0 || c.Uint(sendstream.AttrEncryption) != 0 ||
		kind > sendstream.EncodedLZO64K || c.Uint(sendstream.AttrFileOffset) > math.MaxInt64 {
		return errPlain
	}
	out, algorithm, sector := make([]byte, ram), uint8(ondisk.CompressLZO), 4096
	switch kind {
	case sendstream.EncodedNone:
		algorithm = ondisk.CompressNone
	case sendstream.EncodedZlib:
		algorithm = ondisk.CompressZlib
	case sendstream.EncodedZstd:
		algorithm = ondisk.CompressZstd
	default:
		sector = 4096 << (kind - sendstream.EncodedLZO4K)
	}
	if algorithm == ondisk.CompressNone {
		copy(out, data)
	} else if err := compress.Decompress(algorithm, out, data, sector); err != nil {
		return err
	}
	_, err := tree.WriteAt(ctx, ino, out[off:][:n], int64(c.Uint(sendstream.AttrFileOffset)))
	return err
}

// theTime is when likePlain receives, in seconds.
const theTime = 1_800_000_000

var mtimeField = regexp.MustCompile(`,"mtime":\d+`)

// withoutNow takes the modification times out of two manifests where the plain way has the time of receiving: a batch may
// keep a time that the stream has set before a name came to the directory, or data to the file.
func withoutNow(got, want []byte) ([]byte, []byte) {
	a, b := bytes.Split(got, []byte("\n")), bytes.Split(want, []byte("\n"))
	now := fmt.Appendf(nil, `,"mtime":%d000000000,`, theTime)
	for i := range b {
		if bytes.Contains(b[i], now) && i < len(a) {
			a[i], b[i] = mtimeField.ReplaceAll(a[i], nil), mtimeField.ReplaceAll(b[i], nil)
		}
	}
	return bytes.Join(a, []byte("\n")), bytes.Join(b, []byte("\n"))
}

// likePlain receives a stream, tolerating all errors, in the plain way and with package receive, which unpacks compressed
// data or keeps it as it is, and compares what has become of it. What runs out of space or room may do so at different
// places.
func (b *base) likePlain(t testing.TB, stream []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ref := b.openCopy(ctx, t)
	defer ref.Close()
	ns, err := ref.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	in, err := ns.Walk(ctx, "in", false)
	if err != nil {
		t.Fatal(err)
	}
	p := &plain{fs: ref, dir: subvol.Place{Tree: in.Tree.ID(), Dir: in.Ino}}
	refused := p.receive(ctx, bytes.NewReader(stream))
	if p.sub != nil {
		if err := p.sub.Discard(ctx); err != nil {
			t.Fatal(err)
		}
	}
	badFrame := false
	for _, err := range append(p.failed, refused) {
		badFrame = badFrame || err != nil && strings.Contains(err.Error(), sendstream.CmdEncodedWrite.String())
		if lacksRoom(err) {
			return
		}
	}
	b.compareWith(ctx, t, p, refused, stream, true)
	if !badFrame { // which is stored unseen, and found bad by whoever reads it
		b.compareWith(ctx, t, p, refused, stream, false)
	}
}

func lacksRoom(err error) bool {
	return errors.Is(err, fserr.ErrNoSpace) && !errors.Is(err, fserr.ErrItemFull) || errors.Is(err, fserr.ErrFileTooBig)
}

// openCopy opens a copy of the image, in which it is always the same time.
func (b *base) openCopy(ctx context.Context, t testing.TB) *engine.FS {
	t.Helper()
	fs, err := engine.OpenDevices(ctx, []disk.Device{b.mem.Clone()}, engine.OpenOptions{Now: func() time.Time { return time.Unix(theTime, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// compareWith receives with package receive and compares with what p has made, which has ended with refused.
func (b *base) compareWith(ctx context.Context, t testing.TB, p *plain, refused error, stream []byte, unpack bool) {
	t.Helper()
	fs := b.openCopy(ctx, t)
	defer fs.Close()
	var failed []error
	o := receive.Options{MaxErrors: -1, ForceDecompress: unpack, Failed: func(err error) { failed = append(failed, err) }}
	_, err := fs.Receive(ctx, bytes.NewReader(stream), engine.ReceiveOptions{Path: "in", Options: o})
	if slices.ContainsFunc(append(failed, err), lacksRoom) {
		return
	}
	if (err == nil) != (refused == nil) {
		t.Fatalf("received: %v\nin the plain way: %v", err, refused)
	}
	// What is on its way when a stream breaks off is not waited for, so its errors need not be known.
	if err == nil && (len(failed) == 0) != (len(p.failed) == 0) {
		t.Fatalf("failed: %v\nin the plain way: %v", errors.Join(failed...), errors.Join(p.failed...))
	}
	names := entriesOf(t, p.fs, "in")
	if got := entriesOf(t, fs, "in"); !slices.Equal(got, names) {
		t.Fatalf("subvolumes %q, in the plain way %q", got, names)
	}
	for _, name := range names {
		got, want := withoutNow(noInos(manifestAt(t, fs, "in/"+name)), noInos(manifestAt(t, p.fs, "in/"+name)))
		if diff := oracle.ManifestDiff(got, want); diff != "" {
			t.Fatalf("%s (-), in the plain way (+), unpacked %v:\n%s\nfailed: %v\nin the plain way: %v", name, unpack, diff,
				errors.Join(failed...), errors.Join(p.failed...))
		}
	}
}
