package extent

import (
	"context"
	"sync/atomic"

	"imgtool/engine/btree"
	"imgtool/engine/ondisk"
)

// treeSizes knows how many bytes each of the trees that the Manager keeps has. Blocks are counted as they are taken and
// dropped; what a tree had when it was opened stands in its root item, as for the kernel's reserve.
type treeSizes [16]atomic.Int64 // by id

// add counts the block of a tree; n is negative for one that was dropped. Other trees than our own are not counted.
func (s *treeSizes) add(id ondisk.TreeID, n int64) {
	if id < ondisk.TreeID(len(s)) {
		s[id].Add(n)
	}
}

// load takes the size of a tree that has been opened. The chunk tree and the root tree have no root item; what is
// estimated for them does not matter much, they are small.
func (s *treeSizes) load(ctx context.Context, root, t *btree.Tree, nodesize int) {
	n := estimateTree(t, uint64(nodesize))
	if id := t.ID(); root != nil && id != ondisk.RootTree && id != ondisk.ChunkTree {
		item, err := root.Get(ctx, ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey})
		if err == nil && len(item) >= ondisk.RootItemSize { // otherwise the estimate does
			n = ondisk.AsRootItem(item).BytesUsed()
		}
	}
	s[t.ID()].Store(int64(n))
}

// of is the size of a tree in bytes, one block at least.
func (s *treeSizes) of(t *btree.Tree, nodesize uint64) uint64 {
	return max(nodesize, uint64(max(0, s[t.ID()].Load())))
}

// estimateTree tells the size of a tree from its root: the children of the root are taken as nearly full.
func estimateTree(t *btree.Tree, nodesize uint64) uint64 {
	root := t.CommitRootBuffer()
	if root == nil {
		return nodesize
	}
	b := root.Block()
	blocks, width := uint64(1), uint64(b.NrItems())
	for level := b.Level(); level > 0; level-- {
		blocks += width
		width *= uint64(ondisk.MaxPtrs(int(nodesize)) * 5 / 6)
	}
	return blocks * nodesize
}
