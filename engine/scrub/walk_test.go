package scrub

import (
	"testing"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// change edits all copies of a tree block and mends the checksum.
func change(t *testing.T, dev disk.Device, vol *volume.Volume, addr ondisk.Logical, fn func(ondisk.Block)) {
	t.Helper()
	sb := vol.Super()
	for copy := range vol.Copies(addr) {
		b := make(ondisk.Block, sb.NodeSize())
		must(t, vol.ReadCopy(t.Context(), addr, b, copy))
		fn(b)
		sb.Checksum().SetBlockCsum(b)
		p, err := vol.Place(addr, copy)
		must(t, err)
		_, err = dev.WriteAt(t.Context(), b, int64(p.Offset))
		must(t, err)
	}
}

// TestHalfDeleted looks at a subvolume whose deletion was interrupted: what lies before the key where it goes on is gone
// and may be in use by anybody, but where another subvolume shares it, it is scrubbed.
func TestHalfDeleted(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	var root, ours, shared *want // the top of the snapshot, and leaves of it
	sb := vol.Super()
	for _, w := range list {
		if w.tree.IsSubvolume() && w.tree != ondisk.FSTree && !w.keyed {
			root = w
		}
	}
	if root == nil || root.level != 1 {
		t.Fatalf("the snapshot's root is %+v", root)
	}
	node := make(ondisk.Block, sb.NodeSize())
	must(t, vol.ReadCopy(t.Context(), root.addr, node, 0))
	reached := map[ondisk.Logical]bool{} // from the file tree
	for _, w := range list {
		if w.tree == ondisk.FSTree && w.level == 1 {
			top := make(ondisk.Block, sb.NodeSize())
			must(t, vol.ReadCopy(t.Context(), w.addr, top, 0))
			for i := range top.NrItems() {
				reached[top.BlockPtr(i)] = true
			}
		}
	}
	byAddr := map[ondisk.Logical]*want{}
	for _, w := range list {
		byAddr[w.addr] = w
	}
	last := node.NrItems() - 1
	for i := range last {
		if w := byAddr[node.BlockPtr(i)]; reached[w.addr] {
			shared = w
		} else {
			ours = w
		}
	}
	if ours == nil || shared == nil {
		t.Fatal("the snapshot has no block of its own, or shares none")
	}
	for _, c := range []struct {
		name     string
		progress ondisk.Key
		bad      *want
		errors   uint64
	}{
		{"whole, its own block", ondisk.Key{}, ours, 2},
		{"half, its own block", node.Key(last), ours, 0},
		{"half, a shared block", node.Key(last), shared, 2},
		{"half, the rest", node.Key(last), byAddr[node.BlockPtr(last)], 2},
	} {
		dev := good.Clone()
		for _, w := range list {
			if w.tree != ondisk.RootTree || w.level != 0 {
				continue
			}
			change(t, dev, vol, w.addr, func(b ondisk.Block) {
				for i := range b.NrItems() {
					if k := b.Key(i); k.Type == ondisk.RootItemKey && k.ObjectID == ondisk.ObjectID(root.tree) {
						ondisk.AsRootItem(b.Item(i)).SetDropProgress(c.progress)
						ondisk.AsRootItem(b.Item(i)).SetDropLevel(1)
					}
				}
			})
		}
		change(t, dev, vol, c.bad.addr, func(b ondisk.Block) { b.Header().SetGeneration(1) })
		r, fs := run(t, dev, false)
		if n, _ := r.Errors(); n != c.errors {
			t.Errorf("%s: %d errors: %+v", c.name, n, fs)
		}
	}
}

// TestPointersDisagree leads two pointers of different generations, or of different keys, to one block: one of them is
// wrong, and no copy of anything makes it right.
func TestPointersDisagree(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	sb := vol.Super()
	var nodes []*want // that lead to leaves
	leads := map[ondisk.Logical]int{}
	for _, w := range list {
		if w.level != 1 {
			continue
		}
		nodes = append(nodes, w)
		b := make(ondisk.Block, sb.NodeSize())
		must(t, vol.ReadCopy(t.Context(), w.addr, b, 0))
		for i := range b.NrItems() {
			leads[b.BlockPtr(i)]++
		}
	}
	spoil := func(what string, node *want, fn func(ondisk.Block)) {
		dev := good.Clone()
		change(t, dev, vol, node.addr, fn)
		r, fs := run(t, dev, true)
		if n, repaired := r.Errors(); n == 0 || repaired != 0 {
			t.Errorf("%s: %d errors, %d repaired: %+v", what, n, repaired, fs)
		}
	}
	shared := 0
	for _, w := range nodes {
		spoil("another key", w, func(b ondisk.Block) { b.SetPtr(1, b.Key(1), b.BlockPtr(0), b.PtrGeneration(0)) })
		// Of two nodes that share a leaf one is read first: each is the wrong one once.
		spoil("another generation", w, func(b ondisk.Block) {
			for i := range b.NrItems() {
				if leads[b.BlockPtr(i)] > 1 {
					b.SetPtr(i, b.Key(i), b.BlockPtr(i), b.PtrGeneration(i)+1)
					shared++
					return
				}
			}
			b.SetPtr(0, b.Key(0), b.BlockPtr(0), b.PtrGeneration(0)+1)
		})
	}
	if shared < 2*2 { // of two nodes, in both copies
		t.Errorf("%d copies of nodes share a leaf with another", shared)
	}
}

// TestOnce: a block is read once, however many subvolumes share it.
func TestOnce(t *testing.T) {
	dev := image(t, 0)
	list, _ := blocks(t, dev)
	r, _ := run(t, dev, false)
	if got, want := r.Counts[Metadata].Bytes, uint64(len(list)*2*4096); got != want {
		t.Errorf("%d bytes of metadata were verified, there are %d in two copies", got, want)
	}
}
