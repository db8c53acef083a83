package rescue

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/scrub"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// withVolume runs fn on the volume of an image that is open for writing.
func withVolume(t *testing.T, img string, fn func(*volume.Volume)) {
	t.Helper()
	d, err := disk.Open(img, disk.Options{})
	must(t, err)
	vol, err := volume.Open(t.Context(), []disk.Device{d}, volume.Options{CheckSuper: treecheck.Super})
	must(t, err)
	fn(vol)
	must(t, d.Close())
}

func patch(t *testing.T, img string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(img, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(b, at)
	must(t, errors.Join(err, f.Close()))
}

// TestSuperRecover damages each superblock, and makes one old; btrfs check, which looks at the primary alone, refuses
// some of them before and none afterwards.
func TestSuperRecover(t *testing.T) {
	oracle.Need(t)
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	oracle.Mkfs(t, img, 256<<20)
	good, err := os.ReadFile(img)
	must(t, err)
	old := *ondisk.AsSuperBlock(good[ondisk.SuperOffsets[1]:][:ondisk.SuperSize])
	old.SetGeneration(old.Generation() - 1)
	old.UpdateCsum()
	for _, c := range []struct {
		name string
		at   int64
		b    []byte
		copy int
	}{
		{"primary zeroed", int64(ondisk.SuperOffsets[0]), make([]byte, 4096), 0},
		{"primary flipped", int64(ondisk.SuperOffsets[0]) + 300, []byte{0xee}, 0},
		{"mirror flipped", int64(ondisk.SuperOffsets[1]) + 300, []byte{0xee}, 1},
		{"mirror old", int64(ondisk.SuperOffsets[1]), old[:], 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, os.WriteFile(img, good, 0o644))
			patch(t, img, c.at, c.b)
			if err := oracle.CheckErr(t, oracle.CheckOptions{}, img); (err == nil) != (c.copy != 0) {
				t.Errorf("btrfs check before: %v", err)
			}
			withVolume(t, img, func(vol *volume.Volume) {
				var fs []scrub.Finding
				bad, recovered, err := SuperRecover(t.Context(), vol, func(f scrub.Finding) { fs = append(fs, f) })
				if err != nil || bad != 1 || recovered != 1 || len(fs) != 1 || fs[0].Copy != c.copy {
					t.Errorf("%d bad, %d recovered: %v %+v", bad, recovered, err, fs)
				}
				if bad, _, err := SuperRecover(t.Context(), vol, nil); bad != 0 || err != nil {
					t.Errorf("again: %d bad: %v", bad, err)
				}
			})
			now, err := os.ReadFile(img)
			must(t, err)
			if !bytes.Equal(now, good) {
				t.Error("the image is not what it was")
			}
			oracle.Check(t, img)
		})
	}
}

// TestMissing refuses to write the superblocks of a file system of which a device is not there.
func TestMissing(t *testing.T) {
	oracle.Need(t)
	dir := t.TempDir()
	imgs := []string{filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	oracle.MkfsMulti(t, imgs, 256<<20)
	withVolume(t, imgs[0], func(vol *volume.Volume) {
		if _, _, err := SuperRecover(t.Context(), vol, nil); !errors.Is(err, fserr.ErrUnsupported) {
			t.Error(err)
		}
	})
}

// TestZeroLog takes an image as a crash leaves it after an fsync: only without its log the engine writes to it, and
// what the last commit held is there.
func TestZeroLog(t *testing.T) {
	oracle.NeedRoot(t)
	dir := t.TempDir()
	live, img := filepath.Join(dir, "live"), filepath.Join(dir, "img")
	oracle.Mkfs(t, live, 256<<20)
	m := oracle.Mount(t, live, oracle.Opts("commit=300"))
	must(t, os.WriteFile(m.Path("committed"), []byte("c"), 0o644))
	m.KernelSync()
	f, err := os.Create(m.Path("fsynced"))
	must(t, err)
	m.Fsynced(img, func() {
		_, err := f.Write(make([]byte, 10000))
		must(t, errors.Join(err, f.Sync()))
	})
	must(t, f.Close())
	m.Unmount()

	if _, err := engine.Open(t.Context(), img, engine.OpenOptions{}); !errors.Is(err, fserr.ErrUnsupported) {
		t.Fatalf("with a log: %v", err)
	}
	withVolume(t, img, func(vol *volume.Volume) {
		for _, want := range []bool{true, false} {
			if had, err := ZeroLog(t.Context(), vol); err != nil || had != want {
				t.Errorf("log there: %v %v, want %v", had, err, want)
			}
		}
	})
	oracle.Check(t, img)
	fsys, err := engine.Open(t.Context(), img, engine.OpenOptions{})
	must(t, err)
	tree, err := fsys.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	if _, err := tree.Lookup(t.Context(), 256, "committed"); err != nil {
		t.Error(err)
	}
	must(t, fsys.Close())
	oracle.Check(t, img)
}

// TestCopyImage copies a sparse file, and refuses what it must.
func TestCopyImage(t *testing.T) {
	dir := t.TempDir()
	src, dest := filepath.Join(dir, "src"), filepath.Join(dir, "dest")
	must(t, os.WriteFile(src, []byte("begin"), 0o644))
	patch(t, src, 40<<20+17, []byte("middle"))
	must(t, os.Truncate(src, 1<<30))
	must(t, CopyImage(t.Context(), src, dest, nil))
	same := func(at int64, n int) {
		t.Helper()
		var b [2][]byte
		for i, p := range []string{src, dest} {
			f, err := os.Open(p)
			must(t, err)
			b[i] = make([]byte, n)
			_, err = f.ReadAt(b[i], at)
			must(t, errors.Join(err, f.Close()))
		}
		if !bytes.Equal(b[0], b[1]) {
			t.Errorf("%d bytes at %d differ", n, at)
		}
	}
	same(0, 64<<20)
	var st unix.Stat_t
	must(t, unix.Stat(dest, &st))
	if st.Size != 1<<30 || st.Blocks > 4096 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	if err := CopyImage(t.Context(), src, dest, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over what is there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	other := filepath.Join(dir, "other")
	if err := CopyImage(ctx, src, other, nil); err == nil {
		t.Skip("the host's file system shares data: nothing was copied that could be cancelled")
	}
	if _, err := os.Stat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a cancelled copy is left: %v", err)
	}
}
