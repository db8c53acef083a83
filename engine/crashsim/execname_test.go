package crashsim

import (
	"context"
	"fmt"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// tryName does an operation on names, and what else is not a file's data.
func (w *world) tryName(ctx context.Context, s spot, o op) error {
	switch o.kind {
	case opUnlink:
		if _, err := s.settle(ctx, anyType); err != nil {
			return err
		}
		return s.tree.Unlink(ctx, s.dir, s.name)
	case opLink:
		ino, err := s.ino(ctx)
		if err != nil {
			return err
		}
		return s.tree.Link(ctx, ino, inode.RootDir, fmt.Sprintf("f%d", o.c%fileNames))
	case opSymlink:
		_, err := s.tree.Symlink(ctx, s.dir, s.name, fmt.Sprintf("../%0*d", 1+o.c%300, o.d), inode.Attr{})
		return err
	case opMknod:
		mode := []uint32{ondisk.ModeFifo, ondisk.ModeChr, ondisk.ModeReg}[o.c%3]
		_, err := s.tree.Mknod(ctx, s.dir, s.name, inode.MakeRdev(o.d%10, o.d%99), inode.Attr{Mode: mode | 0o600})
		return err
	case opMkdir:
		_, err := s.tree.Mkdir(ctx, inode.RootDir, newDirs[o.c%4], inode.Attr{Mode: 0o755})
		return err
	case opRmdir:
		return s.tree.Rmdir(ctx, inode.RootDir, newDirs[1+o.c%3])
	case opRename:
		if _, err := s.settle(ctx, anyType); err != nil {
			return err
		}
		return s.tree.Rename(ctx, s.dir, s.name, inode.RootDir, fmt.Sprintf("f%d", o.c%fileNames), inode.RenameMode(o.d%3))
	case opXattr:
		e, err := s.settle(ctx, anyType)
		if err != nil {
			return err
		}
		it, err := s.tree.Inode(ctx, e.Ino())
		if err != nil {
			return err
		}
		name := fmt.Sprintf("user.x%d", o.c%3)
		if typ := it.Mode() & ondisk.ModeFmt; typ != ondisk.ModeReg && typ != ondisk.ModeDir {
			name = fmt.Sprintf("trusted.x%d", o.c%3) // others have no user.*: Linux would list it and not read it (xattr(7))
		}
		if o.c/3%4 == 0 {
			return s.tree.RemoveXattr(ctx, e.Ino(), name)
		}
		return s.tree.SetXattr(ctx, e.Ino(), name, content(o.d, int(o.d%600)), inode.XattrAny)
	case opAttr:
		return w.tryAttr(ctx, s, o)
	case opChurn:
		return churn(ctx, s, o)
	case opMany:
		return many(ctx, s, o, 24, int(o.c%1500))
	case opPrune:
		return prune(ctx, s, o)
	case opOpenUnlink:
		ino, err := s.ino(ctx)
		if err != nil {
			return err
		}
		f, err := s.tree.Open(w.fileCtx, ino)
		if err != nil {
			return err
		}
		w.open = append(w.open, f)
		return s.tree.Unlink(ctx, s.dir, s.name)
	}
	return fmt.Errorf("no operation of kind %d", o.kind)
}

func (w *world) tryAttr(ctx context.Context, s spot, o op) error {
	e, err := s.settle(ctx, anyType)
	if err != nil {
		return err
	}
	switch o.c % 3 {
	case 0:
		return s.tree.Chmod(ctx, e.Ino(), o.d%0o10000)
	case 1:
		return s.tree.Chown(ctx, e.Ino(), o.d%7, o.d%5)
	}
	at := ondisk.Timespec{Sec: int64(o.d), Nsec: o.d % 1e9}
	return s.tree.Utimes(ctx, e.Ino(), at, at)
}

// churn writes all files of a directory anew, as long as they are, which frees all that they had.
func churn(ctx context.Context, s spot, o op) error {
	list, err := s.tree.Entries(ctx, s.dir)
	if err != nil {
		return err
	}
	for i, e := range list {
		if !regular(e) || e.Name[0] != 'f' {
			continue
		}
		it, err := s.tree.Inode(ctx, e.Ino())
		if err != nil {
			return err
		}
		if _, err := s.tree.WriteAt(ctx, e.Ino(), content(o.d+uint32(i), int(min(it.Size(), 128<<10))), 0); err != nil {
			return err
		}
	}
	return nil
}

// many makes n small files of about size bytes in one operation.
func many(ctx context.Context, s spot, o op, n, size int) error {
	first, err := s.tree.ReserveInos(ctx, n)
	if err != nil {
		return err
	}
	b := &inode.Batch{Existing: s.dir}
	for i := range n {
		data := content(o.d+uint32(i), min(size+i, s.tree.InlineLimit()))
		b.Entries = append(b.Entries, inode.BulkEntry{
			Dir: s.dir, Name: fmt.Sprintf("m%d-%d", o.d%1000, i), Ino: first + ondisk.ObjectID(i),
			Attr: inode.Attr{Mode: ondisk.ModeReg | 0o644}, Size: uint64(len(data)), Inline: data,
		})
	}
	k, err := s.tree.StartBulk(ctx, b)
	if err != nil {
		return err
	}
	return k.Insert(ctx)
}

// prune removes three of four such files.
func prune(ctx context.Context, s spot, o op) error {
	list, err := s.tree.Entries(ctx, s.dir)
	if err != nil {
		return err
	}
	for i, e := range list {
		if e.Name[0] == 'm' && (uint32(i)+o.c)%4 != 0 {
			if err := s.tree.Unlink(ctx, s.dir, e.Name); err != nil {
				return err
			}
		}
	}
	return nil
}
