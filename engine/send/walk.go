package send

import (
	"bytes"
	"context"

	"imgtool/engine/ondisk"
)

// Leaves read ahead: of a whole tree, and of a tree of which only the new blocks are read.
const (
	aheadAll = 8
	aheadNew = 8
)

// walkAll visits every item of the sent tree as added.
func (s *sender) walkAll() error {
	err := s.send.each(keyOf(topDir, ondisk.InodeItemKey, 0), ondisk.MaxKey, aheadAll, func(it *item) (bool, error) {
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

// cursor goes through one tree by copies of its blocks, one a level: from the root block down to a leaf and back. It
// stands on a slot of the block at level; what that slot shows has the key in key.
type cursor struct {
	t      *tree
	blocks [ondisk.MaxLevel]ondisk.Block
	slots  [ondisk.MaxLevel]int
	level  int
	top    int
	ended  bool
	key    ondisk.Key
	newer  ondisk.Generation // which blocks are worth reading ahead
	it     item              // what item returned last
}

// start stands on the first slot of the root.
func (c *cursor) start() error {
	if err := c.load(ondisk.MaxLevel-1, ondisk.MinKey); err != nil {
		return err
	}
	c.top = c.level
	c.stand()
	return nil
}

// load copies the block of a level on the way to a key; of the root, which may be lower, its level is taken from it.
func (c *cursor) load(level int, key ondisk.Key) error {
	b := c.blocks[level]
	if b == nil {
		b = c.t.leafBuf()
	}
	c.blocks[level] = nil
	err := c.t.search(func() error { return c.t.view.CopyBlock(c.t.s.ctx, uint8(level), key, b) })
	if err != nil {
		c.t.putBuf(b)
		return err
	}
	got := int(b.Level())
	if got > level || c.top != 0 && got != level {
		c.t.putBuf(b)
		return c.t.corrupt(0, "a block of level %d where one of level %d is due", got, level)
	}
	if c.blocks[got] != nil {
		c.t.putBuf(c.blocks[got])
	}
	c.blocks[got], c.slots[got], c.level = b, 0, got
	return nil
}

func (c *cursor) block() ondisk.Block { return c.blocks[c.level] }

// stand takes the key of the current slot, going up and on where a block has no more.
func (c *cursor) stand() {
	for c.slots[c.level] >= c.block().NrItems() {
		if c.level == c.top {
			c.ended = true
			return
		}
		c.level++
		c.slots[c.level]++
	}
	c.key = c.block().Key(c.slots[c.level])
}

// next goes to the following slot.
func (c *cursor) next() {
	c.slots[c.level]++
	c.stand()
}

// down goes to the first slot of the block that the current slot points to.
func (c *cursor) down() error {
	if c.level == 1 {
		c.t.view.Prefetch(c.t.s.ctx, c.block(), c.slots[1]+1, aheadNew, c.newer)
	}
	if err := c.load(c.level-1, c.key); err != nil {
		return err
	}
	c.stand()
	return nil
}

// pointer is where the current slot, of a node, points to.
func (c *cursor) pointer() (ondisk.Logical, ondisk.Generation) {
	return c.block().BlockPtr(c.slots[c.level]), c.block().PtrGeneration(c.slots[c.level])
}

// item is what the cursor stands on in a leaf, good until the next call.
func (c *cursor) item() *item {
	b := c.block()
	h := b.Header()
	c.it = item{key: c.key, data: b.Item(c.slots[0]), owner: h.Owner(), leaf: h.Bytenr(), gen: h.Generation(), slot: c.slots[0]}
	return &c.it
}

func (c *cursor) close() {
	for i, b := range c.blocks {
		if b != nil {
			c.t.putBuf(b)
			c.blocks[i] = nil
		}
	}
}

// walkDiff visits what differs between the parent and the sent tree. Where both cursors come to the same block, the
// same address and generation, all below it is the same and skipped. Else the one that is behind, or stands higher,
// goes down.
func (s *sender) walkDiff(visit func(c change, left, right *item) error) error {
	l, r := &cursor{t: s.send, newer: s.parent.item.Generation()}, &cursor{t: s.parent, newer: s.send.item.Generation()}
	r.newer = 0
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
		if err := s.step(l, r, order, visit); err != nil {
			return err
		}
	}
	return nil
}

// step makes one step of walkDiff, with the order of the two cursors.
func (s *sender) step(l, r *cursor, order int, visit func(c change, left, right *item) error) error {
	switch {
	case order < 0 && l.level > 0:
		return l.down()
	case order < 0:
		err := visit(added, l.item(), nil)
		l.next()
		return err
	case order > 0 && r.level > 0:
		return r.down()
	case order > 0:
		err := visit(removed, nil, r.item())
		r.next()
		return err
	case l.level > r.level:
		return l.down()
	case r.level > l.level:
		return r.down()
	case l.level > 0:
		return s.stepNodes(l, r)
	}
	left, right := l.item(), r.item()
	c := changed
	if bytes.Equal(left.data, right.data) {
		c = same
	}
	err := visit(c, left, right)
	l.next()
	r.next()
	return err
}

// stepNodes skips what two nodes share, or goes down in both.
func (s *sender) stepNodes(l, r *cursor) error {
	la, lg := l.pointer()
	ra, rg := r.pointer()
	if la != ra || lg != rg {
		if err := l.down(); err != nil {
			return err
		}
		return r.down()
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
