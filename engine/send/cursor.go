package send

import (
	"imgtool/engine/ondisk"
)

// cursor goes through one tree by copies of its blocks, one a level: from the root block down to a leaf and back. It
// stands on a slot of the block at level; what that slot shows has the key in key.
type cursor struct {
	t      *tree
	blocks [ondisk.MaxLevel]ondisk.Block // of level 0 that of leaf
	leaf   *leaf
	slots  [ondisk.MaxLevel]int
	level  int
	top    int
	ended  bool
	key    ondisk.Key
	it     item // what item returned last
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
	if level == 0 {
		if l := c.t.kept(key); l != nil && l.first == key {
			c.enterLeaf(l)
			return nil
		}
	}
	b := c.t.blockBuf()
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
	if got == 0 {
		c.enterLeaf(c.t.keep(b))
		return nil
	}
	c.leave(got)
	c.blocks[got], c.slots[got], c.level = b, 0, got
	return nil
}

// enterLeaf stands on the first slot of a leaf, which the cursor takes over.
func (c *cursor) enterLeaf(l *leaf) {
	c.leave(0)
	c.leaf, c.blocks[0], c.slots[0], c.level = l, l.block, 0, 0
	c.it = item{owner: l.owner, leaf: l.addr, gen: l.gen}
}

// leave gives the block of a level back, if there is one.
func (c *cursor) leave(level int) {
	b := c.blocks[level]
	switch {
	case b == nil:
	case level == 0:
		c.t.release(c.leaf)
	default:
		c.t.putBuf(b)
	}
	c.blocks[level] = nil
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
	if err := c.load(c.level-1, c.key); err != nil {
		return err
	}
	c.stand()
	return nil
}

// item is what the cursor stands on in a leaf, good until the next call.
func (c *cursor) item() *item {
	c.it.key, c.it.data, c.it.slot = c.key, c.blocks[0].Item(c.slots[0]), c.slots[0]
	return &c.it
}

func (c *cursor) close() {
	for level := range c.blocks {
		c.leave(level)
	}
}

// coming returns the node above the leaves and the slot of the leaf that comes next; nil if the cursor stands higher.
func (c *cursor) coming() (node ondisk.Block, slot int) {
	switch {
	case c.ended || c.top == 0:
		return nil, 0
	case c.level == 1:
		return c.blocks[1], c.slots[1]
	case c.level == 0:
		return c.blocks[1], c.slots[1] + 1
	}
	return nil, 0
}

// over reports whether no leaf of the tree comes any more.
func (c *cursor) over() bool { return c.ended || c.top == 0 }
