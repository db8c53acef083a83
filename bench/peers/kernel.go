package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of include/uapi/linux/btrfs.h: both take a structure of 4096 bytes.
const (
	iocSubvolCreate = 0x5000940e // _IOW(0x94, 14, struct btrfs_ioctl_vol_args)
	iocSnapCreateV2 = 0x50009417 // _IOW(0x94, 23, struct btrfs_ioctl_vol_args_v2)
	volArgsSize     = 4096
	nameAtV1        = 8  // behind fd
	nameAtV2        = 56 // behind fd, transid, flags and four unused words
)

// kernelFS is a btrfs of mkfs.btrfs, mounted from a loop device, with one subvolume in it.
type kernelFS struct {
	img, loop, dir string
	loopDIO        string
	source         string  // path of the subvolume
	flags          uintptr // of mount(2)
}

// withKernel runs fn on a new file system. fn times what it wants timed.
func (b *bench) withKernel(ctx context.Context, fn func(k *kernelFS) (time.Duration, error)) (m measure, err error) {
	k := &kernelFS{img: b.image(), loopDIO: b.loopDIO}
	defer func() { err = errors.Join(err, os.Remove(k.img)) }()
	if err := sparse(k.img, b.workSize()); err != nil {
		return m, err
	}
	if _, err := tool(ctx, "mkfs.btrfs", "-q", k.img); err != nil {
		return m, err
	}
	k.dir = k.img + ".mnt"
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.Remove(k.dir)) }()
	if err := k.mount(ctx); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, k.unmount()) }()
	k.source = filepath.Join(k.dir, "source")
	if err := volIoctl(k.dir, iocSubvolCreate, 0, nameAtV1, "source"); err != nil {
		return m, fmt.Errorf("subvolume: %w", err)
	}
	if err := k.sync(); err != nil {
		return m, err
	}
	m.took, err = fn(k)
	return m, err
}

func (k *kernelFS) mount(ctx context.Context) (err error) {
	if k.loop, err = tool(ctx, "losetup", "--find", "--show", "--direct-io="+k.loopDIO, k.img); err != nil {
		return err
	}
	if err := unix.Mount(k.loop, k.dir, "btrfs", k.flags, ""); err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", k.loop, err), k.detach())
	}
	return nil
}

func (k *kernelFS) unmount() error {
	if k.loop == "" {
		return nil
	}
	if err := unix.Unmount(k.dir, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", k.dir, err)
	}
	return k.detach()
}

func (k *kernelFS) detach() error {
	_, err := tool(context.Background(), "losetup", "--detach", k.loop)
	k.loop = ""
	return err
}

// sync commits, as sync -f does.
func (k *kernelFS) sync() error {
	d, err := os.Open(k.dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// volIoctl makes a subvolume, or a snapshot of the subvolume that fd is open on.
func volIoctl(parent string, op uintptr, fd int64, nameAt int, name string) error {
	d, err := os.Open(parent)
	if err != nil {
		return err
	}
	defer d.Close()
	var args [volArgsSize]byte
	binary.NativeEndian.PutUint64(args[:], uint64(fd))
	copy(args[nameAt:volArgsSize-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), op, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return errno
	}
	return nil
}

func theirsSnapshotsClean(ctx context.Context, b *bench) (measure, error) {
	return b.theirsSnapshots(ctx, false)
}

func theirsSnapshotsDirtied(ctx context.Context, b *bench) (measure, error) {
	return b.theirsSnapshots(ctx, true)
}

// theirsSnapshots takes snapshots. The ioctl commits before it returns; the syncfs behind it finds nothing to do, and is
// there so that no reading of "durable" is in doubt.
func (b *bench) theirsSnapshots(ctx context.Context, dirtied bool) (measure, error) {
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		f, err := os.Create(filepath.Join(k.source, "data"))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, snapshotFile)); err != nil {
			return 0, err
		}
		if err := k.sync(); err != nil {
			return 0, err
		}
		src, err := os.Open(k.source)
		if err != nil {
			return 0, err
		}
		defer src.Close()
		block := pattern(4096)
		began := time.Now()
		for i := range b.snapshots {
			if dirtied {
				if _, err := f.WriteAt(block, int64(i)*4096%snapshotFile); err != nil {
					return 0, err
				}
			}
			if err := volIoctl(k.dir, iocSnapCreateV2, int64(src.Fd()), nameAtV2, fmt.Sprintf("snap-%d", i)); err != nil {
				return 0, fmt.Errorf("snapshot: %w", err)
			}
			if err := k.sync(); err != nil {
				return 0, err
			}
		}
		return time.Since(began), nil
	})
}

func (k *kernelFS) create(i int, data []byte) error {
	fd, err := unix.Open(filepath.Join(k.source, fileName(i)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		_, err = unix.Write(fd, data)
	}
	return errors.Join(err, unix.Close(fd))
}

func theirsCreateEmpty(ctx context.Context, b *bench) (measure, error) { return b.theirsCreate(ctx, 0) }

func theirsCreate4K(ctx context.Context, b *bench) (measure, error) {
	return b.theirsCreate(ctx, 4096)
}

func (b *bench) theirsCreate(ctx context.Context, size int) (measure, error) {
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		data := pattern(size)
		began := time.Now()
		for i := range b.files {
			if err := k.create(i, data); err != nil {
				return 0, err
			}
		}
		err := k.sync()
		return time.Since(began), err
	})
}

func theirsDeleteEmpty(ctx context.Context, b *bench) (measure, error) {
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		for i := range b.files {
			if err := k.create(i, nil); err != nil {
				return 0, err
			}
		}
		if err := k.sync(); err != nil {
			return 0, err
		}
		began := time.Now()
		for i := range b.files {
			if err := unix.Unlink(filepath.Join(k.source, fileName(i))); err != nil {
				return 0, err
			}
		}
		err := k.sync()
		return time.Since(began), err
	})
}

func (b *bench) kernelWrite(k *kernelFS) error {
	f, err := os.Create(filepath.Join(k.source, "data"))
	if err != nil {
		return err
	}
	p := pattern(chunk)
	for at := int64(0); at < b.bytes; at += chunk {
		if _, err := f.Write(p[:min(chunk, b.bytes-at)]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	return k.sync()
}

func theirsWrite(ctx context.Context, b *bench) (measure, error) {
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		began := time.Now()
		err := b.kernelWrite(k)
		return time.Since(began), err
	})
}

// theirsRead reads a file in a file system that was unmounted and mounted again.
func theirsRead(ctx context.Context, b *bench) (measure, error) {
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		if err := b.kernelWrite(k); err != nil {
			return 0, err
		}
		if err := k.unmount(); err != nil {
			return 0, err
		}
		if err := forget(k.img); err != nil {
			return 0, err
		}
		if err := k.mount(ctx); err != nil {
			return 0, err
		}
		began := time.Now()
		f, err := os.Open(filepath.Join(k.source, "data"))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		n := int64(0)
		for p := make([]byte, chunk); ; {
			m, err := f.Read(p)
			n += int64(m)
			if err == io.EOF {
				break
			}
			if err != nil {
				return 0, err
			}
		}
		took := time.Since(began)
		if n != b.bytes {
			return 0, fmt.Errorf("read %d bytes, expect %d", n, b.bytes)
		}
		return took, nil
	})
}

// forget writes an image back and takes it out of the page cache, so that what is read of it comes from the device.
// Other files stay cached: the machine may be in use.
func forget(img string) error {
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}
