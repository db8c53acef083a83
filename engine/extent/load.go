package extent

import (
	"context"
	"fmt"
	"slices"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/freespace"
)

// Load reads the block groups, the devices and their extents. It is called once, before the first transaction, with
// every chunk in the volume. Errors are about disk content or I/O.
func (m *Manager) Load(ctx context.Context) error {
	for _, t := range m.ownTrees() {
		if err := t.Load(ctx); err != nil { // so that each has a commit root
			return fmt.Errorf("load %v: %w", t.ID(), err)
		}
		m.treeSizes.load(ctx, m.trees.Root(), t, int(m.nodesize))
	}
	if err := m.loadDevices(ctx); err != nil {
		return fmt.Errorf("load devices: %w", err)
	}
	if err := m.loadSystemChunks(ctx); err != nil {
		return fmt.Errorf("load system chunks: %w", err)
	}
	for _, c := range m.volume.Chunks() {
		m.nextChunk = max(m.nextChunk, uint64(c.Start)+c.Length)
		g, err := m.loadGroup(ctx, uint64(c.Start), c.Length, c.Type)
		if err != nil {
			return err
		}
		m.addGroup(g)
	}
	m.chunkMu.Lock()
	m.updateAllocatable()
	m.chunkMu.Unlock()
	m.updateGlobalReserve()
	return nil
}

// ownTrees are the trees that exist of those that the Manager keeps.
func (m *Manager) ownTrees() []*btree.Tree {
	all := []*btree.Tree{m.trees.Root(), m.trees.Extent(), m.trees.Chunk(), m.trees.Dev(), m.trees.Csum(), m.trees.FreeSpace(), m.trees.BlockGroup()}
	return slices.DeleteFunc(all, func(t *btree.Tree) bool { return t == nil })
}

// groupTree is the tree that holds the block-group items.
func (m *Manager) groupTree() *btree.Tree {
	if t := m.trees.BlockGroup(); t != nil {
		return t
	}
	return m.trees.Extent()
}

func (g *group) itemKey() ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.ObjectID(g.start), Type: ondisk.BlockGroupItemKey, Offset: g.length}
}

func (m *Manager) loadGroup(ctx context.Context, start, length, flags uint64) (*group, error) {
	g := m.newGroup(start, length, flags)
	g.created = true
	item, err := m.groupTree().Get(ctx, g.itemKey())
	if err != nil {
		return nil, fmt.Errorf("block group item of chunk %d: %w", start, err)
	}
	if len(item) < ondisk.BlockGroupItemSize {
		return nil, fserr.Corruptf("block group", uint64(m.groupTree().ID()), start, "item of %d bytes", len(item))
	}
	b := ondisk.AsBlockGroupItem(item)
	if b.Flags() != flags {
		return nil, fserr.Corruptf("block group", uint64(m.groupTree().ID()), start, "flags %#x, its chunk has %#x", b.Flags(), flags)
	}
	if b.Used() > length {
		return nil, fserr.Corruptf("block group", uint64(m.groupTree().ID()), start, "used %d of %d bytes", b.Used(), length)
	}
	g.used, g.itemUsed = b.Used(), b.Used()
	return g, nil
}

// newGroup makes a group with nothing in it. Its chunk is in the volume.
func (m *Manager) newGroup(start, length, flags uint64) *group {
	g := &group{start: start, length: length, flags: flags, space: m.spaces[kindOf(flags)]}
	for _, r := range m.volume.SuperStripes(ondisk.Logical(start)) {
		g.superStripes = append(g.superStripes, addrRange{uint64(r.Start), r.Length})
	}
	g.superStripes = mergeRanges(g.superStripes)
	for _, r := range g.superStripes {
		g.super += r.n
	}
	return g
}

// index returns the group's free space, loaded first if need be. The caller holds a handle of the running transaction.
// It may hold tree-block locks: loading reads commit roots, whose blocks nobody changes.
func (m *Manager) loaded(ctx context.Context, g *group) error {
	if g.index.Load() != nil {
		return nil
	}
	g.loadMu.Lock()
	defer g.loadMu.Unlock()
	if g.index.Load() != nil {
		return nil
	}
	x := freespace.New(g.start, g.length, ondisk.SectorSize)
	if err := m.readFree(ctx, g, x); err != nil {
		return fmt.Errorf("load %v: %w", g, err)
	}
	for _, r := range g.superStripes {
		x.Subtract(r.start, r.n)
	}
	// Nothing of the group was freed in this session before this moment, so there should be nothing to take out; what
	// there is must not be handed out all the same (I2).
	pinned := uint64(0)
	for e := range m.pin.Overlapping(g.start, g.length) {
		pinned += x.Subtract(e.Start, e.Len)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if sum := g.used + x.Free() + pinned + g.super; sum != g.length {
		return fserr.Corruptf("block group", uint64(ondisk.FreeSpaceTree), g.start,
			"used %d and free %d do not make up %d bytes (%d pinned, %d of super stripes); run `imgtool rescue clear-space-cache --in-place v2 IMAGE`",
			g.used, x.Free(), g.length, pinned, g.super)
	}
	g.pinned += pinned
	g.space.pinned.Add(int64(pinned))
	g.index.Store(x)
	return nil
}

func (m *Manager) readFree(ctx context.Context, g *group, x *freespace.Index) error {
	if m.trees.FreeSpace() == nil {
		return x.Load(extentGaps{ctx, m, g})
	}
	return x.Load(freeSpaceItems{ctx, m, g})
}

// scanCommitted reads a range of a tree's commit root, without locks.
func (m *Manager) scanCommitted(ctx context.Context, t *btree.Tree, from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
	root := t.CommitRootBuffer()
	if root == nil {
		return fmt.Errorf("internal: %v has no commit root", t.ID())
	}
	return m.committed().Scan(ctx, root, from, to, fn)
}

func (m *Manager) committed() btree.CommitReader { return btree.CommitReader{Cache: m.cache} }

// extentGaps derives free space from the extent tree: for a file system without a free-space tree.
type extentGaps struct {
	ctx context.Context
	m   *Manager
	g   *group
}

// LoadFree implements freespace.Source.
func (s extentGaps) LoadFree(add func(start, n uint64) error) error {
	at, end := s.g.start, s.g.end()
	from := ondisk.Key{ObjectID: ondisk.ObjectID(at)}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(end - 1), Type: 255, Offset: ^uint64(0)}
	err := s.m.scanCommitted(s.ctx, s.m.trees.Extent(), from, to, func(k ondisk.Key, _ []byte) (bool, error) {
		n := k.Offset
		switch k.Type {
		case ondisk.MetadataItemKey:
			n = s.m.nodesize
		case ondisk.ExtentItemKey:
		default:
			return true, nil
		}
		start := uint64(k.ObjectID)
		if start < at || n == 0 || n > end-start {
			return false, fserr.Corruptf("extent", uint64(ondisk.ExtentTree), start, "%d bytes long, overlaps another or the end of %v", n, s.g)
		}
		if start > at {
			if err := add(at, start-at); err != nil {
				return false, err
			}
		}
		at = start + n
		return true, nil
	})
	if err == nil && at < end {
		err = add(at, end-at)
	}
	return err
}
