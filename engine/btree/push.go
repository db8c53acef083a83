package btree

import (
	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
)

// Making room in a leaf by moving items to a neighbour below the same parent. It is only done when it is cheap: the
// neighbour is in memory, nobody is in it, it need not be copied, and both get a fair amount of free space by it.

// cheapSibling returns the leaf at a slot of the parent, write-locked, or nil.
func (p *path) cheapSibling(slot int) *extbuf.Buffer {
	up := p.nodes[1]
	if up == nil || slot < 0 || slot >= up.Block().NrItems() {
		return nil
	}
	s := p.t.cfg.Cache.Lookup(up.Block().BlockPtr(slot))
	if s == nil {
		return nil
	}
	if s.Generation() == p.gen && s.TryLock() {
		if !p.t.mustCOW(s, p.gen) && p.t.verifyChild(up.Block(), slot, s) == nil {
			return s
		}
		s.Unlock()
	}
	s.Release()
	return nil
}

// bestCut returns the most even cut of the changed sequence, when a sibling that already holds used bytes takes the
// part on its side; ok is false when no cut leaves an eighth of both leaves free.
func bestCut(b ondisk.Block, c change, used int, right bool) (cut int, ok bool) {
	n, room := c.seqLen(b), leafCap(b)
	total := 0
	for i := range n {
		total += c.weight(b, i)
	}
	bestMax := room - room/8
	head := 0
	for i := 1; i < n; i++ {
		head += c.weight(b, i-1)
		m := max(head+used, total-head)
		if right {
			m = max(head, total-head+used)
		}
		if m <= bestMax {
			cut, bestMax, ok = i, m, true
		}
	}
	return cut, ok
}

// pushLeaf makes the change to the leaf of the path by moving items to a neighbour. done is false when there is no
// cheap way. The path ends at the leaf that holds the change.
func (p *path) pushLeaf(c change) (data []byte, done bool) {
	if p.nodes[1] == nil {
		return nil, false
	}
	b, slot := p.leaf(), p.slots[1]
	if s := p.cheapSibling(slot + 1); s != nil {
		if !c.replace && c.slot == b.NrItems() {
			// Behind all of this leaf: it may as well be the first of the next one, and this one stays full.
			if s.Block().LeafFree() >= ondisk.ItemSize+c.size {
				return p.pushRight(c, s, c.slot), true
			}
		} else if cut, ok := bestCut(b, c, leafUsed(s.Block()), true); ok {
			return p.pushRight(c, s, cut), true
		}
		s.Unlock()
		s.Release()
	}
	if !c.replace && c.slot == b.NrItems() {
		return nil, false // a new leaf for ascending insertions
	}
	if s := p.cheapSibling(slot - 1); s != nil {
		if cut, ok := bestCut(b, c, leafUsed(s.Block()), false); ok {
			return p.pushLeft(c, s, cut), true
		}
		s.Unlock()
		s.Release()
	}
	return nil, false
}

// pushRight moves what is behind cut in the changed sequence to the start of the right neighbour s.
func (p *path) pushRight(c change, s *extbuf.Buffer, cut int) []byte {
	b, sb := p.leaf(), s.Block()
	behind := c.slot + 1 - c.back() // first old item behind the change
	if cut > c.slot {
		leafPrepend(sb, b, cut-c.back(), b.NrItems())
	} else {
		leafPrepend(sb, b, behind, b.NrItems())
		data := leafInsert(sb, 0, c.key, c.size)
		if c.replace {
			copy(data, b.Item(c.slot))
		}
		leafPrepend(sb, b, cut, c.slot)
	}
	c.truncate(b, cut)
	if c.slot == 0 {
		p.carryFirstKey(0)
	}
	up, slot := p.nodes[1].Block(), p.slots[1]
	up.SetPtr(slot+1, sb.Key(0), s.Addr(), p.gen)
	if c.slot < cut {
		p.bound, p.bounds = sb.Key(0), true
		s.Unlock()
		s.Release()
		return b.Item(c.slot)
	}
	p.releaseLevel(0)
	p.nodes[0] = s
	p.slots[1] = slot + 1
	p.bound, p.bounds = sb.Key(sb.NrItems()-1), true // somewhere below the true bound
	return sb.Item(c.slot - cut)
}

// pushLeft moves what is before cut in the changed sequence to the end of the left neighbour s.
func (p *path) pushLeft(c change, s *extbuf.Buffer, cut int) []byte {
	b, sb := p.leaf(), s.Block()
	had := sb.NrItems()
	holds := c.appendSeq(sb, b, 0, cut)
	if holds {
		leafDelete(b, 0, cut-c.back())
	} else {
		leafDelete(b, 0, cut)
		if c.replace {
			leafResize(b, c.slot-cut, c.size)
		} else {
			leafInsert(b, c.slot-cut, c.key, c.size)
		}
	}
	p.carryFirstKey(0)
	if !holds {
		s.Unlock()
		s.Release()
		return b.Item(c.slot - cut)
	}
	p.bound, p.bounds = b.Key(0), true
	p.releaseLevel(0)
	p.nodes[0] = s
	p.slots[1]--
	return sb.Item(had + c.slot)
}
