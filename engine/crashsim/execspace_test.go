package crashsim

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// trySubvolume does an operation on whole subvolumes.
func (w *world) trySubvolume(ctx context.Context, o op) error {
	path := func(names ...string) string { return names[o.b%uint32(len(names))] }
	switch o.kind {
	case opSubvolume:
		_, err := w.fs.CreateSubvolume(ctx, path("sv1", "sv2", "sv1/in"), subvol.CreateOptions{})
		return err
	case opSnapshot:
		return w.snapshot(ctx, volumes[o.a%uint32(len(volumes))], path("sn1", "sn2", "sv2/sn3"), o.c%2 == 0)
	case opDeleteSubvolume:
		return w.fs.DeleteSubvolume(ctx, path("sv1", "sv2", "sv1/in", "sn1", "sn2", "sv2/sn3", "big", "rx1", "rx2", "fa", "fb", "sv1/rx1", "sv1/fa"))
	case opClean:
		return w.fs.CleanSubvolumes(ctx)
	case opCleanInterrupted:
		return w.fs.CleanSubvolumes(&tiredContext{Context: ctx, left: int(o.c % 4)})
	case opReadonly:
		in, err := w.fs.SubvolumeInfo(ctx, path("sv1", "sn1", "sn2", "rx1", "fa"))
		if err != nil {
			return err
		}
		if o.c%2 != 0 {
			w.rel.thawed(&in)
		}
		return w.fs.SetReadonly(ctx, in.ID, o.c%2 == 0)
	}
	return w.grow(ctx, o)
}

// grow makes a subvolume of more leaves than are dropped under one handle, where the node size allows.
func (w *world) grow(ctx context.Context, o op) error {
	id, err := w.fs.CreateSubvolume(ctx, "big", subvol.CreateOptions{})
	if err != nil {
		return err
	}
	tree, err := w.fs.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	for i := range uint32(25) {
		o.d = i
		if err := many(ctx, spot{tree: tree, dir: inode.RootDir}, o, 24, 1900); err != nil {
			return err
		}
	}
	return nil
}

// tiredContext is cancelled once it has been asked often enough: so a deletion is interrupted at a place that does not
// depend on time.
type tiredContext struct {
	context.Context
	left int
}

func (c *tiredContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return c.Context.Err()
}

// fill preallocates until no more than keep bytes are free, in files of size 0: the space is taken and there is
// nothing to read.
func (w *world) fill(ctx context.Context, keep uint64) error {
	tree, err := w.fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	for i, n := 0, uint64(8<<20); i < fillNames && n >= 64<<10; i++ {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("pad%d", i), inode.Attr{Mode: 0o600})
		if err != nil && !errors.Is(err, fserr.ErrExist) {
			return err
		}
		if err != nil {
			continue
		}
		for n >= 64<<10 {
			u := w.fs.Usage()
			if err = nil; u.Unallocated < 16<<20 && u.Data.Free() < keep+n {
				err = fserr.ErrNoSpace
			} else {
				err = tree.Fallocate(ctx, ino, 0, int64(n), true)
			}
			if !errors.Is(err, fserr.ErrNoSpace) {
				break
			}
			n /= 2
		}
		if err != nil && !errors.Is(err, fserr.ErrNoSpace) {
			return err
		}
	}
	return nil
}

// drain gives some of that space back.
func (w *world) drain(ctx context.Context, o op) error {
	tree, err := w.fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return err
	}
	for i := range 1 + o.b%4 {
		if err := tree.Unlink(ctx, inode.RootDir, fmt.Sprintf("pad%d", (o.a+i)%fillNames)); err != nil && !errors.Is(err, fserr.ErrNotFound) {
			return err
		}
	}
	return nil
}
