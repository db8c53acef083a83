package oracle

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirPrefix starts the names of mount directories in os.TempDir.
const dirPrefix = "imgtool-oracle-"

// hostLock takes the lock that all test processes of this machine share. It covers short phases only: taking a loop
// device, making a mount directory together with its lock, and sweep.
func hostLock() (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), "imgtool-oracle.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		_ = f.Close() // the error that matters is the first
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil // closing is what unlocks
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// mountDir is a directory of our own in os.TempDir: mnt to mount on, and a file whose lock says that its process lives.
type mountDir struct {
	root string
	mnt  string
	lock *os.File
}

// newMountDir makes one, having swept what killed processes left behind.
func newMountDir() (*mountDir, error) {
	unlock, err := hostLock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	sweep()
	root, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return nil, err
	}
	d := &mountDir{root: root, mnt: filepath.Join(root, "mnt")}
	if err := os.Mkdir(d.mnt, 0o700); err != nil {
		return nil, err
	}
	if d.lock, err = os.Create(filepath.Join(root, "lock")); err != nil {
		return nil, err
	}
	return d, flock(d.lock, unix.LOCK_EX)
}

// remove deletes the directory; nothing may be mounted there any more. It never descends: should something still be
// mounted, the file system there is not harmed.
func (d *mountDir) remove() error {
	defer d.lock.Close()
	return removeMountDir(d.root)
}

func removeMountDir(root string) error {
	if err := os.Remove(filepath.Join(root, "mnt")); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Remove(filepath.Join(root, "lock")); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.Remove(root)
}

// sweep unmounts and removes the directories of processes that were killed. The caller holds hostLock, so a directory
// without a locked lock file is not one that is just being made. Loop devices clear themselves (autoclear).
// Errors are left alone: what cannot be swept disturbs nobody but the disk space of the machine.
func sweep() {
	roots, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, root := range roots {
		lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = unix.Unmount(filepath.Join(root, "mnt"), unix.MNT_DETACH)
			_ = removeMountDir(root)
		}
		_ = lock.Close()
	}
}
