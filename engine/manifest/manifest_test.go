package manifest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, fs *engine.FS, id ondisk.TreeID) []byte {
	t.Helper()
	ns, err := fs.Namespace(t.Context(), id)
	must(t, err)
	var out bytes.Buffer
	must(t, manifest.Write(t.Context(), &out, ns))
	return out.Bytes()
}

// TestAgainstKernel compares with the other implementation, which reads a mount: names of all kinds, files around the
// limit of sparse hashes, subvolumes, and snapshots in which nested subvolumes are missing.
func TestAgainstKernel(t *testing.T) {
	img := filepath.Join(t.TempDir(), "fs.img")
	oracle.Mkfs(t, img, 1<<30)
	m := oracle.Mount(t, img)
	file := func(name string, size int64, at ...int64) {
		f, err := os.Create(m.Path(name))
		must(t, err)
		for _, off := range at {
			_, err := f.WriteAt([]byte("some data"), off)
			must(t, err)
		}
		must(t, f.Truncate(size))
		must(t, f.Close())
	}
	for _, name := range []string{"a", "!", "-x", ".hidden", "a.b", "a-", "a0", "\xff", "é", "quote\"back\\slash<&>\u2028", "new\nline"} {
		must(t, os.Mkdir(m.Path(name), 0o700))
		file(name+"/in", 5, 0)
	}
	const limit = 256 << 20
	file("at the limit", limit, 1<<20)
	file("sparse", limit+1, 0, 1<<20-4, 77<<20+5, limit-8)
	file("zeros", 2*limit)
	must(t, os.WriteFile(m.Path("written zeros"), make([]byte, 3<<20), 0o644))
	file("preallocated", limit+4096)
	pf, err := os.OpenFile(m.Path("preallocated"), os.O_RDWR, 0)
	must(t, err)
	must(t, unix.Fallocate(int(pf.Fd()), 0, 0, 20<<20))
	_, err = pf.WriteAt([]byte("x"), 5<<20)
	must(t, err)
	must(t, pf.Close())
	must(t, os.Symlink("\xfe not UTF-8", m.Path("link")))
	must(t, unix.Mknod(m.Path("device"), unix.S_IFBLK|0o600, int(unix.Mkdev(300, 1<<18))))
	must(t, unix.Lsetxattr(m.Path("a"), "user.x", []byte{0, 255}, 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.Path("a"), []unix.Timespec{{Sec: 1}, {Sec: -5, Nsec: 7}}, 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.Path("-x"), []unix.Timespec{{Sec: 1}, {Sec: 1 << 34, Nsec: 999999999}}, 0))
	m.KernelSubvolume("a/sub")
	file("a/sub/file", 9, 0)
	m.KernelSubvolume("a/sub/deeper")
	file("a/sub/deeper/file", 9, 0)
	must(t, os.Chown(m.Path("a"), 12, 34))
	m.KernelSnapshot("", "a/sub/snap", true)
	m.KernelSync()
	want := m.ManifestOf("")
	wantSub := m.ManifestOf("a/sub")
	m.Unmount()

	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	must(t, err)
	if d := oracle.ManifestDiff(want, write(t, fs, ondisk.FSTree)); d != "" {
		t.Error(d)
	}
	id, err := fs.SubvolumeAt(t.Context(), "a/sub")
	must(t, err)
	if d := oracle.ManifestDiff(wantSub, write(t, fs, id)); d != "" {
		t.Error(d)
	}
	must(t, fs.Close())
}

func newFS(t testing.TB) *engine.FS {
	t.Helper()
	fs, err := engine.FormatDevice(context.Background(), disk.NewMem("mem", 128<<20), engine.FormatOptions{Options: mkfs.Default()})
	must(t, err)
	t.Cleanup(func() {
		if err := fs.Close(); err != nil {
			t.Error(err)
		}
	})
	return fs
}

// TestOrder makes trees of short names, which share prefixes, and checks that lines come by the raw bytes of the path.
func TestOrder(t *testing.T) {
	fs := newFS(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		n++
		id, err := fs.CreateSubvolume(ctx, "tree"+strings.Repeat("x", n%200)+"-"+string(rune('0'+n/200)), subvol.CreateOptions{})
		if err != nil {
			rt.Fatal(err)
		}
		tree, err := fs.Subvolume(ctx, id)
		if err != nil {
			rt.Fatal(err)
		}
		want := []string{"."}
		dirs := map[ondisk.ObjectID]string{inode.RootDir: ""}
		inos := []ondisk.ObjectID{inode.RootDir}
		taken := map[string]bool{}
		for range rapid.IntRange(0, 40).Draw(rt, "names") {
			dir := rapid.SampledFrom(inos).Draw(rt, "dir")
			name := rapid.StringOfN(rapid.RuneFrom([]rune{'!', '-', '.', '0', 'a', 'b'}), 1, 3, 3).Draw(rt, "name")
			path := dirs[dir] + name
			if name == "." || name == ".." || taken[path] {
				continue
			}
			taken[path] = true
			ino, err := tree.Mkdir(ctx, dir, name, inode.Attr{Mode: 0o755})
			if err != nil {
				rt.Fatal(err)
			}
			dirs[ino], inos = path+"/", append(inos, ino)
			want = append(want, path)
		}
		slices.Sort(want)
		ns, err := fs.Namespace(ctx, id)
		if err != nil {
			rt.Fatal(err)
		}
		var out bytes.Buffer
		if err := manifest.Write(ctx, &out, ns); err != nil {
			rt.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			got = append(got, strings.Split(line, `"`)[3])
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("have %q expect %q", got, want)
		}
	})
}

// TestFailures checks that the first failure ends everything: a writer that refuses, a cancelled context.
func TestFailures(t *testing.T) {
	fs := newFS(t)
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	for i := range 2000 {
		_, err := tree.Create(t.Context(), inode.RootDir, strings.Repeat("n", i%200)+string(rune('0'+i/200)), inode.Attr{Mode: 0o644})
		must(t, err)
	}
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	full := errors.New("full")
	if err := manifest.Write(t.Context(), refusing{full}, ns); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := manifest.Write(ctx, &bytes.Buffer{}, ns); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

type refusing struct{ err error }

func (r refusing) Write([]byte) (int, error) { return 0, r.err }
