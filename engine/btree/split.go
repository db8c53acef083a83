package btree

import (
	"errors"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// splitFullNode splits the node at level if it has not room for what may happen below. The path goes on through the
// half that key belongs into. The parent is held and has room, or the node is the root.
func (p *path) splitFullNode(level int, key *ondisk.Key) error {
	node := p.nodes[level]
	b := node.Block()
	n := b.NrItems()
	if n+minRoom <= ondisk.MaxPtrs(len(b)) {
		return nil
	}
	mid := (n + 1) / 2
	slot := childSlot(b, key)
	if slot == n-1 {
		mid = n - 1 // ascending insertions leave full nodes behind
	}
	if p.t.root.Load() == node {
		if err := p.growRoot(level); err != nil {
			return err
		}
	}
	half, err := p.t.allocBlock(p.ctx, p.tx, uint8(level), node.Addr(), b.Key(mid))
	if err != nil {
		return err
	}
	hb := half.Block()
	nodeAppend(hb, b, mid)
	b.SetNrItems(mid)
	at := p.slots[level+1] + 1
	nodeInsert(p.nodes[level+1].Block(), at, hb.Key(0), half.Addr(), p.gen)
	if slot < mid {
		half.Unlock()
		half.Release()
		p.bound, p.bounds = hb.Key(0), true
		return nil
	}
	p.releaseLevel(level)
	p.nodes[level] = half
	p.slots[level+1] = at
	return nil
}

// growRoot puts a node with a single pointer on top of the root, which is at level. A tree may stay so if what follows
// fails: the next deletion takes the node away again.
func (p *path) growRoot(level int) error {
	if level+1 >= ondisk.MaxLevel {
		return fserr.ErrFileTooBig
	}
	old := p.nodes[level]
	first := firstKey(old.Block())
	top, err := p.t.allocBlock(p.ctx, p.tx, uint8(level+1), old.Addr(), first)
	if err != nil {
		return err
	}
	nodeInsert(top.Block(), 0, first, old.Addr(), p.gen)
	p.nodes[level+1] = top
	p.slots[level+1] = 0
	p.t.setRoot(p.tx, top)
	return nil
}

// change is one item that a leaf is to hold: a new one at slot, or the one that is there with another size.
type change struct {
	key     ondisk.Key
	slot    int
	size    int
	replace bool
}

// leafPlan says how the items of one leaf, with a change made, spread over up to three leaves. In the numbering of the
// changed sequence leaf i gets the items [cut[i], cut[i+1]).
type leafPlan struct {
	leaves int
	cut    [4]int
}

// seqLen returns the length of the changed sequence.
func (c change) seqLen(b ondisk.Block) int {
	return b.NrItems() + c.back()
}

// weight returns what item i of the changed sequence takes in a leaf.
func (c change) weight(b ondisk.Block, i int) int {
	switch {
	case i == c.slot:
		return ondisk.ItemSize + c.size
	case i > c.slot:
		i -= c.back()
	}
	return ondisk.ItemSize + b.ItemSize(i)
}

// planSplit finds the most even cut into two leaves that both fit, or else leaves the change a leaf of its own.
func planSplit(b ondisk.Block, c change) leafPlan {
	n, room := c.seqLen(b), leafCap(b)
	if !c.replace && c.slot == b.NrItems() {
		return leafPlan{2, [4]int{0, c.slot, n}} // ascending insertions leave full leaves behind
	}
	total := 0
	for i := range n {
		total += c.weight(b, i)
	}
	best, bestMax := 0, room+1
	left := 0
	for i := 1; i < n; i++ {
		left += c.weight(b, i-1)
		if m := max(left, total-left); m < bestMax {
			best, bestMax = i, m
		}
	}
	if best > 0 {
		return leafPlan{2, [4]int{0, best, n}}
	}
	return leafPlan{3, [4]int{0, c.slot, c.slot + 1, n}}
}

// keyAt returns the key of item i of the changed sequence.
func (c change) keyAt(b ondisk.Block, i int) ondisk.Key {
	switch {
	case i == c.slot:
		return c.key
	case i > c.slot:
		i -= c.back()
	}
	return b.Key(i)
}

// appendSeq copies items [from, to) of the changed sequence of src behind those of dst, and reports whether the changed
// item is among them. A replaced item keeps the head of its data.
func (c change) appendSeq(dst, src ondisk.Block, from, to int) (holds bool) {
	if from < c.slot {
		leafAppend(dst, src, from, min(to, c.slot))
	}
	if from <= c.slot && c.slot < to {
		data := leafInsert(dst, dst.NrItems(), c.key, c.size)
		if c.replace {
			copy(data, src.Item(c.slot))
		}
		holds = true
	}
	if to > c.slot+1 {
		back := c.back()
		leafAppend(dst, src, max(from, c.slot+1)-back, to-back)
	}
	return holds
}

// back is how far items behind the change are from their place in the unchanged leaf.
func (c change) back() int {
	if c.replace {
		return 0
	}
	return 1
}

// splitLeaf makes the change to the leaf of the path by splitting it, and returns the data of the changed item. The
// path ends at the leaf that holds it. No item has changed when it fails.
func (p *path) splitLeaf(c change) ([]byte, error) {
	node := p.nodes[0]
	b := node.Block()
	plan := planSplit(b, c)
	if p.t.root.Load() == node {
		if err := p.growRoot(0); err != nil {
			return nil, err
		}
	}
	// Allocate everything first: from there on nothing can fail.
	var fresh [2]*extbuf.Buffer
	for i := range plan.leaves - 1 {
		nb, err := p.t.allocBlock(p.ctx, p.tx, 0, node.Addr(), c.keyAt(b, plan.cut[i+1]))
		if err != nil {
			if i > 0 {
				err = errors.Join(err, p.t.dropBlock(p.ctx, p.tx, fresh[0], true))
			}
			return nil, err
		}
		fresh[i] = nb
	}
	up, at := p.nodes[1].Block(), p.slots[1]
	in := -1 // which of the new leaves holds the change
	for i, f := range fresh[:plan.leaves-1] {
		if c.appendSeq(f.Block(), b, plan.cut[i+1], plan.cut[i+2]) {
			in = i
		}
		nodeInsert(up, at+1+i, f.Block().Key(0), f.Addr(), p.gen)
	}
	c.truncate(b, plan.cut[1])
	if c.slot == 0 {
		p.carryFirstKey(0)
	}
	return p.settleSplit(c, fresh[:plan.leaves-1], in, plan), nil
}

// settleSplit lets the path go on through the new leaf that holds the change (-1: the old one), unlocks the others and
// returns the change's data.
func (p *path) settleSplit(c change, fresh []*extbuf.Buffer, in int, plan leafPlan) []byte {
	if in+1 < len(fresh) {
		p.bound, p.bounds = fresh[in+1].Block().Key(0), true
	}
	if in >= 0 {
		p.releaseLevel(0)
		p.nodes[0] = fresh[in]
		p.slots[1] += in + 1
	}
	for i, f := range fresh {
		if i != in {
			f.Unlock()
			f.Release()
		}
	}
	return p.leaf().Item(c.slot - plan.cut[in+1])
}

// truncate leaves the first n items of the changed sequence in leaf b.
func (c change) truncate(b ondisk.Block, n int) {
	switch {
	case c.slot >= n:
		leafDelete(b, n, b.NrItems())
	case c.replace:
		leafDelete(b, n, b.NrItems())
		leafResize(b, c.slot, c.size)
	default:
		leafDelete(b, n-1, b.NrItems())
		leafInsert(b, c.slot, c.key, c.size)
	}
}
