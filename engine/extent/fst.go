package extent

import (
	"context"
	"fmt"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// fstState is what a group's FREE_SPACE_INFO says. Guarded by group.fstMu.
type fstState struct {
	known    bool
	extents  uint32 // number of free ranges; a range that crosses bitmaps counts once
	bitmaps  bool
	needInit bool // the items do not exist yet: a new chunk
}

// bitmapRange is how many bytes one FREE_SPACE_BITMAP covers.
const bitmapRange = ondisk.FreeSpaceBitmapBits * ondisk.SectorSize

// fstThresholds returns the extent counts above which a group's free space is kept in bitmaps, and below which it goes
// back to extents: where the items of bitmaps take less room than those of extents, and 100 less
// (fs/btrfs/free-space-tree.c, set_free_space_tree_thresholds).
func fstThresholds(length uint64) (high, low uint32) {
	bitmaps := (length + bitmapRange - 1) / bitmapRange
	h := bitmaps * (ondisk.ItemSize + ondisk.FreeSpaceBitmapBytes) / ondisk.ItemSize
	if h > 100 {
		return uint32(h), uint32(h - 100)
	}
	return uint32(h), 0
}

func (g *group) infoKey() ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.ObjectID(g.start), Type: ondisk.FreeSpaceInfoKey, Offset: g.length}
}

func freeExtentKey(start, n uint64) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.ObjectID(start), Type: ondisk.FreeSpaceExtentKey, Offset: n}
}

func corruptFree(g *group, at uint64, format string, args ...any) error {
	return fserr.Corruptf("free space", uint64(ondisk.FreeSpaceTree), at, "in %v: %s", g, fmt.Sprintf(format, args...))
}

// flushFreeSpace applies the notes of all groups to the free-space tree, and reports whether there were any. Without a
// free-space tree it only forgets them.
func (m *Manager) flushFreeSpace(ctx context.Context, tx btree.Txn) (bool, error) {
	m.dirtyMu.Lock()
	groups := make([]*group, 0, len(m.fstDirty))
	for g := range m.fstDirty {
		groups = append(groups, g)
	}
	clear(m.fstDirty)
	m.dirtyMu.Unlock()
	any := false
	for _, g := range groups {
		did, err := m.flushGroup(ctx, tx, g)
		if err != nil {
			return any, fmt.Errorf("free-space tree, %v: %w", g, err)
		}
		any = any || did
	}
	return any, nil
}

func (m *Manager) flushGroup(ctx context.Context, tx btree.Txn, g *group) (bool, error) {
	g.fstMu.Lock()
	defer g.fstMu.Unlock()
	g.mu.Lock()
	changes := coalesce(g.freed)
	g.space.notes.Add(-int64(len(g.freed)))
	clear(g.freed)
	g.mu.Unlock()
	t := m.trees.FreeSpace()
	if t == nil || len(changes) == 0 {
		return false, nil
	}
	w := fstWriter{ctx, tx, t, g, int64(0)}
	if err := w.begin(); err != nil {
		return false, err
	}
	for _, c := range changes {
		if err := w.apply(c); err != nil {
			return true, err
		}
	}
	return true, w.finish()
}

// fstWriter changes one group's part of the free-space tree. Its user holds group.fstMu, no tree-block lock.
type fstWriter struct {
	ctx   context.Context
	tx    btree.Txn
	t     *btree.Tree
	g     *group
	delta int64 // change of the extent count
}

// begin makes sure that the group's items exist and that its state is known.
func (w *fstWriter) begin() error {
	if w.g.fst.needInit {
		return w.create()
	}
	if w.g.fst.known {
		return nil
	}
	return w.t.View(w.ctx, w.g.infoKey(), func(item []byte) error { return w.g.setInfo(item) })
}

func (g *group) setInfo(item []byte) error {
	if len(item) < ondisk.FreeSpaceInfoSize {
		return corruptFree(g, g.start, "FREE_SPACE_INFO of %d bytes", len(item))
	}
	i := ondisk.AsFreeSpaceInfo(item)
	g.fst = fstState{known: true, extents: i.ExtentCount(), bitmaps: i.Flags()&ondisk.FreeSpaceUsingBitmaps != 0}
	return nil
}

// create inserts the items of a new group: all of it is free.
func (w *fstWriter) create() error {
	var info ondisk.FreeSpaceInfo
	info.SetExtentCount(1)
	if err := w.t.Insert(w.ctx, w.tx, w.g.infoKey(), info[:]); err != nil {
		return err
	}
	if err := w.t.Insert(w.ctx, w.tx, freeExtentKey(w.g.start, w.g.length), nil); err != nil {
		return err
	}
	w.g.fst = fstState{known: true, extents: 1}
	return nil
}

func (w *fstWriter) apply(c change) error {
	switch {
	case w.g.fst.bitmaps:
		return w.setBits(c)
	case c.free:
		return w.addExtent(c.start, c.n)
	}
	return w.removeExtent(c.start, c.n)
}

// finish writes the new extent count and changes the format when a threshold has been crossed.
func (w *fstWriter) finish() error {
	n := int64(w.g.fst.extents) + w.delta
	if n < 0 {
		return corruptFree(w.g, w.g.start, "extent count %d cannot change by %d", w.g.fst.extents, w.delta)
	}
	if w.delta != 0 {
		w.g.fst.extents = uint32(n)
		if err := w.writeInfo(); err != nil {
			return err
		}
	}
	high, low := fstThresholds(w.g.length)
	switch {
	case !w.g.fst.bitmaps && w.g.fst.extents > high:
		return w.toBitmaps()
	case w.g.fst.bitmaps && w.g.fst.extents < low:
		return w.toExtents()
	}
	return nil
}

func (w *fstWriter) writeInfo() error {
	return w.t.Update(w.ctx, w.tx, w.g.infoKey(), func(item []byte) error {
		i := ondisk.AsFreeSpaceInfo(item)
		i.SetExtentCount(w.g.fst.extents)
		flags := i.Flags() &^ ondisk.FreeSpaceUsingBitmaps
		if w.g.fst.bitmaps {
			flags |= ondisk.FreeSpaceUsingBitmaps
		}
		i.SetFlags(flags)
		return nil
	})
}

// before returns the FREE_SPACE_EXTENT with the highest start <= at, if the group has one.
func (w *fstWriter) before(at uint64) (r addrRange, ok bool, err error) {
	k, ok, err := w.t.KeyLE(w.ctx, ondisk.Key{ObjectID: ondisk.ObjectID(at), Type: ondisk.FreeSpaceExtentKey, Offset: ^uint64(0)})
	if err != nil || !ok || k.Type != ondisk.FreeSpaceExtentKey || uint64(k.ObjectID) < w.g.start {
		return addrRange{}, false, err
	}
	if !w.g.holds(uint64(k.ObjectID), k.Offset) {
		return addrRange{}, false, corruptFree(w.g, uint64(k.ObjectID), "FREE_SPACE_EXTENT of %d bytes leaves the group", k.Offset)
	}
	return addrRange{uint64(k.ObjectID), k.Offset}, true, nil
}

// addExtent records that [start, start+n) is free and merges it with the free ranges that touch it.
func (w *fstWriter) addExtent(start, n uint64) error {
	end := start + n
	right, haveRight := addrRange{}, false
	r, ok, err := w.before(min(end, w.g.end()-1)) // what begins at the group's end is another group's
	if err != nil {
		return err
	}
	if ok && r.start == end {
		right, haveRight = r, true
		if r, ok, err = w.before(start); err != nil {
			return err
		}
	}
	if ok && r.start+r.n > start {
		return corruptFree(w.g, start, "[%d, +%d) is freed, but [%d, +%d) is free already", start, n, r.start, r.n)
	}
	haveLeft := ok && r.start+r.n == start
	w.delta++
	if haveRight {
		w.delta--
	}
	if haveLeft {
		w.delta--
	}
	switch {
	case haveLeft && haveRight:
		if err := w.t.Delete(w.ctx, w.tx, freeExtentKey(right.start, right.n)); err != nil {
			return err
		}
		return w.move(r, addrRange{r.start, r.n + n + right.n})
	case haveLeft:
		return w.move(r, addrRange{r.start, r.n + n})
	case haveRight:
		return w.move(right, addrRange{start, n + right.n})
	}
	return w.t.Insert(w.ctx, w.tx, freeExtentKey(start, n), nil)
}

// removeExtent records that [start, start+n) is taken, cutting the free range that holds it.
func (w *fstWriter) removeExtent(start, n uint64) error {
	end := start + n
	r, ok, err := w.before(start)
	if err != nil {
		return err
	}
	if !ok || r.start+r.n < end {
		return corruptFree(w.g, start, "[%d, +%d) is taken, but not free", start, n)
	}
	front, back := start-r.start, r.start+r.n-end
	switch {
	case front == 0 && back == 0:
		w.delta--
		return w.t.Delete(w.ctx, w.tx, freeExtentKey(r.start, r.n))
	case front == 0:
		return w.move(r, addrRange{end, back})
	case back == 0:
		return w.move(r, addrRange{r.start, front})
	}
	w.delta++
	if err := w.move(r, addrRange{r.start, front}); err != nil {
		return err
	}
	return w.t.Insert(w.ctx, w.tx, freeExtentKey(end, back), nil)
}

func (w *fstWriter) move(from, to addrRange) error {
	return w.t.SetKey(w.ctx, w.tx, freeExtentKey(from.start, from.n), freeExtentKey(to.start, to.n))
}
