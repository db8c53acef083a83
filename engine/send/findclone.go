package send

import (
	"cmp"
	"container/list"
	"slices"

	"imgtool/engine/ondisk"
)

// cachedLeaves bounds the leaves of which is remembered in which trees they are.
const cachedLeaves = 128

// leafTrees remembers, for the leaves looked at last, which of the trees that may be cloned from have them. Those trees
// are read-only, so that stays true. The bound, and that what is remembered comes first, are the kernel's: which of
// several sources is taken depends on them.
type leafTrees struct {
	by    map[ondisk.Logical]*list.Element
	order list.List // the longest unused first
}

type leafEntry struct {
	leaf  ondisk.Logical
	trees []*tree
}

func (c *leafTrees) get(leaf ondisk.Logical) ([]*tree, bool) {
	e := c.by[leaf]
	if e == nil {
		return nil, false
	}
	c.order.MoveToBack(e)
	return e.Value.(*leafEntry).trees, true
}

func (c *leafTrees) put(leaf ondisk.Logical, trees []*tree) {
	if c.by == nil {
		c.by = map[ondisk.Logical]*list.Element{}
	}
	if c.order.Len() >= cachedLeaves {
		old := c.order.Remove(c.order.Front()).(*leafEntry)
		delete(c.by, old.leaf)
	}
	c.by[leaf] = c.order.PushBack(&leafEntry{leaf, trees})
}

// cloneSearch is one search for a clone source. Its slices are kept for the next.
type cloneSearch struct {
	s    *sender
	e    *extent
	want uint64        // bytes; a source with as many ends the search
	best []cloneSource // by tree.source; num 0: none

	parents     []ondisk.Logical
	all, leaves []found
}

// begin makes the sender's search one for an extent.
func (c *cloneSearch) begin(s *sender, e *extent) {
	c.s, c.e, c.want = s, e, min(e.num, s.cur.size-e.start)
	c.best = slices.Grow(c.best[:0], len(s.sources))[:len(s.sources)]
	clear(c.best)
	c.parents, c.all, c.leaves = c.parents[:0], c.all[:0], c.leaves[:0]
}

// findClone looks for data that the receiver has and that is the same as the extent's, through the extent's references.
// nil if there is none.
//
// A reference names the owner of a leaf, or the leaf; a snapshot shares leaves, so a leaf may be in several trees. First
// the references are followed to their leaves, which offers what is in leaves of which the trees are known; then the
// leaves are taken in turn and their trees looked for. Of the trees, the highest number comes first.
func (s *sender) findClone(e *extent) (*cloneSource, error) {
	if e.typ == ondisk.FileExtentInline || e.disk == 0 {
		return nil, nil
	}
	refs, err := s.backrefs(e)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	c := &s.clone
	c.begin(s, e)
	done, err := c.follow(refs)
	if err == nil && !done {
		err = c.offer()
	}
	if err != nil {
		return nil, err
	}
	var found *cloneSource
	for i := range c.best {
		if b := &c.best[i]; b.num > 0 && (found == nil || b.num > found.num) {
			if found = b; b.num >= c.want {
				break
			}
		}
	}
	return found, nil
}

// found is the sights of one reference in one leaf.
type found struct {
	ref    *dataRef
	leaf   ondisk.Logical
	sights []sight
}

// follow finds the leaves of all references, in the order in which they are to be looked at.
func (c *cloneSearch) follow(refs []dataRef) (done bool, err error) {
	for i := range refs {
		if refs[i].parent != 0 {
			c.parents = append(c.parents, refs[i].parent)
		}
	}
	for i := range refs {
		r := &refs[i]
		list, err := c.s.sights(r, c.e, c.parents)
		if err != nil {
			return false, err
		}
		for _, v := range list {
			if done, err := c.offerKnown(&v); done || err != nil {
				return done, err
			}
			n := slices.IndexFunc(c.all, func(f found) bool { return f.ref == r && f.leaf == v.leaf })
			if n < 0 {
				n, c.all = len(c.all), append(c.all, found{ref: r, leaf: v.leaf})
			}
			c.all[n].sights = append(c.all[n].sights, v)
		}
		if n := len(c.all); r.parent != 0 && n > 0 && c.all[n-1].ref == r {
			slices.Reverse(c.all[n-1].sights)
		}
	}
	slices.SortStableFunc(c.all, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.ref.root, a.ref.root), cmp.Compare(b.ref.ino, a.ref.ino), cmp.Compare(b.ref.base, a.ref.base), cmp.Compare(b.leaf, a.leaf))
	})
	for _, f := range c.all { // each leaf once, with all that is in it
		n := slices.IndexFunc(c.leaves, func(l found) bool { return l.leaf == f.leaf })
		if n < 0 {
			c.leaves = append(c.leaves, f)
		} else {
			c.leaves[n].sights = append(c.leaves[n].sights, f.sights...)
		}
	}
	return false, nil
}

// offerKnown considers a sight at once if the trees of its leaf are known.
func (c *cloneSearch) offerKnown(v *sight) (done bool, err error) {
	trees, _ := c.s.leaves.get(v.leaf)
	for _, t := range trees {
		if done, err = c.consider(t, v); done || err != nil {
			break
		}
	}
	return done, err
}

// offer considers what is in the leaves.
func (c *cloneSearch) offer() error {
	for i := range c.leaves {
		l := &c.leaves[i]
		trees, ok := c.s.leaves.get(l.leaf)
		if !ok {
			for _, t := range slices.Backward(c.s.sources) {
				sees, err := t.seesLeaf(&l.sights[0])
				if err != nil {
					return err
				}
				if sees {
					trees = append(trees, t)
				}
			}
			c.s.leaves.put(l.leaf, trees)
		}
		for _, t := range trees {
			for n := range l.sights {
				if done, err := c.consider(t, &l.sights[n]); done || err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// consider takes a sight in a tree as the best source so far, if it is one; done tells that there can be no better one.
func (c *cloneSearch) consider(t *tree, v *sight) (done bool, err error) {
	cur := &c.s.cur
	if t == c.s.send {
		switch {
		case v.ino > cur.ino: // the receiver does not have it yet
			return false, nil
		case v.ino == cur.ino && (v.off == c.e.start || v.off+c.want > cur.written):
			return false, nil
		}
	}
	if v.num <= c.best[t.source].num {
		return false, nil
	}
	in, err := t.inode(v.ino)
	if err != nil || !in.linked() { // without a name since it was open when the snapshot was taken: no receiver has it
		return false, err
	}
	c.best[t.source] = cloneSource{t, v.ino, v.off, v.num}
	return v.num >= c.want, nil
}
