package check

import (
	"bytes"
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// rootTree walks the root tree.
func (c *checker) rootTree() error {
	root := &treeRoot{id: ondisk.RootTree, addr: c.sb.Root(), gen: c.sb.Generation(), level: c.sb.RootLevel(), drop: -1, item: -1}
	c.orphans = map[ondisk.TreeID]bool{}
	if root.level >= ondisk.MaxLevel {
		c.lost.add(ondisk.RootTree)
		return nil
	}
	c.rootRoot = root
	workers, err := c.walk([]*treeRoot{root}, rootLeaf)
	if err != nil {
		return err
	}
	for _, w := range workers {
		c.roots = append(c.roots, w.parts.roots...)
		c.rootRefs = append(c.rootRefs, w.parts.rootRefs...)
		c.cacheRefs = append(c.cacheRefs, w.parts.cacheRefs...)
		for _, id := range w.parts.orphans {
			c.orphans[id] = true
		}
		if w.files.hasDefault {
			c.hasDefault, c.defaultDir = true, w.files.defaultDir
		}
	}
	slices.SortFunc(c.roots, func(a, b rootItem) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.offset, b.offset)) })
	slices.SortFunc(c.rootRefs, compareRootRefs)
	for i := range c.roots {
		r := &c.roots[i]
		r.item = i
		if r.refs == 0 && r.dropKey != (ondisk.Key{}) {
			r.drop = int32(len(c.drops))
			c.drops = append(c.drops, dropped{r.dropKey, r.dropLevel})
		}
	}
	return nil
}

func compareRootRefs(a, b rootRef) int {
	back := func(r rootRef) int {
		if r.back {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(back(a), back(b)), cmp.Compare(a.child, b.child), cmp.Compare(a.parent, b.parent))
}

// rootLeaf collects the items of a leaf of the root tree.
func rootLeaf(w *worker, id uint32, b ondisk.Block) {
	at := w.c.blocks[id].addr
	for i := range b.NrItems() {
		k, item := b.Key(i), b.Item(i)
		switch k.Type {
		case ondisk.RootItemKey:
			w.parts.roots = append(w.parts.roots, readRootItem(k, item, at))
		case ondisk.RootRefKey, ondisk.RootBackrefKey:
			r := ondisk.AsRootRef(item)
			ref := rootRef{parent: ondisk.TreeID(k.ObjectID), child: ondisk.TreeID(k.Offset), dir: r.DirID(), seq: r.Sequence(),
				name: string(item[ondisk.RootRefSize:]), at: at}
			if k.Type == ondisk.RootBackrefKey {
				ref.parent, ref.child, ref.back = ref.child, ref.parent, true
			}
			w.parts.rootRefs = append(w.parts.rootRefs, ref)
		case ondisk.OrphanItemKey:
			w.parts.orphans = append(w.parts.orphans, ondisk.TreeID(k.Offset))
		case ondisk.DirItemKey:
			if k.ObjectID == ondisk.RootTreeDirObjectID {
				_ = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool { // treecheck has seen the item
					if bytes.Equal(e.Name, []byte("default")) {
						w.files.hasDefault, w.files.defaultDir = true, ondisk.TreeID(e.Location().ObjectID)
					}
					return true
				})
			}
		case ondisk.ExtentDataKey:
			if r, ok := dataRefOf(ondisk.RootTree, k, item); ok {
				r.leaf = id
				w.parts.cacheRefs = append(w.parts.cacheRefs, r)
			}
		}
	}
}

func readRootItem(k ondisk.Key, item []byte, at ondisk.Logical) rootItem {
	var full ondisk.RootItem // old items are shorter; what they lack reads as zero
	copy(full[:], item)
	return rootItem{
		treeRoot: treeRoot{id: ondisk.TreeID(k.ObjectID), addr: full.Bytenr(), gen: full.Generation(), level: full.Level(), drop: -1, key: k.Offset},
		offset:   k.Offset, refs: full.Refs(), rootDir: full.RootDirID(), uuid: full.UUID(), received: full.ReceivedUUID(),
		dropKey: full.DropProgress(), dropLevel: full.DropLevel(), at: at,
	}
}

// root returns the first root item of a tree.
func (c *checker) root(id ondisk.TreeID) *rootItem {
	i, _ := slices.BinarySearchFunc(c.roots, id, func(r rootItem, id ondisk.TreeID) int { return cmp.Compare(r.id, id) })
	if i == len(c.roots) || c.roots[i].id != id {
		return nil
	}
	return &c.roots[i]
}

// otherTrees walks all trees but those of files.
func (c *checker) otherTrees() error {
	c.wantRoots()
	var list []*treeRoot
	for i := range c.roots {
		if r := &c.roots[i]; !r.id.IsFileTree() {
			list = append(list, &r.treeRoot)
		}
	}
	workers, err := c.walk(list, otherLeaf)
	if err != nil {
		return err
	}
	for _, w := range workers {
		p := &w.parts
		c.devExtents = append(c.devExtents, p.devExtents...)
		c.extents = append(c.extents, p.extents...)
		c.keyed = append(c.keyed, p.keyed...)
		c.groups = append(c.groups, p.groups...)
		c.csums = append(c.csums, p.csums...)
		c.infos = append(c.infos, p.infos...)
		c.free = append(c.free, p.free...)
		c.uuids = append(c.uuids, p.uuids...)
	}
	c.indexExtents()
	c.joinCsums()
	c.progress.begin("trees", c.progress.done.Load(), c.metadataBytes())
	return nil
}

// wantRoots looks for the trees without which the kernel mounts nothing.
func (c *checker) wantRoots() {
	need := []ondisk.TreeID{ondisk.ExtentTree, ondisk.DevTree, ondisk.FSTree, ondisk.CsumTree}
	if c.sb.HasCompatRO(ondisk.CompatROFreeSpaceTree) {
		need = append(need, ondisk.FreeSpaceTree)
	}
	if c.sb.HasCompatRO(ondisk.CompatROBlockGroupTree) {
		need = append(need, ondisk.BlockGroupTree)
	}
	for _, id := range need {
		if c.root(id) == nil {
			c.lost.add(id)
			if c.lost.in(ondisk.RootTree) {
				continue // the item may be in a lost block
			}
			c.found(Finding{ID: RootMissing, Root: id}, "the root tree has no item for the tree %v", id)
		}
	}
}

// otherLeaf collects the items of a leaf, each in the tree that it belongs to.
func otherLeaf(w *worker, id uint32, b ondisk.Block) {
	c, p := w.c, &w.parts
	addr, tree := c.blocks[id].addr, c.blocks[id].tree
	for i := range b.NrItems() {
		k := b.Key(i)
		switch {
		case tree == ondisk.ExtentTree && k.Type != ondisk.BlockGroupItemKey:
			c.extentItem(p, k, b.Item(i), addr)
		case k.Type == ondisk.BlockGroupItemKey && (tree == ondisk.ExtentTree || tree == ondisk.BlockGroupTree):
			g := ondisk.AsBlockGroupItem(b.Item(i))
			p.groups = append(p.groups, group{start: uint64(k.ObjectID), length: k.Offset, used: g.Used(), flags: g.Flags(), at: addr, tree: tree})
		case tree == ondisk.DevTree && k.Type == ondisk.DevExtentKey:
			e := ondisk.AsDevExtent(b.Item(i))
			p.devExtents = append(p.devExtents, devExtent{uint64(k.ObjectID), ondisk.Physical(k.Offset), e.Length(), e.ChunkOffset()})
		case tree == ondisk.CsumTree && k.Type == ondisk.ExtentCsumKey:
			n := uint64(b.ItemSize(i) / c.sb.Checksum().Size())
			p.csums = append(p.csums, span{k.Offset, k.Offset + n*c.sector})
		case tree == ondisk.FreeSpaceTree:
			c.freeItem(p, k, b.Item(i), addr)
		case tree == ondisk.UUIDTree && (k.Type == ondisk.UUIDKeySubvol || k.Type == ondisk.UUIDKeyReceived):
			for item := b.Item(i); len(item) >= 8; item = item[8:] {
				p.uuids = append(p.uuids, uuidEntry{k, ondisk.TreeID(le64(item))})
			}
		}
	}
}
