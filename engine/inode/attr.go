package inode

import (
	"context"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// SetAttr is a change of attributes; nil members stay as they are. Without Times.Change the change time becomes now.
type SetAttr struct {
	Mode                          *uint32 // permission bits
	UID, GID                      *uint32
	Access, Modify, Change, Birth *ondisk.Timespec
}

// SetAttrs changes attributes of an inode in one operation.
func (t *FileTree) SetAttrs(ctx context.Context, ino ondisk.ObjectID, a SetAttr) error {
	return t.withInode(ctx, ino, itemsAttr, func(ctx context.Context, o *op, it *ondisk.InodeItem) error {
		if err := t.checkSettable(ino, it); err != nil {
			return err
		}
		t.dirs.forget(ino)
		return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) { a.apply(it, o.now) })
	})
}

func (a *SetAttr) apply(it *ondisk.InodeItem, now ondisk.Timespec) {
	it.SetCTime(now)
	if a.Mode != nil {
		it.SetMode(it.Mode()&^ondisk.ModePerm | *a.Mode&ondisk.ModePerm)
	}
	if a.UID != nil {
		it.SetUID(*a.UID)
	}
	if a.GID != nil {
		it.SetGID(*a.GID)
	}
	for _, x := range []struct {
		t   *ondisk.Timespec
		set func(ondisk.Timespec)
	}{{a.Access, it.SetATime}, {a.Modify, it.SetMTime}, {a.Change, it.SetCTime}, {a.Birth, it.SetOTime}} {
		if x.t != nil {
			x.set(*x.t)
		}
	}
}

// Chmod sets the permission bits.
func (t *FileTree) Chmod(ctx context.Context, ino ondisk.ObjectID, mode uint32) error {
	return t.SetAttrs(ctx, ino, SetAttr{Mode: &mode})
}

// Chown sets owner and group. The set-user-ID and set-group-ID bits stay: whoever wants them dropped says so.
func (t *FileTree) Chown(ctx context.Context, ino ondisk.ObjectID, uid, gid uint32) error {
	return t.SetAttrs(ctx, ino, SetAttr{UID: &uid, GID: &gid})
}

// Utimes sets access and modification time.
func (t *FileTree) Utimes(ctx context.Context, ino ondisk.ObjectID, access, modify ondisk.Timespec) error {
	return t.SetAttrs(ctx, ino, SetAttr{Access: &access, Modify: &modify})
}

// changeableFlags are the inode flags that chattr(1) can change.
const changeableFlags = ondisk.InodeNoDataCow | ondisk.InodeNoCompress | ondisk.InodeCompress | ondisk.InodeSync |
	ondisk.InodeImmutable | ondisk.InodeAppend | ondisk.InodeNoDump | ondisk.InodeNoAtime | ondisk.InodeDirSync

// SetFlags replaces those inode flags that chattr(1) can change. As in the kernel a regular file becomes NODATACOW, and
// with it NODATASUM, or loses both, only while it is empty; fserr.ErrInvalid otherwise.
func (t *FileTree) SetFlags(ctx context.Context, ino ondisk.ObjectID, flags uint64) error {
	return t.withInode(ctx, ino, itemsAttr, func(ctx context.Context, o *op, it *ondisk.InodeItem) error {
		next := it.Flags()&^changeableFlags | flags&changeableFlags
		if it.Mode()&ondisk.ModeFmt == ondisk.ModeReg && (next^it.Flags())&ondisk.InodeNoDataCow != 0 {
			if it.Size() != 0 || it.NBytes() != 0 {
				return t.at(ino, fserr.ErrInvalid)
			}
			next &^= ondisk.InodeNoDataSum
			if next&ondisk.InodeNoDataCow != 0 {
				next |= ondisk.InodeNoDataSum
			}
		}
		t.dirs.forget(ino)
		return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) {
			it.SetFlags(next)
			it.SetCTime(o.now)
		})
	})
}
