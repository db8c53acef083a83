package check

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// logTrees walks the log of what was synced since the last commit. Its blocks are not in the extent tree: they must lie
// where nothing else does. The kernel replays it, or drops it.
func (c *checker) logTrees() error {
	if c.sb.LogRoot() == 0 || c.sb.LogRootLevel() >= ondisk.MaxLevel {
		return nil
	}
	before := uint32(len(c.blocks))
	// Written by the transaction behind the superblock's.
	root := &treeRoot{id: ondisk.TreeLogTree, addr: c.sb.LogRoot(), gen: c.sb.Generation() + 1, level: c.sb.LogRootLevel(), drop: -1, item: -1}
	workers, err := c.walk([]*treeRoot{root}, func(w *worker, id uint32, b ondisk.Block) {
		for i := range b.NrItems() {
			if k := b.Key(i); k.Type == ondisk.RootItemKey {
				r := readRootItem(k, b.Item(i), c.blocks[id].addr)
				w.parts.roots = append(w.parts.roots, r)
			}
		}
	})
	if err != nil {
		return err
	}
	var trees []*treeRoot
	for _, w := range workers {
		for i := range w.parts.roots {
			r := &w.parts.roots[i]
			if c.root(ondisk.TreeID(r.offset)) == nil && !c.lost.in(ondisk.RootTree) {
				c.found(Finding{ID: LogNoRoot, Root: ondisk.TreeLogTree, Block: r.at}, "the log has changes of subvolume %d, which is not there", r.offset)
			}
			r.id = ondisk.TreeLogTree
			trees = append(trees, &r.treeRoot)
		}
	}
	if _, err := c.walk(trees, func(*worker, uint32, ondisk.Block) {}); err != nil {
		return err
	}
	for _, r := range append(trees, root) {
		c.logPointer(r.block, before)
	}
	for i := before; int(i) < len(c.blocks); i++ {
		b := &c.blocks[i]
		for _, kid := range c.children(b) {
			c.logPointer(kid, before)
		}
		if i := c.extentUnder(uint64(b.addr)); i >= 0 {
			c.found(Finding{ID: LogInUse, Root: ondisk.TreeLogTree, Block: b.addr, Extent: ondisk.Logical(c.extents[i].addr)}, "a block of the log lies where the extent tree has something else")
		}
		if b.state == lost {
			c.found(Finding{ID: LogLost, Root: ondisk.TreeLogTree, Block: b.addr}, "a block of the log cannot be used")
		}
	}
	return nil
}

// logPointer reports a block that the log uses although another tree does. The other trees' blocks come before the log's.
func (c *checker) logPointer(id, first uint32) {
	if b := &c.blocks[id]; id < first {
		c.found(Finding{ID: LogInUse, Root: ondisk.TreeLogTree, Block: b.addr}, "a block of the log is also one of tree %v", b.tree)
	}
}

// extentUnder returns the extent that covers an address, -1 if there is none.
func (c *checker) extentUnder(addr uint64) int {
	i, ok := slices.BinarySearchFunc(c.extents, addr, func(e extent, a uint64) int { return cmp.Compare(e.addr, a) })
	if !ok {
		i--
	}
	if i < 0 || addr-c.extents[i].addr >= c.extents[i].length {
		return -1
	}
	return i
}
