package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// TestKernelRelocation checks images as a crash in the middle of a balance leaves them, with relocation trees. The image
// lies on a btrfs of its own, where a reflink of it is its state of one moment.
func TestKernelRelocation(t *testing.T) {
	oracle.NeedRoot(t)
	outerImg := filepath.Join(t.TempDir(), "outer")
	oracle.Mkfs(t, outerImg, 4<<30)
	outer := oracle.Mount(t, outerImg, oracle.Opts("nodatacow"))
	img, moment := outer.Path("img"), outer.Path("moment")
	oracle.Mkfs(t, img, 800<<20, "-n", "4096")
	m := oracle.Mount(t, img, oracle.Opts("commit=1"))
	m.KernelSubvolume("sub")
	for i := range 6000 {
		if err := os.WriteFile(m.Path("sub", fmt.Sprint("file", i)), make([]byte, i%7*700), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		m.KernelSnapshot("sub", fmt.Sprint("snap", i), false)
		for j := range 300 {
			if err := os.Chmod(m.Path("sub", fmt.Sprint("file", i*1000+j)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.KernelSync()
	caught, copies := 0, 0
	for turn := 0; turn < 10 && caught == 0; turn++ {
		done := make(chan error, 1)
		go func() {
			_, err := oracle.RunErr("btrfs", "balance", "start", "-m", m.Dir)
			done <- err
		}()
		for running := true; running; copies++ {
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				running = false
			default:
			}
			oracle.Run(t, "cp", "--reflink=always", img, moment)
			if checkMoment(t, moment) > 0 {
				caught++
			}
			if err := os.Remove(moment); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.Unmount()
	outer.Unmount()
	t.Logf("%d of %d images had relocation trees", caught, copies)
	if caught == 0 {
		t.Error("no image had a relocation tree: the test tests nothing")
	}
}

// checkMoment checks an image and returns how many relocation trees it has.
func checkMoment(t *testing.T, img string) int {
	t.Helper()
	dev, err := disk.Open(img, disk.Options{ReadOnly: true, Direct: disk.DirectOff})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close() // before what it lies on is unmounted
	if rep := run(t, dev, check.Options{}); len(rep.Findings) > 0 {
		t.Fatalf("in the middle of a balance:\n%s", lines(rep))
	}
	n := 0
	newSurgeon(t, dev).look(ondisk.RootTree, func(k ondisk.Key, _ []byte) bool {
		if k.Type == ondisk.RootItemKey && ondisk.TreeID(k.ObjectID) == ondisk.TreeRelocTree {
			n++
		}
		return false
	})
	return n
}
