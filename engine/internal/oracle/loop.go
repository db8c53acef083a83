package oracle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// patience bounds every wait for the kernel to let go of something (a busy mount, a loop device that udev
	// is still probing). Reaching it is a failure of the test, so it is long enough for a machine that has no time.
	patience = 3 * time.Minute
	// pollEvery is the pause between two looks at something that the kernel offers no notification for.
	pollEvery = 2 * time.Millisecond

	loFlagsReadOnly  = 1 // linux/loop.h LO_FLAGS_READ_ONLY
	loFlagsAutoclear = 4 // linux/loop.h LO_FLAGS_AUTOCLEAR
)

// LoopDevice is an image attached to a loop device of its own. It is detached by Detach, at the end of the test, or
// by the kernel when the process ends, whichever is first.
type LoopDevice struct {
	Path  string // "/dev/loop3"
	Image string // absolute path of the backing file
	f     *os.File
}

// Name returns the name that the kernel uses in its messages: "loop3".
func (l *LoopDevice) Name() string { return filepath.Base(l.Path) }

// Loop attaches img to a free loop device until the end of the test.
func Loop(t testing.TB, img string) *LoopDevice {
	t.Helper()
	NeedRoot(t)
	l, err := attach(img)
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	t.Cleanup(func() {
		if err := l.Detach(); err != nil {
			t.Errorf("oracle: %v", err)
		}
	})
	return l
}

// attach takes a free loop device for img, read-only if the file cannot be opened for writing.
//
// LOOP_CTL_GET_FREE only looks, so somebody else may configure the device before us; LOOP_CONFIGURE then says EBUSY
// and we ask for another. Our own processes are kept apart by hostLock, which saves most of these rounds.
func attach(img string) (*LoopDevice, error) {
	abs, err := filepath.Abs(img)
	if err != nil {
		return nil, err
	}
	var flags uint32 = loFlagsAutoclear
	backing, err := os.OpenFile(abs, os.O_RDWR, 0)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EROFS) {
		flags |= loFlagsReadOnly
		backing, err = os.Open(abs)
	}
	if err != nil {
		return nil, err
	}
	defer backing.Close()

	unlock, err := hostLock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(pollEvery) {
		l, err := configureFree(control, backing, flags)
		if err == nil {
			l.Image = abs
			return l, nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return nil, fmt.Errorf("attaching %s to a loop device: %w", abs, err)
		}
	}
}

// configureFree asks for the number of a free device (the kernel adds one if there is none) and tries to take it.
func configureFree(control, backing *os.File, flags uint32) (*LoopDevice, error) {
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, fmt.Errorf("LOOP_CTL_GET_FREE: %w", err)
	}
	path := fmt.Sprintf("/dev/loop%d", n)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		// A container whose /dev is no devtmpfs does not see devices that were added later.
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("mknod %s: %w", path, err)
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: flags}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], backing.Name())
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &config); err != nil {
		_ = f.Close() // the error that matters is the first
		return nil, fmt.Errorf("LOOP_CONFIGURE %s: %w", path, err)
	}
	return &LoopDevice{Path: path, f: f}, nil
}

// Detach gives the device back and returns when the kernel has let the image go, so that the caller may open it
// exclusively. Detaching twice does nothing.
func (l *LoopDevice) Detach() error {
	if l.f == nil {
		return nil
	}
	// btrfs remembers devices by path after an unmount; a stale entry would be "found" again as a member of the
	// next multi-device file system on another device.
	_ = forgetDevice(l.Path) // best effort: it fails for devices btrfs never saw
	err := l.f.Close()
	l.f = nil
	if err != nil {
		return err
	}
	// Autoclear happens when the last opener closes; udev or a deferred close of the kernel may come after us.
	attr := fmt.Sprintf("/sys/block/%s/loop/backing_file", l.Name())
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(pollEvery) {
		now, err := os.ReadFile(attr)
		if err != nil || strings.TrimSpace(string(now)) != l.Image {
			return nil
		}
	}
	return fmt.Errorf("%s still holds %s after %v", l.Path, l.Image, patience)
}

// attachAll attaches the devices of one file system, all or none.
func attachAll(t testing.TB, imgs []string) []*LoopDevice {
	t.Helper()
	loops := make([]*LoopDevice, 0, len(imgs))
	for _, img := range imgs {
		loops = append(loops, Loop(t, img)) // its cleanup detaches those before it if this one fails
	}
	return loops
}

func detachAll(t testing.TB, loops []*LoopDevice) {
	t.Helper()
	for _, l := range loops {
		if err := l.Detach(); err != nil {
			t.Errorf("oracle: %v", err)
		}
	}
}

// scanDevice tells the kernel and through it btrfs-progs of a member device (`btrfs device scan`).
func scanDevice(path string) error { return controlDevice(ioctlScanDev, path) }

// forgetDevice is `btrfs device scan --forget`.
func forgetDevice(path string) error { return controlDevice(ioctlForgetDev, path) }

const (
	ioctlScanDev   = 0x50009404 // linux/btrfs.h BTRFS_IOC_SCAN_DEV
	ioctlForgetDev = 0x50009405 // linux/btrfs.h BTRFS_IOC_FORGET_DEV
)

func controlDevice(op uintptr, path string) error {
	f, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var args struct { // linux/btrfs.h struct btrfs_ioctl_vol_args
		fd   int64
		name [4088]byte
	}
	copy(args.name[:len(args.name)-1], path)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), op, uintptr(unsafe.Pointer(&args))); errno != 0 {
		return fmt.Errorf("btrfs-control %#x %s: %w", op, path, errno)
	}
	return nil
}
