package extent

import (
	"context"
	"fmt"
	"slices"

	"imgtool/engine/btree"
	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// A checksum item holds the checksums of consecutive sectors from its key's offset on. Items do not overlap; one that
// begins where another ends is merged with it as long as the result fits (fs/btrfs/file-item.c).

func csumKey(addr uint64) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.ExtentCsumObjectID, Type: ondisk.ExtentCsumKey, Offset: addr}
}

// maxCsums is how many checksums one item may hold: what fits beside another item in a leaf, less one, and never more
// than 4096 (fs/btrfs/file-item.c, MAX_CSUM_ITEMS with a page of 4 KiB).
func maxCsums(nodesize, csumSize int) int {
	return min((ondisk.LeafDataSize(nodesize)-2*ondisk.ItemSize)/csumSize-1, 4096)
}

// csumItem is one checksum item; sums is a copy.
type csumItem struct {
	addr uint64
	sums []byte
}

func (m *Manager) csumEnd(i csumItem) uint64 {
	return i.addr + uint64(len(i.sums)/m.csumSize)*ondisk.SectorSize
}

// csumAt returns the last checksum item that begins at or before addr.
func (m *Manager) csumAt(ctx context.Context, addr uint64) (i csumItem, ok bool, err error) {
	k, sums, ok, err := m.trees.Csum().SeekLE(ctx, csumKey(addr))
	if err != nil || !ok || k.ObjectID != ondisk.ExtentCsumObjectID || k.Type != ondisk.ExtentCsumKey {
		return csumItem{}, false, err
	}
	if err := m.checkCsumItem(k, sums); err != nil {
		return csumItem{}, false, err
	}
	return csumItem{k.Offset, sums}, true, nil
}

func (m *Manager) checkCsumItem(k ondisk.Key, sums []byte) error {
	if len(sums) == 0 || len(sums)%m.csumSize != 0 {
		return fserr.Corruptf("csum item", uint64(ondisk.CsumTree), k.Offset, "%d bytes, not a multiple of %d", len(sums), m.csumSize)
	}
	return nil
}

// AddCsums records the checksums of consecutive sectors from addr on, sums being their concatenation. Checksums that
// are recorded for any of these sectors already are replaced. The caller holds no tree-block lock. An error means that
// the csum tree is as it was, or must be considered inconsistent: abort.
func (m *Manager) AddCsums(ctx context.Context, tx btree.Txn, addr ondisk.Logical, sums []byte) error {
	if len(sums)%m.csumSize != 0 || uint64(addr)%ondisk.SectorSize != 0 {
		return fmt.Errorf("internal: AddCsums of %d bytes at %d: %w", len(sums), addr, fserr.ErrInvalid)
	}
	if len(sums) == 0 {
		return nil
	}
	m.csumMu.Lock()
	defer m.csumMu.Unlock()
	return m.addCsums(context.WithoutCancel(ctx), tx, csumItem{uint64(addr), sums})
}

func (m *Manager) addCsums(ctx context.Context, tx btree.Txn, i csumItem) error {
	// One look shows both neighbours' business: the last item at or before our end overlaps us, begins at it, or ends
	// before it.
	end := m.csumEnd(i)
	last, ok, err := m.csumAt(ctx, end)
	if err != nil {
		return err
	}
	var right csumItem
	if ok && last.addr == end {
		right = last
		if last, ok, err = m.csumAt(ctx, end-1); err != nil {
			return err
		}
	}
	if ok && m.csumEnd(last) > i.addr {
		if err := m.cutCsums(ctx, tx, i.addr, end); err != nil {
			return err
		}
		return m.addCsums(ctx, tx, i) // nothing overlaps now
	}
	if !ok || m.csumEnd(last) != i.addr {
		last = csumItem{}
	}
	return m.mergeCsums(ctx, tx, last, i, right)
}

// mergeCsums inserts i, which touches left and right where these have sums. A neighbour that is full, or would be, is
// left alone.
func (m *Manager) mergeCsums(ctx context.Context, tx btree.Txn, left, i, right csumItem) error {
	t, most := m.trees.Csum(), maxCsums(int(m.nodesize), m.csumSize)*m.csumSize
	if len(left.sums) > 0 && len(left.sums) < most {
		n := min(most-len(left.sums), len(i.sums))
		part := i.sums[:n]
		all := n == len(i.sums) && len(right.sums) > 0 && len(left.sums)+n+len(right.sums) <= most
		if all {
			part = slices.Concat(part, right.sums)
			if err := t.Delete(ctx, tx, csumKey(right.addr)); err != nil {
				return fmt.Errorf("csum item %d: %w", right.addr, err)
			}
			right = csumItem{}
		}
		if err := m.growCsum(ctx, tx, left, part); err != nil {
			return err
		}
		i.addr += uint64(n/m.csumSize) * ondisk.SectorSize
		i.sums = i.sums[n:]
	}
	for len(i.sums) > 0 {
		n := min(most, len(i.sums))
		part := i.sums[:n]
		if n == len(i.sums) && len(right.sums) > 0 && n+len(right.sums) <= most {
			part = slices.Concat(part, right.sums)
			if err := t.Delete(ctx, tx, csumKey(right.addr)); err != nil {
				return fmt.Errorf("csum item %d: %w", right.addr, err)
			}
		}
		if err := t.Insert(ctx, tx, csumKey(i.addr), part); err != nil {
			return fmt.Errorf("csum item %d: %w", i.addr, err)
		}
		i.addr += uint64(n/m.csumSize) * ondisk.SectorSize
		i.sums = i.sums[n:]
	}
	return nil
}

// growCsum appends to an item that is there.
func (m *Manager) growCsum(ctx context.Context, tx btree.Txn, i csumItem, more []byte) error {
	err := m.trees.Csum().Modify(ctx, tx, csumKey(i.addr), func(old []byte) ([]byte, error) {
		if len(old) != len(i.sums) {
			return nil, fserr.Corruptf("csum item", uint64(ondisk.CsumTree), i.addr, "changed from %d to %d bytes under csumMu", len(i.sums), len(old))
		}
		return slices.Concat(old, more), nil
	})
	if err != nil {
		return fmt.Errorf("csum item %d: %w", i.addr, err)
	}
	return nil
}

// deleteCsums removes the checksums of [addr, addr+n), cutting items that reach beyond.
func (m *Manager) deleteCsums(ctx context.Context, tx btree.Txn, addr, n uint64) error {
	m.csumMu.Lock()
	defer m.csumMu.Unlock()
	if err := m.cutCsums(ctx, tx, addr, addr+n); err != nil {
		return fmt.Errorf("checksums of extent %d: %w", addr, err)
	}
	return nil
}

// cutCsums walks the items that overlap [from, to), the last one first. What is kept of an item is cut out of it before
// its tail is inserted: the tail then fits where the item was. The other way round each cut of an item that fills a leaf
// would split that leaf, and leave a leaf behind that holds next to nothing. Called with csumMu held, which readers wait
// for.
func (m *Manager) cutCsums(ctx context.Context, tx btree.Txn, from, to uint64) error {
	t := m.trees.Csum()
	for {
		i, ok, err := m.csumAt(ctx, to-1)
		if err != nil || !ok || m.csumEnd(i) <= from {
			return err
		}
		if i.addr < from {
			err = m.shrinkCsum(ctx, tx, i, int((from-i.addr)/ondisk.SectorSize)*m.csumSize)
		} else {
			err = t.Delete(ctx, tx, csumKey(i.addr))
		}
		if err == nil && m.csumEnd(i) > to {
			err = t.Insert(ctx, tx, csumKey(to), i.sums[int((to-i.addr)/ondisk.SectorSize)*m.csumSize:])
		}
		if err != nil || i.addr <= from {
			return err
		}
	}
}

// shrinkCsum keeps the first bytes of an item.
func (m *Manager) shrinkCsum(ctx context.Context, tx btree.Txn, i csumItem, keep int) error {
	return m.trees.Csum().Modify(ctx, tx, csumKey(i.addr), func(old []byte) ([]byte, error) {
		if len(old) < keep {
			return nil, fserr.Corruptf("csum item", uint64(ondisk.CsumTree), i.addr, "%d bytes, %d expected", len(old), len(i.sums))
		}
		return slices.Clone(old[:keep]), nil
	})
}

// LookupCsums returns the checksums of the n bytes at addr (multiples of the sector size), one after the other, and
// which of them exist: those of NODATASUM files and of preallocated extents do not, their bytes are zero.
func (m *Manager) LookupCsums(ctx context.Context, addr ondisk.Logical, n uint64) (sums []byte, have []bool, err error) {
	m.csumMu.RLock() // merging and cutting move checksums between items
	defer m.csumMu.RUnlock()
	t := m.trees.Csum()
	return m.lookupCsums(addr, n, func(k ondisk.Key) (ondisk.Key, bool, error) {
		return t.KeyLE(ctx, k)
	}, func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
		return t.Scan(ctx, from, to, fn)
	})
}

// LookupCommittedCsums is LookupCsums in a commit root of the csum tree, for a reader that holds a ticket or
// commitRootMu, without locks.
func (m *Manager) LookupCommittedCsums(ctx context.Context, root *extbuf.Buffer, addr ondisk.Logical, n uint64) (sums []byte, have []bool, err error) {
	r := m.committed()
	return m.lookupCsums(addr, n, func(k ondisk.Key) (ondisk.Key, bool, error) {
		return r.KeyLE(ctx, root, k)
	}, func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
		return r.Scan(ctx, root, from, to, fn)
	})
}

func (m *Manager) lookupCsums(addr ondisk.Logical, n uint64, seekLE func(ondisk.Key) (ondisk.Key, bool, error),
	scan func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error) (sums []byte, have []bool, err error) {
	start, sectors := uint64(addr), int(n/ondisk.SectorSize)
	sums, have = make([]byte, sectors*m.csumSize), make([]bool, sectors)
	if sectors == 0 {
		return sums, have, nil
	}
	from := csumKey(start)
	if k, ok, err := seekLE(from); err != nil {
		return nil, nil, err
	} else if ok && k.ObjectID == from.ObjectID && k.Type == from.Type {
		from = k
	}
	err = scan(from, csumKey(start+n-1), func(k ondisk.Key, item []byte) (bool, error) {
		if k.Type != ondisk.ExtentCsumKey {
			return true, nil
		}
		if err := m.checkCsumItem(k, item); err != nil {
			return false, err
		}
		m.copyCsums(sums, have, start, k.Offset, item)
		return true, nil
	})
	if err != nil {
		return nil, nil, err
	}
	return sums, have, nil
}

// copyCsums copies what an item at base has of the sectors from start on.
func (m *Manager) copyCsums(sums []byte, have []bool, start, base uint64, item []byte) {
	skip, at := 0, 0
	if base < start {
		skip = int((start - base) / ondisk.SectorSize)
	} else {
		at = int((base - start) / ondisk.SectorSize)
	}
	n := min(len(item)/m.csumSize-skip, len(have)-at)
	for i := range max(n, 0) {
		have[at+i] = true
	}
	if n > 0 {
		copy(sums[at*m.csumSize:], item[skip*m.csumSize:(skip+n)*m.csumSize])
	}
}
