package extent

import (
	"testing"

	"imgtool/engine/ondisk"
)

// TestSoleDataRef asks whether an extent is one file's alone, with each change pending, applied, and committed. It is
// while all references are that file's from one item, and the extent is younger than the tree's last snapshot.
func TestSoleDataRef(t *testing.T) {
	const tree, ino, off, size = ondisk.FSTree, 257, 4096, 1 << 20
	f := newFixture(t, defaultFixture)
	tx := f.begin()
	born := f.gen
	addr, n, err := f.m.AllocData(f.ctx, tx, size, size, 0)
	f.check(err)
	f.check(f.m.AddDataRef(tx, addr, n, tree, ino, off, true))
	ask := func(when string, after ondisk.Generation, want bool) {
		t.Helper()
		have, err := f.m.SoleDataRef(f.ctx, tx, addr, n, tree, ino, off, after)
		f.check(err)
		if have != want {
			t.Errorf("%s, last snapshot %d of generation %d: %v, want %v", when, after, born, have, want)
		}
	}
	// everywhere asks while the change is pending, when it is in the extent tree, and after a commit.
	everywhere := func(what string, want bool) {
		t.Helper()
		ask(what+", pending", born-1, want)
		f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		ask(what+", applied", born-1, want)
		ask(what+", older than a snapshot", born, false)
		f.commit(tx)
		f.reopen()
		tx = f.begin()
		ask(what+", committed", born-1, want)
	}
	add := func(tree ondisk.TreeID, ino ondisk.ObjectID, off uint64) {
		t.Helper()
		f.check(f.m.AddDataRef(tx, addr, n, tree, ino, off, false))
	}
	drop := func(tree ondisk.TreeID, ino ondisk.ObjectID, off uint64, parent ondisk.Logical) {
		t.Helper()
		f.check(f.m.DropDataRef(tx, addr, n, tree, ino, off, parent))
	}
	everywhere("one reference", true)
	add(tree, ino, off)
	everywhere("two pieces of one item", true)
	for what, o := range map[string]struct {
		tree ondisk.TreeID
		ino  ondisk.ObjectID
		off  uint64
	}{
		"another place in the file": {tree, ino, off + 4096}, "another file": {tree, ino + 1, off}, "another tree": {300, ino, off},
	} {
		add(o.tree, o.ino, o.off)
		everywhere(what, false)
		drop(o.tree, o.ino, o.off, 0)
		f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		ask(what+", gone again", born-1, true)
	}
	for i := range uint64(200) { // more than fit inline
		add(300, 1000, i*4096)
	}
	everywhere("very many others", false)
	drop(tree, ino, off, 0)
	drop(tree, ino, off, 0)
	everywhere("not ours at all", false)
	if have, err := f.m.SoleDataRef(f.ctx, tx, addr+1<<40, n, tree, ino, off, 0); have || err != nil {
		t.Errorf("space that is in no block group: %v, %v", have, err)
	}
}
