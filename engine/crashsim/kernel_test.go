package crashsim

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// kernel gives a sample of the images to btrfs-progs and to the kernel.
type kernel struct {
	t                *testing.T
	dir              string
	every            int // of how many images one is checked
	mounts           int // of how many that are checked one is mounted too
	images           int
	checked, mounted int
	second           int // opinions
}

// look is simulation.sample. btrfs-progs and the kernel read the primary superblock only, so an image in which it is torn
// is none for them: the next one is taken.
func (k *kernel) look(c crash, h *history) error {
	k.images++
	if k.images < (k.checked+1)*k.every {
		return nil
	}
	gen, ok := primary(c.img)
	if !ok {
		return nil
	}
	img := filepath.Join(k.dir, "crash.img")
	if err := c.img.WriteFile(img); err != nil {
		return err
	}
	defer os.Remove(img)
	k.checked++
	if err := k.btrfsCheck(img); err != nil {
		return fmt.Errorf("btrfs check, after the crash: %w", err)
	}
	if k.checked%k.mounts != 0 {
		return nil
	}
	k.mounted++
	var opts []oracle.MountOption
	if !h.cfg.mkfs.Features.FreeSpaceTree { // or the kernel begins a v1 cache, with a warning
		opts = append(opts, oracle.Opts("nospace_cache"))
	}
	m, err := oracle.TryMount(k.t, img, opts...)
	if err != nil {
		return err
	}
	got := m.ManifestOf("")
	m.Unmount() // which fails the test if the kernel complained
	if want := filesOf(h.states[gen]); !bytes.Equal(got, want) {
		return fmt.Errorf("the kernel shows another state of generation %d: %s", gen, oracle.ManifestDiff(want, got))
	}
	if err := k.btrfsCheck(img); err != nil {
		return fmt.Errorf("btrfs check, after the kernel's mount: %w", err)
	}
	return nil
}

// btrfsCheck asks `btrfs check`, and its lowmem mode for a second opinion where it objects to the file trees without
// naming an inode. That it does (6.14) for a snapshot that shares the leaf of a file which was open and had no name when
// the snapshot was taken: also on what the kernel has on disk right after taking such a snapshot.
func (k *kernel) btrfsCheck(img string) error {
	err := oracle.CheckErr(k.t, oracle.CheckOptions{}, img)
	if err == nil {
		return nil
	}
	text := err.Error()
	if strings.Count(text, "ERROR:") == 1 && strings.Contains(text, "ERROR: errors found in fs roots") && !strings.Contains(text, " inode ") {
		k.second++
		return oracle.CheckErr(k.t, oracle.CheckOptions{LowMem: true}, img)
	}
	return err
}

// primary returns the generation of the primary superblock, if it is whole.
func primary(img *disk.Mem) (ondisk.Generation, bool) {
	b := make([]byte, ondisk.SuperSize)
	if _, err := img.ReadAt(context.Background(), b, int64(ondisk.SuperOffsets[0])); err != nil {
		return 0, false
	}
	sb := ondisk.AsSuperBlock(b)
	return sb.Generation(), sb.CsumOK()
}

// TestKernel asks those who know: after the crash `btrfs check` finds nothing, and the kernel mounts the image for
// writing and shows what was committed.
func TestKernel(t *testing.T) {
	oracle.NeedRoot(t)
	seeds, images := 3, 40
	k := &kernel{t: t, dir: t.TempDir(), every: 10, mounts: 4}
	switch {
	case oracle.Soak():
		seeds, images, k.every = 24, 400, 16
	case testing.Short():
		seeds = 1
	}
	first := uint64(oracle.Seed(t))
	for i := range uint64(seeds) {
		s := simulationOf(first+i, 60, images)
		s.sample = k.look
		if _, f := s.run(t.Context()); f != nil {
			t.Fatalf("IMGTOOL_SEED=%d\n%v", s.seed, f)
		}
	}
	t.Logf("%d images, %d of them checked (%d by lowmem mode too), %d mounted", k.images, k.checked, k.second, k.mounted)
	if k.checked == 0 || k.mounted == 0 && !testing.Short() {
		t.Error("the kernel was not asked")
	}
}
