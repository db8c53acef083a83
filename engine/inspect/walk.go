package inspect

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// read reads a block that can hold a header and an item.
func (d *dumper) read(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := d.r.ReadTreeBlock(ctx, addr)
	if err != nil {
		return nil, err
	}
	if len(b) < ondisk.HeaderSize+ondisk.KeyPtrSize {
		return nil, fserr.Corruptf("block", 0, uint64(addr), "%d bytes are no tree block", len(b))
	}
	if l := b.Level(); l >= ondisk.MaxLevel {
		return nil, fserr.Corruptf("node", uint64(b.Header().Owner()), uint64(addr), "invalid level, have %d expect [0, %d]", l, ondisk.MaxLevel-1)
	}
	return b, nil
}

// skip notes that part of the dump is missing; a cancelled dump ends instead.
func (d *dumper) skip(ctx context.Context, err error) error {
	if e := ctx.Err(); e != nil {
		return e
	}
	d.warn(err)
	return nil
}

// tree prints the tree below root, and root itself.
func (d *dumper) tree(ctx context.Context, root ondisk.Block) error {
	if d.o.DFS {
		return d.depthFirst(ctx, root, ondisk.MaxKey)
	}
	d.p.block(root)
	for level := int(root.Level()) - 1; level >= 0; level-- {
		err := d.atLevel(ctx, root, uint8(level), ondisk.MaxKey, func(b ondisk.Block) error {
			d.p.block(b)
			return d.p.err()
		})
		if err != nil {
			return err
		}
	}
	return d.p.err()
}

func (d *dumper) depthFirst(ctx context.Context, b ondisk.Block, end ondisk.Key) error {
	d.p.block(b)
	if b.IsLeaf() {
		return d.p.err()
	}
	for i := range itemCount(b) {
		child, last, err := d.child(ctx, b, i, end)
		if err == nil {
			err = d.depthFirst(ctx, child, last)
		} else {
			err = d.skip(ctx, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// atLevel calls fn for each block of the level below b, b included, from left to right. Keys of b end before end. A
// pointer that cannot be followed is reported once: in the walk whose level is right below it.
func (d *dumper) atLevel(ctx context.Context, b ondisk.Block, level uint8, end ondisk.Key, fn func(ondisk.Block) error) error {
	if b.Level() == level {
		return fn(b)
	}
	for i := range itemCount(b) {
		child, last, err := d.child(ctx, b, i, end)
		switch {
		case err == nil:
			err = d.atLevel(ctx, child, level, last, fn)
		case b.Level()-1 == level:
			err = d.skip(ctx, err)
		default:
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// child reads the block that pointer i of node b leads to and compares it with the pointer: that it is one level
// lower and begins with the pointer's key, and that pointers ascend and end before end, is what bounds the walk of a
// hostile image. last is where the child's keys end.
func (d *dumper) child(ctx context.Context, b ondisk.Block, i int, end ondisk.Key) (child ondisk.Block, last ondisk.Key, err error) {
	key, addr, owner := b.Key(i), b.BlockPtr(i), uint64(b.Header().Owner())
	parent := uint64(b.Header().Bytenr())
	if (i > 0 && b.Key(i-1).Compare(key) >= 0) || (key.Compare(end) >= 0 && end != ondisk.MaxKey) {
		return nil, last, &fserr.Corrupt{What: "node", Root: owner, Block: parent, Slot: i, Msg: fmt.Sprintf("bad key order at %s, block %d left out", key, uint64(addr))}
	}
	if last = end; i+1 < itemCount(b) {
		last = b.Key(i + 1)
	}
	if child, err = d.read(ctx, addr); err != nil {
		return nil, last, fmt.Errorf("node %d slot %d: block %d: %w", parent, i, uint64(addr), err)
	}
	if child.Level() != b.Level()-1 {
		return nil, last, &fserr.Corrupt{What: "node", Root: owner, Block: parent, Slot: i, Msg: fmt.Sprintf("block %d has level %d expect %d", uint64(addr), child.Level(), b.Level()-1)}
	}
	if itemCount(child) == 0 || child.Key(0) != key {
		return nil, last, &fserr.Corrupt{What: "node", Root: owner, Block: parent, Slot: i, Msg: fmt.Sprintf("block %d does not begin with key %s", uint64(addr), key)}
	}
	return child, last, nil
}

// itemCount returns the number of items or pointers, at most what the block has room for.
func itemCount(b ondisk.Block) int {
	n, room := uint64(b.Header().NrItems()), uint64(len(b)-ondisk.HeaderSize)
	if b.IsLeaf() {
		return int(min(n, room/ondisk.ItemSize))
	}
	return int(min(n, room/ondisk.KeyPtrSize))
}

// leafItem returns key and data of item i < itemCount; ok is false when its data lies outside the block.
func leafItem(b ondisk.Block, i int) (key ondisk.Key, item []byte, ok bool) {
	key = b.Key(i)
	off, size := uint64(b.ItemOffset(i)), uint64(b.ItemSize(i))
	if off+size > uint64(len(b)-ondisk.HeaderSize) {
		return key, nil, false
	}
	return key, b.Item(i), true
}
