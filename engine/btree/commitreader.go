package btree

import (
	"bytes"
	"context"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// CommitReader reads trees from their commit roots, without locks: blocks of a commit root do not change (I4). The
// caller sees to it that they are not re-used: it holds a handle (commit roots cannot move while a handle of T lives,
// and what T drops stays pinned), commitRootMu, or a ticket of package pin. Readers who live longer, and those who want
// another bargain between speed and safety, use package commitview.
//
// Every block is compared with the pointer that led to it (I9). Items that fn gets are the block's own bytes and good
// as long as the call; results of Get and Seek are copies.
type CommitReader struct {
	Cache *extbuf.Cache
}

// commitPath is the way from a commit root to an item. It holds a reference on every block but the root, which is the
// caller's.
type commitPath struct {
	cache *extbuf.Cache
	nodes [ondisk.MaxLevel]*extbuf.Buffer // by level
	slots [ondisk.MaxLevel]int
	root  int         // level of the root
	to    *ondisk.Key // how far the caller is going to read on, nil: not known
}

// release gives the references back.
func (p *commitPath) release() {
	for i := range p.root {
		if p.nodes[i] != nil {
			p.nodes[i].Release()
			p.nodes[i] = nil
		}
	}
}

func (p *commitPath) leaf() ondisk.Block { return p.nodes[0].Block() }

// seek goes to the place of key: the first item that is not below it, or the end of the leaf before.
func (p *commitPath) seek(ctx context.Context, root *extbuf.Buffer, key *ondisk.Key) error {
	p.root = int(root.Level())
	p.nodes[p.root] = root
	for level := p.root; level > 0; level-- {
		p.slots[level] = childSlot(p.nodes[level].Block(), key)
		if err := p.down(ctx, level); err != nil {
			return err
		}
	}
	p.slots[0], _ = search(p.leaf(), key)
	return nil
}

// down reads the child that the path goes to from level.
func (p *commitPath) down(ctx context.Context, level int) error {
	b, slot := p.nodes[level].Block(), p.slots[level]
	if old := p.nodes[level-1]; old != nil {
		p.nodes[level-1] = nil
		old.Release()
	}
	if p.to != nil && level == 1 {
		prefetch(ctx, p.cache, b, slot, p.to)
	}
	c := p.cache.Lookup(b.BlockPtr(slot))
	if c != nil && (c.Generation() != b.PtrGeneration(slot) || c.Level() != b.Level()-1 || c.Block().Key(0) != b.Key(slot)) {
		c.Release()
		c = nil // Read says what is wrong
	}
	if c == nil {
		k := b.Key(slot)
		var err error
		c, err = p.cache.Read(ctx, b.BlockPtr(slot), extbuf.Expect{Level: b.Level() - 1, Gen: b.PtrGeneration(slot), FirstKey: &k})
		if err != nil {
			return err
		}
	}
	p.nodes[level-1] = c
	return nil
}

// nextLeaf goes to the first item of the next leaf; ok is false behind the last.
func (p *commitPath) nextLeaf(ctx context.Context) (ok bool, err error) { return p.turn(ctx, 1) }

// prevLeaf goes to the last item of the leaf before; ok is false before the first.
func (p *commitPath) prevLeaf(ctx context.Context) (ok bool, err error) { return p.turn(ctx, -1) }

func (p *commitPath) turn(ctx context.Context, step int) (ok bool, err error) {
	for level := 1; level <= p.root; level++ {
		s := p.slots[level] + step
		if s < 0 || s >= p.nodes[level].Block().NrItems() {
			continue
		}
		p.slots[level] = s
		for ; level > 0; level-- {
			if err := p.down(ctx, level); err != nil {
				return false, err
			}
			p.slots[level-1] = 0
			if step < 0 {
				p.slots[level-1] = p.nodes[level-1].Block().NrItems() - 1
			}
		}
		return true, nil
	}
	return false, nil
}

// Scan calls fn for the items with from <= key <= to in ascending order until it answers no more or an error.
func (r CommitReader) Scan(ctx context.Context, root *extbuf.Buffer, from, to ondisk.Key,
	fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	p := commitPath{cache: r.Cache, to: &to}
	defer p.release()
	if err := p.seek(ctx, root, &from); err != nil {
		return err
	}
	for {
		b := p.leaf()
		for i := p.slots[0]; i < b.NrItems(); i++ {
			k := b.Key(i)
			if to.Less(k) {
				return nil
			}
			if more, err := fn(k, b.Item(i)); err != nil || !more {
				return err
			}
		}
		if ok, err := p.nextLeaf(ctx); err != nil || !ok {
			return err
		}
	}
}

// ScanRev is Scan in descending order.
func (r CommitReader) ScanRev(ctx context.Context, root *extbuf.Buffer, from, to ondisk.Key,
	fn func(k ondisk.Key, item []byte) (more bool, err error)) error {
	p := commitPath{cache: r.Cache}
	defer p.release()
	if err := p.seekLE(ctx, root, &to); err != nil {
		return err
	}
	for {
		b := p.leaf()
		for i := p.slots[0]; i >= 0; i-- {
			k := b.Key(i)
			if k.Less(from) {
				return nil
			}
			if more, err := fn(k, b.Item(i)); err != nil || !more {
				return err
			}
		}
		if ok, err := p.prevLeaf(ctx); err != nil || !ok {
			return err
		}
	}
}

// seekLE goes to the last item whose key is not above key, slot -1 if there is none.
func (p *commitPath) seekLE(ctx context.Context, root *extbuf.Buffer, key *ondisk.Key) error {
	if err := p.seek(ctx, root, key); err != nil {
		return err
	}
	if s := p.slots[0]; s >= p.leaf().NrItems() || p.leaf().Key(s) != *key {
		p.slots[0]--
	}
	return nil
}

// Get returns a copy of an item, or fserr.ErrNotFound.
func (r CommitReader) Get(ctx context.Context, root *extbuf.Buffer, key ondisk.Key) ([]byte, error) {
	p := commitPath{cache: r.Cache}
	defer p.release()
	if err := p.seek(ctx, root, &key); err != nil {
		return nil, err
	}
	_, item := lookup(p.leaf(), &key)
	if item == nil {
		return nil, fserr.ErrNotFound
	}
	return bytes.Clone(item), nil
}

// SeekGE returns the first item whose key is not below key; ok is false if there is none.
func (r CommitReader) SeekGE(ctx context.Context, root *extbuf.Buffer, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	p := commitPath{cache: r.Cache}
	defer p.release()
	if err = p.seek(ctx, root, &key); err != nil {
		return k, nil, false, err
	}
	if p.slots[0] >= p.leaf().NrItems() {
		if ok, err = p.nextLeaf(ctx); err != nil || !ok {
			return k, nil, false, err
		}
	}
	return p.leaf().Key(p.slots[0]), bytes.Clone(p.leaf().Item(p.slots[0])), true, nil
}

// KeyLE is SeekLE for those who want the key only.
func (r CommitReader) KeyLE(ctx context.Context, root *extbuf.Buffer, key ondisk.Key) (k ondisk.Key, ok bool, err error) {
	p := commitPath{cache: r.Cache}
	defer p.release()
	if err = p.seekLE(ctx, root, &key); err != nil || p.slots[0] < 0 {
		return k, false, err
	}
	return p.leaf().Key(p.slots[0]), true, nil
}

// SeekLE returns the last item whose key is not above key; ok is false if there is none.
func (r CommitReader) SeekLE(ctx context.Context, root *extbuf.Buffer, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error) {
	p := commitPath{cache: r.Cache}
	defer p.release()
	if err = p.seekLE(ctx, root, &key); err != nil || p.slots[0] < 0 {
		return k, nil, false, err
	}
	return p.leaf().Key(p.slots[0]), bytes.Clone(p.leaf().Item(p.slots[0])), true, nil
}
