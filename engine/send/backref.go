package send

import (
	"cmp"
	"errors"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// maxRefs is how many references an extent may have for clone sources to be looked for: each is a search.
const maxRefs = 1024

// dataRef is one entry of an extent's backrefs: either the owner of a leaf, an inode and the offset at which the
// whole extent would begin in it, or the leaf that the reference is in.
type dataRef struct {
	root   ondisk.TreeID
	ino    ondisk.ObjectID
	base   uint64
	parent ondisk.Logical
}

// findClone looks for data that the receiver has and that is the same as the extent's: through the extent's
// references. nil if there is none.
//
// A reference of a subvolume is found in the leaf in which it stands; a snapshot shares leaves, so that the owner that a
// reference names need not be the subvolume in which it is seen. But the inode and the offset are the same there. So
// each is looked for in each of the trees that may be cloned from.
func (s *sender) findClone(e *extent) (*cloneSource, error) {
	if e.typ == ondisk.FileExtentInline || e.disk == 0 {
		return nil, nil
	}
	refs, err := s.backrefs(e)
	if err != nil || len(refs) == 0 {
		return nil, err
	}
	want := min(e.num, s.cur.size-e.start)
	best := make([]cloneSource, len(s.sources))
	full := false
	for i := 0; i < len(refs) && !full; i++ {
		places, err := s.placesOf(&refs[i], e)
		if err != nil {
			return nil, err
		}
		for _, p := range places {
			for n, t := range s.sources {
				if full, err = s.consider(t, p, e, want, &best[n]); err != nil {
					return nil, err
				}
				if full {
					break
				}
			}
			if full {
				break
			}
		}
	}
	var found *cloneSource
	for i := range best {
		if b := &best[i]; b.tree != nil && (found == nil || b.num > found.num) {
			if found = b; b.num >= want {
				break
			}
		}
	}
	return found, nil
}

// place is an inode and an offset at which an extent may be referred to.
type place struct {
	ino ondisk.ObjectID
	off uint64
}

// consider looks whether a tree has the extent at a place, and whether it is a better source than the best so far; full
// tells that there can be no better one.
func (s *sender) consider(t *tree, p place, e *extent, want uint64, best *cloneSource) (full bool, err error) {
	if t == s.send && p.ino > s.cur.ino {
		return false, nil // the receiver does not have it yet
	}
	var found *extent
	err = t.search(func() error {
		found = nil
		err := t.view.View(s.ctx, keyOf(p.ino, ondisk.ExtentDataKey, p.off), func(data []byte) error {
			x, err := t.parseExtent(keyOf(p.ino, ondisk.ExtentDataKey, p.off), data)
			found = &x
			return err
		})
		if errors.Is(err, fserr.ErrNotFound) {
			err = nil
		}
		return err
	})
	if err != nil || found == nil || found.typ == ondisk.FileExtentInline || found.disk != e.disk {
		return false, err
	}
	off := p.off
	if e.comp == ondisk.CompressNone {
		if e.off < found.off || e.off >= found.off+found.num {
			return false, nil
		}
		off += e.off - found.off
	}
	if t == s.send && p.ino == s.cur.ino && (off == e.start || off+want > s.cur.written) {
		return false, nil
	}
	if found.num > best.num {
		*best = cloneSource{t, p.ino, off, found.num}
		return found.num >= want, nil
	}
	return false, nil
}

// placesOf lists the places that a backref may stand for.
func (s *sender) placesOf(r *dataRef, e *extent) ([]place, error) {
	if r.parent != 0 {
		return s.placesInLeaf(r.parent, e.disk)
	}
	if r.ino == s.cur.ino && r.root == e.owner && r.base == e.start-e.off && len(s.sources) == 1 {
		return nil, nil // our own
	}
	// The items that refer to the extent with this base: in each of the trees, for they may have been cut differently.
	var list []place
	for _, t := range s.sources {
		if t == s.send && r.ino > s.cur.ino {
			continue
		}
		from, end := r.base, r.base+e.ram
		if end < from {
			from = 0 // the file shows no more than the extent's end
		}
		err := t.each(keyOf(r.ino, ondisk.ExtentDataKey, from), keyOf(r.ino, ondisk.ExtentDataKey, end-1), 0, func(it *item) (bool, error) {
			x, err := t.extentOf(it)
			if err == nil && x.typ != ondisk.FileExtentInline && x.disk == e.disk && x.start-x.off == r.base {
				if p := (place{r.ino, x.start}); !slices.Contains(list, p) {
					list = append(list, p)
				}
			}
			return true, err
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// placesInLeaf lists the items of a leaf that refer to an extent.
func (s *sender) placesInLeaf(leaf, disk ondisk.Logical) ([]place, error) {
	b, err := s.db.Cache().ReadUnchecked(s.ctx, leaf)
	if errors.Is(err, fserr.ErrCorrupt) {
		return nil, nil // then the data is sent
	}
	if err != nil {
		return nil, err
	}
	defer b.Release()
	var list []place
	block := b.Block()
	if block.Level() != 0 {
		return nil, nil
	}
	for i := range block.NrItems() {
		if k := block.Key(i); k.Type == ondisk.ExtentDataKey && block.ItemSize(i) >= ondisk.FileExtentItemSize {
			it := ondisk.AsFileExtentItem(block.Item(i))
			if it.Type() != ondisk.FileExtentInline && it.DiskBytenr() == disk {
				list = append(list, place{k.ObjectID, k.Offset})
			}
		}
	}
	slices.Reverse(list)
	return list, nil
}

// backrefs lists an extent's references; none if it has no other than our own, or too many to look at.
func (s *sender) backrefs(e *extent) (refs []dataRef, err error) {
	key := ondisk.Key{ObjectID: ondisk.ObjectID(e.disk), Type: ondisk.ExtentItemKey, Offset: e.diskLen}
	alone := false
	total, inline := uint64(0), uint64(0)
	err = s.extents.search(func() error {
		refs, alone, total, inline = refs[:0], false, 0, 0
		return s.extents.view.View(s.ctx, key, func(data []byte) error {
			if len(data) < ondisk.ExtentItemSize {
				return fserr.Corruptf("extent item", uint64(ondisk.ExtentTree), uint64(e.disk), "%d bytes", len(data))
			}
			total = ondisk.AsExtentItem(data).Refs()
			if alone = total == 1 && len(s.sources) == 1; alone || total > maxRefs {
				return nil
			}
			return ondisk.InlineRefs(data, ondisk.ExtentItemKey, func(r ondisk.InlineRef) bool {
				switch inline += uint64(r.Count); r.Type {
				case ondisk.ExtentDataRefKey:
					refs = append(refs, dataRef{root: r.Data.Root(), ino: r.Data.ObjectID(), base: r.Data.Offset()})
				case ondisk.SharedDataRefKey:
					refs = append(refs, dataRef{parent: ondisk.Logical(r.Offset)})
				}
				return true
			})
		})
	})
	switch {
	case errors.Is(err, fserr.ErrNotFound):
		return nil, nil // it has moved since our leaf was copied: the data is sent
	case err != nil || alone || total > maxRefs:
		return nil, err
	}
	if inline < total {
		if refs, err = s.keyedBackrefs(e, refs); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(refs, func(a, b dataRef) int {
		return cmp.Or(cmp.Compare(a.root, b.root), cmp.Compare(a.ino, b.ino), cmp.Compare(a.base, b.base), cmp.Compare(a.parent, b.parent))
	})
	return refs, nil
}

// keyedBackrefs adds the references that have items of their own.
func (s *sender) keyedBackrefs(e *extent, refs []dataRef) ([]dataRef, error) {
	from := ondisk.Key{ObjectID: ondisk.ObjectID(e.disk), Type: ondisk.ExtentDataRefKey}
	to := ondisk.Key{ObjectID: ondisk.ObjectID(e.disk), Type: ondisk.SharedDataRefKey, Offset: ^uint64(0)}
	inline := len(refs)
	err := s.extents.search(func() error {
		refs = refs[:inline]
		return s.extents.view.Scan(s.ctx, from, to, func(k ondisk.Key, data []byte) (bool, error) {
			switch {
			case k.Type == ondisk.ExtentDataRefKey && len(data) >= ondisk.ExtentDataRefSize:
				r := ondisk.AsExtentDataRef(data)
				refs = append(refs, dataRef{root: r.Root(), ino: r.ObjectID(), base: r.Offset()})
			case k.Type == ondisk.SharedDataRefKey:
				refs = append(refs, dataRef{parent: ondisk.Logical(k.Offset)})
			}
			return true, nil
		})
	})
	return refs, err
}
