package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
)

// TestFullAsTheKernel compares how much an image holds with how much the kernel gets into one that mkfs.btrfs made with
// the same options: within 5 percent for data, within 20 for empty files.
func TestFullAsTheKernel(t *testing.T) {
	oracle.NeedRoot(t)
	for i, c := range fullCases() {
		if c.filler != "data" && c.filler != "empty" || !oracle.Soak() && (c.soak || c.filler != "data") {
			continue
		}
		t.Run(c.name(), func(t *testing.T) {
			var size uint64
			_, fs := create(t, c.size, func(o *engine.FormatOptions) {
				o.NodeSize = c.nodesize
				if o.Size == 0 {
					o.Size = o.MinSize()
				}
				size = o.Size
			})
			f := &full{t: t, ctx: t.Context(), rnd: rand.New(rand.NewPCG(uint64(i), 1))}
			f.fs = fs
			f.tree, _ = fs.Subvolume(t.Context(), 5)
			ours := f.fill(c.filler)
			must(t, fs.Close())
			k := newKernelFull(t, size, c)
			theirs := k.fill(c)
			k.m.Unmount()
			t.Logf("ours: %s; the kernel: %s", ours, theirs)
			if ours.bytes < theirs.bytes*95/100 {
				t.Errorf("%d bytes of data, the kernel %d", ours.bytes, theirs.bytes)
			}
			if c.filler == "empty" && ours.files < theirs.files*80/100 {
				t.Errorf("%d empty files, the kernel %d", ours.files, theirs.files)
			}
		})
	}
}

// fill fills the image as full.fillFiles does, until the kernel finds no space.
func (k *kernelFull) fill(c fullCase) (r filled) {
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	piece, pieces := []byte(nil), 0
	switch c.filler {
	case "data":
		piece, pieces = make([]byte, 1<<20), 8
	case "small":
		piece, pieces = make([]byte, 4096), 1
	}
	for {
		name := fmt.Sprintf("file-%07d", k.next)
		k.next++
		f, err := os.Create(k.m.Path(name))
		if kernelSaysFull(k.t, err) {
			return r
		}
		k.files = append(k.files, name)
		r.files++
		for range pieces {
			n, err := f.Write(piece)
			r.bytes += uint64(n)
			if kernelSaysFull(k.t, err) {
				_ = f.Close()
				return r
			}
		}
		must(k.t, f.Close())
	}
}

func kernelSaysFull(t *testing.T, err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return true
	}
	must(t, err)
	return false
}
