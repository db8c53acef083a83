package commitview_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// manyLeaves is a closed file system on a device, with a read-only subvolume of many leaves below one node.
func manyLeaves(t *testing.T) (*disk.Mem, ondisk.TreeID) {
	t.Helper()
	mem := disk.NewMem(filepath.Base(t.Name()), 160<<20)
	f, err := engine.FormatDevice(t.Context(), mem, engine.FormatOptions{Options: mkfs.Default()})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{T: t, f: f, ctx: t.Context()}
	tree, id := l.subvolume("a")
	for i := range 400 {
		ino, err := tree.Create(l.ctx, inode.RootDir, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		l.must(err)
		_, err = tree.WriteAt(l.ctx, ino, bytes.Repeat([]byte{byte(i)}, 1500), 0)
		l.must(err)
	}
	snap := l.snapshot(id, "s", true)
	l.commit()
	image := mem.Clone()
	l.must(f.Close())
	return image, snap
}

// TestAhead looks which leaves are in memory or on their way after a look-up at the k-th leaf of a tree of which nothing
// was: those that the options name, and no others.
func TestAhead(t *testing.T) {
	image, id := manyLeaves(t)
	for _, tc := range []struct {
		name   string
		policy commitview.Policy
		ahead  int // of the view
		at     int // leaf
		look   func(l *lab, v *commitview.View, node ondisk.Block, at int)
		known  int // leaves from at on; others not
	}{
		{name: "a look-up alone", at: 3, look: lookUp, known: 1},
		{name: "with those behind", ahead: 4, at: 3, look: lookUp, known: 4},
		{name: "clone-root", policy: commitview.CloneRoot, ahead: 4, at: 3, look: lookUp, known: 4},
		{name: "shared", policy: commitview.Shared, ahead: 4, at: 3, look: lookUp, known: 1},
		{name: "at the end", ahead: 4, at: -2, look: lookUp, known: 2},
		{name: "copy of a leaf", at: 2, look: copyLeaf(0), known: 1},
		{name: "copy of a leaf, eight ahead", at: 2, look: copyLeaf(8), known: 9},
		{name: "prefetch", at: 5, look: prefetchSlots(0, 1, 2), known: 3},
		{name: "more than half is known", at: 5, look: func(l *lab, v *commitview.View, node ondisk.Block, at int) {
			prefetchSlots(0, 1, 2)(l, v, node, at)
			prefetchSlots(1, 2, 3)(l, v, node, at)
		}, known: 3},
		{name: "half is known", at: 5, look: func(l *lab, v *commitview.View, node ondisk.Block, at int) {
			prefetchSlots(0, 1)(l, v, node, at)
			prefetchSlots(0, 1, 2, 3)(l, v, node, at)
		}, known: 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, err := engine.OpenDevices(t.Context(), []disk.Device{image.Clone()}, engine.OpenOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			l := &lab{T: t, f: f, ctx: t.Context()}
			v := l.open(id, commitview.Options{Policy: tc.policy, AllowUnsafe: true, Ahead: tc.ahead})
			node := make(ondisk.Block, f.DB().Cache().NodeSize())
			l.must(v.CopyBlock(l.ctx, 1, ondisk.MinKey, node))
			if node.Level() != 1 || node.NrItems() < 20 {
				t.Fatalf("a tree of level %d, %d leaves", node.Level(), node.NrItems())
			}
			at := tc.at
			if at < 0 {
				at += node.NrItems()
			}
			tc.look(l, v, node, at)
			for i := range node.NrItems() {
				if known := f.DB().Cache().Knows(node.BlockPtr(i)); known != (i >= at && i < at+tc.known) {
					t.Errorf("leaf %d of %d is known: %v", i, node.NrItems(), known)
				}
			}
			for i := range node.NrItems() { // whatever was read ahead is right
				if _, err := v.Get(l.ctx, node.Key(i)); err != nil {
					t.Errorf("leaf %d: %v", i, err)
				}
			}
			v.Close()
			l.must(f.Close())
		})
	}
}

func lookUp(l *lab, v *commitview.View, node ondisk.Block, at int) {
	_, err := v.Get(l.ctx, node.Key(at))
	l.must(err)
}

func copyLeaf(ahead int) func(*lab, *commitview.View, ondisk.Block, int) {
	return func(l *lab, v *commitview.View, node ondisk.Block, at int) {
		leaf := make(ondisk.Block, len(node))
		slot, ok, err := v.CopyLeaf(l.ctx, node.Key(at), leaf, ahead)
		if l.must(err); !ok || slot != 0 || leaf.Key(0) != node.Key(at) {
			l.Errorf("slot %d of a leaf that begins with %v", slot, leaf.Key(0))
		}
	}
}

func prefetchSlots(offsets ...int) func(*lab, *commitview.View, ondisk.Block, int) {
	return func(l *lab, v *commitview.View, node ondisk.Block, at int) {
		var slots []int
		for _, o := range offsets {
			slots = append(slots, at+o)
		}
		v.Prefetch(l.ctx, node, slots)
	}
}
