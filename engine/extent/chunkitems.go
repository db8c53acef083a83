package extent

import (
	"context"
	"fmt"
	"slices"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// CreatePendingChunks inserts the items of chunks that were made in memory: chunk item, device extents, block-group
// item, free-space items; then the device items. The caller holds no tree-block lock. An error means that the trees
// contradict themselves: abort. The context is not looked at, since half a chunk would be worse than waiting.
func (m *Manager) CreatePendingChunks(ctx context.Context, tx btree.Txn) error {
	m.createMu.Lock()
	defer m.createMu.Unlock()
	ctx = context.WithoutCancel(ctx)
	for {
		m.chunkMu.Lock()
		if len(m.pending) == 0 {
			m.chunkMu.Unlock()
			return m.writeDevices(ctx, tx)
		}
		g := m.pending[0]
		m.chunkMu.Unlock()
		if err := m.createItems(ctx, tx, g); err != nil {
			return fmt.Errorf("items of new %v: %w", g, err)
		}
		m.chunkMu.Lock()
		m.pending = slices.DeleteFunc(m.pending, func(o *group) bool { return o == g })
		m.chunkMu.Unlock()
	}
}

func (m *Manager) createItems(ctx context.Context, tx btree.Txn, g *group) error {
	c, ok := m.volume.Chunk(ondisk.Logical(g.start))
	if !ok {
		return fmt.Errorf("internal: no chunk in the volume")
	}
	d := m.deviceLocked(c.Stripes[0].DevID)
	item := m.chunkItem(g.flags, g.length, d, uint64(c.Stripes[0].Offset), len(c.Stripes))
	if err := m.trees.Chunk().Insert(ctx, tx, chunkKey(g.start), item); err != nil {
		return err
	}
	for _, s := range c.Stripes {
		var e ondisk.DevExtent
		e.SetChunkTree(ondisk.ChunkTree)
		e.SetChunkObjectID(ondisk.FirstChunkObjectID)
		e.SetChunkOffset(ondisk.Logical(g.start))
		e.SetLength(g.length)
		e.SetChunkTreeUUID(m.chunkUUID)
		k := ondisk.Key{ObjectID: ondisk.ObjectID(s.DevID), Type: ondisk.DevExtentKey, Offset: uint64(s.Offset)}
		if err := m.trees.Dev().Insert(ctx, tx, k, e[:]); err != nil {
			return err
		}
	}
	if err := m.createGroupItem(ctx, tx, g); err != nil {
		return err
	}
	return m.createFreeItems(ctx, tx, g)
}

func (m *Manager) deviceLocked(id uint64) *device {
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	return m.device(id)
}

func (m *Manager) createGroupItem(ctx context.Context, tx btree.Txn, g *group) error {
	g.mu.Lock()
	used := g.used
	g.mu.Unlock()
	var b ondisk.BlockGroupItem
	b.SetUsed(used)
	b.SetChunkObjectID(ondisk.FirstChunkObjectID)
	b.SetFlags(g.flags)
	if err := m.groupTree().Insert(ctx, tx, g.itemKey(), b[:]); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.created, g.itemUsed = true, used
	if g.used != used {
		m.markDirty(g)
	}
	return nil
}

// createFreeItems gives a new group its free-space items, unless a flush of its notes has done so already.
func (m *Manager) createFreeItems(ctx context.Context, tx btree.Txn, g *group) error {
	t := m.trees.FreeSpace()
	if t == nil {
		return nil
	}
	g.fstMu.Lock()
	defer g.fstMu.Unlock()
	w := fstWriter{ctx, tx, t, g, 0}
	return w.begin()
}

// writeDevices writes the device items whose bytes_used changed. Called with createMu held.
func (m *Manager) writeDevices(ctx context.Context, tx btree.Txn) error {
	for {
		m.chunkMu.Lock()
		i := slices.IndexFunc(m.devices, func(d *device) bool { return d.dirty })
		if i < 0 {
			m.chunkMu.Unlock()
			return nil
		}
		d := m.devices[i]
		used := d.used
		d.dirty = false
		m.chunkMu.Unlock()
		k := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: d.id}
		err := m.trees.Chunk().Update(ctx, tx, k, func(item []byte) error {
			if len(item) < ondisk.DevItemSize {
				return fserr.Corruptf("device", uint64(ondisk.ChunkTree), 0, "DEV_ITEM %d of %d bytes", d.id, len(item))
			}
			ondisk.AsDevItem(item).SetBytesUsed(used)
			return nil
		})
		if err != nil {
			return fmt.Errorf("device item %d: %w", d.id, err)
		}
	}
}

// markDirty says that a group's item has to be written, and its notes applied to the free-space tree.
func (m *Manager) markDirty(g *group) {
	m.dirtyMu.Lock()
	m.dirty[g] = struct{}{}
	m.fstDirty[g] = struct{}{}
	m.dirtyMu.Unlock()
}

// GroupsDirty reports whether a block group has changed since its item was written.
func (m *Manager) GroupsDirty() bool {
	m.dirtyMu.Lock()
	defer m.dirtyMu.Unlock()
	return len(m.dirty) > 0 || len(m.fstDirty) > 0
}

// WriteDirtyBlockGroups writes the items of the block groups that have changed, those of new chunks first, and reports
// whether it wrote any. When a group has become empty, or somebody has found no space, it also removes empty block groups,
// so that their chunks can become some of another kind. Writing changes trees, and so block groups again: the commit repeats it, together with
// RunDelayedRefs, until nothing is dirty. Errors are those of CreatePendingChunks.
func (m *Manager) WriteDirtyBlockGroups(ctx context.Context, tx btree.Txn) (changed bool, err error) {
	if m.ChunksPending() {
		changed = true
		if err := m.CreatePendingChunks(ctx, tx); err != nil {
			return changed, err
		}
	}
	ctx = context.WithoutCancel(ctx)
	if m.removeEmpty.Swap(false) {
		n, err := m.RemoveEmptyBlockGroups(ctx, tx)
		if err != nil {
			return changed, err
		}
		changed = changed || n > 0
	}
	m.dirtyMu.Lock()
	groups := make([]*group, 0, len(m.dirty))
	for g := range m.dirty {
		groups = append(groups, g)
	}
	clear(m.dirty)
	m.dirtyMu.Unlock()
	slices.SortFunc(groups, func(a, b *group) int { return int(int64(a.start) - int64(b.start)) })
	for _, g := range groups {
		wrote, err := m.writeGroup(ctx, tx, g)
		if err != nil {
			return changed, fmt.Errorf("item of %v: %w", g, err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

func (m *Manager) writeGroup(ctx context.Context, tx btree.Txn, g *group) (bool, error) {
	g.mu.Lock()
	used, same := g.used, g.used == g.itemUsed
	created, gone := g.created, g.readOnly && g.used == 0
	g.mu.Unlock()
	if same || gone {
		return false, nil
	}
	if !created { // made since CreatePendingChunks ran; its items take the figure then
		m.markDirty(g)
		return true, nil
	}
	err := m.groupTree().Update(ctx, tx, g.itemKey(), func(item []byte) error {
		if len(item) < ondisk.BlockGroupItemSize {
			return fserr.Corruptf("block group", uint64(m.groupTree().ID()), g.start, "item of %d bytes", len(item))
		}
		ondisk.AsBlockGroupItem(item).SetUsed(used)
		return nil
	})
	if err != nil {
		return false, err
	}
	g.mu.Lock()
	g.itemUsed = used
	g.mu.Unlock()
	return true, nil
}
