package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// imgtool builds the command and returns its path.
func imgtool(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "imgtool")
	oracle.Run(t, "go", "build", "-o", bin, "imgtool/cmd/imgtool")
	return bin
}

// TestRootdirGo makes an image of GOROOT/src and compares a mount of it with the source.
func TestRootdirGo(t *testing.T) {
	src := filepath.Join(strings.TrimSpace(oracle.Run(t, "go", "env", "GOROOT")), "src")
	if _, err := os.Stat(src); err != nil {
		t.Skip("no GOROOT/src here: ", err)
	}
	img := filepath.Join(t.TempDir(), "go.img")
	oracle.Run(t, imgtool(t), "mkfs", "-q", "--rootdir", src, img)
	oracle.Check(t, img)
	m := oracle.Mount(t, img)
	oracle.Run(t, "diff", "-r", "--no-dereference", src, m.Dir)
	sameTree(t, oracle.Manifest(t, src), oracle.Manifest(t, m.Dir))
	m.Unmount()
}

// TestRootdirEverything does the same with a small tree that has everything a host directory can hold.
func TestRootdirEverything(t *testing.T) {
	oracle.NeedRoot(t)
	src := t.TempDir()
	everything(t, src)
	atimes := accessTimes(t, src)
	before := oracle.Manifest(t, src)
	for _, nodesize := range []string{"4096", "16384", "65536"} {
		t.Run(nodesize, func(t *testing.T) {
			setAccessTimes(t, atimes) // reading for the manifest has changed them
			img := filepath.Join(t.TempDir(), "fs.img")
			oracle.Run(t, imgtool(t), "mkfs", "-q", "-n", nodesize, "--rootdir", src, img)
			oracle.Check(t, img)
			m := oracle.Mount(t, img, oracle.Opts("noatime"))
			for path, want := range atimes {
				rel, err := filepath.Rel(src, path)
				must(t, err)
				if got := accessTime(t, m.Path(rel)); got != want {
					t.Errorf("%s: access time %v, want %v", rel, got, want)
				}
			}
			oracle.Run(t, "diff", "-r", "--no-dereference", "--exclude=special", src, m.Dir)
			sameTree(t, before, oracle.Manifest(t, m.Dir))
			m.Unmount()
		})
	}
}

// everything fills dir.
func everything(t *testing.T, dir string) {
	sub := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"sizes", "special", "deep/er/and/deeper", "empty"} {
		must(t, os.MkdirAll(sub(d), 0o755))
	}
	for _, n := range boundarySizes() {
		must(t, os.WriteFile(sub(fmt.Sprintf("sizes/%05d", n)), pattern(n), 0o640))
	}
	must(t, os.WriteFile(sub("large"), pattern(5<<20+13), 0o600))
	must(t, os.Link(sub("large"), sub("deep/link")))
	must(t, os.Link(sub("large"), sub("another link")))
	must(t, os.Symlink("../large", sub("deep/symlink")))
	must(t, os.Symlink(strings.Repeat("x/", 1500), sub("long symlink")))
	must(t, os.WriteFile(sub("name \xff that is no UTF-8"), []byte("text"), 0o644))
	must(t, os.WriteFile(sub(strings.Repeat("n", 255)), nil, 0o4711))
	sparse, err := os.Create(sub("sparse"))
	must(t, err)
	for _, at := range []int64{0, 1 << 20, 3<<20 + 4096, 30 << 20} {
		_, err := sparse.WriteAt(pattern(5000), at)
		must(t, err)
	}
	must(t, sparse.Truncate(64<<20))
	must(t, sparse.Close())
	must(t, unix.Mkfifo(sub("special/fifo"), 0o600))
	must(t, unix.Mknod(sub("special/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(sub("special/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(t, unix.Setxattr(sub("large"), "user.text", []byte("value"), 0))
	must(t, unix.Setxattr(sub("large"), "trusted.binary", pattern(1000), 0))
	must(t, unix.Setxattr(sub("deep"), "user.empty", nil, 0))
	must(t, os.Lchown(sub("large"), 1234, 99999))
	must(t, os.Lchown(sub("deep/symlink"), 7, 8))
	must(t, os.Chmod(sub("empty"), 0o1777))
	n := int64(0)
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		n++ // every path has its own times, one before 1970
		ts := []unix.Timespec{{Sec: 1_600_000_000 + n, Nsec: 123_456_789}, {Sec: 1_500_000_000*(n-2)/n + n, Nsec: 987_654_000 + n}}
		if err == nil {
			err = unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	}))
}

// boundarySizes are sizes of files from 0 to 8,200 bytes, in steps that hit the ends of inline data, of sectors and
// some on either side of them.
func boundarySizes() []int {
	set := map[int]bool{8200: true}
	for n := 0; n <= 8200; n += 97 {
		set[n] = true
	}
	for _, edge := range []int{0, 2048, 4096, 8192, 3900, 3995 - ondisk.FileExtentInlineStart, 512, 1024} {
		for d := -2; d <= 2; d++ {
			set[max(0, edge+d)] = true
		}
	}
	var out []int
	for n := range set {
		out = append(out, n)
	}
	return out
}

// pattern is n bytes, no two sectors of them the same.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8*31 ^ i>>16*17 + 1)
	}
	return p
}

// accessTimes chooses an access time for everything in dir.
func accessTimes(t *testing.T, dir string) map[string]time.Time {
	times := map[string]time.Time{}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && !strings.Contains(path, "link") { // several names have one time
			times[path] = time.Time{}
		}
		return err
	}))
	n := 0
	for path := range times {
		n++
		times[path] = time.Unix(int64(1_700_000_000+n), int64(n)).UTC()
	}
	return times
}

func setAccessTimes(t *testing.T, times map[string]time.Time) {
	for path, at := range times {
		ts := []unix.Timespec{{Sec: at.Unix(), Nsec: int64(at.Nanosecond())}, {Nsec: unix.UTIME_OMIT}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func accessTime(t *testing.T, path string) time.Time {
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return time.Unix(st.Atim.Unix()).UTC()
}

// sameTree compares two manifests, but for what differs between file systems: inode numbers (only which names share one
// counts), sizes and link counts of directories.
func sameTree(t *testing.T, want, got []byte) {
	t.Helper()
	if a, b := neutral(t, want), neutral(t, got); !bytes.Equal(a, b) {
		t.Errorf("the mount differs from the source:\n%s", oracle.ManifestDiff(a, b))
	}
}

func neutral(t *testing.T, manifest []byte) []byte {
	var out bytes.Buffer
	first := map[json.Number]string{}
	for line := range bytes.Lines(manifest) {
		var e map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		must(t, d.Decode(&e))
		if e["type"] == "dir" {
			delete(e, "size")
			delete(e, "nlink")
		}
		ino := e["ino"].(json.Number)
		if _, ok := first[ino]; !ok {
			first[ino] = fmt.Sprint(e["path"], e["path_b64"])
		}
		e["ino"] = first[ino]
		maps.DeleteFunc(e, func(_ string, v any) bool { return v == nil })
		b, err := json.Marshal(e)
		must(t, err)
		out.Write(append(b, '\n'))
	}
	return out.Bytes()
}

// TestImportSizes imports the same through the API and compares what is read back, byte by byte, in the same session
// and in one opened anew.
func TestImportSizes(t *testing.T) {
	ctx := t.Context()
	src := t.TempDir()
	for _, n := range boundarySizes() {
		must(t, os.WriteFile(filepath.Join(src, fmt.Sprintf("%05d", n)), pattern(n), 0o640))
	}
	for _, nodesize := range []int{4096, 16384} {
		img, fsys := create(t, 256<<20, func(o *engine.FormatOptions) { o.NodeSize = nodesize })
		tree, err := fsys.Subvolume(ctx, ondisk.FSTree)
		must(t, err)
		_, err = copytree.Import(ctx, tree, 256, src, copytree.ImportOptions{})
		must(t, err)
		compareSizes(t, fsys)
		finish(t, fsys, img)
		fsys = reopen(t, img)
		compareSizes(t, fsys)
		must(t, fsys.Close())
	}
}

func compareSizes(t *testing.T, fsys *engine.FS) {
	tree, err := fsys.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	for _, n := range boundarySizes() {
		if err := compare(t.Context(), tree, fmt.Sprintf("%05d", n), pattern(n)); err != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
