package modeltest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// object is an inode as a stream knows it: without a number, reached by its names. What has several names is one object.
type object struct {
	mode           uint32
	uid, gid, rdev uint64
	data           []byte
	target         string
	xattrs         map[string]string
	mtime          *ondisk.Timespec // nil: whatever it is
	kids           map[string]*object
}

// objects is the tree of a volume.
func objects(v *vol) *object {
	known := map[ondisk.ObjectID]*object{}
	var of func(ino ondisk.ObjectID) *object
	of = func(ino ondisk.ObjectID) *object {
		if x := known[ino]; x != nil {
			return x
		}
		n := v.nodes[ino]
		mode := n.mode
		if n.typ() == ondisk.ModeLnk {
			mode |= 0o7777 // no stream sets it
		}
		x := &object{mode: mode, uid: uint64(n.uid), gid: uint64(n.gid), rdev: n.rdev, data: n.data, target: n.target,
			xattrs: maps.Clone(n.xattrs), mtime: n.mtime}
		known[ino] = x
		if n.isDir() {
			x.kids = map[string]*object{}
			for name, kid := range n.entries {
				x.kids[name] = of(kid)
			}
		}
		return x
	}
	return of(inode.RootDir)
}

// diffObjects says how two trees differ, but for the time of their top directories, "" if they do not.
func diffObjects(want, got *object) string {
	top := *want
	top.mtime = nil
	return pairs{}.diff("", &top, got)
}

// pairs are objects of one tree with those of the other that stand for them.
type pairs map[*object]*object

func (p pairs) diff(path string, want, got *object) string {
	if path != "" {
		if other, known := p[want]; known {
			if other != got {
				return fmt.Sprintf("%s is another inode", path)
			}
			return ""
		}
		p[want] = got
	}
	switch {
	case want.mode != got.mode:
		return fmt.Sprintf("%s/: mode %#o, want %#o", path, got.mode, want.mode)
	case want.uid != got.uid || want.gid != got.gid || want.rdev != got.rdev:
		return fmt.Sprintf("%s/: owner %d:%d and device %#x, want %d:%d and %#x", path, got.uid, got.gid, got.rdev, want.uid, want.gid, want.rdev)
	case want.target != got.target:
		return fmt.Sprintf("%s: target %q, want %q", path, got.target, want.target)
	case want.mtime != nil && got.mtime != nil && *want.mtime != *got.mtime:
		return fmt.Sprintf("%s: mtime %v, want %v", path, *got.mtime, *want.mtime)
	case !maps.Equal(want.xattrs, got.xattrs):
		return fmt.Sprintf("%s/: xattrs %.200q, want %.200q", path, got.xattrs, want.xattrs)
	case len(want.kids) != len(got.kids):
		return fmt.Sprintf("%s/: %d names, want %d", path, len(got.kids), len(want.kids))
	}
	if d := diffData(want.data, got.data); d != "" {
		return path + ": " + d
	}
	for name, kid := range want.kids {
		other := got.kids[name]
		if other == nil {
			return fmt.Sprintf("%s/%s is missing", path, name)
		}
		if d := p.diff(path+"/"+name, kid, other); d != "" {
			return d
		}
	}
	return ""
}

// replay carries a stream out on top of what the receiver has: parent, nil for a full one. It is a naive receiver.
func replay(stream []byte, parent *vol) (*object, error) {
	r := &replayed{top: &object{mode: ondisk.ModeDir | 0o755, kids: map[string]*object{}}}
	if parent != nil {
		r.top, r.parent = objects(parent), objects(parent)
	}
	in := sendstream.NewReader(bytes.NewReader(stream))
	if err := in.Begin(); err != nil {
		return nil, err
	}
	for {
		c, err := in.Next()
		if err != nil {
			return nil, err
		}
		if c.Cmd == sendstream.CmdEnd {
			if _, err := in.Next(); err == nil {
				return nil, errors.New("a command behind the end")
			}
			return r.top, nil
		}
		if err := r.command(c); err != nil {
			return nil, fmt.Errorf("offset %d: %v %q: %w", c.Offset, c.Cmd, c.String(sendstream.AttrPath), err)
		}
	}
}

type replayed struct {
	top, parent *object
	uuid        [16]byte
}

// walk finds an object of a tree.
func walk(top *object, path string) (*object, error) {
	x := top
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if x = x.kids[name]; x == nil {
			return nil, fmt.Errorf("%q is not there", path)
		}
	}
	return x, nil
}

// place finds the directory of a path.
func (r *replayed) place(path string) (*object, string, error) {
	at := strings.LastIndexByte(path, '/')
	dir, err := walk(r.top, path[:max(at, 0)])
	if err == nil && dir.kids == nil {
		err = errors.New("not a directory")
	}
	return dir, path[at+1:], err
}

func (r *replayed) enter(path string, x *object) error {
	dir, name, err := r.place(path)
	if err == nil && dir.kids[name] != nil {
		err = errors.New("the name is taken")
	}
	if err == nil {
		dir.kids[name] = x
	}
	return err
}

func (r *replayed) leave(path string) (*object, error) {
	dir, name, err := r.place(path)
	if err != nil {
		return nil, err
	}
	x := dir.kids[name]
	if x == nil {
		return nil, errors.New("it is not there")
	}
	delete(dir.kids, name)
	return x, nil
}

func (r *replayed) command(c *sendstream.Command) error {
	path := c.String(sendstream.AttrPath)
	switch c.Cmd {
	case sendstream.CmdSubvol, sendstream.CmdSnapshot:
		r.uuid = c.UUID(sendstream.AttrUUID)
		return nil
	case sendstream.CmdMkfile:
		return r.enter(path, &object{mode: ondisk.ModeReg | 0o600})
	case sendstream.CmdMkdir:
		return r.enter(path, &object{mode: ondisk.ModeDir | 0o700, kids: map[string]*object{}})
	case sendstream.CmdMkfifo:
		return r.enter(path, &object{mode: ondisk.ModeFifo | 0o600})
	case sendstream.CmdMksock:
		return r.enter(path, &object{mode: ondisk.ModeSock | 0o600})
	case sendstream.CmdMknod:
		d := c.Uint(sendstream.AttrRdev) // 12 bits of major between 8 and 12 bits of minor
		return r.enter(path, &object{mode: uint32(c.Uint(sendstream.AttrMode)), rdev: inode.MakeRdev(uint32(d>>8)&0xfff, uint32(d&0xff|d>>12&0xfff00))})
	case sendstream.CmdSymlink:
		return r.enter(path, &object{mode: ondisk.ModeLnk | 0o7777, target: c.String(sendstream.AttrPathLink)})
	case sendstream.CmdRename:
		x, err := r.leave(path)
		if err != nil {
			return err
		}
		to := c.String(sendstream.AttrPathTo)
		if dir, name, err := r.place(to); err == nil {
			delete(dir.kids, name)
		}
		return r.enter(to, x)
	case sendstream.CmdLink:
		x, err := walk(r.top, c.String(sendstream.AttrPathLink))
		if err != nil {
			return err
		}
		return r.enter(path, x)
	case sendstream.CmdUnlink, sendstream.CmdRmdir:
		x, err := r.leave(path)
		if err == nil && (x.kids != nil) != (c.Cmd == sendstream.CmdRmdir) || err == nil && len(x.kids) > 0 {
			err = fmt.Errorf("mode %#o, with %d names", x.mode, len(x.kids))
		}
		return err
	}
	x, err := walk(r.top, path)
	if err != nil {
		return err
	}
	return r.change(x, c)
}

// change carries out a command on one object.
func (r *replayed) change(x *object, c *sendstream.Command) error {
	off := int64(c.Uint(sendstream.AttrFileOffset))
	switch c.Cmd {
	case sendstream.CmdSetXattr, sendstream.CmdRemoveXattr:
		x.xattrs = maps.Clone(x.xattrs)
		if x.xattrs == nil {
			x.xattrs = map[string]string{}
		}
		if x.xattrs[c.String(sendstream.AttrXattrName)] = c.String(sendstream.AttrXattrData); c.Cmd == sendstream.CmdRemoveXattr {
			delete(x.xattrs, c.String(sendstream.AttrXattrName))
		}
	case sendstream.CmdChmod:
		x.mode = x.mode&ondisk.ModeFmt | uint32(c.Uint(sendstream.AttrMode))
	case sendstream.CmdChown:
		x.uid, x.gid = c.Uint(sendstream.AttrUID), c.Uint(sendstream.AttrGID)
	case sendstream.CmdUtimes:
		sec, nsec := c.Time(sendstream.AttrMTime)
		x.mtime = &ondisk.Timespec{Sec: sec, Nsec: nsec}
	case sendstream.CmdTruncate:
		x.data = resize(x.data[:min(uint64(len(x.data)), c.Uint(sendstream.AttrSize))], int64(c.Uint(sendstream.AttrSize)))
	case sendstream.CmdWrite:
		x.data = write(x.data, c.Bytes(sendstream.AttrData), off)
	case sendstream.CmdClone:
		return r.clone(x, c, off)
	case sendstream.CmdFallocate:
		n := int64(c.Uint(sendstream.AttrSize))
		if c.Uint(sendstream.AttrFallocateMode)&2 != 0 { // punch
			x.data = zeroed(x.data, off, off+n)
		}
	case sendstream.CmdFileattr:
	default:
		return errors.New("no stream of the model has that")
	}
	return nil
}

func (r *replayed) clone(x *object, c *sendstream.Command, off int64) error {
	top := r.parent
	if c.UUID(sendstream.AttrCloneUUID) == r.uuid {
		top = r.top
	}
	if top == nil {
		return errors.New("from a subvolume that the receiver does not have")
	}
	src, err := walk(top, c.String(sendstream.AttrClonePath))
	if err != nil {
		return err
	}
	from, n := c.Uint(sendstream.AttrCloneOffset), c.Uint(sendstream.AttrCloneLen)
	if from+n > uint64(len(src.data)) {
		return fmt.Errorf("%d bytes at %d of %d: %w", n, from, len(src.data), io.ErrUnexpectedEOF)
	}
	x.data = write(x.data, src.data[from:from+n], off)
	return nil
}
