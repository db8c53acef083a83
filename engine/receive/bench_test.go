package receive_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/subvol"
)

// BenchmarkReceive receives a full stream of GOROOT/src into a new image file, durable at the end.
func BenchmarkReceive(b *testing.B) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("no go command: %v", err)
	}
	im := newImage(b, 1<<30)
	id, err := im.fs.CreateSubvolume(b.Context(), "src", subvol.CreateOptions{})
	im.must(err)
	tree, err := im.fs.Subvolume(b.Context(), id)
	im.must(err)
	_, err = copytree.Import(b.Context(), tree, inode.RootDir, filepath.Join(strings.TrimSpace(string(out)), "src"), copytree.ImportOptions{})
	im.must(err)
	_, err = im.fs.Snapshot(b.Context(), "src", "snap", true)
	im.must(err)
	var stream bytes.Buffer
	im.must(im.fs.Send(b.Context(), &stream, engine.SendOptions{Path: "snap"}))
	im.must(im.fs.Close())
	img := filepath.Join(b.TempDir(), "fs.img")
	b.SetBytes(int64(stream.Len()))
	for b.Loop() {
		fs, err := engine.Format(b.Context(), img, engine.FormatOptions{Options: mkfs.Default(), Size: 1 << 30, Force: true})
		im.must(err)
		_, err = fs.Receive(b.Context(), bytes.NewReader(stream.Bytes()), engine.ReceiveOptions{})
		im.must(err)
		im.must(fs.Close())
	}
}
