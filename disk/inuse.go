package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Who else uses an image: loop devices (sysfs and LOOP_GET_STATUS64), mounts (mountinfo), and btrfs file systems of
// several devices (sysfs), of which mountinfo shows one device only.

// busyError says that path is used by user and what to do; it matches ErrBusy.
func busyError(path, user, remedy string) error {
	return fmt.Errorf("%s is %w: %s; %s", path, ErrBusy, user, remedy)
}

// checkUsers returns an ErrBusy when the file or block device st backs a loop device or is mounted.
func checkUsers(path string, st *syscall.Stat_t) error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		if user, remedy := deviceUser(st.Rdev, mounts); user != "" {
			return busyError(path, user, remedy)
		}
	}
	loops, err := loopsOf(st)
	if err != nil {
		return err
	}
	for _, loop := range loops {
		if user, remedy := deviceUser(loop.rdev, mounts); user != "" {
			return busyError(path, fmt.Sprintf("it backs %s, %s", loop.path, user), remedy+" && losetup -d "+loop.path)
		}
	}
	if len(loops) > 0 {
		return busyError(path, "it backs "+loops[0].path, "losetup -d "+loops[0].path)
	}
	return nil
}

// deviceUser says which mounted file system uses a block device, and how to end that. Empty when none does.
func deviceUser(rdev uint64, mounts []mount) (user, remedy string) {
	for _, m := range mounts {
		if m.uses(rdev) {
			return "mounted on " + m.point, "umount " + m.point
		}
	}
	// Devices of mounted btrfs file systems, those mounted in other namespaces too.
	devs, _ := filepath.Glob("/sys/fs/btrfs/*/devices/*/dev") // the pattern is well-formed
	for _, dev := range devs {
		if text, err := os.ReadFile(dev); err == nil && strings.TrimSpace(string(text)) == majorMinor(rdev) {
			uuid := filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dev))))
			return "part of the mounted btrfs file system " + uuid, "umount it (findmnt UUID=" + uuid + ")"
		}
	}
	return "", ""
}

func majorMinor(rdev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(rdev), unix.Minor(rdev))
}

// mount is one line of mountinfo.
type mount struct {
	dev    string // major:minor of st_dev of its files; anonymous for btrfs
	source string // what was mounted, often a device path
	point  string
}

// uses reports whether the mount is of the block device rdev.
func (m *mount) uses(rdev uint64) bool {
	if m.dev == majorMinor(rdev) {
		return true
	}
	if !strings.HasPrefix(m.source, "/") {
		return false
	}
	var st unix.Stat_t
	return unix.Stat(m.source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == rdev
}

// readMounts parses mountinfo, whose fields are in proc_pid_mountinfo(5). A system without /proc has none to show.
func readMounts(path string) ([]mount, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var mounts []mount
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // overlay mounts have long options
	for lines.Scan() {
		if m, ok := parseMount(lines.Text()); ok {
			mounts = append(mounts, m)
		}
	}
	return mounts, lines.Err()
}

// parseMount reads "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue".
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !ok || len(left) < 5 || len(right) < 2 {
		return mount{}, false
	}
	return mount{dev: left[2], point: unescapeMount(left[4]), source: unescapeMount(right[1])}, true
}

// unescapeMount undoes the kernel's \ooo for space, tab, newline and backslash.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// loopDevice is an attached loop device.
type loopDevice struct {
	path string // /dev/loop0
	rdev uint64
}

// loopsOf lists the loop devices that a file or block device backs.
func loopsOf(st *syscall.Stat_t) ([]loopDevice, error) {
	// The file exists only while the loop device is attached.
	backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var loops []loopDevice
	for _, backing := range backings {
		sys := filepath.Dir(filepath.Dir(backing))
		dev := filepath.Join("/dev", filepath.Base(sys))
		text, err := os.ReadFile(backing)
		if err != nil {
			continue // detached since
		}
		if !backs(st, strings.TrimSuffix(string(text), "\n"), dev) {
			continue
		}
		number, err := os.ReadFile(filepath.Join(sys, "dev"))
		if err != nil {
			continue
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(string(number), "%d:%d", &major, &minor); err != nil {
			return nil, fmt.Errorf("%s/dev: %w", sys, err)
		}
		loops = append(loops, loopDevice{path: dev, rdev: unix.Mkdev(major, minor)})
	}
	return loops, nil
}

// backs reports whether st is what a loop device is attached to.
//
// The path in sysfs is the one of a moment ago: the file may have been renamed, unlinked (the kernel then appends
// " (deleted)", and another link or a new file of that name may exist), or belong to another mount namespace. So a
// path decides only when it leads to the same inode, never by its text; else the loop device itself is asked, which root
// may.
func backs(st *syscall.Stat_t, path, dev string) bool {
	var other syscall.Stat_t
	if syscall.Stat(path, &other) == nil && sameFile(st, &other) {
		return true
	}
	fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return false
	}
	if st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		return info.Rdevice != 0 && loopDev(info.Rdevice) == st.Rdev
	}
	return info.Inode == st.Ino && loopDev(info.Device) == st.Dev
}

// loopDev decodes a device number of struct loop_info64, which holds the kernel's 32-bit form (huge_encode_dev).
func loopDev(d uint64) uint64 {
	return unix.Mkdev(uint32(d&0xfff00>>8), uint32(d&0xff|d>>12&0xfff00))
}

// sameFile compares regular files by inode, block devices by device number.
func sameFile(a, b *syscall.Stat_t) bool {
	if a.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		return b.Mode&syscall.S_IFMT == syscall.S_IFBLK && a.Rdev == b.Rdev
	}
	return a.Ino == b.Ino && a.Dev == b.Dev
}
