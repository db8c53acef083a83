package receive

import (
	"context"
	"fmt"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// apply carries out a command on the subvolume under way.
func (r *receiver) apply(ctx context.Context, c *sendstream.Command) error {
	if c.Cmd == sendstream.CmdWrite {
		return r.write(ctx, c)
	}
	if err := r.flush(ctx); err != nil {
		return err
	}
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
	}
	ino, err := r.paths.inode(ctx, c.String(sendstream.AttrPath))
	if err != nil {
		return err
	}
	switch c.Cmd {
	case sendstream.CmdSetXattr, sendstream.CmdRemoveXattr:
		return r.xattr(ctx, ino, c)
	case sendstream.CmdClone:
		return r.clone(ctx, ino, c)
	case sendstream.CmdEncodedWrite:
		return r.encodedWrite(ctx, ino, c)
	case sendstream.CmdFallocate:
		return r.fallocate(ctx, ino, c)
	case sendstream.CmdTruncate:
		size, err := offset(c, sendstream.AttrSize)
		if err != nil {
			return err
		}
		return r.sub.Tree.Truncate(ctx, ino, size)
	}
	return r.setAttrs(ctx, ino, c)
}

// create makes an inode. Owner and permissions come later, so nobody else may look at it yet.
func (r *receiver) create(ctx context.Context, c *sendstream.Command) error {
	path := c.String(sendstream.AttrPath)
	dir, name, err := r.paths.parent(ctx, path)
	if err != nil {
		return err
	}
	tree, attr := r.sub.Tree, inode.Attr{Mode: 0o600}
	var ino ondisk.ObjectID
	switch c.Cmd {
	case sendstream.CmdMkfile:
		ino, err = tree.Create(ctx, dir, name, attr)
	case sendstream.CmdMkdir:
		ino, err = tree.Mkdir(ctx, dir, name, inode.Attr{Mode: 0o700})
	case sendstream.CmdSymlink:
		ino, err = tree.Symlink(ctx, dir, name, c.String(sendstream.AttrPathLink), attr)
	default:
		var rdev uint64
		if attr.Mode, rdev, err = special(c); err == nil {
			ino, err = tree.Mknod(ctx, dir, name, rdev, attr)
		}
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
	if err := r.sub.Tree.Rename(ctx, dir, name, toDir, toName, inode.RenameReplace); err != nil {
		return fmt.Errorf("to %q: %w", to, err)
	}
	r.paths.forget(from)
	r.paths.forget(to)
	return nil
}

// link gives an inode another name: the path is the new one.
func (r *receiver) link(ctx context.Context, c *sendstream.Command) error {
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

func (r *receiver) xattr(ctx context.Context, ino ondisk.ObjectID, c *sendstream.Command) error {
	name := c.String(sendstream.AttrXattrName)
	known := name == "system.posix_acl_access" || name == "system.posix_acl_default"
	for _, p := range xattrPrefixes {
		known = known || strings.HasPrefix(name, p) && name != p
	}
	switch {
	case !known:
		return fmt.Errorf("xattr %q: %w", name, fserr.ErrNotSup)
	case c.Cmd == sendstream.CmdRemoveXattr:
		return r.sub.Tree.RemoveXattr(ctx, ino, name)
	}
	return r.sub.Tree.SetXattr(ctx, ino, name, c.Bytes(sendstream.AttrXattrData), inode.XattrAny)
}

// setAttrs is chmod, chown and utimes. The time of birth is there from version 2 on.
func (r *receiver) setAttrs(ctx context.Context, ino ondisk.ObjectID, c *sendstream.Command) error {
	var a inode.SetAttr
	switch c.Cmd {
	case sendstream.CmdChmod:
		mode := uint32(c.Uint(sendstream.AttrMode)) & ondisk.ModePerm
		a.Mode = &mode
	case sendstream.CmdChown:
		u, g := c.Uint(sendstream.AttrUID), c.Uint(sendstream.AttrGID)
		if u>>32 != 0 || g>>32 != 0 {
			return fmt.Errorf("owner %d, group %d: %w", u, g, fserr.ErrInvalid)
		}
		uid, gid := uint32(u), uint32(g)
		a.UID, a.GID = &uid, &gid
	case sendstream.CmdUtimes:
		a.Access, a.Modify, a.Birth = timespec(c, sendstream.AttrATime), timespec(c, sendstream.AttrMTime), timespec(c, sendstream.AttrOTime)
	default:
		return fmt.Errorf("internal: nothing carries %v out", c.Cmd)
	}
	return r.sub.Tree.SetAttrs(ctx, ino, a)
}

// timespec returns a time stamp, nil if there is none.
func timespec(c *sendstream.Command, t sendstream.AttrType) *ondisk.Timespec {
	if _, ok := c.Get(t); !ok {
		return nil
	}
	sec, nsec := c.Time(t)
	return &ondisk.Timespec{Sec: sec, Nsec: nsec}
}
