package copytree_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/mkfs"
)

// goSource is GOROOT/src, a real tree of some eleven thousand files and 130 MB.
func goSource(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("no go command: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src")
}

// BenchmarkImport formats an image file, imports GOROOT/src and commits, durable at the end: what mkfs --rootdir does.
func BenchmarkImport(b *testing.B) {
	src := goSource(b)
	img := filepath.Join(b.TempDir(), "fs.img")
	for b.Loop() {
		fs, err := engine.Format(b.Context(), img, engine.FormatOptions{Options: mkfs.Default(), Size: 1 << 30, Force: true})
		must(b, err)
		p := importInto(b, fs, src, copytree.ImportOptions{TopAttrs: true})
		must(b, fs.Close())
		b.SetBytes(int64(p.Bytes))
	}
}
