package btree

import (
	"context"
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// intent says what a descent is going to do to the leaf.
type intent uint8

const (
	toInsert intent = 1 << iota // add an item or make one larger: nodes need room, keys below the first carry up
	toDelete                    // remove items: sparse nodes are merged, a new first key carries up
)

// minRoom is how many free pointers a node on an inserting path has: splitting one leaf may add two.
const minRoom = 3

// path is the way from some ancestor down to a leaf, every block of it write-locked, referenced and owned by the
// running transaction, so that it may be changed in place (I4). The ancestors above the highest locked one need no
// change whatever happens to the leaf within the intent. A path belongs to one goroutine.
type path struct {
	t      *Tree
	ctx    context.Context
	tx     Txn
	gen    ondisk.Generation
	nodes  [ondisk.MaxLevel]*extbuf.Buffer // by level, nil: not held
	slots  [ondisk.MaxLevel]int            // slot of the path in nodes[i], for i > 0
	bound  ondisk.Key                      // keys of the leaf are below it, if bounded
	bounds bool
}

// release lets go of everything. It may be called again.
func (p *path) release() {
	for i := range p.nodes {
		p.releaseLevel(i)
	}
}

func (p *path) releaseLevel(i int) {
	if b := p.nodes[i]; b != nil {
		p.nodes[i] = nil
		b.Unlock()
		b.Release()
	}
}

// releaseAbove lets go of the blocks above level.
func (p *path) releaseAbove(level int) {
	for i := level + 1; i < len(p.nodes) && p.nodes[i] != nil; i++ {
		p.releaseLevel(i)
	}
}

func (p *path) leaf() ondisk.Block { return p.nodes[0].Block() }

// parent returns the locked parent of the block at level, nil if it is the root (or its parent was let go).
func (p *path) parent(level int) *extbuf.Buffer {
	if level+1 < len(p.nodes) {
		return p.nodes[level+1]
	}
	return nil
}

// cow makes the block at level changeable in place.
func (p *path) cow(level int) error {
	parent := p.parent(level)
	slot := 0
	if parent != nil {
		slot = p.slots[level+1]
	}
	b, err := p.t.cow(p.ctx, p.tx, p.nodes[level], parent, slot)
	p.nodes[level] = b
	return err
}

// descend goes down to the leaf where key is or belongs.
func (p *path) descend(key *ondisk.Key, in intent) error {
	root, err := p.t.lockRoot(p.ctx, true)
	if err != nil {
		return err
	}
	level := int(root.Level())
	p.nodes[level] = root
	p.bounds = false
	for {
		if err := p.cow(level); err != nil {
			return err
		}
		if level == 0 {
			return nil
		}
		if in&toInsert != 0 {
			if err := p.splitFullNode(level, key); err != nil {
				return err
			}
		}
		if in&toDelete != 0 {
			if level, err = p.mergeSparseNode(level); err != nil {
				return err
			}
			if level == 0 {
				return nil // the root became a leaf
			}
		}
		b := p.nodes[level].Block()
		slot := childSlot(b, key)
		p.slots[level] = slot
		if slot+1 < b.NrItems() {
			p.bound, p.bounds = b.Key(slot+1), true
		}
		if p.contained(b, slot, key, in) {
			p.releaseAbove(level)
		}
		child, err := p.t.lockChild(p.ctx, b, slot, true)
		if err != nil {
			return err
		}
		level--
		p.nodes[level] = child
	}
}

// contained reports whether no change below slot of node b can change b's first key or empty b.
func (p *path) contained(b ondisk.Block, slot int, key *ondisk.Key, in intent) bool {
	if slot > 0 {
		return true
	}
	return in&toDelete == 0 && !key.Less(b.Key(0))
}

// lockChild returns the child at a slot of node b, which is locked, locked for writing or reading, and referenced.
func (t *Tree) lockChild(ctx context.Context, b ondisk.Block, slot int, write bool) (*extbuf.Buffer, error) {
	c, err := t.readChild(ctx, b, slot)
	if err != nil {
		return nil, err
	}
	if write {
		c.Lock()
	} else {
		c.RLock()
	}
	if err := t.verifyChild(b, slot, c); err != nil {
		if write {
			c.Unlock()
		} else {
			c.RUnlock()
		}
		c.Release()
		return nil, err
	}
	return c, nil
}

// readChild returns the child at a slot of node b with a reference. b is locked, or not changing. The level is compared
// before anybody locks the child: a pointer that leads back up would make a goroutine wait for itself.
func (t *Tree) readChild(ctx context.Context, b ondisk.Block, slot int) (*extbuf.Buffer, error) {
	addr, level, gen := b.BlockPtr(slot), b.Level()-1, b.PtrGeneration(slot)
	if c := t.cfg.Cache.Lookup(addr); c != nil {
		if have := c.Level(); have != level {
			c.Release()
			return nil, t.mismatch(level, addr, "parent level check failed, have %d expect %d", have, level)
		}
		if have := c.Generation(); have != gen {
			c.Release()
			return nil, t.mismatch(level, addr, "parent transid verify failed, have %d expect %d", have, gen)
		}
		return c, nil
	}
	k := b.Key(slot)
	x := extbuf.Expect{Level: level, Gen: gen, FirstKey: &k}
	if !t.cfg.Shareable {
		x.Owner = t.cfg.ID
	}
	// The address stays while b is locked, unless the tree is being taken apart.
	if x.Repair = t.repairs.TryRLock(); x.Repair {
		defer t.repairs.RUnlock()
		x.Repair = !t.retired
	}
	c, err := t.cfg.Cache.Read(ctx, addr, x)
	if err != nil {
		return nil, fmt.Errorf("block %d of tree %d: %w", addr, int64(t.cfg.ID), err)
	}
	return c, nil
}

// verifyChild compares child c, which is locked, with what else the pointer that led to it says (I9).
func (t *Tree) verifyChild(b ondisk.Block, slot int, c *extbuf.Buffer) error {
	cb := c.Block()
	switch {
	case cb.NrItems() == 0:
		return t.mismatch(cb.Level(), c.Addr(), "empty block below a node")
	case cb.Key(0) != b.Key(slot):
		return t.mismatch(cb.Level(), c.Addr(), "first key check failed, have %v expect %v", cb.Key(0), b.Key(slot))
	}
	return nil
}

func (t *Tree) mismatch(level uint8, addr ondisk.Logical, format string, args ...any) error {
	what := "node"
	if level == 0 {
		what = "leaf"
	}
	return fserr.Corruptf(what, uint64(t.cfg.ID), uint64(addr), format, args...)
}

// carryFirstKey makes the ancestors agree with the first key of the block at level.
func (p *path) carryFirstKey(level int) {
	k := p.nodes[level].Block().Key(0)
	for i := level + 1; i < len(p.nodes) && p.nodes[i] != nil; i++ {
		b, slot := p.nodes[i].Block(), p.slots[i]
		b.SetPtr(slot, k, b.BlockPtr(slot), b.PtrGeneration(slot))
		if slot != 0 {
			return
		}
	}
}
