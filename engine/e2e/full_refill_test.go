package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
)

// refillRounds is how often TestRefillAsTheKernel deletes and fills again.
const refillRounds = 2

// TestRefillAsTheKernel fills an image with small or empty files, deletes every other one, and fills it again, beside
// the kernel, which does the same on an image that mkfs.btrfs made with the same options. What deleting gives back must be
// of use: at least half as many files fit again, and the image holds as many as the kernel's, less a fifth, which is how
// far the two differ in what they make of the last unallocated space, data or metadata.
func TestRefillAsTheKernel(t *testing.T) {
	oracle.NeedRoot(t)
	if !oracle.Soak() {
		t.Skip("long: IMGTOOL_SOAK=1 runs it (the kernel needs many minutes for its deletions)")
	}
	for i, c := range fullCases() {
		if c.filler != "small" && c.filler != "empty" || c.size > 256<<20 || c.filler == "empty" && c.size > 0 {
			continue
		}
		t.Run(c.name(), func(t *testing.T) {
			var size uint64
			img, fs := create(t, c.size, func(o *engine.FormatOptions) {
				o.NodeSize = c.nodesize
				if o.Size == 0 {
					o.Size = o.MinSize()
				}
				size = o.Size
			})
			f := &full{t: t, ctx: t.Context(), rnd: rand.New(rand.NewPCG(uint64(i), 1)), fs: fs}
			f.tree, _ = fs.Subvolume(t.Context(), 5)
			k := newKernelFull(t, size, c)
			t.Logf("ours: %s; the kernel: %s", f.fill(c.filler), k.fill(c))
			for range refillRounds {
				deleted := len(f.files) / 2
				f.timed("ours: delete every other file", func() { f.remove(2) })
				k.remove()
				ours, theirs := f.fill(c.filler), k.fill(c)
				t.Logf("%d deleted; ours again: %s; the kernel: %s", deleted, ours, theirs)
				if len(f.files) < len(k.files)*4/5 {
					t.Errorf("the image holds %d files, the kernel's %d", len(f.files), len(k.files))
				}
				if ours.files < uint64(deleted)/2 {
					t.Errorf("%d files deleted, and only %d fitted again", deleted, ours.files)
				}
			}
			k.m.Unmount()
			finish(t, fs, img)
		})
	}
}

// kernelFull fills an image through a mount.
type kernelFull struct {
	t     *testing.T
	m     *oracle.Mounted
	next  int
	files []string
}

func newKernelFull(t *testing.T, size uint64, c fullCase) *kernelFull {
	img := t.TempDir() + "/kernel.img"
	oracle.Mkfs(t, img, int64(size), "-n", fmt.Sprint(c.nodesize))
	// With nodes of 4 KiB a commit of the kernel may itself run out of space, which aborts it and shows as EIO.
	return &kernelFull{t: t, m: oracle.Mount(t, img, oracle.AllowComplaints())}
}

// remove deletes every other file. Where even that is too much for the kernel the rest stays.
func (k *kernelFull) remove() {
	keep := k.files[:0]
	for i, name := range k.files {
		if i%2 != 0 || kernelSaysFull(k.t, os.Remove(k.m.Path(name))) {
			keep = append(keep, name)
		}
	}
	k.files = keep
}
