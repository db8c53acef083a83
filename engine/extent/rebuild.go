package extent

import (
	"context"
	"fmt"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// OwnedBlock is a tree block as the extent tree knows it.
type OwnedBlock struct {
	Addr  ondisk.Logical
	Level uint8
	Born  ondisk.Generation
}

// OwnedBlocks lists the tree blocks to which the committed extent tree knows no reference but owner's: what a tree that
// is never shared consists of, without reading it. The whole extent tree is read.
func (m *Manager) OwnedBlocks(ctx context.Context, owner ondisk.TreeID) ([]OwnedBlock, error) {
	var list []OwnedBlock
	var item extentItem
	err := m.scanCommitted(ctx, m.trees.Extent(), ondisk.Key{}, ondisk.Key{ObjectID: ^ondisk.ObjectID(0), Type: 255, Offset: ^uint64(0)},
		func(k ondisk.Key, data []byte) (bool, error) {
			if k.Type != ondisk.MetadataItemKey && (k.Type != ondisk.ExtentItemKey || k.Offset != m.nodesize) {
				return true, nil
			}
			if err := item.parse(data, k); err != nil {
				return false, err
			}
			if len(item.refsV) != 1 || item.refs != 1 || item.refsV[0].ref.Kind != delayedref.TreeBlock || item.refsV[0].ref.Root != uint64(owner) {
				return true, nil
			}
			b := OwnedBlock{Addr: ondisk.Logical(k.ObjectID), Level: uint8(k.Offset), Born: ondisk.Generation(item.gen)}
			if k.Type == ondisk.ExtentItemKey {
				b.Level = item.info[ondisk.KeySize] // behind the first key
			}
			list = append(list, b)
			return true, nil
		})
	return list, err
}

// DropOwned queues the drop of a tree's own reference to a block of OwnedBlocks.
func (m *Manager) DropOwned(ctx context.Context, tx btree.Txn, owner ondisk.TreeID, b OwnedBlock) error {
	freed, err := m.DropTreeBlock(ctx, tx, btree.DropReq{Addr: b.Addr, Born: b.Born, Owner: owner, Level: b.Level, Written: true, Last: true})
	if err == nil && freed {
		err = fmt.Errorf("internal: tree block %d was committed and has cancelled out", uint64(b.Addr))
	}
	return err
}

// FreeSpaceItems estimates how many items FillFreeSpaceTree will insert. It reads all block groups' free space.
func (m *Manager) FreeSpaceItems(ctx context.Context) (n int, err error) {
	for _, g := range m.allGroups() {
		high, _ := fstThresholds(g.length)
		extents := uint32(0)
		if err := (extentGaps{ctx, m, g}).LoadFree(func(uint64, uint64) error { extents++; return nil }); err != nil {
			return 0, err
		}
		n += 1 + int(min(extents, high))
	}
	return n, nil
}

// FillFreeSpaceTree describes the free space of all block groups, as the committed extent tree has it, in t, an empty
// tree born in tx. It must come before any delayed ref of tx has run, so that all that tx itself takes and frees is
// noted later and applied to what is written here. The caller makes t the free-space tree then.
func (m *Manager) FillFreeSpaceTree(ctx context.Context, tx btree.Txn, t *btree.Tree) error {
	for _, g := range m.allGroups() {
		g.mu.Lock()
		created, notes := g.created, len(g.freed)
		g.mu.Unlock()
		if !created {
			continue // made meanwhile: createFreeItems sees to it
		}
		if notes > 0 {
			return fmt.Errorf("internal: delayed refs ran before the free-space tree was filled, in %v", g)
		}
		if err := m.fillGroup(ctx, tx, t, g); err != nil {
			return fmt.Errorf("free-space tree, %v: %w", g, err)
		}
	}
	return nil
}

func (m *Manager) fillGroup(ctx context.Context, tx btree.Txn, t *btree.Tree, g *group) error {
	var free []addrRange
	err := extentGaps{ctx, m, g}.LoadFree(func(start, n uint64) error {
		free = append(free, addrRange{start, n})
		return nil
	})
	if err != nil {
		return err
	}
	total := uint64(0)
	for _, r := range free {
		total += r.n
	}
	if total+g.used != g.length {
		return fserr.Corruptf("block group", uint64(ondisk.ExtentTree), g.start, "used %d, but its extents leave %d of %d bytes free: see imgtool check", g.used, total, g.length)
	}
	g.fstMu.Lock()
	defer g.fstMu.Unlock()
	w := fstWriter{ctx, tx, t, g, 0}
	var info ondisk.FreeSpaceInfo
	if err := t.Insert(ctx, tx, g.infoKey(), info[:]); err != nil {
		return err
	}
	g.fst = fstState{known: true}
	if high, _ := fstThresholds(g.length); uint32(len(free)) > high {
		return w.replace(g.bitmapItems(free), free, true)
	}
	return w.replace(extentItems(free), free, false)
}

// VoidCache says what the superblock names as the generation of the v1 cache from now on.
func (m *Manager) VoidCache(gen uint64) { m.cacheGen = gen }
