package receive

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// apply carries out a command on the subvolume under way: now, or in its turn among what has been gathered (see gather,
// batch and pipeline).
func (r *receiver) apply(ctx context.Context, c *sendstream.Command) error {
	if r.pipe.hasNews.Load() {
		if err := r.collect(ctx); err != nil {
			return err
		}
	}
	if c.Cmd == sendstream.CmdWrite {
		return r.write(ctx, c)
	}
	r.flush(ctx)
	switch c.Cmd {
	case sendstream.CmdMkfile, sendstream.CmdMkdir, sendstream.CmdMknod, sendstream.CmdMkfifo, sendstream.CmdMksock, sendstream.CmdSymlink:
		return r.create(ctx, c)
	case sendstream.CmdRename:
		return r.rename(ctx, c)
	case sendstream.CmdLink:
		return r.link(ctx, c)
	case sendstream.CmdUnlink, sendstream.CmdRmdir:
		return r.remove(ctx, c)
	case sendstream.CmdUpdateExtent, sendstream.CmdFileattr:
		return nil // see the package comment
	case sendstream.CmdEnableVerity:
		return fmt.Errorf("fs-verity: %w", fserr.ErrNotSup)
	case sendstream.CmdSetXattr, sendstream.CmdRemoveXattr:
		return r.xattr(ctx, c)
	case sendstream.CmdClone:
		return r.clone(ctx, c)
	case sendstream.CmdEncodedWrite:
		return r.encodedWrite(ctx, c)
	case sendstream.CmdFallocate:
		return r.fallocate(ctx, c)
	case sendstream.CmdTruncate:
		return r.truncate(ctx, c)
	}
	return r.setAttrs(ctx, c)
}

// create makes an inode, as an entry of the batch if it is like those that senders make. Owner and permissions come
// later, so nobody else may look at it yet.
func (r *receiver) create(ctx context.Context, c *sendstream.Command) error {
	path := c.String(sendstream.AttrPath)
	dir, name, err := r.paths.parent(ctx, path)
	if err != nil {
		return err
	}
	e, err := newEntry(c, dir, name)
	if err != nil {
		return err
	}
	free, err := r.free(ctx, path, dir, name)
	if err != nil {
		return err
	}
	if free && r.plain && dir == inode.RootDir && e.sound() {
		return r.addEntry(ctx, e)
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	tree, attr := r.sub.Tree, inode.Attr{Mode: e.Attr.Mode}
	var ino ondisk.ObjectID
	switch e.Attr.Mode & ondisk.ModeFmt {
	case ondisk.ModeReg:
		ino, err = tree.Create(ctx, dir, name, attr)
	case ondisk.ModeDir:
		ino, err = tree.Mkdir(ctx, dir, name, attr)
	case ondisk.ModeLnk:
		ino, err = tree.Symlink(ctx, dir, name, e.Target, attr)
	default:
		ino, err = tree.Mknod(ctx, dir, name, e.Rdev, attr)
	}
	if err != nil {
		return err
	}
	r.paths.know(path, ino, false) // a new directory has another name soon
	return nil
}

// special is the mode and the device of a special file. The stream has devices as stat(2) shows them to the kernel's
// 32-bit interface (new_encode_dev): 12 bits of major between 8 and 12 bits of minor.
func special(c *sendstream.Command) (mode uint32, rdev uint64, err error) {
	switch c.Cmd {
	case sendstream.CmdMkfifo:
		return ondisk.ModeFifo | 0o600, 0, nil
	case sendstream.CmdMksock:
		return ondisk.ModeSock | 0o600, 0, nil
	}
	m, d := c.Uint(sendstream.AttrMode), c.Uint(sendstream.AttrRdev)
	typ := uint32(m) & ondisk.ModeFmt
	if typ != ondisk.ModeChr && typ != ondisk.ModeBlk || m>>16 != 0 || d>>32 != 0 {
		return 0, 0, fmt.Errorf("mode %o, device %#x: %w", m, d, fserr.ErrInvalid)
	}
	return uint32(m), inode.MakeRdev(uint32(d>>8)&0xfff, uint32(d&0xff|d>>12&0xfff00)), nil
}

// rename moves a name. An entry of the batch is made where it goes.
func (r *receiver) rename(ctx context.Context, c *sendstream.Command) error {
	from, to := c.String(sendstream.AttrPath), c.String(sendstream.AttrPathTo)
	dir, name, err := r.paths.parent(ctx, from)
	if err != nil {
		return err
	}
	toDir, toName, err := r.paths.parent(ctx, to)
	if err != nil {
		return fmt.Errorf("to %q: %w", to, err)
	}
	if e := r.entry(from); e != nil && !e.parent && !strings.HasPrefix(to, from+"/") {
		switch free, err := r.free(ctx, to, toDir, toName); {
		case err != nil:
			return fmt.Errorf("to %q: %w", to, err)
		case free:
			r.moveEntry(e, to, toDir, toName)
			return nil
		}
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.sub.Tree.Rename(ctx, dir, name, toDir, toName, inode.RenameReplace); err != nil {
		return fmt.Errorf("to %q: %w", to, err)
	}
	r.paths.forget(from)
	r.paths.forget(to)
	return nil
}

// link gives an inode another name: the path is the new one.
func (r *receiver) link(ctx context.Context, c *sendstream.Command) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	old := c.String(sendstream.AttrPathLink)
	ino, err := r.paths.inode(ctx, old)
	if err != nil {
		return fmt.Errorf("of %q: %w", old, err)
	}
	dir, name, err := r.paths.parent(ctx, c.String(sendstream.AttrPath))
	if err != nil {
		return err
	}
	return r.sub.Tree.Link(ctx, ino, dir, name)
}

func (r *receiver) remove(ctx context.Context, c *sendstream.Command) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	path := c.String(sendstream.AttrPath)
	dir, name, err := r.paths.parent(ctx, path)
	if err != nil {
		return err
	}
	if c.Cmd == sendstream.CmdRmdir {
		err = r.sub.Tree.Rmdir(ctx, dir, name)
	} else {
		err = r.sub.Tree.Unlink(ctx, dir, name)
	}
	if err == nil {
		r.paths.forget(path)
	}
	return err
}

// xattrPrefixes are the name spaces that the kernel stores attributes of.
var xattrPrefixes = []string{"user.", "trusted.", "security.", "btrfs."}

func (r *receiver) xattr(ctx context.Context, c *sendstream.Command) error {
	name := c.String(sendstream.AttrXattrName)
	known := name == "system.posix_acl_access" || name == "system.posix_acl_default"
	for _, p := range xattrPrefixes {
		known = known || strings.HasPrefix(name, p) && name != p
	}
	path := c.String(sendstream.AttrPath)
	ino, err := r.paths.inode(ctx, path)
	if err != nil {
		return err
	}
	tree, value := r.sub.Tree, bytes.Clone(c.Bytes(sendstream.AttrXattrData))
	switch {
	case !known:
		return fmt.Errorf("xattr %q: %w", name, fserr.ErrNotSup)
	case c.Cmd == sendstream.CmdRemoveXattr:
		r.later(ctx, c, func(ctx context.Context) error { return tree.RemoveXattr(ctx, ino, name) })
	case !r.entryXattr(path, inode.Xattr{Name: name, Value: value}):
		r.later(ctx, c, func(ctx context.Context) error { return tree.SetXattr(ctx, ino, name, value, inode.XattrAny) })
	}
	return nil
}

// setAttrs is chmod, chown and utimes.
func (r *receiver) setAttrs(ctx context.Context, c *sendstream.Command) error {
	path := c.String(sendstream.AttrPath)
	ino, err := r.paths.inode(ctx, path)
	if err != nil {
		return err
	}
	a, err := attrsOf(c)
	if err != nil {
		return err
	}
	if ino == inode.RootDir && a.Mode != nil && *a.Mode&modeSetGID != 0 {
		if err := r.settle(ctx); err != nil {
			return err
		}
		r.plain = false
	}
	if e := r.entry(path); e != nil && (!e.parent || c.Cmd != sendstream.CmdUtimes) {
		e.set(&a, r.sub.Tree.Now())
		return nil
	}
	if ok, err := r.maySet(ctx, path, ino); err != nil {
		return err
	} else if !ok {
		tree := r.sub.Tree
		r.later(ctx, c, func(ctx context.Context) error { return tree.SetAttrs(ctx, ino, a) }) // says why not
		return nil
	}
	if r.cur.full() {
		r.ship(ctx)
	}
	r.cur.setAttrs(ino, a, placeOf(c))
	return nil
}

// modeSetGID on a directory: what is made in it gets its group.
const modeSetGID = 0o2000

// attrsOf reads the change from a command. The time of birth is there from version 2 on.
func attrsOf(c *sendstream.Command) (a inode.SetAttr, err error) {
	switch c.Cmd {
	case sendstream.CmdChmod:
		mode := uint32(c.Uint(sendstream.AttrMode)) & ondisk.ModePerm
		a.Mode = &mode
	case sendstream.CmdChown:
		u, g := c.Uint(sendstream.AttrUID), c.Uint(sendstream.AttrGID)
		if u>>32 != 0 || g>>32 != 0 {
			return a, fmt.Errorf("owner %d, group %d: %w", u, g, fserr.ErrInvalid)
		}
		uid, gid := uint32(u), uint32(g)
		a.UID, a.GID = &uid, &gid
	case sendstream.CmdUtimes:
		a.Access, a.Modify, a.Birth = timespec(c, sendstream.AttrATime), timespec(c, sendstream.AttrMTime), timespec(c, sendstream.AttrOTime)
	default:
		return a, fmt.Errorf("internal: nothing carries %v out", c.Cmd)
	}
	return a, nil
}

// timespec returns a time stamp, nil if there is none.
func timespec(c *sendstream.Command, t sendstream.AttrType) *ondisk.Timespec {
	if _, ok := c.Get(t); !ok {
		return nil
	}
	sec, nsec := c.Time(t)
	return &ondisk.Timespec{Sec: sec, Nsec: nsec}
}
