package check

import (
	"cmp"
	"slices"

	"imgtool/engine/ondisk"
)

// detailBudget bounds the second readings of trees: an image can have many trees that share all their blocks.
type detailBudget struct {
	left    int
	started bool
}

const (
	nameBuckets = 1 << 12
	maxNames    = 1 << 20
)

// nameSide says where a name was found.
type nameSide uint8

const (
	inItem  nameSide = iota // DIR_ITEM
	inIndex                 // DIR_INDEX
	inRef                   // INODE_REF or INODE_EXTREF
	asInode                 // an INODE_ITEM
	asOrphan
)

// nameClaim is what one item says of a name, or of an inode.
type nameClaim struct {
	side       nameSide
	dir        ondisk.ObjectID
	name       string
	ino        ondisk.ObjectID
	subvol     bool // ino is the id of a subvolume
	typ        uint8
	index      uint64
	nlink      uint32
	block      ondisk.Logical
	dirBucket  uint32
	nodeBucket uint32
}

// explainNames reads one tree again to tell what makes its sums differ. First it finds out in which of many buckets of
// names and inodes they do, then it collects what falls into those.
func (c *checker) explainNames(r *treeRoot) error {
	if !c.details.started {
		c.details = detailBudget{left: 4*len(c.blocks) + 1000, started: true}
	}
	var bucket [nameBuckets]sums
	done, err := c.eachName(r.block, func(k *nameClaim) {
		d, n := &bucket[k.dirBucket], &bucket[k.nodeBucket]
		switch k.side {
		case inItem:
			d.items += c.entryHash(k)
		case inIndex:
			d.items -= c.entryHash(k)
			if !k.subvol {
				d.names += c.nameHash(k.dir, k.index, []byte(k.name), k.ino)
				n.types += c.typeHash(k.ino, k.typ)
			}
		case inRef:
			d.names -= c.nameHash(k.dir, k.index, []byte(k.name), k.ino)
		case asInode:
			if k.nlink == 0 {
				n.orphans += c.h.mix(4, uint64(k.ino), 0, 0)
			} else if k.ino != ondisk.FirstFreeObjectID {
				n.types -= uint64(k.nlink) * c.typeHash(k.ino, k.typ)
			}
		case asOrphan:
			n.orphans -= c.h.mix(4, uint64(k.ino), 0, 0)
		}
	})
	if err != nil {
		return err
	}
	if !done {
		c.found(Finding{ID: NamesDiffer, Root: r.id, Block: r.addr}, "names and inodes do not agree; the same is listed for other trees")
		return nil
	}
	var list []nameClaim
	_, err = c.eachName(r.block, func(k *nameClaim) {
		d, n := &bucket[k.dirBucket], &bucket[k.nodeBucket]
		byName, byNode := d.items != 0 || d.names != 0, n.types != 0 || n.orphans != 0
		if len(list) < maxNames && (byName && k.side <= inRef || byNode && k.side != inItem && k.side != inRef) {
			list = append(list, *k)
		}
	})
	if err != nil {
		return err
	}
	before := c.rep.total()
	c.judgeNames(r.id, list)
	c.judgeNodes(r.id, list, &bucket)
	if c.rep.total() == before {
		c.found(Finding{ID: NamesDiffer, Root: r.id, Block: r.addr}, "names and inodes do not agree")
	}
	return nil
}

func (c *checker) entryHash(k *nameClaim) uint64 {
	sub := uint64(0)
	if k.subvol {
		sub = 1
	}
	return c.h.mix(uint64(k.dir), c.h.bytes([]byte(k.name)), uint64(k.ino), uint64(k.typ)|sub<<8)
}

// judgeNames compares the three places of each name.
func (c *checker) judgeNames(tree ondisk.TreeID, list []nameClaim) {
	var names []nameClaim
	for _, k := range list {
		if k.side <= inRef {
			names = append(names, k)
		}
	}
	slices.SortFunc(names, func(a, b nameClaim) int {
		return cmp.Or(cmp.Compare(a.dir, b.dir), cmp.Compare(a.name, b.name), cmp.Compare(a.ino, b.ino), cmp.Compare(a.side, b.side))
	})
	for len(names) > 0 {
		var have [3]*nameClaim
		n := 0
		for first := names[0]; n < len(names) && names[n].dir == first.dir && names[n].name == first.name && names[n].ino == first.ino; n++ {
			if have[names[n].side] == nil {
				have[names[n].side] = &names[n]
			} else {
				c.found(Finding{ID: NameTwice, Root: tree, Block: names[n].block, Inode: first.dir}, "the directory has the name %q for inode %d twice", first.name, int64(first.ino))
			}
		}
		c.judgeName(tree, have[inItem], have[inIndex], have[inRef])
		names = names[n:]
	}
}

// judgeName judges one name of one inode.
func (c *checker) judgeName(tree ondisk.TreeID, item, index, ref *nameClaim) {
	one := cmp.Or(item, index, ref)
	at := Finding{Root: tree, Block: one.block, Inode: one.dir}
	say := func(id ID, format string, args ...any) {
		at.ID = id
		c.found(at, "name %q, inode %d: "+format, append([]any{one.name, int64(one.ino)}, args...)...)
	}
	subvol := item != nil && item.subvol || index != nil && index.subvol
	switch {
	case item == nil && index == nil:
		say(RefNoEntry, "the inode has this name, its directory does not")
		return
	case item == nil:
		say(IndexNoItem, "there is a DIR_INDEX %d and no DIR_ITEM", index.index)
	case index == nil:
		say(ItemNoIndex, "there is a DIR_ITEM and no DIR_INDEX")
	case item.typ != index.typ:
		say(EntryType, "type %d in the DIR_ITEM, %d in the DIR_INDEX", item.typ, index.typ)
	}
	switch {
	case subvol:
	case ref == nil:
		say(EntryNoRef, "the inode does not have this name")
	case index != nil && ref.index != index.index:
		say(IndexNumber, "DIR_INDEX %d, but the inode says %d", index.index, ref.index)
	}
}

// judgeNodes compares types in directory entries with inodes, and inodes without links with orphan items.
func (c *checker) judgeNodes(tree ondisk.TreeID, list []nameClaim, bucket *[nameBuckets]sums) {
	nodes := map[ondisk.ObjectID]nameClaim{}
	orphans := map[ondisk.ObjectID]bool{}
	for _, k := range list {
		switch k.side {
		case asInode:
			nodes[k.ino] = k
		case asOrphan:
			orphans[k.ino] = true
		}
	}
	for _, k := range list {
		b := &bucket[k.nodeBucket]
		at := Finding{Root: tree, Block: k.block, Inode: k.ino}
		switch {
		case k.side == inIndex && !k.subvol && b.types != 0:
			if node, ok := nodes[k.ino]; !ok {
				at.ID = EntryNoInode
				c.found(at, "name %q in directory %d leads to an inode that is not there", k.name, uint64(k.dir))
			} else if node.typ != k.typ {
				at.ID = EntryType
				c.found(at, "name %q in directory %d has type %d, the inode is of type %d", k.name, uint64(k.dir), k.typ, node.typ)
			}
		case k.side == asInode && k.nlink == 0 && b.orphans != 0 && !orphans[k.ino]:
			at.ID = InodeNoOrphan
			c.found(at, "no name leads to the inode, and it is not listed for deletion")
		case k.side == asOrphan && b.orphans != 0:
			if node, ok := nodes[k.ino]; !ok || node.nlink != 0 {
				at.ID = OrphanNoInode
				c.found(at, "listed for deletion, but the inode is in use or gone")
			}
		}
	}
}

// eachName goes through all names of a tree. It returns false if the budget does not allow it.
func (c *checker) eachName(root uint32, f func(*nameClaim)) (bool, error) {
	seen := map[uint32]bool{}
	leaves := []uint32{}
	stack := []uint32{root}
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[id] {
			continue
		}
		seen[id] = true
		if c.details.left--; c.details.left < 0 {
			return false, nil
		}
		if b := &c.blocks[id]; b.level == 0 {
			leaves = append(leaves, id)
		} else {
			stack = append(stack, c.children(b)...)
		}
	}
	slices.SortFunc(leaves, func(a, b uint32) int { return cmp.Compare(c.blocks[a].addr, c.blocks[b].addr) })
	// One worker: f keeps what it is told without a lock.
	err := c.readRuns([]*worker{{c: c}}, leaves, false, func(_ *worker, id uint32, b ondisk.Block) { c.leafNames(id, b, f) })
	return true, err
}

func (c *checker) leafNames(id uint32, b ondisk.Block, f func(*nameClaim)) {
	for i := range b.NrItems() {
		k, item := b.Key(i), b.Item(i)
		one := nameClaim{block: c.blocks[id].addr}
		tell := func() {
			one.dirBucket = uint32(c.h.mix(uint64(one.dir), c.h.bytes([]byte(one.name)), 5, 0)) % nameBuckets
			one.nodeBucket = uint32(c.h.mix(uint64(one.ino), 6, 0, 0)) % nameBuckets
			f(&one)
		}
		ref := func(r ondisk.NameRef) bool {
			if k.ObjectID != ondisk.FirstFreeObjectID || r.Parent != k.ObjectID {
				one.side, one.dir, one.ino, one.name, one.index = inRef, r.Parent, k.ObjectID, string(r.Name), r.Index
				tell()
			}
			return true
		}
		switch k.Type {
		case ondisk.InodeItemKey:
			if k.ObjectID >= ondisk.FirstFreeObjectID && k.ObjectID <= ondisk.LastFreeObjectID {
				in := ondisk.AsInodeItem(item)
				one.side, one.ino, one.nlink, one.typ = asInode, k.ObjectID, in.NLink(), ondisk.ModeToFT(in.Mode())
				tell()
			}
		case ondisk.OrphanItemKey:
			one.side, one.ino = asOrphan, ondisk.ObjectID(k.Offset)
			tell()
		case ondisk.InodeRefKey:
			_ = ondisk.InodeRefs(item, ondisk.ObjectID(k.Offset), ref)
		case ondisk.InodeExtrefKey:
			_ = ondisk.InodeExtrefs(item, ref)
		case ondisk.DirItemKey, ondisk.DirIndexKey:
			_ = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
				loc := e.Location()
				one.side, one.dir, one.ino, one.name, one.typ = inItem, k.ObjectID, loc.ObjectID, string(e.Name), e.Type()
				one.subvol = loc.Type == ondisk.RootItemKey
				if k.Type == ondisk.DirIndexKey {
					one.side, one.index = inIndex, k.Offset
				}
				tell()
				return true
			})
		}
	}
}
