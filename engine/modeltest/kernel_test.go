package modeltest

import (
	"bytes"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
)

// TestKernel asks btrfs check and the kernel about what is left at the end of a run: the kernel must show the state that
// the model and the engine agree on.
func TestKernel(t *testing.T) {
	oracle.NeedRoot(t)
	seeds := uint64(2)
	switch {
	case oracle.Soak():
		seeds = 24
	case testing.Short():
		seeds = 1
	}
	first := uint64(oracle.Seed(t))
	for seed := first; seed < first+seeds; seed++ {
		cfg := configFor(seed)
		w, err := runSeed(t.Context(), seed, cfg, 800, new(totals))
		if err != nil {
			report(t, w, seed, cfg, 800, err)
		}
		if err := repair(t.Context(), w.mem); err != nil {
			t.Fatalf("IMGTOOL_SEED=%d: %v", seed, err)
		}
		want := manifestOf(t, w.mem)
		img := filepath.Join(t.TempDir(), "model.img")
		if err := w.mem.WriteFile(img); err != nil {
			t.Fatal(err)
		}
		oracle.Check(t, img)
		var opts []oracle.MountOption
		if !cfg.mkfs.Features.FreeSpaceTree { // or the kernel begins a v1 cache, with a warning
			opts = append(opts, oracle.Opts("nospace_cache"))
		}
		m := oracle.Mount(t, img, opts...)
		got := m.ManifestOf("")
		m.Unmount()
		if !bytes.Equal(want, got) {
			t.Fatalf("IMGTOOL_SEED=%d %v: the kernel shows another state: %s", seed, cfg, oracle.ManifestDiff(want, got))
		}
		oracle.Check(t, img)
	}
}

// manifestOf is the engine's manifest of an image.
func manifestOf(t *testing.T, img *disk.Mem) []byte {
	t.Helper()
	fs, err := engine.OpenDevices(t.Context(), []disk.Device{keepOpen{img}}, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := manifest.Write(t.Context(), &b, ns); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
