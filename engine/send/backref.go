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
// whole extent would begin in it, or the leaf (parent) that the reference is in.
type dataRef struct {
	root   ondisk.TreeID
	ino    ondisk.ObjectID
	base   uint64
	parent ondisk.Logical
	count  uint64
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
			if alone = total == 1 && s.leafIsOurs(e); alone || total > maxRefs {
				return nil
			}
			return ondisk.InlineRefs(data, ondisk.ExtentItemKey, func(r ondisk.InlineRef) bool {
				switch inline += uint64(r.Count); r.Type {
				case ondisk.ExtentDataRefKey:
					refs = append(refs, dataRef{root: r.Data.Root(), ino: r.Data.ObjectID(), base: r.Data.Offset(), count: uint64(r.Count)})
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
	if len(s.sources) == 1 { // our own is of no use
		refs = slices.DeleteFunc(refs, func(r dataRef) bool {
			return r.parent == 0 && r.ino == s.cur.ino && r.root == e.owner && r.base == e.start-e.off
		})
	}
	// The order in which the kernel looks at them: from the highest root, inode and offset down, leaves last.
	slices.SortFunc(refs, func(a, b dataRef) int {
		return cmp.Or(cmp.Compare(b.root, a.root), cmp.Compare(b.ino, a.ino), cmp.Compare(b.base, a.base), cmp.Compare(b.parent, a.parent))
	})
	return refs, nil
}

// leafIsOurs reports whether the leaf that an extent's item is in is surely in no other tree that may be cloned from:
// it is newer than all there is in them.
func (s *sender) leafIsOurs(e *extent) bool {
	for _, t := range s.sources {
		if t != s.send && e.leafGen <= t.item.Generation() {
			return false
		}
	}
	return true
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
				refs = append(refs, dataRef{root: r.Root(), ino: r.ObjectID(), base: r.Offset(), count: uint64(r.Count())})
			case k.Type == ondisk.SharedDataRefKey:
				refs = append(refs, dataRef{parent: ondisk.Logical(k.Offset)})
			}
			return true, nil
		})
	})
	return refs, err
}

// sight is an item that refers to an extent, at the place in its file that shows the byte looked for.
type sight struct {
	leaf ondisk.Logical
	item uint64 // the item's offset
	ino  ondisk.ObjectID
	off  uint64
	num  uint64 // bytes that the item shows
}

// sightOf is what an item shows of an extent; ok is false if not the byte at which e begins.
func sightOf(e *extent, ino ondisk.ObjectID, x *extent, leaf ondisk.Logical) (v sight, ok bool) {
	v = sight{leaf: leaf, item: x.start, ino: ino, off: x.start, num: x.num}
	if e.comp == ondisk.CompressNone {
		if e.off < x.off || e.off >= x.off+x.num {
			return v, false
		}
		v.off += e.off - x.off
	}
	return v, true
}

// sights finds the items that a reference stands for, in the trees that may be cloned from, by their keys. One by owner
// is found in leaves of that owner which are no parents of other references, one by leaf there.
func (s *sender) sights(r *dataRef, e *extent, parents []ondisk.Logical) ([]sight, error) {
	if r.parent != 0 {
		return s.sightsInLeaf(r.parent, e)
	}
	from, end := r.base, r.base+e.ram
	if end < from {
		from = 0 // the file shows no more than the extent's end
	}
	var list []sight
	for _, t := range s.sources {
		err := t.each(keyOf(r.ino, ondisk.ExtentDataKey, from), keyOf(r.ino, ondisk.ExtentDataKey, end-1), 0, func(it *item) (bool, error) {
			if it.owner != r.root || slices.Contains(parents, it.leaf) {
				return true, nil
			}
			x, err := t.extentOf(it)
			if err != nil || x.typ == ondisk.FileExtentInline || x.disk != e.disk || x.start-x.off != r.base {
				return true, err
			}
			if v, ok := sightOf(e, r.ino, &x, it.leaf); ok && !slices.Contains(list, v) {
				list = append(list, v)
			}
			return true, nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(list, func(a, b sight) int { return cmp.Compare(a.item, b.item) })
	return list, nil
}

// sightsInLeaf lists the items of a leaf that refer to an extent.
func (s *sender) sightsInLeaf(leaf ondisk.Logical, e *extent) ([]sight, error) {
	b, err := s.db.Cache().ReadUnchecked(s.ctx, leaf)
	if errors.Is(err, fserr.ErrCorrupt) {
		return nil, nil // then the data is sent
	}
	if err != nil {
		return nil, err
	}
	defer b.Release()
	var list []sight
	block := b.Block()
	if block.Level() != 0 {
		return nil, nil
	}
	for i := range block.NrItems() {
		k := block.Key(i)
		if k.Type != ondisk.ExtentDataKey || !refersTo(block.Item(i), e.disk) {
			continue
		}
		x, err := s.send.parseExtent(k, block.Item(i))
		if err != nil || x.typ == ondisk.FileExtentInline || x.disk != e.disk {
			continue // what is wrong with it shows where it is read for itself
		}
		if v, ok := sightOf(e, k.ObjectID, &x, leaf); ok {
			list = append(list, v)
		}
	}
	return list, nil
}

// refersTo reports whether a file extent item may refer to an extent: the first look, for most do not.
func refersTo(item []byte, disk ondisk.Logical) bool {
	return len(item) >= ondisk.FileExtentItemSize && ondisk.AsFileExtentItem(item).DiskBytenr() == disk
}

// seesLeaf reports whether a tree has an item in a leaf.
func (t *tree) seesLeaf(v *sight) (yes bool, err error) {
	k := keyOf(v.ino, ondisk.ExtentDataKey, v.item)
	err = t.each(k, k, 0, func(it *item) (bool, error) {
		yes = it.leaf == v.leaf
		return false, nil
	})
	return yes, err
}
