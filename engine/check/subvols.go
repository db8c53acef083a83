package check

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// subvolumes compares root items, root refs and the directory entries that lead into subvolumes.
func (c *checker) subvolumes() error {
	if c.lost.in(ondisk.RootTree) {
		return nil
	}
	places := map[ondisk.TreeID]int{}
	parent := map[ondisk.TreeID]ondisk.TreeID{}
	for i := range c.rootRefs {
		r := &c.rootRefs[i]
		at := Finding{Root: r.parent, Block: r.at, Inode: r.dir}
		other := c.rootRef(r.child, r.parent, !r.back)
		switch {
		case other == nil && r.back:
			at.ID = RootBackrefNoRef
			c.found(at, "subvolume %d says that it lies in this tree as %q, which has no ROOT_REF for it", uint64(r.child), r.name)
		case other == nil:
			at.ID = RootRefNoBackref
			c.found(at, "subvolume %d lies here as %q, but has no ROOT_BACKREF", uint64(r.child), r.name)
		case !r.back && (other.dir != r.dir || other.seq != r.seq || other.name != r.name):
			at.ID = RootRefDiffers
			c.found(at, "ROOT_REF of subvolume %d: directory %d, index %d, %q; ROOT_BACKREF: %d, %d, %q", uint64(r.child),
				uint64(r.dir), r.seq, r.name, uint64(other.dir), other.seq, other.name)
		}
		if r.back {
			places[r.child]++
			parent[r.child] = r.parent
			continue
		}
		if c.root(r.child) == nil {
			at.ID = RootRefNoRoot
			c.found(at, "%q leads to subvolume %d, which is not there", r.name, uint64(r.child))
		}
		if err := c.subvolEntry(r, at); err != nil {
			return err
		}
	}
	for i := range c.roots {
		c.subvolume(&c.roots[i], places[c.roots[i].id], parent)
	}
	for id := range c.orphans {
		if c.root(id) == nil {
			c.found(Finding{ID: OrphanNoRoot, Root: id}, "the subvolume is listed for deletion, and is gone")
		}
	}
	if c.hasDefault && c.root(c.defaultDir) == nil {
		c.found(Finding{ID: DefaultSubvol, Root: c.defaultDir}, "the default subvolume is not there")
	}
	return nil
}

// subvolume looks at one root item of a subvolume.
func (c *checker) subvolume(r *rootItem, places int, parent map[ondisk.TreeID]ondisk.TreeID) {
	if !r.id.IsSubvolume() {
		return
	}
	at := Finding{Root: r.id, Block: r.at}
	switch {
	case r.refs == 0 && !c.orphans[r.id]:
		at.ID = RootNoOrphan
		c.found(at, "the subvolume has no references and is not listed for deletion")
	case r.refs > 0 && r.id != ondisk.FSTree && places == 0:
		at.ID = RootNoPlace
		c.found(at, "no directory entry leads into the subvolume")
	case r.id != ondisk.FSTree && int64(r.refs) != int64(places):
		at.ID = RootRefs
		c.found(at, "root item has %d references, %d places lead into the subvolume", r.refs, places)
	}
	// Up to the top, no further than there are subvolumes.
	id, steps := r.id, 0
	for id != ondisk.FSTree && places > 0 {
		up, ok := parent[id]
		if !ok {
			return
		}
		if id = up; steps > len(parent) || id == r.id {
			at.ID = RootLoop
			c.found(at, "the subvolume lies inside itself")
			return
		}
		steps++
		if steps > maxDepth {
			return
		}
	}
}

// maxDepth bounds the way up from a subvolume, so that a long chain of them does not take quadratic time.
const maxDepth = 4096

// rootRef finds a ROOT_REF or ROOT_BACKREF.
func (c *checker) rootRef(child, parent ondisk.TreeID, back bool) *rootRef {
	i, ok := slices.BinarySearchFunc(c.rootRefs, rootRef{child: child, parent: parent, back: back}, compareRootRefs)
	if !ok {
		return nil
	}
	return &c.rootRefs[i]
}

// subvolEntry looks for the directory entry that a ROOT_REF tells of.
func (c *checker) subvolEntry(r *rootRef, at Finding) error {
	at.ID = RootRefNoEntry
	p := c.root(r.parent)
	if p == nil {
		c.found(at, "%q lies in a tree that is not there", r.name)
		return nil
	}
	key := ondisk.Key{ObjectID: r.dir, Type: ondisk.DirIndexKey, Offset: r.seq}
	item, known := c.lookup(&p.treeRoot, key)
	if !known {
		return c.ctx.Err()
	}
	ok := false
	_ = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
		l := e.Location()
		ok = string(e.Name) == r.name && l.Type == ondisk.RootItemKey && ondisk.TreeID(l.ObjectID) == r.child
		return !ok
	})
	if !ok {
		c.found(at, "DIR_INDEX %d of the directory does not lead to subvolume %d as %q", r.seq, uint64(r.child), r.name)
	}
	return nil
}

// lookup finds an item by its key; nil if it is not there, false if the way to it is lost.
func (c *checker) lookup(r *treeRoot, key ondisk.Key) ([]byte, bool) {
	id, buf := r.block, make([]byte, c.nodeSize)
	for c.ctx.Err() == nil {
		k := &c.blocks[id]
		if k.state != good {
			return nil, false
		}
		if k.level > 0 {
			kids := c.children(k)
			i, _ := slices.BinarySearchFunc(kids, key, func(kid uint32, key ondisk.Key) int {
				if c.blocks[kid].first.Compare(key) <= 0 {
					return -1
				}
				return 1
			})
			if i == 0 {
				return nil, true
			}
			if id = kids[i-1]; c.blocks[id].level >= k.level {
				return nil, false // a loop, which intern has reported
			}
			continue
		}
		b := c.readCopies(id, buf, false)
		if b == nil || treecheck.Block(b, c.tc) != nil {
			return nil, false
		}
		if slot, ok := b.Search(key); ok {
			return b.Item(slot), true
		}
		return nil, true
	}
	return nil, false
}

// uuidTree compares the uuid tree with the subvolumes. The kernel makes the tree anew if the superblock says that it is old.
func (c *checker) uuidTree() error {
	tree := c.root(ondisk.UUIDTree)
	if tree == nil || c.lost.in(ondisk.UUIDTree) || c.lost.in(ondisk.RootTree) || c.sb.UUIDTreeGeneration() != uint64(c.sb.Generation()) {
		return nil
	}
	compare := func(a, b uuidEntry) int { return cmp.Or(a.key.Compare(b.key), cmp.Compare(a.id, b.id)) }
	slices.SortFunc(c.uuids, compare)
	at := func(id ID, root ondisk.TreeID) Finding { return Finding{ID: id, Root: root} }
	for i := range c.roots {
		r := &c.roots[i]
		if !r.id.IsSubvolume() || !r.alive() {
			continue
		}
		for _, u := range []struct {
			uuid ondisk.UUID
			typ  ondisk.ItemType
			name string
		}{{r.uuid, ondisk.UUIDKeySubvol, "its"}, {r.received, ondisk.UUIDKeyReceived, "its received"}} {
			if u.uuid.IsZero() {
				continue
			}
			if _, ok := slices.BinarySearchFunc(c.uuids, uuidEntry{u.uuid.UUIDKey(u.typ), r.id}, compare); !ok {
				c.found(at(UUIDMissing, r.id), "the uuid tree does not know %s uuid %s", u.name, u.uuid)
			}
		}
	}
	for _, e := range c.uuids {
		r := c.root(e.id)
		ok := r != nil && (e.key.Type == ondisk.UUIDKeySubvol && r.uuid.UUIDKey(e.key.Type) == e.key ||
			e.key.Type == ondisk.UUIDKeyReceived && r.received.UUIDKey(e.key.Type) == e.key)
		if !ok {
			c.found(at(UUIDStale, e.id), "the uuid tree has %v for a subvolume that has no such uuid", e.key)
		}
	}
	return nil
}
