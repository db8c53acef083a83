package copytree_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// outside is a directory that an export must neither change nor write into.
type outside struct {
	dir    string
	before unix.Stat_t
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{dir: t.TempDir()}
	must(t, unix.Stat(o.dir, &o.before))
	return o
}

// check looks for traces of an export.
func (o *outside) check(t *testing.T, what string) {
	t.Helper()
	left, err := os.ReadDir(o.dir)
	must(t, err)
	var now unix.Stat_t
	must(t, unix.Stat(o.dir, &now))
	if len(left) != 0 || now.Mtim != o.before.Mtim || now.Uid != o.before.Uid || now.Mode != o.before.Mode {
		t.Errorf("%s: the export has left %v outside, or changed its attributes: %+v, before %+v", what, left, now, o.before)
	}
}

// export copies the image into dest.
func export(t *testing.T, fsys *engine.FS, dest string) error {
	t.Helper()
	ns, err := fsys.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	_, err = copytree.Export(t.Context(), ns, ns.Top(), dest, copytree.ExportOptions{Owners: copytree.ExportOwners()})
	return err
}

// TestExportStaysInside exports an image whose links lead out of the destination: they are made, and not followed. Nor are
// links followed that wait in the destination where the export wants to make something.
func TestExportStaysInside(t *testing.T) {
	out, src := newOutside(t), t.TempDir()
	link := filepath.Join(src, "link")
	must(t, os.Symlink(out.dir, link))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, link, []unix.Timespec{{Sec: 1}, {Sec: 2}}, unix.AT_SYMLINK_NOFOLLOW))
	if copytree.ExportOwners() {
		must(t, os.Lchown(link, 1234, 1234))
	}
	must(t, os.Mkdir(filepath.Join(src, "dir"), 0o711))
	must(t, os.WriteFile(filepath.Join(src, "dir", "below"), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(src, "file"), []byte("x"), 0o644))
	fsys, _ := newImage(t, 200<<20, nil)
	importInto(t, fsys, src, copytree.ImportOptions{})

	dest := t.TempDir()
	must(t, export(t, fsys, dest))
	out.check(t, "a link in the image")
	if to, err := os.Readlink(filepath.Join(dest, "link")); err != nil || to != out.dir {
		t.Errorf("the link leads to %q: %v", to, err)
	}
	for name, target := range map[string]string{"file": filepath.Join(out.dir, "stolen"), "dir": out.dir, "link": out.dir} {
		dest := t.TempDir()
		must(t, os.Symlink(target, filepath.Join(dest, name)))
		if err := export(t, fsys, dest); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a link waits at %s: %v", name, err)
		}
		out.check(t, "a link waits at "+name)
	}
	must(t, fsys.Close())
}

// TestExportNames exports images with names that are none: they would lead out, and are refused.
func TestExportNames(t *testing.T) {
	out := newOutside(t)
	base := disk.NewMem("image", 160<<20)
	o := mkfs.Default()
	o.Meta = 0
	fsys, err := engine.FormatDevice(t.Context(), base, engine.FormatOptions{Options: o})
	must(t, err)
	clean := base.Clone()
	must(t, fsys.Close())
	make := map[string]func(*inode.FileTree, string) (ondisk.ObjectID, error){
		"file": func(tree *inode.FileTree, name string) (ondisk.ObjectID, error) {
			return tree.Create(t.Context(), inode.RootDir, name, inode.Attr{Mode: 0o644})
		},
		"dir": func(tree *inode.FileTree, name string) (ondisk.ObjectID, error) {
			dir, err := tree.Mkdir(t.Context(), inode.RootDir, name, inode.Attr{Mode: 0o700})
			if err == nil {
				_, err = tree.Create(t.Context(), dir, "below", inode.Attr{Mode: 0o644})
			}
			return dir, err
		},
		"link": func(tree *inode.FileTree, name string) (ondisk.ObjectID, error) {
			return tree.Symlink(t.Context(), inode.RootDir, name, "target", inode.Attr{Mode: 0o777})
		},
	}
	for _, bad := range []string{".", "..", "/", "a/b", "/x", "../x", "../../x", out.dir + "/x", "x\x00y"} {
		for kind, make := range make {
			fsys, err := engine.OpenDevices(t.Context(), []disk.Device{clean.Clone()}, engine.OpenOptions{})
			must(t, err)
			tree, err := fsys.Subvolume(t.Context(), ondisk.FSTree)
			must(t, err)
			good := strings.Repeat("n", len(bad))
			_, err = make(tree, good)
			must(t, err)
			rename(t, fsys, good, bad)
			parent := t.TempDir()
			dest := filepath.Join(parent, "a", "b")
			must(t, os.MkdirAll(dest, 0o755))
			if err := export(t, fsys, dest); !errors.Is(err, fserr.ErrInvalid) {
				t.Errorf("a %s %q: %v", kind, bad, err)
			}
			out.check(t, kind+" "+bad)
			var all []string
			must(t, filepath.WalkDir(parent, func(path string, _ fs.DirEntry, err error) error {
				all = append(all, strings.TrimPrefix(path, parent))
				return err
			}))
			if got := strings.Join(all, " "); got != " /a /a/b" {
				t.Errorf("a %s %q: the export has left%s", kind, bad, got)
			}
			must(t, fsys.Close())
		}
	}
}

// rename gives an entry of the top directory a name that the engine itself does not let anybody make, in the item by which
// directories are read.
func rename(t *testing.T, fsys *engine.FS, old, name string) {
	t.Helper()
	tree, err := fsys.DB().Tree(t.Context(), ondisk.FSTree)
	must(t, err)
	first := ondisk.Key{ObjectID: inode.RootDir, Type: ondisk.DirIndexKey}
	last := first
	last.Offset = ^uint64(0)
	var keys []ondisk.Key
	must(t, tree.Scan(t.Context(), first, last, func(k ondisk.Key, _ []byte) (bool, error) {
		keys = append(keys, k)
		return true, nil
	}))
	if len(keys) != 1 {
		t.Fatalf("the directory has %d entries", len(keys))
	}
	h, err := fsys.DB().Start(t.Context(), 1)
	must(t, err)
	must(t, tree.Update(t.Context(), h, keys[0], func(item []byte) error {
		if n := item[ondisk.DirItemSize:]; !bytes.Equal(n, []byte(old)) || copy(n, name) != len(old) {
			t.Errorf("the entry is %q", n)
		}
		return nil
	}))
	must(t, h.End(t.Context()))
}
