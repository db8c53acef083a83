package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
)

// TestKernelProfiles reads file systems of several devices that the kernel has written, with all of them and, where
// the profiles allow, without any one of them.
func TestKernelProfiles(t *testing.T) {
	oracle.NeedRoot(t, "setfacl", "chattr")
	for _, c := range []struct {
		data, meta string
		devices    int
		redundant  bool
	}{
		{"raid0", "raid10", 4, false}, {"raid1", "raid1", 3, true}, {"raid10", "raid1c3", 4, true},
		{"raid1c3", "raid10", 5, true}, {"raid1c4", "raid1c4", 4, true},
	} {
		t.Run(c.data+" "+c.meta, func(t *testing.T) {
			seed := oracle.Seed(t)
			var imgs []string
			dir := t.TempDir()
			for i := range c.devices {
				imgs = append(imgs, filepath.Join(dir, fmt.Sprint("device", i)))
			}
			oracle.MkfsMulti(t, imgs, 400<<20, "-d", c.data, "-m", c.meta)
			a := &alternation{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), 6)), m: nil}
			a.m = newModel(a.rnd, 300, 3000)
			m := oracle.Mount(t, imgs[0], oracle.WithDevices(imgs[1:]...), oracle.Opts("compress-force=zstd"))
			a.special(m)
			a.everyKind(kernelTarget{m.Dir}, 1)
			a.random(kernelTarget{m.Dir}, 1, 100, func(int) {})
			m.KernelSync()
			want := m.ManifestOf("")
			m.Unmount()
			if d := oracle.ManifestDiff(imageManifest(t, imgs[c.devices-1], imgs[:c.devices-1]...), want); d != "" {
				t.Fatalf("the engine (-) and the mount (+):\n%s", d)
			}
			for missing := range imgs {
				some := slices.Delete(slices.Clone(imgs), missing, missing+1)
				if c.redundant {
					if d := oracle.ManifestDiff(imageManifest(t, some[0], some[1:]...), want); d != "" {
						t.Fatalf("without device %d, the engine (-) and the mount of all (+):\n%s", missing, d)
					}
				}
				if fs, err := engine.Open(t.Context(), some[0], engine.OpenOptions{Devices: some[1:]}); err == nil {
					_ = fs.Close()
					t.Fatalf("without device %d it was opened for writing", missing)
				}
			}
		})
	}
}
