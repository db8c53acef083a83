package check_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/check"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
	"imgtool/engine/trace"
)

// Clean images of the kernel in all their variety are under test in engine/e2e, through oracle.Check. Here are states
// that no unmounted image is in.

// TestKernelLog checks an image as a crash leaves it: files were synced after the last commit, so there is a log, and a
// file without a name is open.
func TestKernelLog(t *testing.T) {
	oracle.NeedRoot(t)
	dir := t.TempDir()
	img, crashed := filepath.Join(dir, "img"), filepath.Join(dir, "crashed")
	oracle.Mkfs(t, img, 300<<20, "-n", "4096")
	m := oracle.Mount(t, img, oracle.Opts("commit=300"))
	write := func(name string, n int, sync bool) *os.File {
		f, err := os.Create(m.Path(name))
		if err == nil {
			_, err = f.Write(make([]byte, n))
		}
		if err == nil && sync {
			err = f.Sync()
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for i := range 100 {
		write(fmt.Sprint("file", i), 100*i, false).Close()
	}
	orphan := write("orphan", 9000, false)
	defer orphan.Close()
	if err := os.Remove(m.Path("orphan")); err != nil {
		t.Fatal(err)
	}
	m.KernelSync()
	m.Fsynced(crashed, func() {
		for i := range 10 {
			write(fmt.Sprint("file", 50+i), 5000, true).Close()
			write(fmt.Sprint("new", i), 5000, true).Close()
		}
	})
	orphan.Close()
	m.Unmount()
	dev := openImage(t, crashed)
	rep := run(t, dev, check.Options{DataCsum: true})
	if len(rep.Findings) > 0 {
		t.Errorf("crashed:\n%s", lines(rep))
	}

	// The mirror is older now; the log's root is only in the primary.
	sur := newLogSurgeon(t, dev)
	sur.smashLog(t)
	if rep := run(t, sur.dev, check.Options{}); !rep.Has(check.LogLost) {
		t.Errorf("damaged log:\n%s", lines(rep))
	}
}

// logSurgeon damages the log of a copy in memory.
type logSurgeon struct{ *surgeon }

func newLogSurgeon(t *testing.T, dev disk.Device) *logSurgeon {
	mem := disk.NewMem("copy", dev.Size())
	buf := make([]byte, 1<<20)
	for off := int64(0); off < dev.Size(); off += int64(len(buf)) {
		n := min(int64(len(buf)), dev.Size()-off)
		if _, err := dev.ReadAt(t.Context(), buf[:n], off); err != nil {
			t.Fatal(err)
		}
		if _, err := mem.WriteAt(t.Context(), buf[:n], off); err != nil {
			t.Fatal(err)
		}
	}
	return &logSurgeon{newSurgeon(t, mem)}
}

func (s *logSurgeon) smashLog(t *testing.T) {
	t.Helper()
	copies := []int{0, 1} // mkfs.btrfs makes DUP metadata
	s.smash(s.sb.LogRoot()+200, copies[:s.vol.Copies(s.sb.LogRoot())]...)
}

func openImage(t *testing.T, img string) disk.Device {
	t.Helper()
	dev, err := disk.Open(img, disk.Options{ReadOnly: true, Direct: disk.DirectOff})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	return dev
}

// TestHalfDeleted checks an image in which the deletion of a subvolume that shares its blocks with a snapshot was
// interrupted: its root item says how far it has got.
func TestHalfDeleted(t *testing.T) {
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	var deleting atomic.Bool
	o := engine.FormatOptions{Options: mkfs.Default(), Size: imageSize}
	o.NodeSize = 4096
	o.Tracer = trace.Func(func(e trace.Event) {
		if e.Kind == trace.HandleStarted && deleting.Load() {
			cancel() // looked at before the next handle
		}
	})
	img := filepath.Join(t.TempDir(), "img")
	fs, err := engine.Format(ctx, img, o)
	must(err)
	defer fs.Close()
	id, err := fs.CreateSubvolume(ctx, "sub", subvol.CreateOptions{})
	must(err)
	tree, err := fs.Subvolume(ctx, id)
	must(err)
	var inos []ondisk.ObjectID
	for i := range 3000 {
		ino, err := tree.Create(ctx, 256, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		must(err)
		_, err = tree.WriteAt(ctx, ino, make([]byte, []int{1500, 9000}[i/20%2]), 0)
		must(err)
		inos = append(inos, ino)
	}
	_, err = fs.Snapshot(ctx, "sub", "snap", true)
	must(err)
	for _, ino := range inos[:2400] { // most of the leaves are the subvolume's alone
		must(tree.Chmod(ctx, ino, 0o600))
	}
	must(fs.Commit(ctx))
	must(fs.DeleteSubvolume(ctx, "sub"))
	must(fs.Commit(ctx))
	deleting.Store(true)
	if err := fs.CleanSubvolumes(cut); !errors.Is(err, context.Canceled) {
		t.Fatalf("the deletion was not interrupted: %v", err)
	}
	must(fs.Commit(ctx))
	must(fs.Close())
	dev := openImage(t, img)
	mem := newLogSurgeon(t, dev).surgeon
	mem.rootItem(id, func(r *ondisk.RootItem) {
		if r.Refs() != 0 || r.DropProgress() == (ondisk.Key{}) {
			t.Errorf("references %d, deleted up to %v: the test tests nothing", r.Refs(), r.DropProgress())
		}
	})
	oracle.Check(t, img)
	// If it had not got that far, what is gone would be missed; if further, what is left would be unused.
	mem.rootItem(id, func(r *ondisk.RootItem) { r.SetDropProgress(ondisk.Key{}); r.SetDropLevel(0) })
	if rep := run(t, mem.dev, check.Options{}); rep.Clean() {
		t.Error("the place up to which the deletion has got makes no difference")
	}
}
