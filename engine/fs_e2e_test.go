package engine_test

import (
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
)

// TestFormat makes empty file systems and asks btrfs check and the kernel.
func TestFormat(t *testing.T) {
	img := filepath.Join(t.TempDir(), "fs.img")
	fs, err := engine.Format(t.Context(), img, engine.FormatOptions{Options: mkfs.Default(), Size: 300 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, img)
	m := oracle.Mount(t, img)
	m.Unmount()
	oracle.Check(t, img)
}
