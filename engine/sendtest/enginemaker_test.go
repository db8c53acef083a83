package sendtest

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"strings"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// engineMaker works through the engine's API.
type engineMaker struct {
	ctx      context.Context
	fs       *engine.FS
	compress bool // every other write of whole sectors becomes zlib frames
	prefix   string
	tree     *inode.FileTree
	works    []string
	snaps    map[string]*inode.FileTree
}

func (e *engineMaker) begin(prefix, from string) (err error) {
	e.prefix, e.works, e.snaps = prefix, nil, map[string]*inode.FileTree{}
	name := prefix + "w"
	var id ondisk.TreeID
	if from != "" {
		id, err = e.fs.Snapshot(e.ctx, prefix+from, name, false)
	} else {
		id, err = e.fs.CreateSubvolume(e.ctx, name, subvol.CreateOptions{})
	}
	if err != nil {
		return err
	}
	return e.use(name, id)
}

func (e *engineMaker) use(name string, id ondisk.TreeID) (err error) {
	e.works = append(e.works, name)
	e.tree, err = e.fs.Subvolume(e.ctx, id)
	return err
}

func (e *engineMaker) end() error {
	for _, w := range e.works {
		if err := e.fs.DeleteSubvolume(e.ctx, w); err != nil {
			return err
		}
	}
	return e.fs.Commit(e.ctx)
}

// at finds what a path leads to, in a tree.
func (e *engineMaker) at(tree *inode.FileTree, path string) (ondisk.ObjectID, error) {
	ino := inode.RootDir
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		entry, err := tree.Lookup(e.ctx, ino, part)
		if err != nil {
			return 0, err
		}
		ino = entry.Ino()
	}
	return ino, nil
}

func (e *engineMaker) parent(path string) (ondisk.ObjectID, string, error) {
	at := strings.LastIndexByte(path, '/')
	dir, err := e.at(e.tree, path[:max(at, 0)])
	return dir, path[at+1:], err
}

func (e *engineMaker) do(o op) error {
	switch o.kind {
	case opSnapshot:
		id, err := e.fs.Snapshot(e.ctx, e.works[len(e.works)-1], e.prefix+o.to, true)
		if err == nil {
			e.snaps[o.to], err = e.fs.Subvolume(e.ctx, id)
		}
		return err
	case opReload:
		next := fmt.Sprint(e.prefix, "w", len(e.works))
		id, err := e.fs.Snapshot(e.ctx, e.works[len(e.works)-1], next, false)
		if err != nil {
			return err
		}
		return e.use(next, id)
	case opCreate, opLink, opRename, opExchange, opRemove:
		return e.name(o)
	}
	ino, err := e.at(e.tree, o.path)
	if err != nil {
		return err
	}
	if err := e.attrs(o, ino); err != nil {
		return err
	}
	switch o.kind {
	case opWrite:
		return e.write(o, ino)
	case opTruncate:
		return e.tree.Truncate(e.ctx, ino, o.n)
	case opFallocate:
		return e.tree.Fallocate(e.ctx, ino, o.off, o.n, o.flag)
	case opPunch:
		return e.tree.PunchHole(e.ctx, ino, o.off, o.n)
	case opClone:
		from := e.tree
		if o.name != "" {
			from = e.snaps[o.name]
		}
		src, err := e.at(from, o.to)
		if err != nil {
			return err
		}
		return e.tree.CloneRange(e.ctx, inode.Clone{Src: from, SrcIno: src, SrcOff: o.src, N: o.n, Ino: ino, Off: o.off})
	case opXattr:
		return e.tree.SetXattr(e.ctx, ino, o.name, o.value(), inode.XattrAny)
	case opUnxattr:
		return e.tree.RemoveXattr(e.ctx, ino, o.name)
	case opChmod:
		if _, err := e.tree.Xattr(e.ctx, ino, accessACL); err == nil {
			return nil // would change the ACL, too, below a mount
		}
		return e.tree.Chmod(e.ctx, ino, uint32(o.n))
	case opChown:
		return e.tree.Chown(e.ctx, ino, uint32(o.n), uint32(o.off))
	case opTimes:
		return e.tree.Utimes(e.ctx, ino, ondisk.Timespec{Sec: o.n, Nsec: 1}, ondisk.Timespec{Sec: o.n + 7, Nsec: 999999999})
	case opFlags:
		flags := uint64(0)
		if o.n&0x80 != 0 {
			flags |= ondisk.InodeNoAtime
		}
		if o.n&0x40 != 0 {
			flags |= ondisk.InodeNoDump
		}
		return e.tree.SetFlags(e.ctx, ino, flags)
	}
	return fmt.Errorf("no such operation")
}

const accessACL = "system.posix_acl_access"

// attrs makes the changes of mode and xattrs that Linux makes along with an operation, below any mount. Without them there
// would be states that no stream can bring about on the other side: an ACL and a mode that say different things, or a
// set-user-ID bit or a capability that a change of owner has left alone.
func (e *engineMaker) attrs(o op, ino ondisk.ObjectID) error {
	it, err := e.tree.Inode(e.ctx, ino)
	if err != nil {
		return err
	}
	mode, file := it.Mode(), it.Mode()&ondisk.ModeFmt == ondisk.ModeReg
	switch {
	case o.kind == opXattr && o.name == accessACL:
		mode = mode&^0o777 | 0o664 // what posixACL says: owner, mask, others
	case o.kind == opChown && mode&ondisk.ModeFmt != ondisk.ModeDir:
		mode &^= 0o4000
		if mode&0o010 != 0 {
			mode &^= 0o2000
		}
	}
	if mode != it.Mode() {
		if err := e.tree.Chmod(e.ctx, ino, mode&0o7777); err != nil {
			return err
		}
	}
	switch o.kind {
	case opWrite, opTruncate, opFallocate, opPunch, opClone, opChown:
		if err := e.tree.RemoveXattr(e.ctx, ino, "security.capability"); file && err != nil && !errors.Is(err, fserr.ErrNoData) {
			return err
		}
	}
	return nil
}

// name carries out what changes names.
func (e *engineMaker) name(o op) error {
	dir, name, err := e.parent(o.path)
	if err != nil {
		return err
	}
	switch o.kind {
	case opCreate:
		return e.create(o, dir, name)
	case opRemove:
		err := e.tree.Unlink(e.ctx, dir, name)
		if errors.Is(err, fserr.ErrIsDir) {
			err = e.tree.Rmdir(e.ctx, dir, name)
		}
		return err
	}
	toDir, toName, err := e.parent(o.to)
	if err != nil {
		return err
	}
	switch o.kind {
	case opLink:
		ino, err := e.at(e.tree, o.path)
		if err != nil {
			return err
		}
		return e.tree.Link(e.ctx, ino, toDir, toName)
	case opExchange:
		return e.tree.Rename(e.ctx, dir, name, toDir, toName, inode.RenameExchange)
	}
	return e.tree.Rename(e.ctx, dir, name, toDir, toName, inode.RenameReplace)
}

func (e *engineMaker) create(o op, dir ondisk.ObjectID, name string) (err error) {
	switch o.typ {
	case typFile:
		a := inode.Attr{Mode: 0o644}
		if o.flag {
			a.Flags = ondisk.InodeNoDataCow | ondisk.InodeNoDataSum
		}
		_, err = e.tree.Create(e.ctx, dir, name, a)
	case typDir:
		_, err = e.tree.Mkdir(e.ctx, dir, name, inode.Attr{Mode: 0o755})
	case typSymlink:
		_, err = e.tree.Symlink(e.ctx, dir, name, o.to, inode.Attr{})
	default:
		mode := map[fileType]uint32{typChr: ondisk.ModeChr, typBlk: ondisk.ModeBlk, typFifo: ondisk.ModeFifo, typSock: ondisk.ModeSock}[o.typ]
		rdev := uint64(0)
		if o.typ == typChr || o.typ == typBlk {
			rdev = inode.MakeRdev(uint32(o.n>>20), uint32(o.n&0xfffff))
		}
		_, err = e.tree.Mknod(e.ctx, dir, name, rdev, inode.Attr{Mode: mode | 0o640})
	}
	return err
}

// write also makes compressed extents, of frames that stand for less than they unpack to now and then.
func (e *engineMaker) write(o op, ino ondisk.ObjectID) error {
	data := o.data()
	if e.compress && o.seed%4 < 2 && o.off%4096 == 0 && len(data) >= 8192 {
		n := min(len(data)&^4095, 128<<10)
		var frame bytes.Buffer
		w := zlib.NewWriter(&frame)
		_, _ = w.Write(data[:n]) // a bytes.Buffer takes everything
		_ = w.Close()
		x := inode.Encoded{Off: o.off, Len: int64(n), Algorithm: ondisk.CompressZlib, RAMLen: uint64(n)}
		switch err := e.tree.WriteEncoded(e.ctx, ino, x, frame.Bytes()); {
		case err == nil:
			data = data[n:]
			o.off += int64(n)
		case !errors.Is(err, fserr.ErrInvalid): // one that does not fit is written plainly
			return err
		}
	}
	if len(data) == 0 {
		return nil
	}
	_, err := e.tree.WriteAt(e.ctx, ino, data, o.off)
	return err
}
