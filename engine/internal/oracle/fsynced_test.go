package oracle

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFsynced: somebody commits between the fsync and the copy, twice. Then it is done once more, until there is a log.
func TestFsynced(t *testing.T) {
	NeedRoot(t)
	m := Mount(t, image(t), Opts("commit=300"))
	f, err := os.Create(m.Path("f"))
	must(t, err)
	copied, calls := filepath.Join(t.TempDir(), "copied"), 0
	m.Fsynced(copied, func() {
		_, err := f.Write(make([]byte, 5000))
		must(t, err)
		must(t, f.Sync())
		if calls++; calls <= 2 {
			m.KernelSync()
		}
	})
	must(t, f.Close())
	if calls < 3 {
		t.Errorf("the image was taken without a log, after %d fsyncs", calls)
	}
	m.Unmount()
	Check(t, copied)
}
