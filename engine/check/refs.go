package check

import (
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// links compares every pointer with the block that it leads to, and takes the references that pointers make off the
// balance of the blocks' extents.
func (c *checker) links() error {
	c.sealKeys()
	for i := range c.blocks {
		if j, ok := c.extentAt.get(uint64(c.blocks[i].addr)); ok {
			c.blocks[i].ext = int32(j)
		}
	}
	err := c.eachChunk(len(c.blocks), 1024, func(from, to int) {
		for i := from; i < to; i++ {
			if b := &c.blocks[i]; b.tree != ondisk.TreeLogTree {
				c.blockExtent(b)
				if b.state == good && b.level > 0 {
					c.pointers(b)
				}
			}
		}
	})
	for _, r := range c.allRoots() {
		c.rootPointer(r)
	}
	return err
}

// allRoots lists the trees that extents belong to: all but those of the log.
func (c *checker) allRoots() []*treeRoot {
	var list []*treeRoot
	for _, r := range []*treeRoot{c.chunkRoot, c.rootRoot} {
		if r != nil {
			list = append(list, r)
		}
	}
	for i := range c.roots {
		r := &c.roots[i]
		if !r.id.IsFileTree() || r.refs != 0 || r.addr != 0 {
			list = append(list, &r.treeRoot)
		}
	}
	return list
}

// sealKeys finds the last key below each node. Levels ascend from child to parent.
func (c *checker) sealKeys() {
	var byLevel [ondisk.MaxLevel][]uint32
	for i := range c.blocks {
		if b := &c.blocks[i]; b.level > 0 && b.state == good {
			byLevel[b.level] = append(byLevel[b.level], uint32(i))
		}
	}
	for _, ids := range byLevel {
		for _, id := range ids {
			b := &c.blocks[id]
			for _, kid := range c.children(b) {
				if k := &c.blocks[kid]; k.state == good && b.max.Less(k.max) {
					b.max = k.max
				}
			}
		}
	}
}

// pointers looks at the children of a good node.
func (c *checker) pointers(b *block) {
	r := ref{kind: ondisk.TreeBlockRefKey, a: uint64(b.owner)}
	if b.ext >= 0 && c.extents[b.ext].full {
		r = ref{kind: ondisk.SharedBlockRefKey, a: uint64(b.addr)}
	}
	sum := c.hashRef(r)
	kids := c.children(b)
	for i, id := range kids {
		k := &c.blocks[id]
		if k.ext >= 0 {
			atomic.AddUint64(&c.extents[k.ext].balance, -sum)
		}
		if k.state != good {
			continue
		}
		at := Finding{Root: b.owner, Block: k.addr}
		if c.edgeSig[int(b.child)+i] != k.sig {
			at.ID = BlockFirstKey
			c.found(at, "node %d promises another first key or generation than %v, %d", uint64(b.addr), k.first, uint64(k.gen))
		}
		if i+1 < len(kids) {
			if next := &c.blocks[kids[i+1]]; next.state == good && !k.max.Less(next.first) {
				at.ID = BlockRange
				c.found(at, "its keys go up to %v, the next block of node %d begins with %v", k.max, uint64(b.addr), next.first)
			}
		}
		if k.owner != b.owner && !(k.owner.IsFileTree() && b.owner.IsFileTree()) {
			at.ID = BlockOwner
			c.found(at, "block has owner %v, node %d that points to it has %v", k.owner, uint64(b.addr), b.owner)
		}
	}
}

// ref is the reference that a root item makes. The root of a relocation tree, which lives as long as a block group is
// being moved, is its own parent (fs/btrfs/relocation.c).
func (r *treeRoot) ref() ref {
	if r.id == ondisk.TreeRelocTree {
		return ref{kind: ondisk.SharedBlockRefKey, a: uint64(r.addr)}
	}
	return ref{kind: ondisk.TreeBlockRefKey, a: uint64(r.id)}
}

// rootPointer looks at the root block of a tree.
func (c *checker) rootPointer(r *treeRoot) {
	b := &c.blocks[r.block]
	if b.ext >= 0 {
		c.extents[b.ext].balance -= c.hashRef(r.ref())
	}
	if b.state == good && b.owner != r.id && r.id != ondisk.TreeRelocTree {
		c.found(Finding{ID: BlockOwner, Root: r.id, Block: r.addr}, "the root block of the tree has owner %v", b.owner)
	}
	if b.state == good && b.gen != r.gen {
		c.found(Finding{ID: BlockGeneration, Root: r.id, Block: r.addr}, "the root block has generation %d, its root item says %d", uint64(b.gen), uint64(r.gen))
	}
}

// blockExtent compares a tree block with its extent item.
func (c *checker) blockExtent(b *block) {
	if c.lost.in(ondisk.ExtentTree) {
		return
	}
	at := Finding{Root: b.tree, Block: b.addr}
	if b.ext < 0 {
		at.ID = BlockNoExtent
		c.found(at, "a tree block is in use here, for which there is no extent")
		return
	}
	e := &c.extents[b.ext]
	switch {
	case !e.tree:
		at.ID = ExtentType
		c.found(at, "a tree block is in use where the extent tree has data")
	case e.length != uint64(c.nodeSize):
		at.ID = ExtentSize
		c.found(at, "the tree block's extent has %d bytes", e.length)
	case e.level != b.level:
		at.ID = ExtentLevel
		c.found(at, "the extent tree says level %d, the block is of level %d", e.level, b.level)
	case b.state == good && e.gen != b.gen:
		at.ID = ExtentGeneration
		c.found(at, "the extent tree says generation %d, the block has %d", uint64(e.gen), uint64(b.gen))
	}
}
