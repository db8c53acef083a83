package copytree_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newImage formats an image file.
func newImage(t testing.TB, size uint64, change func(*mkfs.Options)) (*engine.FS, string) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "fs.img")
	o := engine.FormatOptions{Options: mkfs.Default(), Size: size}
	if change != nil {
		change(&o.Options)
	}
	fs, err := engine.Format(t.Context(), img, o)
	must(t, err)
	return fs, img
}

func importInto(t testing.TB, fs *engine.FS, src string, o copytree.ImportOptions) copytree.Progress {
	t.Helper()
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	p, err := copytree.Import(t.Context(), tree, inode.RootDir, src, o)
	must(t, err)
	must(t, fs.Commit(t.Context()))
	return p
}

func manifestOf(t testing.TB, fs *engine.FS) []byte {
	t.Helper()
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	var out bytes.Buffer
	must(t, manifest.Write(t.Context(), &out, ns))
	return out.Bytes()
}

// comparable drops from a manifest what a copy on another file system cannot have: inode numbers, the sizes of
// directories, and their link counts.
func comparable(t testing.TB, m []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for line := range bytes.Lines(m) {
		var l map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		must(t, d.Decode(&l))
		delete(l, "ino")
		if l["type"] == "dir" {
			delete(l, "size")
			delete(l, "nlink")
		}
		b, err := json.Marshal(l)
		must(t, err)
		out.Write(append(b, '\n'))
	}
	return out.Bytes()
}

// buildTree makes a host directory with one of everything that this process may make.
func buildTree(t testing.TB, dir string) {
	t.Helper()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, data, 0o644))
		return path
	}
	pattern := bytes.Repeat([]byte("imgtool\n"), 1<<17) // 1 MiB
	for _, n := range []int{0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 8192, 8200, 100000, 1 << 20} {
		write(fmt.Sprintf("sizes/%07d", n), pattern[:n])
	}
	write("large", bytes.Repeat(pattern, 5))
	write("names/\xff\xfe not UTF-8", []byte("x"))
	write("names/"+strings.Repeat("n", 255), []byte("y"))
	write("a.b", nil)
	write("a/b", []byte("z"))
	write("a/c/d/e/f/g", []byte("deep"))

	sparse, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	for _, at := range []int64{0, 1 << 20, 9<<20 + 4096} {
		_, err = sparse.WriteAt(pattern[:8192], at)
		must(t, err)
	}
	must(t, sparse.Truncate(20<<20))
	must(t, sparse.Close())
	must(t, os.Truncate(write("hole", nil), 3<<20))

	must(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "a/large again")))
	must(t, os.Link(filepath.Join(dir, "a/b"), filepath.Join(dir, "b")))
	must(t, os.Link(filepath.Join(dir, "a/b"), filepath.Join(dir, "a/b2")))
	must(t, os.Symlink("a/b", filepath.Join(dir, "link")))
	must(t, os.Symlink(strings.Repeat("/nowhere", 200), filepath.Join(dir, "dangling")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o640))
	must(t, unix.Mknod(filepath.Join(dir, "socket"), unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(filepath.Join(dir, "block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))

	must(t, unix.Setxattr(filepath.Join(dir, "a/b"), "user.mime_type", []byte("text/plain"), 0))
	must(t, unix.Setxattr(filepath.Join(dir, "a"), "user.empty", nil, 0))
	must(t, unix.Lsetxattr(filepath.Join(dir, "link"), "trusted.on-link", []byte{0, 1}, 0))
	must(t, os.Chown(filepath.Join(dir, "b"), 1000, 1001))
	must(t, os.Lchown(filepath.Join(dir, "link"), 7, 8))
	// cap_net_raw=ep, and an ACL with a named user; after the owner, since chown drops capabilities.
	must(t, unix.Setxattr(filepath.Join(dir, "large"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x06\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	must(t, unix.Setxattr(filepath.Join(dir, "a.b"), "system.posix_acl_access", []byte(acl), 0))
	must(t, os.Chmod(filepath.Join(dir, "sizes/0000001"), 0o4755|os.ModeSetuid))
	must(t, os.Chmod(filepath.Join(dir, "sizes"), 0o777|os.ModeSticky))
	must(t, os.Chmod(filepath.Join(dir, "names"), 0o2750|os.ModeSetgid))
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o500))
	for i, name := range []string{"link", "a/b", "a/c/d", "a", "sizes", "null", "."} {
		ts := []unix.Timespec{{Sec: 1<<33 + int64(i), Nsec: 999999999}, {Sec: int64(-i), Nsec: int64(i)}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), ts, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// TestRoundTrip takes one of everything into an image and out again, for formats that differ in what a file looks like.
func TestRoundTrip(t *testing.T) {
	oracle.NeedRoot(t)
	src := t.TempDir()
	buildTree(t, src)
	host := comparable(t, oracle.Manifest(t, src))
	for _, c := range []struct {
		name   string
		change func(*mkfs.Options)
		mount  []string
	}{
		{"default", nil, nil},
		{"small nodes and holes", func(o *mkfs.Options) {
			o.NodeSize, o.Csum = 4096, ondisk.SHA256
			o.Features.NoHoles, o.Features.BlockGroupTree = false, false
		}, nil},
		{"large nodes without tree", func(o *mkfs.Options) {
			o.NodeSize, o.Csum, o.Meta = 65536, ondisk.XXHash64, 0
			o.Features.BlockGroupTree, o.Features.FreeSpaceTree = false, false
		}, []string{"nospace_cache"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fs, img := newImage(t, 400<<20, c.change)
			importInto(t, fs, src, copytree.ImportOptions{TopAttrs: true})
			ours := manifestOf(t, fs)
			if d := oracle.ManifestDiff(host, comparable(t, ours)); d != "" {
				t.Errorf("image and source: %s", d)
			}
			back := filepath.Join(t.TempDir(), "back")
			exportAll(t, fs, back)
			if d := oracle.ManifestDiff(withoutTop(host), withoutTop(comparable(t, oracle.Manifest(t, back)))); d != "" {
				t.Errorf("export and source: %s", d)
			}
			must(t, fs.Close())
			oracle.Check(t, img)
			m := oracle.Mount(t, img, oracle.Opts(append(c.mount, "ro")...))
			if d := oracle.ManifestDiff(ours, m.ManifestOf("")); d != "" {
				t.Errorf("kernel and engine: %s", d)
			}
			m.Unmount()
		})
	}
}

func exportAll(t testing.TB, fs *engine.FS, dest string) {
	t.Helper()
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	_, err = copytree.Export(t.Context(), ns, ns.Top(), dest, copytree.ExportOptions{
		Owners: true, Warn: func(w string) { t.Error("warning:", w) },
	})
	must(t, err)
}

// withoutTop drops the line of the top directory, which Export leaves as it is.
func withoutTop(m []byte) []byte {
	var out []byte
	for line := range bytes.Lines(m) {
		if !bytes.Contains(line, []byte(`"path":".",`)) && !bytes.Contains(line, []byte(`"path":"."}`)) {
			out = append(out, line...)
		}
	}
	return out
}

// TestDeterminism imports the same tree twice: everything but the UUIDs must be the same.
func TestDeterminism(t *testing.T) {
	oracle.NeedRoot(t)
	src := t.TempDir()
	buildTree(t, src)
	// Reading moves access times unless they are later than the changes (relatime), and how often is a matter of the clock's
	// ticks.
	must(t, filepath.WalkDir(src, func(path string, _ iofs.DirEntry, err error) error {
		if err == nil {
			ts := []unix.Timespec{{Sec: 1 << 33}, {Nsec: unix.UTIME_OMIT}}
			err = unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
		}
		return err
	}))
	var first []byte
	for i := range 2 {
		fs, img := newImage(t, 400<<20, func(o *mkfs.Options) { o.Now = func() time.Time { return time.Unix(1e9, 0) } })
		importInto(t, fs, src, copytree.ImportOptions{TopAttrs: true})
		must(t, fs.Close())
		out := stripHeaders([]byte(oracle.Btrfs(t, "inspect-internal", "dump-tree", "-t", "fs", img)))
		if i == 0 {
			first = out
		} else if !bytes.Equal(first, out) {
			t.Fatalf("two imports of one tree differ:\n%s", oracle.ManifestDiff(first, out))
		}
	}
}

// stripHeaders drops the lines that tell of UUIDs.
func stripHeaders(dump []byte) []byte {
	var out []byte
	for line := range bytes.Lines(dump) {
		s := strings.TrimSpace(string(line))
		for _, prefix := range []string{"fs uuid", "chunk uuid", "uuid"} {
			if strings.HasPrefix(s, prefix) {
				s = ""
			}
		}
		if s != "" {
			out = append(out, s+"\n"...)
		}
	}
	return out
}

// TestSizeNeeded imports into images of just the size that is computed.
func TestSizeNeeded(t *testing.T) {
	src := goSource(t)
	many := t.TempDir()
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(many, fmt.Sprintf("file-%d", i)), make([]byte, i), 0o600))
	}
	for _, dir := range []string{filepath.Join(src, "cmd/compile"), many, t.TempDir()} {
		o := mkfs.Default()
		n, err := copytree.SizeNeeded(t.Context(), dir, o)
		must(t, err)
		fs, img := newImage(t, copytree.ImageSize(n, o), nil)
		p := importInto(t, fs, dir, copytree.ImportOptions{TopAttrs: true})
		if p.Inodes != n.Inodes {
			t.Errorf("%s: %d names counted, %d imported", dir, n.Inodes, p.Inodes)
		}
		u := fs.Usage()
		if u.Data.Used > n.Data || n.Data > 2*u.Data.Used+1<<20 {
			t.Errorf("%s: %d bytes of data computed, %d used", dir, n.Data, u.Data.Used)
		}
		if u.Metadata.Used > n.Metadata+1<<20 {
			t.Errorf("%s: %d bytes of metadata computed, %d used", dir, n.Metadata, u.Metadata.Used)
		}
		must(t, fs.Close())
		oracle.Check(t, img)
	}
}

// TestImportFailures checks that a failure leaves the image at its last commit, and sound.
func TestImportFailures(t *testing.T) {
	src := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(src, "dir"), 0o755))
	must(t, os.WriteFile(filepath.Join(src, "dir/file"), []byte("x"), 0o644))

	t.Run("name exists", func(t *testing.T) {
		fs, img := newImage(t, 200<<20, nil)
		importInto(t, fs, src, copytree.ImportOptions{})
		before := manifestOf(t, fs)
		tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
		must(t, err)
		if _, err := copytree.Import(t.Context(), tree, inode.RootDir, src, copytree.ImportOptions{}); !errors.Is(err, fserr.ErrExist) {
			t.Errorf("%v", err)
		}
		must(t, fs.Commit(t.Context()))
		if d := oracle.ManifestDiff(before, manifestOf(t, fs)); d != "" {
			t.Error(d)
		}
		must(t, fs.Close())
		oracle.Check(t, img)
	})
	t.Run("no space", func(t *testing.T) {
		big := t.TempDir()
		for i := range 200 {
			must(t, os.WriteFile(filepath.Join(big, fmt.Sprint(i)), bytes.Repeat([]byte("full"), 1<<18), 0o644))
		}
		fs, img := newImage(t, 128<<20, nil)
		tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
		must(t, err)
		if _, err := copytree.Import(t.Context(), tree, inode.RootDir, big, copytree.ImportOptions{}); !errors.Is(err, fserr.ErrNoSpace) {
			t.Errorf("%v", err)
		}
		must(t, fs.Commit(t.Context())) // the engine itself is sound
		must(t, fs.Close())
		oracle.Check(t, img)
	})
	t.Run("cancelled", func(t *testing.T) {
		fs, img := newImage(t, 1<<30, nil)
		tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		_, err = copytree.Import(ctx, tree, inode.RootDir, goSource(t), copytree.ImportOptions{
			Progress: func(p copytree.Progress) {
				if p.Inodes > 1000 {
					cancel()
				}
			},
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		must(t, fs.Commit(t.Context()))
		must(t, fs.Close())
		oracle.Check(t, img)
	})
	t.Run("not a directory", func(t *testing.T) {
		fs, _ := newImage(t, 200<<20, nil)
		tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
		must(t, err)
		if _, err := copytree.Import(t.Context(), tree, inode.RootDir, filepath.Join(src, "dir/file"), copytree.ImportOptions{}); !errors.Is(err, fserr.ErrNotDir) {
			t.Errorf("%v", err)
		}
		must(t, fs.Close())
	})
}

// TestSkip leaves out a file, and a directory with what is in it.
func TestSkip(t *testing.T) {
	src := t.TempDir()
	for _, name := range []string{"a/x", "a/y", "b/c/z", "b/d/w", "e"} {
		must(t, os.MkdirAll(filepath.Join(src, filepath.Dir(name)), 0o755))
		must(t, os.WriteFile(filepath.Join(src, name), nil, 0o644))
	}
	fs, _ := newImage(t, 200<<20, nil)
	var asked []string
	importInto(t, fs, src, copytree.ImportOptions{Skip: func(path string) bool {
		asked = append(asked, path)
		return path == "b/c" || path == "a/y"
	}})
	var paths []string
	for line := range bytes.Lines(manifestOf(t, fs)) {
		var l struct{ Path string }
		must(t, json.Unmarshal(line, &l))
		paths = append(paths, l.Path)
	}
	must(t, fs.Close())
	if got, want := strings.Join(paths, " "), ". a a/x b b/d b/d/w e"; got != want {
		t.Errorf("imported %s; want %s", got, want)
	}
	if got, want := strings.Join(asked, " "), "a b e a/x a/y b/c b/d b/d/w"; got != want {
		t.Errorf("asked for %s; want %s", got, want)
	}
}
