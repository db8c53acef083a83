package send_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/send"
)

// subvolSetFlags is BTRFS_IOC_SUBVOL_SETFLAGS of linux/btrfs.h.
const subvolSetFlags = 0x4008941a

// thaw makes a subvolume of a mounted image writable as the ioctl does: it keeps its received UUID.
func thaw(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var flags uint64
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), subvolSetFlags, uintptr(unsafe.Pointer(&flags))); e != 0 {
		t.Fatal(dir, e)
	}
}

// TestSameUUID sends snapshots of a subvolume that was received and then made writable by the kernel: all have the
// received UUID of it. A clone from one is taken for a clone within what is being received, so there must be none. (The
// kernel makes them, and its own receive fails or takes other data.)
func TestSameUUID(t *testing.T) {
	oracle.NeedRoot(t)
	rnd := bytes.Repeat([]byte("some data of the file that is moved; "), 8000)
	other := bytes.Repeat([]byte("something else that has its name now "), 8000)
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 256<<20)
	m := oracle.Mount(t, img)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m.KernelSubvolume("origin")
	must(os.WriteFile(m.Path("origin", "f"), rnd, 0o644))
	m.KernelSnapshot("origin", "a", true)
	stream := m.KernelSend("a", "")
	m.KernelDelete("a")
	m.KernelReceive("", stream)
	thaw(t, m.Path("a"))
	m.KernelSnapshot("a", "s0", true)
	must(os.Rename(m.Path("a", "f"), m.Path("a", "moved")))
	must(os.WriteFile(m.Path("a", "f"), other, 0o644))
	m.KernelSnapshot("a", "s1", true)
	copyFile(t, m.Path("a", "moved"), m.Path("a", "copy")) // a clone of what s0 has as f
	m.KernelSnapshot("a", "s2", true)
	names := []string{"s0", "s1", "s2"}
	want := map[string][]byte{}
	for _, name := range names {
		want[name] = noInos(m.ManifestOf(name))
	}
	m.Unmount()

	for _, c := range []struct {
		parent  string
		sources []string
	}{{parent: "s0", sources: []string{"s0"}}, {parent: "s0", sources: []string{"s0", "s1"}}, {parent: "s1", sources: []string{"s0"}}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
			must(err)
			dst := filepath.Join(t.TempDir(), "img")
			oracle.Mkfs(t, dst, 256<<20)
			var first, second bytes.Buffer
			must(fs.Send(t.Context(), &first, engine.SendOptions{Path: c.parent}))
			must(fs.Send(t.Context(), &second, engine.SendOptions{Path: "s2", ParentPath: c.parent, ClonePaths: c.sources, Options: send.Options{Version: 2}}))
			must(fs.Close())
			m := oracle.Mount(t, dst)
			m.KernelReceive("", first.Bytes())
			m.KernelReceive("", second.Bytes())
			if diff := oracle.ManifestDiff(noInos(m.ManifestOf("s2")), want["s2"]); diff != "" {
				t.Errorf("received (-), the source (+):\n%s", diff)
			}
			m.Unmount()
		})
	}
}

// copyFile makes a file that shares its data with another one.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err == nil {
		err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	}
	if e := dst.Close(); err == nil {
		err = e
	}
	if err != nil {
		t.Fatal(from, to, err)
	}
}
