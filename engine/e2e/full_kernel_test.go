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
			theirs := kernelFill(t, size, c)
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

// kernelFill fills an image as full.fillFiles does, through a mount.
func kernelFill(t *testing.T, size uint64, c fullCase) (r filled) {
	img := t.TempDir() + "/kernel.img"
	oracle.Mkfs(t, img, int64(size), "-n", fmt.Sprint(c.nodesize))
	// With nodes of 4 KiB a commit of the kernel may itself run out of space, which aborts it and shows as EIO.
	m := oracle.Mount(t, img, oracle.AllowComplaints())
	defer m.Unmount()
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	piece := []byte(nil)
	if c.filler == "data" {
		piece = make([]byte, 1<<20)
	}
	for {
		f, err := os.Create(m.Path(fmt.Sprintf("file-%07d", r.files)))
		if kernelFull(t, err) {
			return r
		}
		r.files++
		for at := 0; at < 8 && len(piece) > 0; at++ {
			n, err := f.Write(piece)
			r.bytes += uint64(n)
			if kernelFull(t, err) {
				_ = f.Close()
				return r
			}
		}
		must(t, f.Close())
	}
}

func kernelFull(t *testing.T, err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EROFS) {
		return true
	}
	must(t, err)
	return false
}
