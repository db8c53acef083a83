package check

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// States of a block.
const (
	unread = iota
	good   // read, and treecheck accepts it
	lost   // could not be read or understood; it was reported
)

// block is what is remembered of a tree block. Its fields are written by the goroutine that reads it, and between steps.
type block struct {
	addr       ondisk.Logical
	gen        ondisk.Generation // as the first pointer to it promises, then as the header says
	owner      ondisk.TreeID
	tree       ondisk.TreeID // through which it was reached first
	first, max ondisk.Key    // first key of the block, last key of all below it (nodes: after sealKeys)
	sig        uint64        // of first key and generation; compared with pointers
	ext        int32         // position in the extent table, -1 for none
	child      uint32        // position of its first edge
	nchild     uint16
	level      uint8
	state      uint8
	drop       int32 // position in checker.drops if reached through a half-deleted tree, -1 for none
	sum        int32 // position of its summary, -1 for none
}

// treeRoot is a tree to walk.
type treeRoot struct {
	id    ondisk.TreeID
	addr  ondisk.Logical
	gen   ondisk.Generation
	level uint8
	drop  int32 // position in checker.drops, -1 for none
	item  int   // position in checker.roots, -1 for the roots that the superblock names
	block uint32
	key   uint64 // offset of the root item's key: for a relocation tree the tree it stands for
}

// dropped says how far the deletion of a subvolume has got: all before key is gone, as seen from nodes of that level.
type dropped struct {
	key   ondisk.Key
	level uint8
}

// gone reports whether the deletion has passed slot i of a node.
func (d *dropped) gone(b ondisk.Block, i int) bool {
	if b.Level() == d.level {
		return b.Key(i).Less(d.key)
	}
	return b.Level() > d.level && i+1 < b.NrItems() && !d.key.Less(b.Key(i+1))
}

// worker is one goroutine of a step with the lists that it fills alone.
type worker struct {
	c      *checker
	nodes  []nodeOut
	kids   []kid
	parts  parts
	files  fileScan
	claims []claim
}

// nodeOut is a node that was read, its children are kids[from:to].
type nodeOut struct {
	id       uint32
	from, to int
}

// kid is one pointer of a node.
type kid struct {
	addr ondisk.Logical
	gen  ondisk.Generation
	sig  uint64
}

// leafFunc looks at one good leaf. It must not keep b.
type leafFunc func(w *worker, id uint32, b ondisk.Block)

// intern returns the block at an address, a new one unless it is known. It reports a known one that is claimed to have
// another level: a loop, or a block with two meanings.
func (c *checker) intern(addr ondisk.Logical, gen ondisk.Generation, level uint8, tree ondisk.TreeID, drop int32, from ondisk.Logical) uint32 {
	if id, ok := c.index.get(uint64(addr)); ok {
		if b := &c.blocks[id]; b.level != level {
			c.found(Finding{ID: BlockReused, Root: tree, Block: addr},
				"block %d points to it as level %d, it is in use as level %d of tree %v", uint64(from), level, b.level, b.tree)
		}
		return id
	}
	id := uint32(len(c.blocks))
	c.blocks = append(c.blocks, block{addr: addr, gen: gen, level: level, tree: tree, drop: drop, ext: -1, sum: -1})
	c.index.put(uint64(addr), id)
	return id
}

// walk reads the trees that have not been read yet, from the highest level down, each block once, and calls leaf for
// each good leaf. Blocks of one level are read by ascending address.
func (c *checker) walk(roots []*treeRoot, leaf leafFunc) ([]*worker, error) {
	var byLevel [ondisk.MaxLevel][]uint32
	known := uint32(len(c.blocks))
	for _, r := range roots {
		r.block = c.intern(r.addr, r.gen, r.level, r.id, r.drop, 0)
		if r.block >= known && c.blocks[r.block].level == r.level {
			byLevel[r.level] = append(byLevel[r.level], r.block)
			known = uint32(len(c.blocks))
		}
	}
	workers := make([]*worker, c.o.Workers)
	for i := range workers {
		workers[i] = &worker{c: c}
	}
	for level := ondisk.MaxLevel - 1; level >= 0; level-- {
		if err := c.readLevel(workers, byLevel[level], leaf); err != nil {
			return nil, err
		}
		if level > 0 {
			byLevel[level-1] = append(byLevel[level-1], c.link(workers)...)
		}
	}
	return workers, nil
}

// readLevel reads blocks, several at a time.
func (c *checker) readLevel(workers []*worker, ids []uint32, leaf leafFunc) error {
	slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(c.blocks[a].addr, c.blocks[b].addr) })
	return c.readRuns(workers, ids, true, func(w *worker, id uint32, b ondisk.Block) {
		w.visit(id, b)
		if b.IsLeaf() {
			leaf(w, id, b)
		}
	})
}

// visit notes what is to be remembered of a good block.
func (w *worker) visit(id uint32, b ondisk.Block) {
	k, h := &w.c.blocks[id], b.Header()
	k.state, k.gen, k.owner = good, h.Generation(), h.Owner()
	n := b.NrItems()
	if n > 0 {
		k.first, k.max = b.Key(0), b.Key(n-1)
	}
	k.sig = w.c.pointerSig(k.first, k.gen)
	if b.IsLeaf() {
		return
	}
	out := nodeOut{id: id, from: len(w.kids)}
	for i := range n {
		if k.drop >= 0 && w.c.drops[k.drop].gone(b, i) {
			continue
		}
		gen := b.PtrGeneration(i)
		w.kids = append(w.kids, kid{b.BlockPtr(i), gen, w.c.pointerSig(b.Key(i), gen)})
	}
	out.to = len(w.kids)
	w.nodes = append(w.nodes, out)
}

// pointerSig stands for what a pointer promises of its block.
func (c *checker) pointerSig(first ondisk.Key, gen ondisk.Generation) uint64 {
	return c.h.mix(uint64(first.ObjectID), uint64(first.Type), first.Offset, uint64(gen))
}

// link turns the pointers that the workers found into edges, and returns the blocks that are new.
func (c *checker) link(workers []*worker) []uint32 {
	var fresh []uint32
	for _, w := range workers {
		for _, n := range w.nodes {
			p := c.blocks[n.id] // a copy: intern moves the table
			c.blocks[n.id].child, c.blocks[n.id].nchild = uint32(len(c.edges)), uint16(n.to-n.from)
			for _, k := range w.kids[n.from:n.to] {
				known := uint32(len(c.blocks))
				id := c.intern(k.addr, k.gen, p.level-1, p.tree, p.drop, p.addr)
				if id == known {
					fresh = append(fresh, id)
				}
				c.edges, c.edgeSig = append(c.edges, id), append(c.edgeSig, k.sig)
			}
		}
		w.nodes, w.kids = w.nodes[:0], w.kids[:0]
	}
	return fresh
}

// children returns the blocks that a node points to.
func (c *checker) children(b *block) []uint32 { return c.edges[b.child : b.child+uint32(b.nchild)] }

// parallel runs fn in the workers until each has returned, or the check is cancelled.
func (c *checker) parallel(workers []*worker, fn func(*worker)) error {
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Go(func() { fn(w) })
	}
	wg.Wait()
	return c.ctx.Err()
}

// eachChunk hands the numbers below n out in runs of size, to several goroutines.
func (c *checker) eachChunk(n, size int, fn func(from, to int)) error {
	var next atomic.Int64
	return c.parallel(make([]*worker, c.o.Workers), func(*worker) {
		for c.ctx.Err() == nil {
			to := int(next.Add(int64(size)))
			if to-size >= n {
				return
			}
			fn(to-size, min(to, n))
		}
	})
}
