package engine_test

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestMirrorLeftBehind: a session ends between the primary superblock and its mirror, and the next one in the middle of
// its primary. What the mirror of the first leads to has been overwritten by then.
func TestMirrorLeftBehind(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mem := disk.NewMem("image", 160<<20)
	fs, err := engine.FormatDevice(ctx, mem, engine.FormatOptions{Options: mkfs.Default()})
	must(err)
	create := func(name string) error {
		_, err := fs.CreateSubvolume(ctx, name, subvol.CreateOptions{})
		return errors.Join(err, fs.Commit(ctx))
	}
	must(create("one"))
	must(create("two"))
	mirror := make([]byte, ondisk.SuperSize)
	_, err = mem.ReadAt(ctx, mirror, int64(ondisk.SuperOffsets[1]))
	must(err)
	must(create("three"))
	last := fs.Super()
	raw := mem.Clone()
	must(fs.Close())
	_, err = raw.WriteAt(ctx, mirror, int64(ondisk.SuperOffsets[1])) // as if it had not been written
	must(err)

	dev := disk.NewFaults(raw, 1)
	fs, err = engine.OpenDevices(ctx, []disk.Device{dev}, engine.OpenOptions{})
	must(err)
	dev.SetRules(disk.Rule{Ops: []disk.Op{disk.OpWrite}, Off: int64(ondisk.SuperOffsets[0]), Len: ondisk.SuperSize, Err: syscall.EIO, Torn: true})
	if err := create("four"); !errors.Is(err, syscall.EIO) {
		t.Fatalf("a commit without a superblock ends with %v", err)
	}
	after := raw.Clone()
	_ = fs.Close()
	zero := make([]byte, 512) // whatever a torn write leaves of it
	_, err = after.WriteAt(ctx, zero, int64(ondisk.SuperOffsets[0]))
	must(err)

	fs, err = engine.OpenDevices(ctx, []disk.Device{after}, engine.OpenOptions{})
	must(err)
	if sb := fs.Super(); sb.Generation() != last.Generation() {
		t.Errorf("opened at generation %d, the last commit was %d", sb.Generation(), last.Generation())
	}
	if _, err := fs.SubvolumeAt(ctx, "three"); err != nil {
		t.Error(err)
	}
	must(create("five"))
	sound := after.Clone()
	must(fs.Close())
	path := filepath.Join(t.TempDir(), "image")
	must(sound.WriteFile(path))
	oracle.Check(t, path)
}
