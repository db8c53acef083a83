package oracle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestManifest compares the manifest of a small tree with one written by hand.
func TestManifest(t *testing.T) {
	NeedRoot(t)
	m := Mount(t, image(t))
	writeFile(t, m.Path("a"), []byte("hello"))
	must(t, os.Chown(m.Path("a"), 7, 8))
	must(t, os.Chmod(m.Path("a"), 0o640|os.ModeSetuid))
	must(t, unix.Lsetxattr(m.Path("a"), "user.z", []byte{0, 255}, 0))
	must(t, unix.Lsetxattr(m.Path("a"), "user.e", nil, 0))
	must(t, os.Link(m.Path("a"), m.Path("a-b")))
	must(t, os.Mkdir(m.Path("d"), 0o1777))
	must(t, os.Chmod(m.Path("d"), 0o777|os.ModeSticky))
	must(t, os.Symlink("../<t>", m.Path("d", "l\xff")))
	must(t, os.Symlink("\xfe", m.Path("d", "m")))
	must(t, unix.Mknod(m.Path("dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 300))))
	must(t, unix.Mknod(m.Path("chr"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	must(t, unix.Mkfifo(m.Path("pipe"), 0o600))
	must(t, unix.Mknod(m.Path("sock"), unix.S_IFSOCK|0o600, 0))
	m.KernelSubvolume("sv")
	m.KernelSubvolume("sv/nested")
	writeFile(t, m.Path("sv", "f"), nil)
	m.KernelSnapshot("sv", "sv2", false)
	must(t, os.Truncate(m.Path("sv", "f"), 256<<20+1))

	var names []string
	must(t, filepath.WalkDir(m.Dir, func(p string, _ os.DirEntry, err error) error {
		names = append(names, p)
		return err
	}))
	for _, p := range names { // children before parents does not matter: setting times changes no other time
		ts := []unix.Timespec{{Sec: 1, Nsec: 1}, {Sec: -2, Nsec: 999999999}}
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil && p != m.Path("sv2", "nested") {
			t.Fatal(err)
		}
	}
	empty := hex.EncodeToString(sha256.New().Sum(nil))
	hello := fmt.Sprintf("%x", sha256.Sum256([]byte("hello")))
	x := `"xattrs":{"user.e":"","user.z":"AP8="},"sha256":"` + hello + `"}`
	want := strings.Join([]string{
		`{"path":".","type":"dir","mode":"0755","uid":0,"gid":0,"size":48,"mtime":-1000000001,"nlink":1,"ino":256}`,
		`{"path":"a","type":"file","mode":"4640","uid":7,"gid":8,"size":5,"mtime":-1000000001,"nlink":2,"ino":257,` + x,
		`{"path":"a-b","type":"file","mode":"4640","uid":7,"gid":8,"size":5,"mtime":-1000000001,"nlink":2,"ino":257,` + x,
		`{"path":"chr","type":"char","mode":"0600","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":262,"rdev":"1:3"}`,
		`{"path":"d","type":"dir","mode":"1777","uid":0,"gid":0,"size":6,"mtime":-1000000001,"nlink":1,"ino":258}`,
		`{"path_b64":"ZC9s/w==","type":"symlink","mode":"0777","uid":0,"gid":0,"size":6,"mtime":-1000000001,"nlink":1,"ino":259,"target":"../<t>"}`,
		`{"path":"d/m","type":"symlink","mode":"0777","uid":0,"gid":0,"size":1,"mtime":-1000000001,"nlink":1,"ino":260,"target_b64":"/g=="}`,
		`{"path":"dev","type":"block","mode":"0600","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":261,"rdev":"8:300"}`,
		`{"path":"pipe","type":"fifo","mode":"0600","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":263}`,
		`{"path":"sock","type":"socket","mode":"0600","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":264}`,
		`{"path":"sv","type":"dir","mode":"0755","uid":0,"gid":0,"size":14,"mtime":-1000000001,"nlink":1,"ino":256}`,
		`{"path":"sv/f","type":"file","mode":"0644","uid":0,"gid":0,"size":268435457,"mtime":-1000000001,"nlink":1,"ino":257,"sparse_sha256":"` + empty + `"}`,
		`{"path":"sv/nested","type":"dir","mode":"0755","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":256}`,
		`{"path":"sv2","type":"dir","mode":"0755","uid":0,"gid":0,"size":14,"mtime":-1000000001,"nlink":1,"ino":256}`,
		`{"path":"sv2/f","type":"file","mode":"0644","uid":0,"gid":0,"size":0,"mtime":-1000000001,"nlink":1,"ino":257,"sha256":"` + empty + `"}`,
		`{"path":"sv2/nested","type":"dir","mode":"0755","uid":0,"gid":0,"size":0,"mtime":0,"nlink":1,"ino":2}`,
	}, "\n") + "\n"
	if d := ManifestDiff([]byte(want), m.ManifestOf("")); d != "" {
		t.Error(d)
	}
	if d := ManifestDiff(m.ManifestOf("sv"), m.ManifestOf("sv2")); !strings.Contains(d, "sparse_sha256") {
		t.Errorf("the difference between sv and sv2 is not shown: %q", d)
	}
	m.Unmount()
}

// TestSparseHash compares with a naive reading of the definition, on files of data, holes and written zeros.
func TestSparseHash(t *testing.T) {
	rng := rand.New(rand.NewSource(Seed(t)))
	for round := range 6 {
		size := int64(1 + rng.Intn(9<<20))
		path := filepath.Join(t.TempDir(), "f")
		must(t, blankFile(path, size))
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		must(t, err)
		for range rng.Intn(5) {
			at := rng.Int63n(size)
			piece := make([]byte, min(size-at, int64(1+rng.Intn(1<<20))))
			if rng.Intn(3) > 0 {
				rng.Read(piece)
			}
			_, err := f.WriteAt(piece, at)
			must(t, err)
		}
		content, err := os.ReadFile(path)
		must(t, err)
		h := sha256.New()
		for i := 0; i*sparseBlock < len(content); i++ {
			block := make([]byte, sparseBlock)
			copy(block, content[i*sparseBlock:])
			if strings.Trim(string(block), "\x00") != "" {
				fmt.Fprintf(h, "%d:%s", i, block)
			}
		}
		got, err := sparseHash(f, size)
		if want := hex.EncodeToString(h.Sum(nil)); err != nil || got != want {
			t.Errorf("round %d, size %d: %s, %v; want %s", round, size, got, err, want)
		}
		if _, err := sparseHash(f, size+1); err == nil && size%sparseBlock != 0 && content[len(content)-1] != 0 {
			t.Errorf("round %d: a file shorter than its size was hashed", round)
		}
		must(t, f.Close())
	}
}

func TestManifestDiff(t *testing.T) {
	line := func(path string, n int) string { return fmt.Sprintf("{\"path\":%q,\"size\":%d}\n", path, n) }
	a := line("a", 1) + line("b", 1) + line("c", 1)
	for _, c := range []struct {
		name, b string
		want    []string
	}{
		{"equal", a, nil},
		{"changed", line("a", 1) + line("b", 2) + line("c", 1), []string{"- " + line("b", 1), "+ " + line("b", 2)}},
		{"missing", line("a", 1) + line("c", 1), []string{"- " + line("b", 1)}},
		{"added", a + line("d", 1), []string{"+ " + line("d", 1)}},
		{"empty", "", []string{"- " + line("a", 1), "- " + line("b", 1), "- " + line("c", 1)}},
		{"order", line("b", 1) + line("a", 1) + line("c", 1), []string{"- " + line("a", 1), "+ " + line("a", 1)}},
	} {
		got := ManifestDiff([]byte(a), []byte(c.b))
		if (got == "") != (c.want == nil) {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		if _, body, _ := strings.Cut(got, "\n"); body != strings.Join(c.want, "") {
			t.Errorf("%s: %q, want %q", c.name, body, c.want)
		}
	}
}
