package send

import (
	"slices"
	"sort"

	"imgtool/engine/ondisk"
)

// keptLeaves is of how many leaves of a tree the copies are kept. What is asked while the walk is at an inode lies in few:
// its own, that of its directory, and those of the directories above.
var keptLeaves = 8 // tests have fewer

// leaf is a private copy of a leaf. In a read-only subvolume it stays true whatever commits; the leaf's items are all
// that there is in the tree from its first to its last key, so that a look-up in between needs no search.
//
//	copied -> kept in tree.leaves -> forgotten when others have been used since -> its buffer is used again
//
// It belongs to the sender's goroutine. users counts who stands in it, the tree's list being one; the last to release it
// gives the buffer back.
type leaf struct {
	block       ondisk.Block
	items       int
	first, last ondisk.Key
	owner       ondisk.TreeID
	addr        ondisk.Logical
	gen         ondisk.Generation
	users       int
}

// keep enters the copy of a leaf, which has items, in the tree's list. The caller becomes its user.
func (t *tree) keep(b ondisk.Block) *leaf {
	h := b.Header()
	n := min(b.NrItems(), ondisk.LeafDataSize(len(b))/ondisk.ItemSize)
	l := &leaf{block: b, items: n, owner: h.Owner(), addr: h.Bytenr(), gen: h.Generation(), users: 2}
	if n > 0 {
		l.first, l.last = b.Key(0), b.Key(n-1)
	}
	t.leaves = slices.Insert(t.leaves, 0, l)
	if len(t.leaves) > keptLeaves {
		t.release(t.leaves[keptLeaves])
		t.leaves = t.leaves[:keptLeaves]
	}
	return l
}

// kept returns the copy of the leaf in which a key is or would be, if there is one. The caller becomes its user.
func (t *tree) kept(k ondisk.Key) *leaf {
	for i, l := range t.leaves {
		if k.Less(l.first) || l.last.Less(k) {
			continue
		}
		copy(t.leaves[1:i+1], t.leaves[:i])
		t.leaves[0] = l
		l.users++
		return l
	}
	return nil
}

// release ends one use of a leaf.
func (t *tree) release(l *leaf) {
	if l.users--; l.users == 0 {
		t.putBuf(l.block)
		l.block = nil
	}
}

// blockBuf returns a buffer for a block.
func (t *tree) blockBuf() ondisk.Block {
	if n := len(t.spare); n > 0 {
		b := t.spare[n-1]
		t.spare = t.spare[:n-1]
		return b
	}
	return make(ondisk.Block, t.s.db.Cache().NodeSize())
}

func (t *tree) putBuf(b ondisk.Block) { t.spare = append(t.spare, b) }

// leafAt returns the leaf with the first item that is not below a key, and that item's slot; nil if there is none. The
// caller releases it.
func (t *tree) leafAt(k ondisk.Key, ahead int) (l *leaf, slot int, err error) {
	if l := t.kept(k); l != nil {
		t.s.stats.CacheHits.Add(1)
		return l, l.slot(k), nil
	}
	b := t.blockBuf()
	ok := false
	err = t.search(func() error {
		slot, ok, err = t.view.CopyLeaf(t.s.ctx, k, b, ahead)
		return err
	})
	if err != nil || !ok {
		t.putBuf(b)
		return nil, 0, err
	}
	if l = t.keep(b); l.items == 0 { // only what is read without protection can look so
		t.release(l)
		return nil, 0, t.corrupt(0, "a leaf without items where %v was found", k)
	}
	return l, slot, nil
}

// find calls fn with an item, if there is one of the key.
func (t *tree) find(k ondisk.Key, fn func(item []byte) error) (found bool, err error) {
	l, slot, err := t.leafAt(k, 0)
	if err != nil || l == nil {
		return false, err
	}
	defer t.release(l)
	if slot >= l.items || l.block.Key(slot) != k {
		return false, nil
	}
	return true, fn(l.block.Item(slot))
}

// lastExtent returns the last extent of an inode that begins at or before an offset, without its inline data; ok is false
// if there is none.
func (t *tree) lastExtent(ino ondisk.ObjectID, off uint64) (e extent, ok bool, err error) {
	want := keyOf(ino, ondisk.ExtentDataKey, off)
	var k ondisk.Key
	var data []byte
	if l := t.kept(want); l != nil {
		t.s.stats.CacheHits.Add(1)
		defer t.release(l)
		slot := l.slot(want)
		if l.block.Key(slot) != want {
			slot-- // there is one: the leaf's first key is not above want
		}
		k, data, ok = l.block.Key(slot), l.block.Item(slot), true
	} else {
		err = t.search(func() error {
			k, data, ok, err = t.view.SeekLE(t.s.ctx, want)
			return err
		})
	}
	if err != nil || !ok || k.ObjectID != ino || k.Type != ondisk.ExtentDataKey {
		return extent{}, false, err
	}
	e, err = t.parseExtent(k, data)
	e.inline = nil
	return e, err == nil, err
}

// slot is that of the first item that is not below a key.
func (l *leaf) slot(k ondisk.Key) int {
	return sort.Search(l.items, func(i int) bool { return !l.block.Key(i).Less(k) })
}

// each calls fn for the items from a slot on, up to a key, until it says no more.
func (l *leaf) each(slot int, to ondisk.Key, fn func(it *item) (more bool, err error)) (more bool, err error) {
	it := &item{owner: l.owner, leaf: l.addr, gen: l.gen}
	for ; slot < l.items; slot++ {
		it.key, it.data, it.slot = l.block.Key(slot), l.block.Item(slot), slot
		if to.Less(it.key) {
			return false, nil
		}
		if more, err := fn(it); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}
