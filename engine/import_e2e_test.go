package engine_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// TestImportGoroot fills an image with GOROOT/src and compares what the kernel shows with the source.
func TestImportGoroot(t *testing.T) {
	src := filepath.Join(runtime.GOROOT(), "src")
	img := filepath.Join(t.TempDir(), "fs.img")
	began := time.Now()
	fs, err := engine.Format(t.Context(), img, engine.FormatOptions{Options: mkfs.Default(), Size: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("format", time.Since(began))
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	p, err := copytree.Import(t.Context(), tree, inode.RootDir, src, copytree.ImportOptions{TopAttrs: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Log("import", time.Since(began), p)
	if err := fs.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Log("commit", time.Since(began))
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	var ours bytes.Buffer
	if err := manifest.Write(t.Context(), &ours, ns); err != nil {
		t.Fatal(err)
	}
	t.Log("manifest", time.Since(began))
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, img)
	m := oracle.Mount(t, img, oracle.Opts("ro"))
	if d := oracle.ManifestDiff(ours.Bytes(), oracle.Manifest(t, m.Dir)); d != "" {
		t.Error(d)
	}
	oracle.Run(t, "diff", "-r", src, m.Dir)
	m.Unmount()
	_ = os.Remove
}
