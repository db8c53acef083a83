package inode_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// image is a file system in memory, made by the engine itself.
type image struct {
	t   testing.TB
	mem *disk.Mem
	fs  *engine.FS
}

func newImage(t testing.TB, size int64, change func(o *engine.FormatOptions)) *image {
	t.Helper()
	o := engine.FormatOptions{Options: mkfs.Default(), Size: uint64(size)}
	if change != nil {
		change(&o)
	}
	im := &image{t: t, mem: disk.NewMem("test", size)}
	var err error
	if im.fs, err = engine.FormatDevice(context.Background(), im.mem, o); err != nil {
		t.Fatal(err)
	}
	return im
}

func (im *image) top() *inode.FileTree {
	im.t.Helper()
	tree, err := im.fs.Subvolume(context.Background(), ondisk.FSTree)
	if err != nil {
		im.t.Fatal(err)
	}
	return tree
}

// reopen closes the file system and opens it again from what was committed.
func (im *image) reopen() {
	im.t.Helper()
	if err := im.fs.Close(); err != nil {
		im.t.Fatal(err)
	}
	im.mem = im.mem.Clone()
	var err error
	if im.fs, err = engine.OpenDevices(context.Background(), []disk.Device{im.mem}, engine.OpenOptions{}); err != nil {
		im.t.Fatal(err)
	}
}

// file writes the committed image to a file for tools.
func (im *image) file() string {
	im.t.Helper()
	path := filepath.Join(im.t.TempDir(), "image")
	if err := im.mem.WriteFile(path); err != nil {
		im.t.Fatal(err)
	}
	return path
}

// TestModel runs random operations on images of several features and compares them with the model, also after they were
// closed and opened, and with what btrfs check and the kernel say.
func TestModel(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(o *engine.FormatOptions)
	}{
		{"default", func(*engine.FormatOptions) {}},
		{"holes", func(o *engine.FormatOptions) { o.Features.NoHoles, o.Features.BlockGroupTree = false, false }},
		{"4k-noextref", func(o *engine.FormatOptions) { o.NodeSize = 4096; o.Features.ExtendedIref = false }},
		{"sha256", func(o *engine.FormatOptions) { o.Csum = ondisk.SHA256; o.NodeSize = 65536 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			seed := uint64(oracle.Seed(t))
			t.Logf("seed %d", seed)
			im := newImage(t, 512<<20, c.change)
			m := newModel(t, im.top(), seed)
			for range 4 {
				for range 300 {
					m.step()
				}
				m.compare(m.tree)
				if err := im.fs.Commit(m.ctx); err != nil {
					t.Fatal(err)
				}
				im.reopen()
				m.tree = im.top()
				m.compare(m.tree)
			}
			t.Logf("%v", m.count)
			path := im.file()
			oracle.Check(t, path)
			compareKernel(t, m, path)
			if err := im.fs.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// compareKernel mounts the image and compares what the kernel sees with the model.
func compareKernel(t *testing.T, m *model, path string) {
	oracle.NeedRoot(t)
	mnt := oracle.Mount(t, path)
	defer mnt.Unmount()
	var visit func(d *node, at string)
	visit = func(d *node, at string) {
		es, err := os.ReadDir(at)
		if err != nil || len(es) != len(d.children) {
			t.Fatalf("%s: the kernel has %d entries, the model %d: %v", at, len(es), len(d.children), err)
		}
		for name, n := range d.children {
			sys := filepath.Join(at, name)
			switch n.typ {
			case ondisk.ModeDir:
				visit(n, sys)
			case ondisk.ModeLnk:
				if s, err := os.Readlink(sys); err != nil || s != n.target {
					t.Fatalf("%s: %q %v", sys, s, err)
				}
			default:
				if b, err := os.ReadFile(sys); err != nil || !bytes.Equal(b, n.data) {
					t.Fatalf("%s: the kernel reads %d bytes, the model has %d: %v", sys, len(b), len(n.data), err)
				}
			}
		}
	}
	visit(m.root, mnt.Path())
}
