package extent

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// RemoveEmptyBlockGroups deletes block groups in which nothing is left, with their chunks, as the kernel's cleaner does
// (fs/btrfs/block-group.c, btrfs_delete_unused_bgs). One of each kind always stays, and so does one that reservations
// count on. It reports how many it removed. The caller holds a handle and no tree-block lock.
//
// On disk the space is free with this transaction. In memory the chunk keeps its map entry and its device extents until
// the removal is durable and no reader of an older generation is left.
func (m *Manager) RemoveEmptyBlockGroups(ctx context.Context, tx btree.Txn) (removed int, err error) {
	m.createMu.Lock()
	defer m.createMu.Unlock()
	ctx = context.WithoutCancel(ctx)
	for _, sp := range m.spaces {
		for _, g := range sp.list() {
			if !m.claim(g) {
				continue
			}
			if err := m.removeGroup(ctx, tx, g); err != nil {
				return removed, fmt.Errorf("remove empty %v: %w", g, err)
			}
			removed++
		}
	}
	return removed, nil
}

// claim makes an empty group that can be spared read-only, and takes it out of its space.
func (m *Manager) claim(g *group) bool {
	sp := g.space
	m.chunkMu.Lock() // no chunk is made meanwhile that would count on the figures below
	defer m.chunkMu.Unlock()
	size := g.length - g.super
	keep := uint64(0)
	switch sp.kind {
	case kindMetadata:
		keep = m.globalSize.Load()
	case kindSystem:
		keep = m.sysMargin()
	}
	sp.mu.Lock()
	spare := len(sp.list()) > 1 && sp.taken()+sp.promised+keep+size <= uint64(sp.size.Load())
	sp.mu.Unlock()
	g.mu.Lock()
	ok := spare && !g.readOnly && g.created && g.empty()
	if ok {
		g.readOnly = true
	}
	g.mu.Unlock()
	if ok {
		sp.remove(g)
	}
	return ok
}

func (m *Manager) removeGroup(ctx context.Context, tx btree.Txn, g *group) error {
	c, ok := m.volume.Chunk(ondisk.Logical(g.start))
	if !ok {
		return fmt.Errorf("internal: no chunk in the volume")
	}
	if err := m.removeFreeItems(ctx, tx, g); err != nil {
		return err
	}
	if err := m.groupTree().Delete(ctx, tx, g.itemKey()); err != nil {
		return fmt.Errorf("block group item: %w", err)
	}
	for _, s := range c.Stripes {
		k := ondisk.Key{ObjectID: ondisk.ObjectID(s.DevID), Type: ondisk.DevExtentKey, Offset: uint64(s.Offset)}
		if err := m.trees.Dev().Delete(ctx, tx, k); err != nil {
			return fmt.Errorf("device extent %v: %w", k, err)
		}
	}
	if err := m.trees.Chunk().Delete(ctx, tx, chunkKey(g.start)); err != nil {
		return fmt.Errorf("chunk item: %w", err)
	}
	m.forget(g, c)
	// Born 0: a reader of any older generation may still map addresses of the chunk.
	m.pin.Unseen(0, uint64(tx.Generation()), func() { m.unmap(g, c) })
	return m.writeDevices(ctx, tx)
}

func (m *Manager) removeFreeItems(ctx context.Context, tx btree.Txn, g *group) error {
	t := m.trees.FreeSpace()
	if t == nil {
		return nil
	}
	g.fstMu.Lock()
	defer g.fstMu.Unlock()
	from := ondisk.Key{ObjectID: ondisk.ObjectID(g.start)}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(g.end() - 1), Type: 255, Offset: ^uint64(0)}
	err := t.DeleteRange(ctx, tx, from, to, func(ondisk.Key, []byte) (bool, bool, error) { return true, true, nil })
	if err != nil && !errors.Is(err, fserr.ErrNotFound) {
		return fmt.Errorf("free-space items: %w", err)
	}
	return nil
}

// forget takes a removed group out of what the superblock of this transaction will say.
func (m *Manager) forget(g *group, c volume.ChunkInfo) {
	m.groupsMu.Lock()
	m.groups.Delete(g.start)
	m.groupsMu.Unlock()
	m.dirtyMu.Lock()
	delete(m.dirty, g)
	delete(m.fstDirty, g)
	m.dirtyMu.Unlock()
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	m.sysItems.Delete(g.start)
	for _, s := range c.Stripes {
		d := m.device(s.DevID)
		d.used -= min(d.used, c.StripeLength())
		d.dirty = true
	}
}

// unmap ends a removed chunk: its removal is durable and nobody looks at it any more.
func (m *Manager) unmap(g *group, c volume.ChunkInfo) {
	m.volume.RemoveChunk(ondisk.Logical(g.start))
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	for _, s := range c.Stripes {
		m.device(s.DevID).remove(uint64(s.Offset))
	}
	m.updateAllocatable()
}
