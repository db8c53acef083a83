package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// ownFS is a file system of ours with one subvolume in it.
type ownFS struct {
	*engine.FS
	tree *inode.FileTree
	id   ondisk.TreeID
}

// flushes is how often the device has been flushed.
func (f *ownFS) flushes() (n uint64) {
	for _, d := range f.Stats().Devices {
		n += d.Stats.Flushes
	}
	return n
}

// withOwn runs fn on a new file system. fn times what it wants timed.
func (b *bench) withOwn(ctx context.Context, fn func(f *ownFS) (time.Duration, error)) (m measure, err error) {
	img := b.image()
	defer func() { err = errors.Join(err, os.Remove(img)) }()
	f := &ownFS{}
	if f.FS, err = engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: uint64(b.workSize())}); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	f.id, err = f.Subvols().Create(ctx, subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: "source"}, subvol.CreateOptions{})
	if err != nil {
		return m, err
	}
	if f.tree, err = f.Subvolume(ctx, f.id); err != nil {
		return m, err
	}
	if err := f.Commit(ctx); err != nil {
		return m, err
	}
	m.took, err = fn(f)
	return m, err
}

// workSize is the size in bytes of the images of the kernel's side and of ours.
func (b *bench) workSize() int64 { return 4<<30 + 2*b.bytes }

func oursSnapshotsClean(ctx context.Context, b *bench) (measure, error) {
	return b.oursSnapshots(ctx, false)
}

func oursSnapshotsDirtied(ctx context.Context, b *bench) (measure, error) {
	return b.oursSnapshots(ctx, true)
}

// oursSnapshots takes snapshots, each of them durable when the call returns.
func (b *bench) oursSnapshots(ctx context.Context, dirtied bool) (m measure, err error) {
	var flushes uint64
	m, err = b.withOwn(ctx, func(f *ownFS) (time.Duration, error) {
		ino, err := f.create(ctx, "data", make([]byte, snapshotFile))
		if err != nil {
			return 0, err
		}
		if err := f.Commit(ctx); err != nil {
			return 0, err
		}
		before := f.flushes()
		block := pattern(4096)
		began := time.Now()
		for i := range b.snapshots {
			if dirtied {
				if _, err := f.tree.WriteAt(ctx, ino, block, int64(i)*4096%snapshotFile); err != nil {
					return 0, err
				}
			}
			_, err := f.Subvols().Snapshot(ctx, subvol.SnapshotSpec{
				Source: f.id, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: fmt.Sprintf("snap-%d", i)},
			})
			if err != nil {
				return 0, err
			}
		}
		took := time.Since(began)
		flushes = f.flushes() - before
		return took, nil
	})
	m.flush = float64(flushes)
	return m, err
}

// snapshotFile is the size in bytes of the file whose blocks are dirtied before each snapshot.
const snapshotFile = 1 << 20

func (f *ownFS) create(ctx context.Context, name string, data []byte) (ondisk.ObjectID, error) {
	ino, err := f.tree.Create(ctx, inode.RootDir, name, inode.Attr{Mode: 0o644})
	if err == nil && len(data) > 0 {
		_, err = f.tree.WriteAt(ctx, ino, data, 0)
	}
	return ino, err
}

func oursCreateEmpty(ctx context.Context, b *bench) (measure, error) { return b.oursCreate(ctx, 0) }

func oursCreate4K(ctx context.Context, b *bench) (measure, error) { return b.oursCreate(ctx, 4096) }

// oursCreate makes files in one directory, one handle an operation, and commits once at the end, as sync does.
func (b *bench) oursCreate(ctx context.Context, size int) (measure, error) {
	return b.withOwn(ctx, func(f *ownFS) (time.Duration, error) {
		data := pattern(size)
		began := time.Now()
		for i := range b.files {
			if _, err := f.create(ctx, fileName(i), data); err != nil {
				return 0, err
			}
		}
		err := f.Commit(ctx)
		return time.Since(began), err
	})
}

func oursDeleteEmpty(ctx context.Context, b *bench) (measure, error) {
	return b.withOwn(ctx, func(f *ownFS) (time.Duration, error) {
		for i := range b.files {
			if _, err := f.create(ctx, fileName(i), nil); err != nil {
				return 0, err
			}
		}
		if err := f.Commit(ctx); err != nil {
			return 0, err
		}
		began := time.Now()
		for i := range b.files {
			if err := f.tree.Unlink(ctx, inode.RootDir, fileName(i)); err != nil {
				return 0, err
			}
		}
		err := f.Commit(ctx)
		return time.Since(began), err
	})
}

func fileName(i int) string { return fmt.Sprintf("file-%07d", i) }

// chunk is how much one write or read moves, in bytes, on both sides.
const chunk = 1 << 20

// pattern returns n bytes that are no hole and do not repeat within a sector.
func pattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

func (b *bench) ownWrite(ctx context.Context, f *ownFS) error {
	ino, err := f.create(ctx, "data", nil)
	if err != nil {
		return err
	}
	file, err := f.tree.Open(ctx, ino)
	if err != nil {
		return err
	}
	p := f.Pool().Get(chunk) // aligned, as a program that cares has it
	defer f.Pool().Put(p)
	copy(p, pattern(chunk))
	for at := int64(0); at < b.bytes; at += chunk {
		if _, err := file.WriteAt(p[:min(chunk, b.bytes-at)], at); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	if err := file.Close(); err != nil {
		return err
	}
	return f.Commit(ctx)
}

func oursWrite(ctx context.Context, b *bench) (measure, error) {
	return b.withOwn(ctx, func(f *ownFS) (time.Duration, error) {
		began := time.Now()
		err := b.ownWrite(ctx, f)
		return time.Since(began), err
	})
}

// oursRead reads a file in a file system that was closed and opened again.
func oursRead(ctx context.Context, b *bench) (m measure, err error) {
	img := b.image()
	defer func() { err = errors.Join(err, os.Remove(img)) }()
	f := &ownFS{}
	if f.FS, err = engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: uint64(b.workSize())}); err != nil {
		return m, err
	}
	if f.tree, err = f.Subvolume(ctx, ondisk.FSTree); err == nil {
		err = b.ownWrite(ctx, f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return m, err
	}
	if err := forget(img); err != nil {
		return m, err
	}
	if f.FS, err = engine.Open(ctx, img, engine.OpenOptions{ReadOnly: true}); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	tree, err := f.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return m, err
	}
	began := time.Now()
	e, err := tree.Lookup(ctx, inode.RootDir, "data")
	if err != nil {
		return m, err
	}
	r, err := inode.OpenFile(ctx, tree, e.Location.ObjectID)
	if err != nil {
		return m, err
	}
	n, err := io.Copy(io.Discard, r)
	m.took = time.Since(began)
	if err == nil && n != b.bytes {
		err = fmt.Errorf("read %d bytes, expect %d", n, b.bytes)
	}
	return m, err
}
