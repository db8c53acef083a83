package check

import (
	"slices"
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// fileScan is what one worker collects of file trees, and its state within a leaf.
type fileScan struct {
	hasDefault bool
	defaultDir ondisk.TreeID
	sums       []leafSum
}

// leafSum is the summary of one leaf.
type leafSum struct {
	id uint32
	summary
}

// dataRef is a reference that a file extent makes.
type dataRef struct {
	ref
	addr, length uint64 // of the data extent
	leaf         uint32 // block
	ino          ondisk.ObjectID
}

// dataRefOf returns the reference that an EXTENT_DATA item makes in the tree of owner; false for one without data.
func dataRefOf(owner ondisk.TreeID, k ondisk.Key, item []byte) (dataRef, bool) {
	if item[20] == ondisk.FileExtentInline {
		return dataRef{}, false
	}
	f := ondisk.AsFileExtentItem(item)
	if f.DiskBytenr() == 0 {
		return dataRef{}, false
	}
	return dataRef{
		ref:  ref{ondisk.ExtentDataRefKey, uint64(owner), uint64(k.ObjectID), k.Offset - f.Offset()},
		addr: uint64(f.DiskBytenr()), length: f.DiskNumBytes(), ino: k.ObjectID,
	}, true
}

// shared turns a reference of a leaf with the full-backref flag into a shared one.
func (r *dataRef) shared(leaf ondisk.Logical) {
	r.ref = ref{kind: ondisk.SharedDataRefKey, a: uint64(leaf)}
}

// fileTrees walks all file trees.
func (c *checker) fileTrees() error {
	for i := range c.roots {
		if r := &c.roots[i]; r.id.IsFileTree() && !(r.refs == 0 && r.addr == 0) {
			c.fileRoots = append(c.fileRoots, &r.treeRoot)
		}
	}
	workers, err := c.walk(c.fileRoots, fileLeaf)
	if err != nil {
		return err
	}
	for _, w := range workers {
		for i := range w.files.sums {
			s := &w.files.sums[i]
			c.blocks[s.id].sum = int32(len(c.summaries))
			c.summaries = append(c.summaries, s.summary)
		}
		w.files.sums = nil
	}
	for i := range c.cacheRefs {
		r := &c.cacheRefs[i]
		if leaf := c.blocks[r.leaf].addr; c.isFull(leaf) {
			r.shared(leaf)
		}
		c.made(r)
	}
	return nil
}

// made takes the reference of a file extent off its data extent's balance. It runs in many goroutines.
func (c *checker) made(r *dataRef) {
	i, ok := c.extentAt.get(r.addr)
	at := Finding{Root: c.blocks[r.leaf].tree, Block: c.blocks[r.leaf].addr, Inode: r.ino, Extent: ondisk.Logical(r.addr)}
	switch {
	case !ok:
		if !c.lost.in(ondisk.ExtentTree) {
			at.ID = DataNoExtent
			c.found(at, "a file uses %d bytes here, for which there is no extent", r.length)
		}
		return
	case c.extents[i].tree:
		at.ID = ExtentType
		c.found(at, "a file uses as data what the extent tree calls a tree block")
		return
	case c.extents[i].length != r.length:
		at.ID = ExtentSize
		c.found(at, "a file takes the extent to be %d bytes long, the extent tree says %d", r.length, c.extents[i].length)
	}
	atomic.AddUint64(&c.extents[i].balance, -c.hashRef(r.ref))
}

// fileLeaf sums up a leaf of a file tree.
func fileLeaf(w *worker, id uint32, b ondisk.Block) {
	c := w.c
	l := leafScan{c: c, id: id, b: b, addr: c.blocks[id].addr, owner: b.Header().Owner()}
	l.full = c.isFull(l.addr)
	l.out.empty = true
	for i := range b.NrItems() {
		l.item(b.Key(i), b.Item(i))
	}
	l.finish(true)
	w.files.sums = append(w.files.sums, leafSum{id, l.out})
}

// leafScan goes through one leaf.
type leafScan struct {
	c     *checker
	id    uint32
	b     ondisk.Block
	addr  ondisk.Logical
	owner ondisk.TreeID
	full  bool // the flag: references are shared ones
	out   summary
	cur   fragment
	have  bool
	n     int // fragments finished
}

func (l *leafScan) item(k ondisk.Key, item []byte) {
	c := l.c
	if k.ObjectID < ondisk.FirstFreeObjectID || k.ObjectID > ondisk.LastFreeObjectID {
		if k.Type == ondisk.OrphanItemKey {
			l.out.orphans -= c.h.mix(4, k.Offset, 0, 0)
		}
		return
	}
	if !l.have || l.cur.ino != k.ObjectID {
		l.finish(false)
		l.cur, l.have = newFragment(k.ObjectID, l.addr), true
	}
	f := &l.cur
	switch k.Type {
	case ondisk.InodeItemKey:
		in := ondisk.AsInodeItem(item)
		f.item, f.nlink, f.mode, f.size, f.nbytes, f.flags = true, in.NLink(), in.Mode(), in.Size(), in.NBytes(), in.Flags()
		if f.nlink == 0 {
			l.out.orphans += c.h.mix(4, uint64(k.ObjectID), 0, 0)
		} else if k.ObjectID != ondisk.FirstFreeObjectID {
			l.out.types -= uint64(f.nlink) * c.typeHash(k.ObjectID, ondisk.ModeToFT(f.mode))
		}
	case ondisk.InodeRefKey:
		_ = ondisk.InodeRefs(item, ondisk.ObjectID(k.Offset), func(r ondisk.NameRef) bool { return l.name(k.ObjectID, r) })
	case ondisk.InodeExtrefKey:
		_ = ondisk.InodeExtrefs(item, func(r ondisk.NameRef) bool { return l.name(k.ObjectID, r) })
	case ondisk.DirItemKey, ondisk.DirIndexKey:
		_ = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool { l.entry(k, e); return true })
	case ondisk.ExtentDataKey:
		l.extent(k, item)
	}
}

// typeHash stands for one directory entry that takes an inode to be of a type.
func (c *checker) typeHash(ino ondisk.ObjectID, ft uint8) uint64 {
	return c.h.mix(3, uint64(ino), uint64(ft), 0)
}

func (c *checker) nameHash(dir ondisk.ObjectID, index uint64, name []byte, ino ondisk.ObjectID) uint64 {
	return c.h.mix(uint64(dir), index, c.h.bytes(name), uint64(ino))
}

// name takes in one name of an inode. The root directory's own ".." leads nowhere.
func (l *leafScan) name(ino ondisk.ObjectID, r ondisk.NameRef) bool {
	l.cur.refs++
	if ino == ondisk.FirstFreeObjectID && r.Parent == ino {
		return true
	}
	l.out.names -= l.c.nameHash(r.Parent, r.Index, r.Name, ino)
	return true
}

// entry takes in one directory entry. Entries that lead into subvolumes have no inode here; subvolumes looks at those.
func (l *leafScan) entry(k ondisk.Key, e ondisk.DirEntry) {
	c, loc := l.c, e.Location()
	l.cur.dirItems = true
	l.cur.dirBytes += uint64(len(e.Name))
	same := c.h.mix(uint64(k.ObjectID)^c.h.key[3], c.h.bytes(e.Name), uint64(loc.ObjectID), uint64(loc.Type)<<8|uint64(e.Type()))
	if k.Type == ondisk.DirItemKey {
		l.out.items += same
		return
	}
	l.out.items -= same
	if loc.Type == ondisk.InodeItemKey {
		l.out.names += c.nameHash(k.ObjectID, k.Offset, e.Name, loc.ObjectID)
		l.out.types += c.typeHash(loc.ObjectID, e.Type())
	}
}

// extent takes in one file extent.
func (l *leafScan) extent(k ondisk.Key, item []byte) {
	c, f := l.c, &l.cur
	if comp := item[16]; comp != ondisk.CompressNone && !c.compressionKnown(comp) {
		f.compressedNoFlag = comp
	}
	var full ondisk.FileExtentItem // an inline extent may be shorter
	copy(full[:], item)
	f.nul = full.Type() == ondisk.FileExtentInline && len(item) > 0 && item[len(item)-1] == 0
	if full.Type() == ondisk.FileExtentInline {
		n := full.RAMBytes()
		f.addRange(k.Offset, k.Offset+(n+c.sector-1)&^(c.sector-1), n)
		return
	}
	n := full.NumBytes()
	counted := n
	if full.DiskBytenr() == 0 {
		counted = 0
	}
	f.addRange(k.Offset, k.Offset+n, counted)
	r, ok := dataRefOf(l.owner, k, item)
	if !ok {
		return
	}
	r.leaf = l.id
	if l.full {
		r.shared(l.addr)
	}
	c.made(&r)
	l.csums(k, &full)
}

// csums compares a file extent with the checksums there are for what it uses. Of a compressed extent all is used.
func (l *leafScan) csums(k ondisk.Key, e *ondisk.FileExtentItem) {
	start, length := uint64(e.DiskBytenr())+e.Offset(), e.NumBytes()
	if e.Compression() != ondisk.CompressNone {
		start, length = uint64(e.DiskBytenr()), e.DiskNumBytes()
	}
	n := l.c.covered(start, length)
	if e.Type() == ondisk.FileExtentPrealloc {
		return // parts that another file extent has written through have checksums
	}
	if n < length {
		l.cur.noCsum = min(l.cur.noCsum, k.Offset)
	}
	if n > 0 {
		l.cur.withCsum = min(l.cur.withCsum, k.Offset)
	}
}

func (c *checker) compressionKnown(algorithm uint8) bool {
	switch algorithm {
	case ondisk.CompressLZO:
		return c.sb.HasIncompat(ondisk.IncompatCompressLZO)
	case ondisk.CompressZstd:
		return c.sb.HasIncompat(ondisk.IncompatCompressZstd)
	}
	return true
}

// finish ends the current fragment. The first and the last of a leaf may go on in its neighbours.
func (l *leafScan) finish(last bool) {
	if !l.have {
		return
	}
	l.out.empty = false
	switch {
	case l.n == 0:
		l.out.first, l.out.one = l.cur, true
	case last:
		l.out.last, l.out.one = l.cur, false
	default:
		l.c.judge(l.owner, &l.cur)
	}
	l.n++
}

// files puts the summaries together, from the leaves up, and judges whole trees.
func (c *checker) files() error {
	var nodes []uint32
	for i := range c.blocks {
		if b := &c.blocks[i]; b.level > 0 && b.state == good && b.tree.IsFileTree() {
			nodes = append(nodes, uint32(i))
		}
	}
	slices.SortFunc(nodes, func(a, b uint32) int { return int(c.blocks[a].level) - int(c.blocks[b].level) })
	for _, id := range nodes {
		b := &c.blocks[id]
		s := summary{empty: true}
		if b.drop >= 0 {
			s = lostSummary() // what its deletion has passed is gone
		}
		for _, kid := range c.children(b) {
			next := c.summaryOf(kid)
			c.join(b.owner, &s, &next)
		}
		b.sum = int32(len(c.summaries))
		c.summaries = append(c.summaries, s)
	}
	for _, r := range c.fileRoots {
		if r.id != ondisk.TreeRelocTree && r.drop < 0 {
			if err := c.wholeTree(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *checker) summaryOf(id uint32) summary {
	if b := &c.blocks[id]; b.state == good && b.sum >= 0 {
		return c.summaries[b.sum]
	}
	return lostSummary()
}

// wholeTree judges the inodes at a tree's ends, and its sums.
func (c *checker) wholeTree(r *treeRoot) error {
	s := c.summaryOf(r.block)
	if !s.empty {
		c.judge(r.id, &s.first)
		if !s.one {
			c.judge(r.id, &s.last)
		}
	}
	if s.torn {
		return nil
	}
	item := &c.roots[r.item]
	if item.alive() && (s.empty || s.first.ino != item.rootDir || s.first.item && s.first.mode&ondisk.ModeFmt != ondisk.ModeDir) {
		c.found(Finding{ID: RootDir, Root: r.id, Block: r.addr, Inode: item.rootDir}, "the tree does not begin with its top directory")
		return nil
	}
	if s.sums == (sums{}) {
		return nil
	}
	return c.explainNames(r)
}
