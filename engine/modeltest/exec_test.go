package modeltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// try carries an operation out and compares.
func (c *client) try(ctx context.Context, o op, n *note) error {
	switch o.kind {
	case opSubvolume, opSnapshot, opDelete, opClean, opReadonly, opCommit, opShared:
		return c.tryVolume(ctx, o, n)
	case opSend, opReceive:
		return c.trySend(ctx, o, n)
	case opUseOpen, opCloseFile:
		return c.tryOpen(o, n)
	}
	s, err := c.at(ctx, o.a, o.b, n)
	if err != nil {
		_, err = c.judge(o, n, nil, err, nil)
		return err
	}
	if s.v == nil {
		n.idle = true
		return nil
	}
	switch o.kind {
	case opRead, opList, opWalk, opView:
		return c.tryRead(ctx, o, n, s)
	case opWrite, opAppend, opTruncate, opPunch, opFallocate, opClone, opOpen:
		return c.tryData(ctx, o, n, s)
	case opCreate, opMkdir, opSymlink, opMknod:
		return c.tryMake(ctx, o, n, s)
	case opSetXattr, opRemoveXattr, opAttr, opTimes:
		return c.tryAttr(ctx, o, n, s)
	}
	return c.tryName(ctx, o, n, s)
}

// tryMake makes an inode.
func (c *client) tryMake(ctx context.Context, o op, n *note, s spot) error {
	made := &node{mode: ondisk.ModeReg | 0o600 + o.c%0o100, uid: o.d % 3, gid: o.d / 3 % 3, nlink: 1}
	a := inode.Attr{Mode: made.mode & 0o7777, UID: made.uid, GID: made.gid}
	var make func() (ondisk.ObjectID, error)
	switch o.kind {
	case opCreate:
		if o.d/16%8 == 0 && c.w.cfg.nocow {
			made.nocow = true
			a.Flags = ondisk.InodeNoDataCow | ondisk.InodeNoDataSum
		}
		make = func() (ondisk.ObjectID, error) { return s.tree.Create(ctx, s.dir, s.name, a) }
	case opMkdir:
		made.mode, made.parent = ondisk.ModeDir|a.Mode, s.dir
		make = func() (ondisk.ObjectID, error) { return s.tree.Mkdir(ctx, s.dir, s.name, a) }
	case opSymlink:
		made.mode, made.target = ondisk.ModeLnk|0o777, fmt.Sprintf("../%d/%s", o.c, names[o.d%10])
		make = func() (ondisk.ObjectID, error) { return s.tree.Symlink(ctx, s.dir, s.name, made.target, a) }
	case opMknod:
		made.mode = made.mode&0o7777 | []uint32{ondisk.ModeFifo, ondisk.ModeSock, ondisk.ModeChr, ondisk.ModeBlk}[o.d/16%4]
		a.Mode = made.mode
		rdev := uint64(0)
		if t := made.typ(); t == ondisk.ModeChr || t == ondisk.ModeBlk {
			rdev = inode.MakeRdev(o.c%200, o.c/200%1000)
			made.rdev = rdev
		}
		make = func() (ondisk.ObjectID, error) { return s.tree.Mknod(ctx, s.dir, s.name, rdev, a) }
	}
	if d := s.v.nodes[s.dir]; d.mode&0o2000 != 0 { // the group is inherited, and by directories the bit
		made.gid = d.gid
		if made.isDir() {
			made.mode |= 0o2000
		}
	}
	var want error
	if s.n != nil {
		want = fserr.ErrExist
	}
	return c.change(o, n, s, want, func() *vol {
		e := s.v.edit()
		e.put(made, s.dir, s.name)
		return e.v
	}, func() (err error) {
		made.ino, err = make()
		return err
	})
}

// tryName does what concerns names only.
func (c *client) tryName(ctx context.Context, o op, n *note, s spot) error {
	var want error
	if s.n == nil {
		want = fserr.ErrNotFound
	}
	switch o.kind {
	case opUnlink, opRmdir:
		if o.kind == opRmdir && o.d%4 != 0 && s.settle(n, func(x *node) bool { return x.isDir() && len(x.entries) == 0 }) {
			want = nil
		}
		switch dir := o.kind == opRmdir; {
		case s.n == nil:
		case dir && !s.n.isDir():
			want = fserr.ErrNotDir
		case !dir && s.n.isDir():
			want = fserr.ErrIsDir
		case dir && len(s.n.entries) > 0:
			want = fserr.ErrNotEmpty
		}
		return c.change(o, n, s, want, func() *vol {
			e := s.v.edit()
			e.leave(s.dir, s.name)
			e.drop(s.n.ino)
			c.orphan(s.n, s.v.id)
			return e.v
		}, func() error {
			if o.kind == opRmdir {
				return s.tree.Rmdir(ctx, s.dir, s.name)
			}
			return s.tree.Unlink(ctx, s.dir, s.name)
		})
	case opLink:
		if !s.settle(n, func(x *node) bool { return !x.isDir() }) {
			n.idle = true
			return nil
		}
		to, err := c.at(ctx, o.a, o.c, n)
		if err != nil {
			_, err = c.judge(o, n, nil, err, nil)
			return err
		}
		if want = nil; to.n != nil {
			want = fserr.ErrExist
		}
		n.what += " to inode " + fmt.Sprint(s.n.ino)
		return c.change(o, n, s, want, func() *vol {
			e := s.v.edit()
			e.enter(to.dir, to.name, s.n.ino)
			e.node(s.n.ino).nlink++
			return e.v
		}, func() error { return s.tree.Link(ctx, s.n.ino, to.dir, to.name) })
	}
	return c.tryRename(ctx, o, n, s)
}

func (c *client) tryRename(ctx context.Context, o op, n *note, s spot) error {
	if s.n == nil && o.d%8 != 0 {
		s.settle(n, func(*node) bool { return true })
	}
	from := n.what
	to, err := c.at(ctx, o.a, o.c, n)
	if err != nil {
		_, err = c.judge(o, n, nil, err, nil)
		return err
	}
	mode := []inode.RenameMode{inode.RenameReplace, inode.RenameReplace, inode.RenameNoReplace, inode.RenameExchange}[o.d/8%4]
	n.what = fmt.Sprintf("%s -> %s mode %d", from, n.what, mode)
	same, want := s.v.renameErr(s.dir, s.name, to.dir, to.name, mode)
	if s.n == nil {
		want = fserr.ErrNotFound
	}
	return c.change(o, n, s, want, func() *vol {
		if same {
			return s.v
		}
		if to.n != nil && mode == inode.RenameReplace {
			c.orphan(to.n, s.v.id)
		}
		return s.v.rename(s.dir, s.name, to.dir, to.name, mode)
	}, func() error { return s.tree.Rename(ctx, s.dir, s.name, to.dir, to.name, mode) })
}

// orphan lets open files keep an inode that has just lost its last name.
func (c *client) orphan(n *node, id ondisk.TreeID) {
	if n.nlink > 1 {
		return
	}
	for i := range c.open {
		if h := &c.open[i]; h.id == id && h.ino == n.ino {
			h.node = n
		}
	}
}

// tryAttr does what concerns one inode's attributes.
func (c *client) tryAttr(ctx context.Context, o op, n *note, s spot) error {
	if s.n == nil && !s.settle(n, func(*node) bool { return true }) {
		s.n = s.v.nodes[s.dir]
	}
	ino := s.n.ino
	edit := func(fn func(x *node)) func() *vol {
		return func() *vol {
			e := s.v.edit()
			fn(e.node(ino))
			return e.v
		}
	}
	name := xattrNames[o.c%uint32(len(xattrNames))]
	if typ := s.n.mode & ondisk.ModeFmt; typ != ondisk.ModeReg && typ != ondisk.ModeDir && strings.HasPrefix(name, "user.") {
		name = "trusted.t" // others have no user.*: Linux would list it and not read it (xattr(7))
	}
	old, has := s.n.xattrs[name]
	var want error
	switch o.kind {
	case opSetXattr:
		value := content(o.d, int(o.d%200))
		if o.d%16 == 3 {
			value = content(o.d, int(o.d/16%3000))
		}
		mode := int(o.c / 8 % 6)
		if mode == inode.XattrCreate && has {
			want = fserr.ErrExist
		} else if mode == inode.XattrReplace && !has {
			want = fserr.ErrNoData
		} else if mode > inode.XattrReplace {
			mode = inode.XattrAny
		}
		n.what += fmt.Sprintf(" %s mode %d, %d bytes", name, mode, len(value))
		return c.change(o, n, s, want, edit(func(x *node) {
			x.xattrs = maps.Clone(x.xattrs)
			if x.xattrs == nil {
				x.xattrs = map[string]string{}
			}
			x.xattrs[name] = string(value)
		}), func() error { return s.tree.SetXattr(ctx, ino, name, value, mode) })
	case opRemoveXattr:
		if !has && o.d%4 != 0 && len(s.n.xattrs) > 0 {
			name = slices.Sorted(maps.Keys(s.n.xattrs))[0]
			old, has = s.n.xattrs[name]
		}
		_ = old
		if !has {
			want = fserr.ErrNoData
		}
		return c.change(o, n, s, want, edit(func(x *node) {
			x.xattrs = maps.Clone(x.xattrs)
			delete(x.xattrs, name)
		}), func() error { return s.tree.RemoveXattr(ctx, ino, name) })
	case opTimes:
		at := ondisk.Timespec{Sec: 1_600_000_000 + int64(o.c%100_000_000), Nsec: o.d % 1_000_000_000}
		return c.change(o, n, s, nil, edit(func(x *node) { x.mtime = &at }), func() error { return s.tree.Utimes(ctx, ino, at, at) })
	}
	mode, uid, gid := o.c%0o10000, o.d%5, o.d/5%5
	if o.d/25%2 == 0 {
		return c.change(o, n, s, nil, edit(func(x *node) { x.mode = x.typ() | mode }), func() error { return s.tree.Chmod(ctx, ino, mode) })
	}
	return c.change(o, n, s, nil, edit(func(x *node) { x.uid, x.gid = uid, gid }), func() error { return s.tree.Chown(ctx, ino, uid, gid) })
}

// tryData does what concerns a regular file's data.
func (c *client) tryData(ctx context.Context, o op, n *note, s spot) error {
	if o.kind == opWrite && s.n == nil {
		if err := c.tryMake(ctx, op{kind: opCreate, a: o.a, b: o.b, c: o.c, d: o.d}, n, s); err != nil {
			return err
		}
		s.v = c.now[s.volName]
		s.n = s.v.nodes[s.v.nodes[s.dir].entries[s.name]]
	}
	if !s.settle(n, (*node).isReg) {
		n.idle = true
		return nil
	}
	if o.kind == opOpen {
		return c.openFile(ctx, o, n, s)
	}
	ino, data := s.n.ino, s.n.data
	size := int64(len(data))
	off, count := span(o.c, o.d)
	off = min(off, maxFile-1)
	count = min(count, int(maxFile-off))
	end := off + int64(count)
	set := func(data []byte) func() *vol {
		return func() *vol {
			e := s.v.edit()
			x := e.node(ino)
			x.data, x.mtime = data, nil
			return e.v
		}
	}
	n.what += fmt.Sprintf(" (inode %d, %d bytes) [%d, %d)", ino, size, off, end)
	switch o.kind {
	case opAppend:
		off = size
		if count = min(count, 20_000); off+int64(count) > maxFile {
			off = 0
		}
		fallthrough
	case opWrite:
		p := content(o.c, count)
		return c.write(ctx, o, n, s, set, p, off, func() error {
			done, err := s.tree.WriteAt(ctx, ino, p, off)
			if err == nil && done != len(p) {
				return fmt.Errorf("%d bytes of %d written", done, len(p))
			}
			if errors.Is(err, fserr.ErrNoSpace) {
				want := data
				if done > 0 {
					want = write(data, p[:done], off)
				}
				if is, e := loadInode(ctx, s.tree, ino); e == nil && diffData(want, is.data) != "" {
					return fmt.Errorf("%d bytes said to be written: %s", done, diffData(want, is.data))
				}
			}
			return err
		})
	case opTruncate:
		to := off
		if o.d%3 == 0 {
			to = size * int64(o.d/3%8) / 8
		}
		n.what += fmt.Sprintf(" to %d", to)
		return c.change(o, n, s, nil, set(resize(data, to)), func() error { return s.tree.Truncate(ctx, ino, to) })
	case opFallocate:
		keep, next := o.d%2 == 0, data
		if !keep && end > size {
			next = resize(data, end)
		}
		return c.change(o, n, s, nil, set(next), func() error { return s.tree.Fallocate(ctx, ino, off, int64(count), keep) })
	case opPunch:
		return c.punch(ctx, o, n, s, set, off, int64(count))
	}
	return c.clone(ctx, o, n, s, set)
}

// punch makes a hole. It takes up to three transactions, one for each ragged end and one for what is between.
func (c *client) punch(ctx context.Context, o op, n *note, s spot, set func([]byte) func() *vol, off, count int64) error {
	data, end := s.n.data, off+count
	const sector = ondisk.SectorSize
	head := zeroed(data, off, min(end, (off+sector-1)/sector*sector))
	both := zeroed(head, max(off, end/sector*sector), end)
	all := zeroed(data, off, end)
	return c.inParts(ctx, o, n, s, set, func() [][]byte { return [][]byte{head, both} }, all, func() error { return s.tree.PunchHole(ctx, s.n.ino, off, count) })
}

// write writes. Where preallocated space is written in place that takes a transaction for each piece, in ascending order:
// what a crash shows, or a failure leaves, may end at any sector.
func (c *client) write(ctx context.Context, o op, n *note, s spot, set func([]byte) func() *vol, p []byte, off int64, do func() error) error {
	return c.inParts(ctx, o, n, s, set, func() [][]byte { return prefixes(s.n.data, p, off) }, write(s.n.data, p, off), do)
}

// prefixes lists what a file may hold while p is being written.
func prefixes(data, p []byte, off int64) (all [][]byte) {
	const sector = ondisk.SectorSize
	for at := (off/sector + 1) * sector; at < off+int64(len(p)); at += sector {
		all = append(all, write(data, p[:at-off], off))
	}
	return all
}

// inParts changes a file's data in one or more transactions; parts lists what it may hold between them, last is the
// outcome.
func (c *client) inParts(ctx context.Context, o op, n *note, s spot, set func([]byte) func() *vol, parts func() [][]byte, last []byte, do func() error) error {
	was := c.now
	stages := func() (all []state) {
		for _, d := range parts() {
			all = append(all, was.with(s.volName, set(d)()))
		}
		return all
	}
	var fatal error
	_ = c.step(stages, func() (state, error) {
		ok, err := c.judge(o, n, s.v, do(), nil)
		fatal = err
		if ok {
			return c.now.with(s.volName, set(last)()), nil
		}
		if err != nil || s.v.ro {
			return nil, fserr.ErrInvalid
		}
		// It has failed for want of space, or by a fault: how far has it come?
		var is *node
		err = c.read(func() (err error) {
			is, err = loadInode(ctx, s.tree, s.n.ino)
			return err
		})
		if ok, err := c.judge(op{kind: opRead}, n, nil, err, nil); !ok {
			if fatal = err; err == nil {
				fatal = errLost
			}
			return nil, fserr.ErrInvalid
		}
		if diffData(s.n.data, is.data) == "" {
			return c.now, nil
		}
		for _, d := range append(parts(), last) {
			if diffData(d, is.data) == "" {
				return c.now.with(s.volName, set(d)()), nil
			}
		}
		fatal = fmt.Errorf("what failed left %s", diffData(s.n.data, is.data))
		return nil, fserr.ErrInvalid
	})
	return fatal
}

// readTries is how often something is read under faults of reading, which strike by chance.
const readTries = 100

// read calls fn again while faults of reading meet it. Without an answer nobody would know where the client stands.
func (c *client) read(fn func() error) (err error) {
	for range readTries {
		if err = fn(); err == nil || !c.w.plan.reads || !faulty(err) {
			break
		}
	}
	return err
}

// errLost ends a client's session because a fault in reading keeps it from finding out what it did.
var errLost = errors.New("state unknown after a fault")

// clone shares a range of another file of the client's.
func (c *client) clone(ctx context.Context, o op, n *note, s spot, set func([]byte) func() *vol) error {
	what := n.what
	from, err := c.at(ctx, o.d/3, o.c, n)
	if err != nil {
		_, err = c.judge(o, n, nil, err, nil)
		return err
	}
	if !from.settle(n, (*node).isReg) {
		n.idle = true
		return nil
	}
	n.what = fmt.Sprintf("%s from %s", what, n.what)
	const sector = ondisk.SectorSize
	src, dst := from.n.data, s.n.data
	k := inode.Clone{Src: from.tree, SrcIno: from.n.ino, SrcOff: int64(o.c/64%8) * sector, N: int64(1+o.c/512%16) * sector, Ino: s.n.ino, Off: int64(o.d/64%24) * sector}
	var want error
	length := k.N
	switch {
	case k.SrcOff+k.N > int64(len(src)):
		if k.SrcOff > int64(len(src)) {
			want = fserr.ErrInvalid
			break
		}
		k.N = 0
		if length = int64(len(src)) - k.SrcOff; length > 20*sector {
			length = 0
			k.SrcOff = int64(len(src)) / sector * sector
			length = int64(len(src)) - k.SrcOff
		}
		if length%sector != 0 && k.Off+length < int64(len(dst)) {
			want = fserr.ErrInvalid
		}
	}
	if from.n.nocow != s.n.nocow {
		want = fserr.ErrInvalid
	}
	sameFile := from.v.id == s.v.id && from.n.ino == s.n.ino
	if sameFile && k.SrcOff < k.Off+length && k.Off < k.SrcOff+length {
		want = fserr.ErrInvalid
	}
	n.what += fmt.Sprintf(" %d+%d to %d", k.SrcOff, length, k.Off)
	if length == 0 && k.N == 0 {
		n.idle = true
		return nil
	}
	next := dst
	if want == nil {
		next = write(dst, src[k.SrcOff:k.SrcOff+length], k.Off)
	}
	return c.change(o, n, s, want, set(next), func() error { return s.tree.CloneRange(ctx, k) })
}
