package btree

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// child returns the block at a slot of node b.
func (w *world) child(b ondisk.Block, slot int) ondisk.Block {
	w.tb.Helper()
	c := w.cache.Lookup(b.BlockPtr(slot))
	if c == nil {
		w.tb.Fatalf("block %d is not in memory", b.BlockPtr(slot))
	}
	defer c.Release()
	return c.Block()
}

func (w *world) root(t *Tree) ondisk.Block {
	w.tb.Helper()
	b, err := t.RootBuffer(ctx)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer b.Release()
	return b.Block()
}

func touch(w *world, t *Tree, k ondisk.Key) {
	w.tb.Helper()
	if err := t.Update(ctx, w.gen, k, func(d []byte) error { d[0]++; return nil }); err != nil {
		w.tb.Fatal(err)
	}
}

// TestRelocated changes a tree that holds a node made by relocation: though it is newer than the last snapshot its
// references must be looked up, and its children's turned from full ones into the tree's.
func TestRelocated(t *testing.T) {
	w := newWorld(t)
	tree := w.tree(ondisk.FSTree)
	w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 700, 900)
	node := w.child(w.root(tree), 0)
	at := node.Header().Bytenr()
	node.SetFlags(ondisk.HeaderFlagReloc)
	w.alloc.blocks[at].flags = ondisk.ExtentFlagFullBackref
	for i := range node.NrItems() {
		w.alloc.blocks[node.BlockPtr(i)].refs = map[ref]int{{true, uint64(at)}: 1}
	}
	w.checkAll()
	w.commit()
	touch(w, tree, node.Key(0))
	now := w.child(w.root(tree), 0)
	if now.Header().Bytenr() == at || now.Flags() != 0 || now.Header().Owner() != ondisk.FSTree {
		t.Fatalf("the node is at %d (was %d), flags %#x, owner %d", now.Header().Bytenr(), at, now.Flags(), now.Header().Owner())
	}
	w.checkAll()
	w.done()
}

// TestSnapshotSharing follows the flags and references of one leaf's way through a snapshot: the source copies first,
// so what the snapshot keeps becomes full; then the snapshot copies, and takes over.
func TestSnapshotSharing(t *testing.T) {
	for _, sourceFirst := range []bool{true, false} {
		w := newWorld(t)
		tree := w.tree(ondisk.FSTree)
		w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 700, 900)
		w.commit()
		snap := w.snapshot(tree, 300)
		node := w.child(w.root(tree), 1)
		at, k := node.Header().Bytenr(), node.Key(0)
		if have := w.alloc.blocks[at].total(); have != 2 {
			t.Fatalf("the shared node has %d references, expect 2", have)
		}
		w.commit()
		first, second := tree, snap
		if !sourceFirst {
			first, second = snap, tree
		}
		touch(w, first, k)
		w.checkAll()
		full := w.alloc.blocks[at].flags&ondisk.ExtentFlagFullBackref != 0
		if full != sourceFirst {
			t.Fatalf("source first %v: full back references %v", sourceFirst, full)
		}
		touch(w, second, k)
		w.checkAll()
		if w.alloc.blocks[at] != nil {
			t.Fatal("the node that both have copied is still there")
		}
		w.done()
	}
}

// TestInPlace counts copies: once a path belongs to the transaction nothing is copied again, until it is written or
// the tree is snapshotted.
func TestInPlace(t *testing.T) {
	w := newWorld(t)
	tree := w.tree(ondisk.FSTree)
	w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 700, 900)
	k := seqKey(350)
	copies := func(least, most int) {
		t.Helper()
		w.alloc.allocs = 0
		touch(w, tree, k)
		if n := w.alloc.allocs; n < least || n > most {
			t.Fatalf("%d blocks copied, expect %d to %d", n, least, most)
		}
	}
	copies(0, 0)
	w.commit()
	copies(3, 3)
	copies(0, 0)
	if _, err := w.cache.WriteSome(ctx, ondisk.Generation(w.gen), 100); err != nil {
		t.Fatal(err)
	}
	copies(1, 3) // which blocks are written early is the cache's business
	copies(0, 0)
	w.snapshot(tree, 300)
	copies(3, 3)
	copies(3, 3) // force-COW lasts until the root item is written
	tree.SetForceCOW(false)
	copies(0, 0)
	w.checkAll()
	w.done()
}

// TestCopyRootNoSpace lets each allocation of a snapshot fail.
func TestCopyRootNoSpace(t *testing.T) {
	for failAt := 1; failAt <= 2; failAt++ {
		w := newWorld(t)
		tree := w.tree(ondisk.FSTree)
		w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 100, 900)
		w.commit()
		w.alloc.allocs, w.alloc.failAt = 0, failAt
		if _, err := tree.CopyRoot(ctx, w.gen, 300); !errors.Is(err, fserr.ErrNoSpace) {
			t.Fatalf("allocation %d: %v", failAt, err)
		}
		w.checkAll()
		w.snapshot(tree, 300)
		w.checkAll()
		w.done()
	}
}

// TestCheckFinds spoils one thing of a good tree each time, and expects Check to notice.
func TestCheckFinds(t *testing.T) {
	offsetOf := func(b ondisk.Block, i int) []byte {
		return b[ondisk.HeaderSize+i*ondisk.ItemSize+ondisk.ItemDataOffsetPos:]
	}
	for name, spoil := range map[string]func(node, leaf ondisk.Block){
		"node order":        func(n, _ ondisk.Block) { n.SetKey(3, n.Key(1)) },
		"leaf order":        func(_, l ondisk.Block) { l.SetKey(1, l.Key(2)) },
		"below the parent":  func(_, l ondisk.Block) { l.SetKey(0, ondisk.MinKey) },
		"above the parent":  func(_, l ondisk.Block) { l.SetKey(l.NrItems()-1, ondisk.MaxKey) },
		"gap":               func(_, l ondisk.Block) { binary.LittleEndian.PutUint32(offsetOf(l, 1), uint32(l.ItemOffset(1)-1)) },
		"empty leaf":        func(_, l ondisk.Block) { l.SetNrItems(0) },
		"empty node":        func(n, _ ondisk.Block) { n.SetNrItems(0) },
		"address":           func(_, l ondisk.Block) { l.Header().SetBytenr(4096) },
		"owner":             func(_, l ondisk.Block) { l.Header().SetOwner(9) },
		"flags":             func(_, l ondisk.Block) { l.SetFlags(1 << 7) },
		"backref revision":  func(_, l ondisk.Block) { l.Header().SetRawFlags(0) },
		"fsid":              func(_, l ondisk.Block) { l.Header().SetFSID(ondisk.UUID{9}) },
		"generation":        func(_, l ondisk.Block) { l.Header().SetGeneration(1) },
		"pointer":           func(n, _ ondisk.Block) { n.SetPtr(1, n.Key(1), n.BlockPtr(2), n.PtrGeneration(2)) },
		"pointer's promise": func(n, _ ondisk.Block) { n.SetPtr(1, n.Key(1), n.BlockPtr(1), 3) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tree := w.tree(ondisk.CsumTree)
			w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 60, 700)
			root := w.root(tree)
			spoil(root, w.child(root, 1))
			if err := tree.Check(ctx); !errors.Is(err, fserr.ErrCorrupt) {
				t.Errorf("Check says %v", err)
			}
			w.done()
		})
	}
}

// TestClosed uses a tree after Close, as who still has a pointer to a dropped one does: it is an error, and no root is
// read again from an address that may be another tree's by now, nor kept in memory.
func TestClosed(t *testing.T) {
	w := newWorld(t)
	tree := w.tree(ondisk.FSTree)
	w.fillTree(tree, rand.New(rand.NewPCG(2, 1)), 300, 900)
	w.commit()
	tree.Close()
	if _, err := tree.RootBuffer(ctx); !errors.Is(err, fserr.ErrClosed) {
		t.Errorf("RootBuffer: %v, want %v", err, fserr.ErrClosed)
	}
	if _, err := tree.Get(ctx, ondisk.Key{ObjectID: 256}); !errors.Is(err, fserr.ErrClosed) {
		t.Errorf("Get: %v, want %v", err, fserr.ErrClosed)
	}
	if tree.CommitRootBuffer() != nil {
		t.Error("the tree has a commit root again")
	}
	if err := w.cache.Close(); err != nil {
		t.Error(err)
	}
}
