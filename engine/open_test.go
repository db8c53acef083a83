package engine_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
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

// edit changes the superblock copies of an image file in place.
func edit(t testing.TB, img string, change func(*ondisk.SuperBlock)) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	for _, at := range ondisk.SuperOffsets[:2] {
		var b [ondisk.SuperSize]byte
		if _, err := f.ReadAt(b[:], int64(at)); err != nil {
			continue // the image ends before
		}
		sb := ondisk.AsSuperBlock(b[:])
		if sb.Magic() != ondisk.Magic {
			continue
		}
		change(sb)
		sb.UpdateCsum()
		_, err = f.WriteAt(b[:], int64(at))
		must(t, err)
	}
}

func newImage(t testing.TB, o mkfs.Options, size uint64) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "fs.img")
	f, err := engine.Format(t.Context(), img, engine.FormatOptions{Options: o, Size: size})
	must(t, err)
	must(t, f.Close())
	return img
}

// TestRefusals checks, for everything that stands in the superblock, that it is refused for writing with advice, and
// whether it can be read.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(*ondisk.SuperBlock)
		write    string // part of the error
		readable bool
	}{
		{"unknown incompat", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | 1<<60) }, "incompat feature", false},
		{"raid56", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatRaid56) }, "RAID56", false},
		{"zoned", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatZoned) }, "ZONED", false},
		{"unknown compat_ro", func(sb *ondisk.SuperBlock) { sb.SetCompatROFlags(sb.CompatROFlags() | 1<<60) }, "read-only", true},
		{"log tree", func(sb *ondisk.SuperBlock) { sb.SetLogRoot(sb.Root()) }, "imgtool rescue zero-log", true},
		{"seed", func(sb *ondisk.SuperBlock) { sb.SetFlags(sb.Flags() | ondisk.SuperFlagSeeding) }, "btrfstune -S 0", true},
		{"devices", func(sb *ondisk.SuperBlock) { sb.SetNumDevices(2) }, "--device", true},
		{"mixed", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatMixedGroups) }, "mixed-bg", true},
		{"simple quota", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatSimpleQuota) }, "simple quota", true},
		{"metadump", func(sb *ondisk.SuperBlock) { sb.SetFlags(sb.Flags() | ondisk.SuperFlagMetadump) }, "btrfs-image", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := newImage(t, mkfs.Default(), 128<<20)
			edit(t, img, c.change)
			before := hashOf(t, img)
			_, err := engine.Open(t.Context(), img, engine.OpenOptions{})
			if err == nil || !strings.Contains(err.Error(), c.write) || !errors.Is(err, fserr.ErrUnsupported) || !strings.Contains(err.Error(), img) {
				t.Errorf("for writing: %v; want %q", err, c.write)
			}
			f, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
			if c.readable != (err == nil) {
				t.Errorf("for reading: %v; want readable %v", err, c.readable)
			}
			if err == nil {
				_, err = f.Namespace(t.Context(), ondisk.FSTree)
				must(t, err)
				must(t, f.Close())
			}
			if after := hashOf(t, img); after != before {
				t.Error("the image has changed")
			}
		})
	}
}

func hashOf(t testing.TB, path string) string {
	t.Helper()
	return strings.Fields(oracle.Run(t, "sha256sum", path))[0]
}

// TestTreeRefusals puts into the trees what a kernel would have left there. Nothing is written before the refusal, although a
// mirror of the superblock is old.
func TestTreeRefusals(t *testing.T) {
	for _, c := range []struct {
		name, want string
		tree       ondisk.TreeID
		key        ondisk.Key
		item       []byte
	}{
		{"balance", "btrfs balance cancel", ondisk.RootTree, ondisk.Key{ObjectID: ondisk.BalanceObjectID, Type: ondisk.TemporaryItemKey}, make([]byte, 448)},
		{"replace", "btrfs replace cancel", ondisk.DevTree, ondisk.Key{Type: ondisk.DevReplaceKey}, append(append(make([]byte, 32), 1), make([]byte, 39)...)},
		{"suspended replace", "btrfs replace cancel", ondisk.DevTree, ondisk.Key{Type: ondisk.DevReplaceKey}, append(append(make([]byte, 32), 4), make([]byte, 39)...)},
		{"finished replace", "", ondisk.DevTree, ondisk.Key{Type: ondisk.DevReplaceKey}, append(append(make([]byte, 32), 2), make([]byte, 39)...)},
		{"a device that is not there", "name it with --device", ondisk.ChunkTree, ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: 2}, nil},
		{"a device of a seed", "`btrfs device remove` for the seed", ondisk.ChunkTree, ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: 2}, nil},
		{"relocation", "mount it once with the kernel", ondisk.RootTree, ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.TreeRelocTree), Type: ondisk.RootItemKey, Offset: 5}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := disk.NewMem("image", 128<<20)
			f, err := engine.FormatDevice(t.Context(), mem, engine.FormatOptions{Options: mkfs.Default()})
			must(t, err)
			mirror := make([]byte, ondisk.SuperSize)
			_, err = mem.ReadAt(t.Context(), mirror, int64(ondisk.SuperOffsets[1]))
			must(t, err)
			tree, err := f.DB().Tree(t.Context(), c.tree)
			must(t, err)
			h, err := f.DB().Start(t.Context(), 1)
			must(t, err)
			item := c.item
			switch {
			case c.name == "relocation": // a root item that passes for one
				fsRoot, err := f.DB().Root(t.Context(), ondisk.FSTree)
				must(t, err)
				it := fsRoot.Snapshot()
				item = it[:]
			case c.key.Type == ondisk.DevItemKey:
				sb := f.Super()
				it := *sb.DevItem()
				it.SetDevID(2)
				if c.name == "a device of a seed" {
					it.SetFSID(ondisk.UUID{1})
				}
				item = it[:]
			}
			must(t, tree.Insert(t.Context(), h, c.key, item))
			must(t, h.EndAndCommit(t.Context()))
			left := mem.Clone()
			must(t, f.Close())
			_, err = left.WriteAt(t.Context(), mirror, int64(ondisk.SuperOffsets[1]))
			must(t, err)
			left = left.Clone() // whose counters are zero
			f, err = engine.OpenDevices(t.Context(), []disk.Device{left}, engine.OpenOptions{})
			if c.want == "" {
				must(t, err)
				must(t, f.Close())
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, fserr.ErrUnsupported) {
				t.Errorf("%v; want %q", err, c.want)
			}
			if st := left.Stats(); st.Writes != 0 || st.Discards != 0 {
				t.Errorf("refused after %d writes and %d discards", st.Writes, st.Discards)
			}
			f, err = engine.OpenDevices(t.Context(), []disk.Device{left.Clone()}, engine.OpenOptions{ReadOnly: true})
			must(t, err)
			must(t, f.Close())
		})
	}
}

// TestBadInput opens what is no image.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64, content []byte) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, content, 0o644))
		must(t, os.Truncate(path, size))
		return path
	}
	good := newImage(t, mkfs.Default(), 128<<20)
	truncated := filepath.Join(dir, "truncated")
	oracle.Run(t, "cp", "--sparse=always", good, truncated)
	must(t, os.Truncate(truncated, 40<<20))
	zeroed := filepath.Join(dir, "zeroed")
	oracle.Run(t, "cp", "--sparse=always", good, zeroed)
	zf, err := os.OpenFile(zeroed, os.O_RDWR, 0)
	must(t, err)
	for _, at := range ondisk.SuperOffsets[:2] {
		_, err = zf.WriteAt(make([]byte, ondisk.SuperSize), int64(at))
		must(t, err)
	}
	must(t, zf.Close())
	for _, c := range []struct {
		path string
		is   error
	}{
		{filepath.Join(dir, "missing"), fs.ErrNotExist},
		{dir, fserr.ErrIsDir},
		{file("empty", 0, nil), fs.ErrInvalid},
		{file("zeros", 100<<20, nil), nil},
		{file("tiny", 100, []byte("hello")), nil},
		{file("text", 1<<20, bytes.Repeat([]byte("not an image\n"), 1000)), nil},
		{truncated, nil},
		{zeroed, nil},
	} {
		for _, o := range []engine.OpenOptions{{}, {ReadOnly: true}} {
			f, err := engine.Open(t.Context(), c.path, o)
			if err == nil {
				must(t, f.Close())
				t.Errorf("%s: opened", c.path)
				continue
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%s: %v; want %v", c.path, err, c.is)
			}
			if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), c.path) {
				t.Errorf("%s: not one line with the path: %q", c.path, err)
			}
		}
	}
}

// TestQuotaIsMarked opens an image with quotas for writing: the first commit must say that the numbers are off.
func TestQuotaIsMarked(t *testing.T) {
	img := filepath.Join(t.TempDir(), "fs.img")
	oracle.Mkfs(t, img, 300<<20, "-O", "quota")
	f, err := engine.Open(t.Context(), img, engine.OpenOptions{})
	must(t, err)
	tree, err := f.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	_, err = tree.Create(t.Context(), inode.RootDir, "x", inode.Attr{Mode: 0o600})
	must(t, err)
	must(t, f.Commit(t.Context()))
	must(t, f.Close())
	if out := oracle.Btrfs(t, "inspect-internal", "dump-tree", "-t", "quota", img); !strings.Contains(out, "INCONSISTENT") {
		t.Error(out)
	}
	m := oracle.Mount(t, img)
	m.Btrfs("quota", "rescan", "-w", m.Dir)
	m.Unmount()
	oracle.Check(t, img)
}

// TestOpenKernelImage reads what mkfs.btrfs and the kernel wrote, and adds to it.
func TestOpenKernelImage(t *testing.T) {
	for _, args := range [][]string{
		nil,
		{"-n", "4096", "--csum", "xxhash"},
		{"-n", "65536", "--csum", "blake2", "-O", "^block-group-tree,^no-holes"},
		{"-O", "^free-space-tree,^block-group-tree", "-m", "single"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "fs.img")
			oracle.Mkfs(t, img, 300<<20, args...)
			opts := []string{"compress=zstd"}
			if len(args) > 0 && strings.Contains(args[1], "^free-space-tree") {
				opts = append(opts, "nospace_cache")
			}
			m := oracle.Mount(t, img, oracle.Opts(opts...))
			oracle.Run(t, "cp", "-r", "/usr/include/linux", m.Path("linux"))
			m.KernelSubvolume("sub")
			must(t, os.WriteFile(m.Path("sub", "in"), []byte("in"), 0o640))
			m.KernelSnapshot("", "snap", true)
			m.KernelSync()
			want := m.ManifestOf("")
			m.Unmount()

			f, err := engine.Open(t.Context(), img, engine.OpenOptions{})
			must(t, err)
			if d := oracle.ManifestDiff(want, manifestOf(t, f)); d != "" {
				t.Error(d)
			}
			tree, err := f.Subvolume(t.Context(), ondisk.FSTree)
			must(t, err)
			ino, err := tree.Create(t.Context(), inode.RootDir, "ours", inode.Attr{Mode: 0o600})
			must(t, err)
			_, err = tree.WriteAt(t.Context(), ino, bytes.Repeat([]byte("x"), 1<<20), 0)
			must(t, err)
			must(t, f.Commit(t.Context()))
			want = manifestOf(t, f)
			must(t, f.Close())
			oracle.Check(t, img)
			m = oracle.Mount(t, img, oracle.Opts(opts...))
			if d := oracle.ManifestDiff(want, m.ManifestOf("")); d != "" {
				t.Error(d)
			}
			m.Unmount()
		})
	}
}

func manifestOf(t testing.TB, f *engine.FS) []byte {
	t.Helper()
	ns, err := f.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	var out bytes.Buffer
	must(t, manifest.Write(t.Context(), &out, ns))
	return out.Bytes()
}

// TestMultiDevice reads file systems of several devices, and says what is wrong with writing to them.
func TestMultiDevice(t *testing.T) {
	for _, c := range []struct {
		data, meta string
		devices    int
		degraded   bool // readable with a device missing
	}{
		{"raid0", "raid1", 2, false}, {"raid1", "raid1", 2, true}, {"raid10", "raid10", 4, true}, {"raid1c3", "raid1c4", 4, true},
		{"single", "raid1c3", 3, false},
	} {
		t.Run(c.data+" "+c.meta, func(t *testing.T) {
			dir := t.TempDir()
			var imgs []string
			for i := range c.devices {
				imgs = append(imgs, filepath.Join(dir, string(rune('a'+i))))
			}
			oracle.MkfsMulti(t, imgs, 300<<20, "-d", c.data, "-m", c.meta)
			m := oracle.Mount(t, imgs[0], oracle.WithDevices(imgs[1:]...))
			oracle.Run(t, "cp", "-r", "/usr/include/linux", m.Path("linux"))
			must(t, os.WriteFile(m.Path("big"), bytes.Repeat([]byte("0123456789abcdef"), 1<<18), 0o644))
			m.KernelSync()
			want := m.ManifestOf("")
			m.Unmount()

			o := engine.OpenOptions{ReadOnly: true, Devices: imgs[1:]}
			f, err := engine.Open(t.Context(), imgs[0], o)
			must(t, err)
			if d := oracle.ManifestDiff(want, manifestOf(t, f)); d != "" {
				t.Error(d)
			}
			must(t, f.Close())
			o.ReadOnly = false
			if _, err = engine.Open(t.Context(), imgs[0], o); !errors.Is(err, fserr.ErrUnsupported) || !strings.Contains(err.Error(), "btrfs balance start") {
				t.Errorf("for writing: %v", err)
			}
			if _, err = engine.Open(t.Context(), imgs[0], engine.OpenOptions{}); !errors.Is(err, fserr.ErrUnsupported) || !strings.Contains(err.Error(), "--device") {
				t.Errorf("for writing, alone: %v", err)
			}
			o = engine.OpenOptions{ReadOnly: true, Devices: imgs[2:]} // without the second
			f, err = engine.Open(t.Context(), imgs[0], o)
			if !c.degraded {
				if err == nil {
					ns, err := f.Namespace(t.Context(), ondisk.FSTree)
					if err == nil {
						err = manifest.Write(t.Context(), io.Discard, ns)
					}
					if err == nil && c.data == "raid0" {
						t.Error("everything was read without a device that holds the only copy")
					}
					must(t, f.Close())
				}
				return
			}
			must(t, err)
			if d := oracle.ManifestDiff(want, manifestOf(t, f)); d != "" {
				t.Error(d)
			}
			must(t, f.Close())
		})
	}
}
