package check_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/internal/oracle"
)

// TestDeviceNotGiven checks one of two mirrored devices: what lies on the other has not been looked at, which is no damage.
// What is damaged on this one is found.
func TestDeviceNotGiven(t *testing.T) {
	oracle.NeedRoot(t)
	dir := t.TempDir()
	imgs := []string{filepath.Join(dir, "1"), filepath.Join(dir, "2")}
	oracle.MkfsMulti(t, imgs, 256<<20, "-d", "raid1", "-m", "raid1")
	m := oracle.Mount(t, imgs[0], oracle.WithDevices(imgs[1]))
	mark := []byte(rand.Text()) // at the beginning of the data
	if err := os.WriteFile(m.Path("f"), append(mark, make([]byte, 4<<20-len(mark))...), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	for _, img := range imgs {
		if out, err := oracle.RunErr("btrfs", "check", "--readonly", img); err != nil {
			t.Errorf("btrfs check: %v\n%s", err, out)
		}
		dev, err := disk.Open(img, disk.Options{Direct: disk.DirectOff})
		if err != nil {
			t.Fatal(err)
		}
		rep := run(t, dev, check.Options{DataCsum: true})
		if len(rep.Findings) != 1 || rep.Findings[0].ID != check.DeviceMissing || !rep.Clean() {
			t.Errorf("%s without the other:\n%s", filepath.Base(img), lines(rep))
		}
		if rep.Stats.DataBytes != 4<<20 {
			t.Errorf("%d bytes of data verified, want %d", rep.Stats.DataBytes, 4<<20)
		}
		whole, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(bytes.Index(whole, mark))
		if at < 0 || at%4096 != 0 {
			t.Fatalf("the file's data is at %d", at)
		}
		was := make([]byte, 4096)
		if _, err := dev.ReadAt(t.Context(), was, at); err != nil {
			t.Fatal(err)
		}
		if _, err := dev.WriteAt(t.Context(), make([]byte, 4096), at); err != nil {
			t.Fatal(err)
		}
		if rep = run(t, dev, check.Options{DataCsum: true}); rep.Clean() || len(rep.Findings) != 2 {
			t.Errorf("with a sector zeroed:\n%s", lines(rep))
		}
		if _, err := dev.WriteAt(t.Context(), was, at); err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
