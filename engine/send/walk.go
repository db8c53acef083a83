package send

import (
	"bytes"
	"context"

	"imgtool/engine/ondisk"
)

// ahead is how many leaves are read ahead.
const ahead = 16

// walkAll visits every item of the sent tree as added.
func (s *sender) walkAll() error {
	err := s.send.each(keyOf(topDir, ondisk.InodeItemKey, 0), ondisk.MaxKey, ahead, func(it *item) (bool, error) {
		if it.slot == 0 {
			if err := s.newLeaf(); err != nil {
				return false, err
			}
		}
		return true, s.visit(added, it, nil)
	})
	return err
}

// newLeaf is called between leaves: it refreshes the tickets if commits have gone by, and looks whether the send is to
// go on.
func (s *sender) newLeaf() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	s.report()
	return s.quiesce()
}

// differ is one walkDiff on its way.
type differ struct {
	s      *sender
	l, r   *cursor // of the sent tree and of the parent
	visit  func(c change, left, right *item) error
	leaves int // so many more before leaves are read ahead again
}

// walkDiff visits what differs between the parent and the sent tree, and of what is the same in leaves that are not, the
// items that visitsSame names. Where both cursors come to the same block, the same address and generation, all below it
// is the same and skipped. Else the one that is behind, or stands higher, goes down.
func (s *sender) walkDiff(visit func(c change, left, right *item) error) error {
	d := &differ{s: s, l: &cursor{t: s.send}, r: &cursor{t: s.parent}, visit: visit}
	l, r := d.l, d.r
	defer l.close()
	defer r.close()
	for _, c := range []*cursor{l, r} {
		if err := c.start(); err != nil {
			return err
		}
	}
	leaf := ondisk.Key{}
	for !l.ended || !r.ended {
		order := 0
		switch {
		case l.ended:
			order = 1
		case r.ended:
			order = -1
		default:
			order = l.key.Compare(r.key)
		}
		if l.level == 0 && l.slots[0] == 0 && l.key != leaf {
			leaf = l.key
			if err := s.newLeaf(); err != nil {
				return err
			}
		}
		if err := d.step(order); err != nil {
			return err
		}
	}
	return nil
}

// step makes one step, with the order of the two cursors.
func (d *differ) step(order int) error {
	l, r := d.l, d.r
	switch {
	case order < 0 && l.level > 0:
		return d.down(l)
	case order < 0:
		err := d.visit(added, l.item(), nil)
		l.next()
		return err
	case order > 0 && r.level > 0:
		return d.down(r)
	case order > 0:
		err := d.visit(removed, nil, r.item())
		r.next()
		return err
	case l.level > r.level:
		return d.down(l)
	case r.level > l.level:
		return d.down(r)
	case l.level > 0:
		return d.nodes()
	}
	var err error
	left, right := l.item(), r.item()
	switch {
	case !bytes.Equal(left.data, right.data):
		err = d.visit(changed, left, right)
	case visitsSame(left.key.Type):
		err = d.visit(same, left, right)
	}
	l.next()
	r.next()
	return err
}

// nodes skips what two nodes share, or goes down in both.
func (d *differ) nodes() error {
	s, l, r := d.s, d.l, d.r
	if !samePointer(l.blocks[l.level], l.slots[l.level], r.blocks[r.level], r.slots[r.level]) {
		if err := d.down(l); err != nil {
			return err
		}
		return d.down(r)
	}
	s.stats.Skipped.Add(1)
	// The hole before a file's first extent in there may be new, if the extents before it have gone.
	if k := l.key; k.Type == ondisk.ExtentDataKey && k.ObjectID == s.cur.ino && s.holesCount() && s.visiting {
		if err := s.findLastEnd(k.Offset - 1); err != nil {
			return err
		}
		if err := s.holeUpTo(k.Offset); err != nil {
			return err
		}
	}
	if s.cur.ino == l.key.ObjectID {
		s.cur.lastEnd = noExtent
	}
	l.next()
	r.next()
	return nil
}

// samePointer reports whether slots of two nodes lead to the same block.
func samePointer(a ondisk.Block, i int, b ondisk.Block, j int) bool {
	return a.BlockPtr(i) == b.BlockPtr(j) && a.PtrGeneration(i) == b.PtrGeneration(j)
}

// down lets one of the cursors go down.
func (d *differ) down(c *cursor) error {
	switch {
	case c.level > 1:
		d.leaves = 0 // into another node
	case d.leaves == 0:
		d.leaves = ahead / 2
		d.readAhead()
	default:
		d.leaves--
	}
	return c.down()
}

// readAhead begins to read the leaves that the cursors come to next, as far as the nodes in which they stand tell that
// only one of the trees has them.
func (d *differ) readAhead() {
	var lefts, rights [ahead]int
	n, m := 0, 0
	left, i := d.l.coming()
	right, j := d.r.coming()
	for range 4 * ahead {
		order, ok := d.order(left, i, right, j)
		if !ok || n == ahead || m == ahead {
			break
		}
		if order != 0 || !samePointer(left, i, right, j) {
			if order <= 0 {
				lefts[n] = i
				n++
			}
			if order >= 0 {
				rights[m] = j
				m++
			}
		}
		if order <= 0 {
			i++
		}
		if order >= 0 {
			j++
		}
	}
	d.l.t.view.Prefetch(d.s.ctx, left, lefts[:n])
	d.r.t.view.Prefetch(d.s.ctx, right, rights[:m])
}

// order compares what slots of the nodes above the leaves show, if that can be told: one whose node has no more may go on
// in the next node.
func (d *differ) order(left ondisk.Block, i int, right ondisk.Block, j int) (order int, ok bool) {
	moreLeft := left != nil && i < left.NrItems()
	moreRight := right != nil && j < right.NrItems()
	switch {
	case moreLeft && moreRight:
		return left.Key(i).Compare(right.Key(j)), true
	case moreLeft:
		return -1, d.r.over()
	case moreRight:
		return 1, d.l.over()
	}
	return 0, false
}
