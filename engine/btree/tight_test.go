package btree

import (
	"testing"

	"imgtool/engine/ondisk"
)

// TestTight deletes every other item: where space is tight the leaves that are left are dense, with either way of
// deleting, and otherwise they stay half full, which saves copies.
func TestTight(t *testing.T) {
	const items, size = 4000, 100
	leaves := func(tree *Tree) (n int) {
		last := ondisk.Logical(0)
		for i := range items {
			l, _, ok, err := tree.leafGE(ctx, seqKey(i))
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if at := l.block().Header().Bytenr(); at != last {
				last = at
				n++
			}
			l.release()
		}
		return n
	}
	del := map[string]func(w *world, tree *Tree, i int) error{
		"delete": func(w *world, tree *Tree, i int) error { return tree.Delete(ctx, w.gen, seqKey(i)) },
		"modify": func(w *world, tree *Tree, i int) error {
			return tree.Modify(ctx, w.gen, seqKey(i), func([]byte) ([]byte, error) { return nil, nil })
		},
		"range": func(w *world, tree *Tree, i int) error {
			return tree.DeleteRange(ctx, w.gen, seqKey(i), seqKey(i), nil)
		},
	}
	for how, del := range del {
		after := map[bool]int{}
		for _, tight := range []bool{false, true} {
			w := newWorld(t)
			w.tight = func() bool { return tight }
			tree := w.tree(ondisk.FSTree)
			for i := range items {
				if err := tree.Insert(ctx, w.gen, seqKey(i), make([]byte, size)); err != nil {
					t.Fatal(err)
				}
			}
			full := leaves(tree)
			w.commit()
			for i := 0; i < items; i += 2 {
				if err := del(w, tree, i); err != nil {
					t.Fatal(err)
				}
			}
			w.checkAll()
			after[tight] = leaves(tree)
			t.Logf("%s, tight %v: %d leaves, then %d", how, tight, full, after[tight])
			if tight && after[true] > full*6/10 {
				t.Errorf("%s: every other item deleted, and %d of %d leaves are left", how, after[true], full)
			}
			w.done()
		}
		if after[false] <= after[true] {
			t.Errorf("%s: %d leaves, and %d where space is tight: leaves are merged without need", how, after[false], after[true])
		}
	}
}
