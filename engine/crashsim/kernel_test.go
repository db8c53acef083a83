package crashsim

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	if err := oracle.CheckErr(k.t, oracle.CheckOptions{}, img); err != nil {
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
	if !bytes.Equal(got, h.states[gen]) {
		return fmt.Errorf("the kernel shows another state of generation %d: %s", gen, oracle.ManifestDiff(h.states[gen], got))
	}
	if err := oracle.CheckErr(k.t, oracle.CheckOptions{}, img); err != nil {
		return fmt.Errorf("btrfs check, after the kernel's mount: %w", err)
	}
	return nil
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
	t.Logf("%d images, %d of them checked, %d mounted", k.images, k.checked, k.mounted)
	if k.checked == 0 || k.mounted == 0 && !testing.Short() {
		t.Error("the kernel was not asked")
	}
}
