package btree

import (
	"context"
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Shape counts what a tree is made of.
type Shape struct {
	Levels int // 1 for a single leaf
	Nodes  int
	Leaves int
	Items  int
	Used   int64 // bytes of item headers and data in leaves
	Room   int64 // bytes of them that the leaves could hold
}

// Check walks the current tree and verifies its structure: order of keys, levels, the parent pointers' first key and
// generation (I9), no empty block but the root of an empty tree, leaf data without gaps, header fields. It shares no
// code with the functions that change trees. The error is a *fserr.Corrupt, or what reading a block gave.
func (t *Tree) Check(ctx context.Context) error {
	_, err := t.CheckShape(ctx)
	return err
}

// CheckShape is Check with the counts.
func (t *Tree) CheckShape(ctx context.Context) (Shape, error) {
	root, err := t.lockRoot(ctx, false)
	if err != nil {
		return Shape{}, err
	}
	defer func() { root.RUnlock(); root.Release() }()
	addr, level, gen := t.Root()
	c := checker{t: t, ctx: ctx, shape: Shape{Levels: int(level) + 1}}
	if root.Addr() != addr || root.Level() != level || root.Generation() != gen {
		return c.shape, c.bad(root, fserr.NoSlot, "root is (%d level %d generation %d), the tree says (%d %d %d)",
			root.Addr(), root.Level(), root.Generation(), addr, level, gen)
	}
	return c.shape, c.block(root, nil, ondisk.MinKey, nil)
}

// checker is one walk.
type checker struct {
	t     *Tree
	ctx   context.Context
	shape Shape
}

func (c *checker) bad(b *extbuf.Buffer, slot int, format string, args ...any) error {
	what := "node"
	if b.Block().IsLeaf() {
		what = "leaf"
	}
	return &fserr.Corrupt{What: what, Root: uint64(c.t.cfg.ID), Block: uint64(b.Addr()), Slot: slot, Msg: fmt.Sprintf(format, args...)}
}

// block checks what is below b, which is read-locked: all keys lie in [low, high), high nil meaning no bound. parent
// is nil for the root.
func (c *checker) block(b, parent *extbuf.Buffer, low ondisk.Key, high *ondisk.Key) error {
	if err := c.header(b, parent); err != nil {
		return err
	}
	blk := b.Block()
	n := blk.NrItems()
	for i := range n {
		k := blk.Key(i)
		if i > 0 && blk.Key(i-1).Compare(k) >= 0 {
			return c.bad(b, i, "bad key order, have %v after %v", k, blk.Key(i-1))
		}
		if k.Compare(low) < 0 || high != nil && k.Compare(*high) >= 0 {
			return c.bad(b, i, "key %v outside of what the parent says, [%v, %v)", k, low, high)
		}
	}
	if blk.IsLeaf() {
		return c.leaf(b)
	}
	return c.node(b, high)
}

func (c *checker) header(b, parent *extbuf.Buffer) error {
	blk, h := b.Block(), b.Block().Header()
	n := blk.NrItems()
	switch {
	case h.Bytenr() != b.Addr():
		return c.bad(b, fserr.NoSlot, "bad tree block start, have %d", h.Bytenr())
	case h.Generation() != b.Generation() || h.Level() != b.Level():
		return c.bad(b, fserr.NoSlot, "header has generation %d level %d, the buffer %d and %d", h.Generation(), h.Level(), b.Generation(), b.Level())
	case blk.BackrefRev() != ondisk.BackrefRevMixed:
		return c.bad(b, fserr.NoSlot, "backref revision %d", blk.BackrefRev())
	case h.Owner() != c.t.cfg.ID && !c.t.cfg.Shareable:
		return c.bad(b, fserr.NoSlot, "owner mismatch, have %d", int64(h.Owner()))
	case blk.Flags()&^(ondisk.HeaderFlagWritten|ondisk.HeaderFlagReloc) != 0:
		return c.bad(b, fserr.NoSlot, "unknown header flags %#x", blk.Flags())
	case n == 0 && (parent != nil || blk.Level() > 0):
		return c.bad(b, fserr.NoSlot, "empty block")
	case blk.Level() > 0 && n > ondisk.MaxPtrs(len(blk)):
		return c.bad(b, fserr.NoSlot, "%d pointers, at most %d fit", n, ondisk.MaxPtrs(len(blk)))
	}
	if parent != nil {
		ph := parent.Block().Header()
		if h.FSID() != ph.FSID() || h.ChunkTreeUUID() != ph.ChunkTreeUUID() {
			return c.bad(b, fserr.NoSlot, "fsid or chunk tree uuid differ from the parent's")
		}
	}
	return nil
}

func (c *checker) leaf(b *extbuf.Buffer) error {
	blk := b.Block()
	room := len(blk) - ondisk.HeaderSize
	end := room
	for i := range blk.NrItems() {
		off, size := blk.ItemOffset(i), blk.ItemSize(i)
		if off+size != end {
			return c.bad(b, i, "invalid item end, have %d expect %d", off+size, end)
		}
		end = off
	}
	heads := blk.NrItems() * ondisk.ItemSize
	if end < heads {
		return c.bad(b, fserr.NoSlot, "item headers of %d bytes run into data at %d", heads, end)
	}
	c.shape.Leaves++
	c.shape.Items += blk.NrItems()
	c.shape.Used += int64(heads + room - end)
	c.shape.Room += int64(room)
	return nil
}

func (c *checker) node(b *extbuf.Buffer, high *ondisk.Key) error {
	blk := b.Block()
	n := blk.NrItems()
	c.shape.Nodes++
	for i := range n {
		x := extbuf.Expect{Level: blk.Level() - 1, Gen: blk.PtrGeneration(i)}
		child, err := c.t.cfg.Cache.Read(c.ctx, blk.BlockPtr(i), x)
		if err != nil {
			return err
		}
		child.RLock()
		below := high
		if i+1 < n {
			k := blk.Key(i + 1)
			below = &k
		}
		switch cb := child.Block(); {
		case cb.NrItems() > 0 && cb.Key(0) != blk.Key(i):
			err = c.bad(b, i, "key %v, but the child's first key is %v", blk.Key(i), cb.Key(0))
		case cb.Header().Generation() > blk.Header().Generation():
			err = c.bad(b, i, "generation %d of the child is above the node's %d", cb.Header().Generation(), blk.Header().Generation())
		default:
			err = c.block(child, b, blk.Key(i), below)
		}
		child.RUnlock()
		child.Release()
		if err != nil {
			return err
		}
	}
	return nil
}
