package copytree_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// TestOneFile takes every kind of file alone into an image and out again, each over what was there before.
func TestOneFile(t *testing.T) {
	oracle.NeedRoot(t)
	src := t.TempDir()
	buildTree(t, src)
	fsys, img := newImage(t, 400<<20, nil)
	tree, err := fsys.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	ns, err := fsys.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	back := t.TempDir()
	must(t, filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(path, src+"/")
		name := strings.ReplaceAll(rel, "/", "~")
		if len(name) > 255 {
			name = name[:255]
		}
		_, err = copytree.ImportFile(t.Context(), tree, inode.RootDir, name, path, copytree.ImportOptions{})
		must(t, err)
		_, err = copytree.ImportFile(t.Context(), tree, inode.RootDir, name, path, copytree.ImportOptions{})
		if !errors.Is(err, fserr.ErrExist) {
			t.Errorf("%s again: %v", name, err)
		}
		n, err := ns.Walk(t.Context(), name, false)
		must(t, err)
		dest := filepath.Join(back, rel)
		must(t, os.MkdirAll(filepath.Dir(dest), 0o755))
		must(t, os.WriteFile(dest, []byte("old"), 0o600))
		_, err = copytree.ExportFile(t.Context(), ns, n, dest, copytree.ExportOptions{
			Owners: true, Warn: func(w string) { t.Error("warning:", w) },
		})
		must(t, err)
		sameSpace(t, path, dest)
		return nil
	}))
	must(t, fsys.Commit(t.Context()))
	want, got := filesOnly(t, oracle.Manifest(t, src)), filesOnly(t, oracle.Manifest(t, back))
	if d := oracle.ManifestDiff(want, got); d != "" {
		t.Errorf("export and source: %s", d)
	}
	must(t, fsys.Close())
	oracle.Check(t, img)
}

// sameSpace checks that holes stayed holes, give or take how the host's file system allocates.
func sameSpace(t *testing.T, a, b string) {
	t.Helper()
	var x, y unix.Stat_t
	must(t, unix.Lstat(a, &x))
	must(t, unix.Lstat(b, &y))
	if y.Blocks > x.Blocks+256 {
		t.Errorf("%s takes %d blocks of 512 bytes, the source %d", b, y.Blocks, x.Blocks)
	}
}

var nlink = regexp.MustCompile(`"nlink":[0-9]+,?`)

// filesOnly drops directories and link counts from a manifest: single files have neither.
func filesOnly(t *testing.T, m []byte) []byte {
	var out []byte
	for line := range strings.Lines(string(comparable(t, m))) {
		if !strings.Contains(line, `"type":"dir"`) {
			out = append(out, nlink.ReplaceAllString(line, "")...)
		}
	}
	return out
}

// TestOneFileFails checks that nothing is left of a file that could not be taken out, and that what was there stays.
func TestOneFileFails(t *testing.T) {
	fsys, _ := newImage(t, 200<<20, nil)
	defer fsys.Close()
	tree, err := fsys.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	ns, err := fsys.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	host := t.TempDir()
	old := filepath.Join(host, "old")
	must(t, os.WriteFile(old, []byte("old"), 0o600))
	ino, err := tree.Create(t.Context(), inode.RootDir, "huge", inode.Attr{Mode: 0o644})
	must(t, err)
	must(t, tree.Truncate(t.Context(), ino, 1<<62)) // larger than any file of the host may be
	n, err := ns.Walk(t.Context(), "huge", false)
	must(t, err)
	if _, err := copytree.ExportFile(t.Context(), ns, n, old, copytree.ExportOptions{}); err == nil {
		t.Error("a file of 4 EiB was exported")
	}
	if _, err := copytree.ExportFile(t.Context(), ns, ns.Top(), old, copytree.ExportOptions{}); !errors.Is(err, fserr.ErrIsDir) {
		t.Errorf("a directory: %v", err)
	}
	names, err := os.ReadDir(host)
	must(t, err)
	data, err := os.ReadFile(old)
	must(t, err)
	if len(names) != 1 || string(data) != "old" {
		t.Errorf("left behind: %v, content %q", names, data)
	}
	for path, want := range map[string]error{host: fserr.ErrIsDir, filepath.Join(host, "no"): fs.ErrNotExist} {
		_, err := copytree.ImportFile(t.Context(), tree, inode.RootDir, "x", path, copytree.ImportOptions{})
		if !errors.Is(err, want) {
			t.Errorf("import of %s: %v", path, err)
		}
	}
}
