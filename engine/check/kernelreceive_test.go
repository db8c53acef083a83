package check_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/internal/oracle"
)

// TestKernelReceiveCompressed checks what the kernel has received with encoded writes: it stores compressed extents and
// leaves the feature bit of their algorithm unset, and reads them all the same. That is worth a word, and no damage.
func TestKernelReceiveCompressed(t *testing.T) {
	oracle.NeedRoot(t)
	for _, algorithm := range []string{"zlib", "lzo", "zstd"} {
		t.Run(algorithm, func(t *testing.T) {
			from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
			oracle.Mkfs(t, from, 256<<20)
			m := oracle.Mount(t, from, oracle.Opts("compress-force="+algorithm))
			m.KernelSubvolume("s")
			if err := os.WriteFile(m.Path("s", "f"), bytes.Repeat([]byte("soft "), 100_000), 0o644); err != nil {
				t.Fatal(err)
			}
			m.KernelSnapshot("s", "snap", true)
			stream := m.KernelSend("snap", "", "--compressed-data")
			m.Unmount()
			oracle.Mkfs(t, to, 256<<20)
			m = oracle.Mount(t, to)
			m.KernelReceive("", stream)
			m.Unmount()

			dev, err := disk.Open(to, disk.Options{ReadOnly: true, Direct: disk.DirectOff})
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			rep := run(t, dev, check.Options{DataCsum: true})
			for _, f := range rep.Findings {
				if f.ID != check.FeatureFlag || algorithm == "zlib" {
					t.Errorf("%v", &f)
				}
			}
			if !rep.Clean() {
				t.Errorf("called damaged:\n%s", lines(rep))
			}
			t.Logf("%d findings", len(rep.Findings)) // none, once the kernel sets the bit
		})
	}
}
