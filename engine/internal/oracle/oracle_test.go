package oracle

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const imageSize = 128 << 20

func image(t testing.TB, args ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "a.img")
	Mkfs(t, img, imageSize, args...)
	return img
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGoodImagePasses(t *testing.T) {
	img := image(t, "-n", "4096", "--csum", "xxhash")
	Check(t, img)
	CheckLowmem(t, img)
}

// TestDamagedData flips one byte of a file's data: btrfs check must refuse the image, a kernel mount must log it, and
// both must end in a failed test.
func TestDamagedData(t *testing.T) {
	NeedRoot(t)
	img := image(t)
	pattern := bytes.Repeat([]byte("imgtool oracle! "), 8192)
	m := Mount(t, img)
	writeFile(t, m.Path("f"), pattern)
	m.Unmount()
	Check(t, img)

	raw, err := os.ReadFile(img)
	must(t, err)
	at := bytes.Index(raw, pattern)
	if at < 0 {
		t.Fatal("the file's data is nowhere in the image")
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt([]byte{pattern[5000] ^ 1}, int64(at+5000))
	must(t, err)
	must(t, f.Close())

	if got := observe(func(tb testing.TB) { Check(tb, img) }); !got.failed || !strings.Contains(got.text.String(), "csum") {
		t.Errorf("a flipped byte passed the check: %q", got.text.String())
	}
	CheckWith(t, CheckOptions{NoDataCsum: true}, img)

	read := func(tb testing.TB, opts ...MountOption) *Mounted {
		m := Mount(tb, img, opts...)
		if _, err := os.ReadFile(m.Path("f")); !errors.Is(err, unix.EIO) {
			tb.Errorf("reading the damaged file: %v", err)
		}
		m.Unmount()
		return m
	}
	got := observe(func(tb testing.TB) { read(tb) })
	if text := got.text.String(); !got.failed || !strings.Contains(text, "corruption_errs") || strings.Contains(text, "reading the") {
		t.Errorf("failed=%v: %q", got.failed, text)
	}
	var seen []Message
	got = observe(func(tb testing.TB) { seen = read(tb, AllowComplaints()).Complaints() })
	if got.failed || len(seen) == 0 || !strings.Contains(lines(seen), "corruption_errs") {
		t.Errorf("failed=%v, complaints %v: %q", got.failed, seen, got.text.String())
	}
}

// TestKernelLogIsSeen: a message about the device of a mount fails its test, one about another device does not, and
// what the kernel says when it refuses a mount is in the error.
func TestKernelLogIsSeen(t *testing.T) {
	NeedRoot(t)
	img := image(t)
	say := func(tb testing.TB, level int, device string) {
		log, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
		must(tb, err)
		_, err = fmt.Fprintf(log, "<%d>BTRFS warning (device %s): a test of imgtool says so\n", level, device)
		must(tb, err)
		must(tb, log.Close())
	}
	for _, c := range []struct {
		level  int
		device string
		want   bool
	}{{4, "", true}, {2, "", true}, {6, "", false}, {4, "loop999999", false}} {
		got := observe(func(tb testing.TB) {
			m := Mount(tb, img)
			say(tb, c.level, cmp.Or(c.device, m.Devices[0].Name()))
			m.Unmount()
		})
		if got.failed != c.want || c.want != strings.Contains(got.text.String(), "imgtool says so") {
			t.Errorf("%+v: failed=%v: %q", c, got.failed, got.text.String())
		}
	}
	_, err := TryMount(t, img, Opts("rescue=ibadroots")) // needs ro
	if err == nil || !strings.Contains(err.Error(), "BTRFS error (device loop") {
		t.Errorf("the kernel's words are not in the error: %v", err)
	}
}

func TestNotAnImage(t *testing.T) {
	NeedRoot(t)
	img := filepath.Join(t.TempDir(), "zero.img")
	must(t, blankFile(img, imageSize))
	if err := CheckErr(t, CheckOptions{}, img); err == nil {
		t.Error("zeros passed the check")
	}
	if m, err := TryMount(t, img); err == nil {
		m.Unmount()
		t.Error("zeros were mounted")
	}
	if got := observe(func(tb testing.TB) { Mount(tb, img) }); !got.failed {
		t.Error("Mount of zeros did not fail its test")
	}
}

func TestJudgeCheck(t *testing.T) {
	const good = "[1/7] checking root items\nfound 147456 bytes used, no error found\n"
	for _, c := range []struct {
		name, out string
		err       error
		bad       bool
	}{
		{"clean", good, nil, false},
		{"status", good, errors.New("exit status 1"), true},
		{"no verdict", "Opening filesystem to check...\n", nil, true},
		{"verdict", "found 1 bytes used, error(s) found\n", nil, true},
		{"warning", "WARNING: minor unaligned/mismatch device size detected\n" + good, nil, true},
		{"error", good + "ERROR: x\n", nil, true},
		{"another's device", "ERROR: cannot scan /dev/loop6: Input/output error\n" + good, nil, false},
	} {
		if err := judgeCheck(c.out, c.err); (err != nil) != c.bad {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestMountGivesEverythingBack looks at mounts and loop devices after a test that ended by Fatalf with the mount still
// in use.
func TestMountGivesEverythingBack(t *testing.T) {
	NeedRoot(t)
	img := image(t)
	var m *Mounted
	release := make(chan struct{})
	got := observe(func(tb testing.TB) {
		m = Mount(tb, img)
		f, err := os.Create(m.Path("open"))
		must(tb, err)
		go func() { // the first umount finds the mount busy
			<-release
			time.Sleep(20 * time.Millisecond)
			_ = f.Close()
		}()
		close(release)
		tb.Fatalf("the test's own failure")
	})
	if text := got.text.String(); strings.TrimSpace(text) != "the test's own failure" {
		t.Errorf("cleaning up: %q", text)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if strings.Contains(string(mounts), m.Dir) {
		t.Errorf("%s is still mounted", m.Dir)
	}
	if b, err := os.ReadFile("/sys/block/" + m.Devices[0].Name() + "/loop/backing_file"); err == nil && strings.Contains(string(b), img) {
		t.Errorf("%s still backs %s", img, m.Devices[0].Path)
	}
	if _, err := os.Stat(m.dir.root); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", m.dir.root, err)
	}
	Check(t, img)
}

// TestSweep makes the leftovers of a killed process: a mounted directory whose lock nobody holds.
func TestSweep(t *testing.T) {
	NeedRoot(t)
	img := image(t)
	loop := Loop(t, img)
	dir, err := newMountDir()
	must(t, err)
	Run(t, "mount", loop.Path, dir.mnt)
	if sweep(); unix.Access(dir.mnt, unix.F_OK) != nil {
		t.Fatal("sweep removed the directory of a living process")
	}
	unlock, err := hostLock() // or another process sweeps at the same time, and ours leaves the directory to it
	must(t, err)
	defer unlock()
	must(t, dir.lock.Close())
	if sweep(); unix.Access(dir.root, unix.F_OK) == nil {
		must(t, unix.Unmount(dir.mnt, 0))
		t.Error("sweep left the directory of a dead process")
	}
}

func TestMultiDevice(t *testing.T) {
	NeedRoot(t)
	dir := t.TempDir()
	imgs := []string{filepath.Join(dir, "1.img"), filepath.Join(dir, "2.img"), filepath.Join(dir, "3.img")}
	MkfsMulti(t, imgs, 256<<20, "-m", "raid1", "-d", "raid0")
	Check(t, imgs...)
	m := Mount(t, imgs[0], WithDevices(imgs[1:]...))
	writeFile(t, m.Path("f"), bytes.Repeat([]byte("x"), 1<<20))
	m.KernelScrub()
	m.Unmount()
	Check(t, imgs...)
	if err := CheckErr(t, CheckOptions{}, imgs[0]); err == nil {
		t.Error("one device of three passed the check")
	}
}

// TestKernelHelpers lets the kernel do one of everything and compares a received subvolume with its source.
func TestKernelHelpers(t *testing.T) {
	NeedRoot(t)
	img := image(t)
	m := Mount(t, img, Opts("noatime", "compress=zstd"))
	m.KernelSubvolume("s")
	writeFile(t, m.Path("s", "f"), bytes.Repeat([]byte("abc"), 10000))
	m.KernelSnapshot("s", "r1", true)
	writeFile(t, m.Path("s", "g"), []byte("more"))
	m.KernelSnapshot("s", "r2", true)
	must(t, os.Mkdir(m.Path("in"), 0o755))
	m.KernelReceive("in", m.KernelSend("r1", ""))
	m.KernelReceive("in", m.KernelSend("r2", "r1"))
	writable := func(name string) string {
		data, err := os.ReadFile(m.Path(name))
		must(t, err)
		return string(data)
	}
	if writable("r2/f") != writable("in/r2/f") || writable("in/r2/g") != "more" {
		t.Error("the received snapshot differs from its source")
	}
	if err := m.KernelReceiveErr("in", []byte("not a stream")); err == nil {
		t.Error("receive took a stream that is none")
	}
	m.KernelDelete("r1", "in/r1")
	m.KernelBalance("-m")
	m.KernelBalance("-s")
	m.KernelBalance()
	m.KernelSync()
	if list := m.Btrfs("subvolume", "list", m.Dir); strings.Count(list, "\n") != 3 {
		t.Errorf("subvolumes:\n%s", list)
	}
	m.Unmount()
	Check(t, img)
}
