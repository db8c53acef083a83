package btree

import (
	"errors"

	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
)

// deleted restores the tree's rules after items of the path's leaf went; first says that slot 0 was among them.
// Its only errors are ErrInconsistent.
func (p *path) deleted(first bool) error {
	b := p.leaf()
	if b.NrItems() == 0 {
		return p.removeEmptyLeaf()
	}
	if first {
		p.carryFirstKey(0)
	}
	if p.nodes[1] != nil && p.t.sparseLeaf(b, 0) {
		return p.mergeLeaf()
	}
	return nil
}

// removeEmptyLeaf takes the leaf out of the tree, with those ancestors that held nothing else. An ancestor that holds
// something else is on the path, or it goes up to the root: descend let go only of what cannot become empty.
func (p *path) removeEmptyLeaf() error {
	if p.nodes[1] == nil {
		return nil // the root of an empty tree
	}
	at := 1
	for at < len(p.nodes) && p.nodes[at] != nil && p.nodes[at].Block().NrItems() == 1 {
		at++
	}
	from, upto := 0, at // blocks at levels [from, upto) go
	if at < len(p.nodes) && p.nodes[at] != nil {
		nodeDelete(p.nodes[at].Block(), p.slots[at])
		if p.slots[at] == 0 {
			p.carryFirstKey(at)
		}
	} else {
		p.t.setRoot(p.tx, p.nodes[0]) // all was empty: the leaf is the tree
		from = 1
	}
	var err error
	for i := from; i < upto; i++ {
		b := p.nodes[i]
		p.nodes[i] = nil
		err = errors.Join(err, p.t.dropBlock(p.ctx, p.tx, b, true))
	}
	return err
}

// sibling returns the block at another slot of the parent of the block at level, locked, if somebody else is not in
// there, it can be read, and want agrees; with cheap only one that need not be copied. Otherwise nil: merging is never
// necessary.
func (p *path) sibling(level, slot int, cheap bool, want func(ondisk.Block) bool) *extbuf.Buffer {
	up := p.nodes[level+1].Block()
	if slot < 0 || slot >= up.NrItems() {
		return nil
	}
	s, err := p.t.readChild(p.ctx, up, slot)
	if err != nil {
		return nil
	}
	if !s.TryLock() {
		s.Release()
		return nil
	}
	if p.t.verifyChild(up, slot, s) != nil || !want(s.Block()) || cheap && p.t.mustCOW(s, p.gen) {
		s.Unlock()
		s.Release()
		return nil
	}
	return s
}

// cowSibling makes sibling s at a slot of the parent of level changeable. A nil result without an error means that it
// cannot be done now; s is unlocked then.
func (p *path) cowSibling(level, slot int, s *extbuf.Buffer) (*extbuf.Buffer, error) {
	c, err := p.t.cow(p.ctx, p.tx, s, p.nodes[level+1], slot)
	if err == nil {
		return c, nil
	}
	c.Unlock()
	c.Release()
	if errors.Is(err, ErrInconsistent) {
		return nil, err
	}
	return nil, nil
}

// mergeLeaf merges the sparse leaf of the path with a neighbour if both fit into one leaf.
func (p *path) mergeLeaf() error {
	b := p.leaf()
	used, free, slot := leafUsed(b), b.LeafFree(), p.slots[1]
	// The trees that the commit itself changes have no space reserved for copies of neighbours that need not be.
	cheap := !p.t.cfg.Shareable && used >= leafCap(b)/3
	if s := p.sibling(0, slot-1, cheap, func(sb ondisk.Block) bool { return sb.LeafFree() >= used }); s != nil {
		s, err := p.cowSibling(0, slot-1, s)
		if err != nil {
			return err
		}
		if s != nil {
			leafAppend(s.Block(), b, 0, b.NrItems())
			return p.dropRightOf(0, slot, s)
		}
	}
	if s := p.sibling(0, slot+1, cheap, func(sb ondisk.Block) bool { return leafUsed(sb) <= free }); s != nil {
		var err error
		if s, err = p.unshare(0, slot+1, s); s == nil {
			return err
		}
		leafAppend(b, s.Block(), 0, s.Block().NrItems())
		nodeDelete(p.nodes[1].Block(), slot+1)
		return p.t.dropBlock(p.ctx, p.tx, s, true)
	}
	return nil
}

// dropRightOf ends a merge of the path's block at level, at a slot of its parent, into its left neighbour s: the block
// leaves the tree and the path goes on through s.
func (p *path) dropRightOf(level, slot int, s *extbuf.Buffer) error {
	nodeDelete(p.nodes[level+1].Block(), slot)
	b := p.nodes[level]
	p.nodes[level] = s
	p.slots[level+1] = slot - 1
	return p.t.dropBlock(p.ctx, p.tx, b, true)
}

// unshare prepares sibling s to give all that it holds to the path's block: if others may refer to it, it is copied,
// so that the references of its children are in order; if not, there is no need to. s is nil, and unlocked, when that
// cannot be done now.
func (p *path) unshare(level, slot int, s *extbuf.Buffer) (*extbuf.Buffer, error) {
	if !p.t.mayBeShared(s, p.gen) {
		return s, nil
	}
	return p.cowSibling(level, slot, s)
}

// mergeSparseNode keeps the way down for deletions dense: a root with a single pointer gives way to its child, and a
// node less than a quarter full is merged with a neighbour if both fit. It returns the level of the lowest block of the
// path, which a shrunken root lowers.
func (p *path) mergeSparseNode(level int) (int, error) {
	for level > 0 {
		node := p.nodes[level]
		n := node.Block().NrItems()
		if p.t.root.Load() == node {
			if n > 1 {
				return level, nil
			}
			done, err := p.shrinkRoot(level)
			if err != nil || !done {
				return level, err
			}
			level--
			continue
		}
		if n >= ondisk.MaxPtrs(len(node.Block()))/4 {
			return level, nil
		}
		if err := p.mergeNode(level); err != nil {
			return level, err
		}
		if up := p.nodes[level+1]; p.t.root.Load() == up && up.Block().NrItems() == 1 {
			// The merged node was copied already and can be the root as it is.
			p.t.setRoot(p.tx, p.nodes[level])
			p.nodes[level+1] = nil
			if err := p.t.dropBlock(p.ctx, p.tx, up, true); err != nil {
				return level, err
			}
		}
		return level, nil
	}
	return level, nil
}

// shrinkRoot makes the only child of the root, which is at level, the root. done is false when there is no space to
// copy the child; the tree may well stay as it is.
func (p *path) shrinkRoot(level int) (done bool, err error) {
	old := p.nodes[level]
	child, err := p.t.lockChild(p.ctx, old.Block(), 0, true)
	if err != nil {
		return false, err
	}
	p.slots[level] = 0
	if child, err = p.cowSibling(level-1, 0, child); child == nil {
		return false, err
	}
	p.nodes[level-1] = child
	p.nodes[level] = nil
	p.t.setRoot(p.tx, child)
	return true, p.t.dropBlock(p.ctx, p.tx, old, true)
}

// mergeNode merges the node at level with a neighbour, if both fit into one and leave some room.
func (p *path) mergeNode(level int) error {
	b := p.nodes[level].Block()
	slot := p.slots[level+1]
	most := ondisk.MaxPtrs(len(b)) - minRoom - b.NrItems()
	small := func(sb ondisk.Block) bool { return sb.NrItems() <= most }
	if s := p.sibling(level, slot-1, false, small); s != nil {
		s, err := p.cowSibling(level, slot-1, s)
		if err != nil {
			return err
		}
		if s != nil {
			nodeAppend(s.Block(), b, 0)
			return p.dropRightOf(level, slot, s)
		}
	}
	if s := p.sibling(level, slot+1, false, small); s != nil {
		var err error
		if s, err = p.unshare(level, slot+1, s); s == nil {
			return err
		}
		nodeAppend(b, s.Block(), 0)
		nodeDelete(p.nodes[level+1].Block(), slot+1)
		return p.t.dropBlock(p.ctx, p.tx, s, true)
	}
	return nil
}
