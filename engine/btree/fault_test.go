package btree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cespare/xxhash/v2"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// reopen forgets all that is in memory and opens the trees from the device.
func (w *world) reopen() {
	w.tb.Helper()
	w.commit()
	var trees []*Tree
	for _, t := range w.trees {
		addr, level, gen := t.Root()
		n := New(w.config(t.ID()), addr, level, gen)
		n.SetLastSnapshot(t.LastSnapshot())
		trees = append(trees, n)
		t.Close()
	}
	if err := w.cache.Close(); err != nil {
		w.tb.Fatal(err)
	}
	w.cache = w.newCache()
	for _, t := range trees {
		t.cfg.Cache = w.cache
	}
	w.trees = trees
}

func seqKey(i int) ondisk.Key { return ondisk.Key{ObjectID: ondisk.ObjectID(256 + i), Type: 1} }

// fillTree inserts items 0..n-1 in random order.
func (w *world) fillTree(t *Tree, rng *rand.Rand, n, size int) {
	w.tb.Helper()
	for _, i := range rng.Perm(n) {
		if err := t.Insert(ctx, w.gen, seqKey(i), make([]byte, size)); err != nil {
			w.tb.Fatal(err)
		}
	}
}

// content returns a hash of all keys and data.
func (w *world) content(t *Tree) uint64 {
	w.tb.Helper()
	h := xxhash.New()
	if err := t.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, d []byte) (bool, error) {
		var b [ondisk.KeySize + 4]byte
		ondisk.PutKey(b[:], k)
		binary.LittleEndian.PutUint32(b[ondisk.KeySize:], uint32(len(d)))
		h.Write(b[:])
		h.Write(d)
		return true, nil
	}); err != nil {
		w.tb.Fatal(err)
	}
	return h.Sum64()
}

// mutations are operations that each need several blocks when nothing was copied yet.
func mutations(rng *rand.Rand, n int) map[string]func(w *world, t *Tree) error {
	k := seqKey(rng.IntN(n))
	fresh := k
	fresh.Offset = 1
	big := make([]byte, ondisk.MaxItemSize(testNode))
	return map[string]func(w *world, t *Tree) error{
		"insert":  func(w *world, t *Tree) error { return t.Insert(ctx, w.gen, fresh, make([]byte, 600)) },
		"biggest": func(w *world, t *Tree) error { return t.Insert(ctx, w.gen, fresh, big) },
		"first":   func(w *world, t *Tree) error { return t.Insert(ctx, w.gen, ondisk.Key{ObjectID: 1}, make([]byte, 600)) },
		"last":    func(w *world, t *Tree) error { return t.Insert(ctx, w.gen, ondisk.MaxKey, make([]byte, 600)) },
		"delete":  func(w *world, t *Tree) error { return t.Delete(ctx, w.gen, k) },
		"put":     func(w *world, t *Tree) error { return t.Put(ctx, w.gen, k, big) },
		"update": func(w *world, t *Tree) error {
			return t.Update(ctx, w.gen, k, func(b []byte) error { b[0] = 1; return nil })
		},
		"modify": func(w *world, t *Tree) error {
			return t.Modify(ctx, w.gen, k, func(old []byte) ([]byte, error) { return append(old, 1), nil })
		},
		"setkey": func(w *world, t *Tree) error { return t.SetKey(ctx, w.gen, k, fresh) },
	}
}

// TestNoSpace lets each allocation of each operation fail once. The operation must change nothing, or be done if it
// could do without the block; the tree and all references are whole either way, and a second try succeeds.
func TestNoSpace(t *testing.T) {
	const n = 650
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 7))
		for name, op := range mutations(rng, n) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				for failAt := 1; ; failAt++ {
					w := newWorld(t)
					tree := w.tree(ondisk.FSTree)
					w.fillTree(tree, rand.New(rand.NewPCG(seed, 8)), n, 900)
					if seed == 1 {
						w.snapshot(tree, 300)
					}
					w.reopen()
					tree = w.trees[0]
					before := w.content(tree)
					w.alloc.allocs, w.alloc.failAt = 0, failAt
					err := op(w, tree)
					hit := w.alloc.allocs >= failAt
					w.alloc.failAt = 0
					w.checkAll()
					if err != nil {
						if !errors.Is(err, fserr.ErrNoSpace) || errors.Is(err, ErrInconsistent) {
							t.Fatalf("allocation %d: %v", failAt, err)
						}
						if w.content(tree) != before {
							t.Fatalf("allocation %d: the failed operation changed items", failAt)
						}
						if err := op(w, tree); err != nil {
							t.Fatalf("allocation %d: the second try fails: %v", failAt, err)
						}
						w.checkAll()
					}
					if w.content(tree) == before {
						t.Fatalf("allocation %d: nothing has changed", failAt)
					}
					w.done()
					if !hit {
						return
					}
				}
			})
		}
	}
}

// TestSiblingUnreadable damages a neighbour of a leaf that should be merged: the deletion goes through all the same.
func TestSiblingUnreadable(t *testing.T) {
	w := newWorld(t)
	tree := w.tree(ondisk.ExtentTree)
	w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 40, 700)
	w.reopen()
	tree = w.trees[0]
	root, err := tree.RootBuffer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	good := w.io.blocks
	w.io.blocks = map[ondisk.Logical][]byte{}
	for i := range root.Block().NrItems() {
		if i != 3 {
			w.io.fail[root.Block().BlockPtr(i)] = fmt.Errorf("injected")
		}
	}
	w.io.blocks = good
	from, to := root.Block().Key(3), root.Block().Key(4)
	root.Release()
	for k := from; k.Less(to); k.ObjectID++ {
		if err := tree.Delete(ctx, w.gen, k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tree.Get(ctx, seqKey(0)); err == nil {
		t.Fatal("the injected error did not show")
	}
	clear(w.io.fail)
	w.checkAll()
	w.done()
}

// TestBadPointer changes what a parent promises: every way down says that the block is corrupt.
func TestBadPointer(t *testing.T) {
	for name, spoil := range map[string]func(b ondisk.Block){
		"generation": func(b ondisk.Block) { b.SetPtr(1, b.Key(1), b.BlockPtr(1), b.PtrGeneration(1)-1) },
		"first key": func(b ondisk.Block) {
			k := b.Key(1)
			k.Offset++
			b.SetPtr(1, k, b.BlockPtr(1), b.PtrGeneration(1))
		},
		"level": func(b ondisk.Block) { b.SetPtr(1, b.Key(1), b.Header().Bytenr(), b.PtrGeneration(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tree := w.tree(ondisk.FSTree)
			w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 40, 700)
			root, err := tree.RootBuffer(ctx)
			if err != nil {
				t.Fatal(err)
			}
			spoil(root.Block())
			k := root.Block().Key(1)
			k.Offset++
			root.Release()
			r := CommitReader{w.cache}
			for what, err := range map[string]error{
				"Get":    errOf(tree.Get(ctx, k)),
				"Insert": tree.Insert(ctx, w.gen, k, nil),
				"Delete": tree.Delete(ctx, w.gen, k),
				"Check":  tree.Check(ctx),
				"commit": errOf(r.Get(ctx, root, k)),
			} {
				if !errors.Is(err, fserr.ErrCorrupt) {
					t.Errorf("%s: have %v, expect a corrupt block", what, err)
				}
			}
			w.done()
		})
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestCold scans and searches a tree that is not in memory, in the current tree and in the commit root, and opens one
// whose root item lies.
func TestCold(t *testing.T) {
	w := newWorld(t)
	const n = 700
	w.fillTree(w.tree(ondisk.CsumTree), rand.New(rand.NewPCG(1, 1)), n, 900)
	for _, how := range []func(tree *Tree, fn func(ondisk.Key, []byte) (bool, error)) error{
		func(tree *Tree, fn func(ondisk.Key, []byte) (bool, error)) error {
			return tree.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, fn)
		},
		func(tree *Tree, fn func(ondisk.Key, []byte) (bool, error)) error {
			if tree.CommitRootBuffer() != nil {
				return errors.New("a tree that was never read has its commit root")
			}
			if err := tree.Load(ctx); err != nil {
				return err
			}
			return CommitReader{w.cache}.Scan(ctx, tree.CommitRootBuffer(), ondisk.MinKey, ondisk.MaxKey, fn)
		},
	} {
		w.reopen()
		i := 0
		if err := how(w.trees[0], func(k ondisk.Key, _ []byte) (bool, error) {
			if k != seqKey(i) {
				return false, fmt.Errorf("item %d is %v", i, k)
			}
			i++
			return true, nil
		}); err != nil || i != n {
			t.Fatalf("%d items, %v", i, err)
		}
	}
	w.reopen()
	if err := w.trees[0].View(ctx, seqKey(5), func(d []byte) error {
		if len(d) != 900 {
			return fmt.Errorf("%d bytes", len(d))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := w.trees[0].View(ctx, ondisk.MinKey, nil); !errors.Is(err, fserr.ErrNotFound) {
		t.Fatalf("View of no item: %v", err)
	}
	addr, level, gen := w.trees[0].Root()
	for name, bad := range map[string]*Tree{
		"level":      New(w.config(ondisk.CsumTree), addr, level+1, gen),
		"high level": New(w.config(ondisk.CsumTree), addr, ondisk.MaxLevel, gen),
		"generation": New(w.config(ondisk.CsumTree), addr, level, gen+1),
		"owner":      New(w.config(ondisk.ExtentTree), addr, level, gen),
	} {
		if _, err := bad.Get(ctx, seqKey(1)); !errors.Is(err, fserr.ErrCorrupt) {
			t.Errorf("root with wrong %s: %v", name, err)
		}
	}
	w.done()
}

// TestLimits tries what cannot be stored.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	tree := w.tree(ondisk.FSTree)
	w.fillTree(tree, rand.New(rand.NewPCG(1, 1)), 40, 700)
	before := w.content(tree)
	most := ondisk.MaxItemSize(testNode)
	k := seqKey(3)
	k.Offset = 1
	a, b := Item{Key: k}, Item{Key: seqKey(2)}
	for name, c := range map[string]struct{ err, want error }{
		"insert too large": {tree.Insert(ctx, w.gen, k, make([]byte, most+1)), fserr.ErrOverflow},
		"put too large":    {tree.Put(ctx, w.gen, seqKey(3), make([]byte, most+1)), fserr.ErrOverflow},
		"batch of one":     {tree.InsertBatch(ctx, w.gen, []Item{a}), nil},
		"exists":           {tree.Insert(ctx, w.gen, seqKey(3), nil), fserr.ErrExist},
		"batch exists":     {tree.InsertBatch(ctx, w.gen, []Item{b}), fserr.ErrExist},
		"no such item":     {tree.SetKey(ctx, w.gen, ondisk.MaxKey, k), fserr.ErrNotFound},
	} {
		if !errors.Is(c.err, c.want) || c.want == nil && c.err != nil {
			t.Errorf("%s: have %v, expect %v", name, c.err, c.want)
		}
	}
	if err := tree.InsertBatch(ctx, w.gen, []Item{{Key: ondisk.MaxKey}, {Key: k}}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("batch out of order: %v", err)
	}
	for _, k := range []ondisk.Key{k, ondisk.MaxKey} {
		if err := tree.Delete(ctx, w.gen, k); err != nil {
			t.Error(err)
		}
	}
	if w.content(tree) != before {
		t.Error("a refused operation changed items")
	}
	stop := errors.New("stop")
	if err := tree.DeleteRange(ctx, w.gen, seqKey(0), seqKey(9), func(k ondisk.Key, _ []byte) (bool, bool, error) {
		if k == seqKey(7) {
			return true, true, stop
		}
		return true, true, nil
	}); !errors.Is(err, stop) {
		t.Errorf("DeleteRange: %v", err)
	}
	if k, _, _, err := tree.SeekGE(ctx, ondisk.MinKey); k != seqKey(7) || err != nil {
		t.Errorf("first item is %v, %v", k, err)
	}
	w.checkAll()
	w.done()
}
