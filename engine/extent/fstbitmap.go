package extent

import (
	"context"

	"imgtool/engine/btree"
	"imgtool/engine/ondisk"
)

// A bitmap item covers bitmapRange bytes from the group's start on, the last one what is left; bit i of byte i/8 stands
// for sector i and is set when that is free (fs/btrfs/free-space-tree.c).

// bitmapAt returns the key of the bitmap that covers addr.
func (g *group) bitmapAt(addr uint64) ondisk.Key {
	start := g.start + (addr-g.start)/bitmapRange*bitmapRange
	return ondisk.Key{ObjectID: ondisk.ObjectID(start), Type: ondisk.FreeSpaceBitmapKey, Offset: min(bitmapRange, g.end()-start)}
}

func bitmapSize(n uint64) int { return int((n/ondisk.SectorSize + 7) / 8) }

func bit(item []byte, i uint64) bool { return item[i/8]&(1<<(i%8)) != 0 }

func (w *fstWriter) checkBitmap(k ondisk.Key, item []byte) error {
	if len(item) != bitmapSize(k.Offset) {
		return corruptFree(w.g, uint64(k.ObjectID), "FREE_SPACE_BITMAP of %d bytes for %d sectors", len(item), k.Offset/ondisk.SectorSize)
	}
	return nil
}

// isFree looks one sector up; addresses outside the group count as taken.
func (w *fstWriter) isFree(addr uint64) (free bool, err error) {
	if !w.g.holds(addr, ondisk.SectorSize) {
		return false, nil
	}
	k := w.g.bitmapAt(addr)
	err = w.t.View(w.ctx, k, func(item []byte) error {
		if err := w.checkBitmap(k, item); err != nil {
			return err
		}
		free = bit(item, (addr-uint64(k.ObjectID))/ondisk.SectorSize)
		return nil
	})
	return free, err
}

// setBits sets or clears the bits of a range, all of which must be the other way before.
func (w *fstWriter) setBits(c change) error {
	end := c.start + c.n
	prev, err := w.isFree(c.start - ondisk.SectorSize)
	if err != nil {
		return err
	}
	next, err := w.isFree(end)
	if err != nil {
		return err
	}
	for at := c.start; at < end; {
		k := w.g.bitmapAt(at)
		upTo := min(end, uint64(k.ObjectID)+k.Offset)
		err := w.t.Update(w.ctx, w.tx, k, func(item []byte) error {
			if err := w.checkBitmap(k, item); err != nil {
				return err
			}
			return w.flip(item, uint64(k.ObjectID), at, upTo, c.free)
		})
		if err != nil {
			return err
		}
		at = upTo
	}
	// A freed range with no free neighbour is one more, between two it joins them; taken ranges the other way round.
	d := int64(1)
	if prev {
		d--
	}
	if next {
		d--
	}
	if !c.free {
		d = -d
	}
	w.delta += d
	return nil
}

// flip changes the bits of [from, to) in the bitmap that starts at base.
func (w *fstWriter) flip(item []byte, base, from, to uint64, free bool) error {
	// Look before changing: the item is the tree's, and an error must leave it alone.
	a, b := (from-base)/ondisk.SectorSize, (to-base)/ondisk.SectorSize
	for i := a; i < b; i++ {
		if bit(item, i) == free {
			return corruptFree(w.g, base+i*ondisk.SectorSize, "sector changes to free=%t, but is so already", free)
		}
	}
	for i := a; i < b; i++ {
		item[i/8] ^= 1 << (i % 8)
	}
	return nil
}

// bitRuns calls add for each run of set bits.
func bitRuns(item []byte, base, n uint64, add func(start, n uint64) error) error {
	sectors := n / ondisk.SectorSize
	for i := uint64(0); i < sectors; {
		if !bit(item, i) {
			i++
			continue
		}
		j := i + 1
		for j < sectors && bit(item, j) {
			j++
		}
		if err := add(base+i*ondisk.SectorSize, (j-i)*ondisk.SectorSize); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// free collects the group's free ranges, those that touch joined, from items that scan yields.
func (g *group) collectFree(scan func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error) (info *ondisk.FreeSpaceInfo, free []addrRange, err error) {
	add := func(start, n uint64) error {
		if !g.holds(start, n) || n == 0 {
			return corruptFree(g, start, "free range of %d bytes leaves the group", n)
		}
		if k := len(free); k > 0 && free[k-1].start+free[k-1].n == start {
			free[k-1].n += n
			return nil
		}
		free = append(free, addrRange{start, n})
		return nil
	}
	from := ondisk.Key{ObjectID: ondisk.ObjectID(g.start)}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(g.end() - 1), Type: 255, Offset: ^uint64(0)}
	err = scan(from, to, func(k ondisk.Key, item []byte) (bool, error) {
		switch k.Type {
		case ondisk.FreeSpaceInfoKey:
			if len(item) < ondisk.FreeSpaceInfoSize || info != nil || k != g.infoKey() {
				return false, corruptFree(g, uint64(k.ObjectID), "unexpected FREE_SPACE_INFO %v of %d bytes", k, len(item))
			}
			c := *ondisk.AsFreeSpaceInfo(item)
			info = &c
		case ondisk.FreeSpaceExtentKey:
			return true, add(uint64(k.ObjectID), k.Offset)
		case ondisk.FreeSpaceBitmapKey:
			if k.Offset > bitmapRange || len(item) != bitmapSize(k.Offset) {
				return false, corruptFree(g, uint64(k.ObjectID), "FREE_SPACE_BITMAP of %d bytes for %d", len(item), k.Offset)
			}
			return true, bitRuns(item, uint64(k.ObjectID), k.Offset, add)
		}
		return true, nil
	})
	return info, free, err
}

// toBitmaps replaces the group's extent items by bitmaps.
func (w *fstWriter) toBitmaps() error {
	free, err := w.clear(ondisk.FreeSpaceExtentKey)
	if err != nil {
		return err
	}
	return w.replace(w.g.bitmapItems(free), free, true)
}

// bitmapItems are the bitmaps that describe the group's free ranges.
func (g *group) bitmapItems(free []addrRange) []btree.Item {
	var items []btree.Item
	for at := g.start; at < g.end(); at += bitmapRange {
		k := g.bitmapAt(at)
		items = append(items, btree.Item{Key: k, Data: make([]byte, bitmapSize(k.Offset))})
	}
	for _, r := range free {
		for at := r.start; at < r.start+r.n; at += ondisk.SectorSize {
			i := (at - g.start) / ondisk.SectorSize
			items[i/ondisk.FreeSpaceBitmapBits].Data[i%ondisk.FreeSpaceBitmapBits/8] |= 1 << (i % 8)
		}
	}
	return items
}

// toExtents replaces the group's bitmaps by extent items.
func (w *fstWriter) toExtents() error {
	free, err := w.clear(ondisk.FreeSpaceBitmapKey)
	if err != nil {
		return err
	}
	return w.replace(extentItems(free), free, false)
}

func extentItems(free []addrRange) []btree.Item {
	items := make([]btree.Item, len(free))
	for i, r := range free {
		items[i] = btree.Item{Key: freeExtentKey(r.start, r.n)}
	}
	return items
}

// clear deletes the group's items of one type and returns what they said.
func (w *fstWriter) clear(typ ondisk.ItemType) ([]addrRange, error) {
	_, free, err := w.g.collectFree(func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
		return w.t.Scan(w.ctx, from, to, fn)
	})
	if err != nil {
		return nil, err
	}
	if uint32(len(free)) != w.g.fst.extents {
		return nil, corruptFree(w.g, w.g.start, "extent count %d, but %d free ranges", w.g.fst.extents, len(free))
	}
	from := ondisk.Key{ObjectID: ondisk.ObjectID(w.g.start)}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(w.g.end() - 1), Type: 255, Offset: ^uint64(0)}
	return free, w.t.DeleteRange(w.ctx, w.tx, from, to, func(k ondisk.Key, _ []byte) (bool, bool, error) {
		return k.Type == typ, true, nil
	})
}

func (w *fstWriter) replace(items []btree.Item, free []addrRange, bitmaps bool) error {
	if len(items) > 0 {
		if err := w.t.InsertBatch(w.ctx, w.tx, items); err != nil {
			return err
		}
	}
	w.g.fst.bitmaps = bitmaps
	w.g.fst.extents = uint32(len(free))
	return w.writeInfo()
}

// freeSpaceItems is a freespace.Source that reads the free-space tree of the last commit.
type freeSpaceItems struct {
	ctx context.Context
	m   *Manager
	g   *group
}

// LoadFree implements freespace.Source.
func (s freeSpaceItems) LoadFree(add func(start, n uint64) error) error {
	info, free, err := s.g.collectFree(func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
		return s.m.scanCommitted(s.ctx, s.m.trees.FreeSpace(), from, to, fn)
	})
	if err != nil {
		return err
	}
	if info == nil {
		return corruptFree(s.g, s.g.start, "no FREE_SPACE_INFO")
	}
	if int(info.ExtentCount()) != len(free) {
		return corruptFree(s.g, s.g.start, "extent count %d, but %d free ranges", info.ExtentCount(), len(free))
	}
	for _, r := range free {
		if err := add(r.start, r.n); err != nil {
			return corruptFree(s.g, r.start, "%v", err)
		}
	}
	return nil
}
