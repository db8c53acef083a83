package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		line string
		want mount
		ok   bool
	}{
		{`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, mount{"98:0", "/dev/root", "/mnt2"}, true},
		{`36 35 0:43 /@ /a\040b\134c rw - btrfs /dev/my\040disk rw`, mount{"0:43", "/dev/my disk", `/a b\c`}, true},
		{`36 35 0:43 / /m\9 rw shared:1 master:2 - tmpfs tmpfs rw`, mount{"0:43", "tmpfs", `/m\9`}, true},
		{`36 35 0:43 / /mnt rw`, mount{}, false},
		{`36 35 - ext4`, mount{}, false},
		{``, mount{}, false},
	} {
		if got, ok := parseMount(c.line); got != c.want || ok != c.ok {
			t.Errorf("%q: %+v, %v", c.line, got, ok)
		}
	}
}

func TestLoopDev(t *testing.T) {
	// huge_encode_dev(major, minor) is minor&0xff | major<<8 | (minor&^0xff)<<12
	for _, c := range []struct{ major, minor uint32 }{{254, 0}, {8, 17}, {259, 70000}, {4095, 1<<20 - 1}} {
		enc := uint64(c.minor&0xff) | uint64(c.major)<<8 | uint64(c.minor&^0xff)<<12
		if got := loopDev(enc); got != unix.Mkdev(c.major, c.minor) {
			t.Errorf("%d:%d: %d:%d", c.major, c.minor, unix.Major(got), unix.Minor(got))
		}
	}
}

// command runs a tool, which must succeed.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// attach makes a loop device of the file for the length of the test.
func attach(t *testing.T, path string, args ...string) string {
	t.Helper()
	loop := command(t, "losetup", append(append([]string{"-f", "--show"}, args...), path)...)
	t.Cleanup(func() { command(t, "losetup", "-d", loop) })
	return loop
}

// needLoop skips where loop devices cannot be had, or fails where they must be: in CI.
func needLoop(t *testing.T) {
	t.Helper()
	skip := func(why any) {
		if os.Getenv("CI") == "true" || os.Getenv("IMGTOOL_ORACLE") == "required" {
			t.Fatalf("must not be skipped in CI: %v", why)
		}
		t.Skip(why)
	}
	if os.Getuid() != 0 {
		skip("needs root")
	}
	for _, tool := range []string{"losetup", "mkfs.btrfs", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			skip(err)
		}
	}
	if err := exec.Command("losetup", "-f").Run(); err != nil {
		skip("no loop device")
	}
}

// ramfs has no O_DIRECT: auto falls back with one warning, on is an error and leaves nothing behind.
func TestDirectRefused(t *testing.T) {
	needLoop(t)
	mnt := t.TempDir()
	command(t, "mount", "-t", "ramfs", "ramfs", mnt)
	t.Cleanup(func() { command(t, "umount", mnt) })
	path := filepath.Join(mnt, "image")
	if _, err := Create(path, 8192, Options{Direct: DirectOn}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "--direct") {
		t.Errorf("on: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on has left its file: %v", err)
	}
	for _, open := range []func(o Options) (*File, error){
		func(o Options) (*File, error) { return Create(path, 8192, o) },
		func(o Options) (*File, error) { return Open(path, o) },
	} {
		var warnings []string
		f, err := open(Options{Warn: func(m string) { warnings = append(warnings, m) }})
		if err != nil || f.Direct() || len(warnings) != 1 || !strings.Contains(warnings[0], path) {
			t.Fatalf("auto: %v, warnings %q", err, warnings)
		}
		if n, err := f.WriteAt(bg, []byte("hello"), 5000); n != 5 || err != nil {
			t.Error(n, err)
		}
		f.Close()
	}
	if f, err := Open(path, Options{Direct: DirectOff, Warn: func(m string) { t.Errorf("off warns: %s", m) }}); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if _, err := Open(path, Options{Direct: DirectOn}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("open on: %v", err)
	}
}

// refused opens path in every way and expects an ErrBusy whose text has all of want, but for ForceReadonly.
func refused(t *testing.T, path string, want ...string) {
	t.Helper()
	for _, o := range []Options{{}, {ReadOnly: true}, {Direct: DirectOff}} {
		f, err := Open(path, o)
		if !errors.Is(err, ErrBusy) {
			t.Errorf("open %s %+v: %v, want ErrBusy", path, o, err)
			if err == nil {
				f.Close()
			}
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("open %s: %q does not say %q", path, err, w)
			}
		}
		if got := strings.Contains(err.Error(), "--force-readonly"); got != o.ReadOnly {
			t.Errorf("open %s %+v: %q speaks of --force-readonly: %t", path, o, err, got)
		}
	}
	f, err := Open(path, Options{ForceReadonly: true})
	if err != nil {
		t.Errorf("force: %v", err)
		return
	}
	defer f.Close()
	if _, err := f.ReadAt(bg, make([]byte, 4096), 0); err != nil {
		t.Errorf("force: %v", err)
	}
}

func opens(t *testing.T, path string, o Options) {
	t.Helper()
	f, err := Open(path, o)
	if err != nil {
		t.Errorf("open %s %+v: %v", path, o, err)
		return
	}
	f.Close()
}

func TestLoopAndMount(t *testing.T) {
	needLoop(t)
	dir := t.TempDir()
	var images, loops []string
	for _, name := range []string{"a image", "b"} { // a space, as sysfs and mountinfo may show one
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 128<<20); err != nil {
			t.Fatal(err)
		}
		opens(t, path, Options{})
		images, loops = append(images, path), append(loops, attach(t, path))
	}
	refused(t, images[0], "it backs "+loops[0], "losetup -d "+loops[0])
	opens(t, loops[0], Options{})
	opens(t, loops[0], Options{ReadOnly: true})

	// Under another name, and unlinked under the one that the kernel knows.
	other := filepath.Join(dir, "hard link")
	if err := os.Link(images[0], other); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(images[0]); err != nil {
		t.Fatal(err)
	}
	refused(t, other, "it backs "+loops[0])
	// A new file of the old name is not what the loop device has.
	if err := os.WriteFile(images[0], make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	opens(t, images[0], Options{})

	// A btrfs of two devices: mountinfo names one of them and an anonymous device number.
	command(t, "mkfs.btrfs", "-q", "-f", "-m", "raid1", "-d", "single", loops[0], loops[1])
	mnt := filepath.Join(dir, "mount point")
	if err := os.Mkdir(mnt, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "device="+loops[0]+",device="+loops[1], loops[0], mnt)
	mounted := true
	umount := func() {
		if mounted {
			command(t, "umount", mnt)
		}
		mounted = false
	}
	t.Cleanup(umount)
	refused(t, loops[0], "umount")
	refused(t, loops[1], "umount")
	refused(t, other, "it backs "+loops[0], "umount", "losetup -d "+loops[0])
	refused(t, images[1], "it backs "+loops[1], "umount", "losetup -d "+loops[1])
	umount()
	opens(t, loops[1], Options{})
}

func TestBlockDevice(t *testing.T) {
	needLoop(t)
	path := filepath.Join(t.TempDir(), "image")
	const size = 8<<20 + 1536 // no whole number of pages: the end goes through the page cache
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := attach(t, path)
	f, err := Open(loop, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Size() != size || !f.IsBlockDevice() || !f.Direct() || f.Align().Offset < 512 {
		t.Errorf("size %d, block %v, direct %v, %+v", f.Size(), f.IsBlockDevice(), f.Direct(), f.Align())
	}
	if _, err := Open(loop, Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("two writers: %v", err)
	}
	for _, off := range []int{0, 5, 4096, 1<<20 + 1, size - 3000} {
		p := []byte(strings.Repeat("NEW", 900))
		if n, err := f.WriteAt(bg, p, int64(off)); n != len(p) || err != nil {
			t.Fatalf("write at %d: %d, %v", off, n, err)
		}
		copy(content[off:], p)
	}
	if n, err := f.WriteAt(bg, make([]byte, 512), size); n != 0 || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("past the end: %d, %v", n, err)
	}
	if err := f.Flush(bg); err != nil {
		t.Error(err)
	}
	got := make([]byte, size+1)
	if n, err := f.ReadAt(bg, got, 0); n != size || err != io.ErrUnexpectedEOF || !bytes.Equal(got[:size], content) {
		t.Errorf("read back: %d, %v, or the bytes differ", n, err)
	}
	if err := f.Truncate(4096); !errors.Is(err, unix.EINVAL) {
		t.Errorf("truncate: %v", err)
	}

	// A discard frees space in the backing file, and spares the blocks that it covers in part.
	if err := f.Discard(bg, 2<<20-100, 4<<20+200); err != nil {
		t.Fatal(err)
	}
	edge := make([]byte, 100)
	if _, err := f.ReadAt(bg, edge, 2<<20-100); err != nil || !bytes.Equal(edge, content[2<<20-100:2<<20]) {
		t.Errorf("before the discarded blocks: %q, %v", edge, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 > 5<<20 && !f.noDiscard.Load() {
		t.Errorf("%d bytes allocated after the discard", st.Blocks*512)
	}
}
