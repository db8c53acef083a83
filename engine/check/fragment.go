package check

import (
	"math"

	"imgtool/engine/ondisk"
)

// none is the value of an offset that does not exist.
const none = math.MaxUint64

// fragment is what one run of blocks holds of one inode. An inode whose items lie in several leaves has one fragment in
// each; joined in key order they give the whole.
type fragment struct {
	ino   ondisk.ObjectID
	block ondisk.Logical // where the first of its items lies

	torn   bool // a neighbouring block was lost: what is here is not all
	item   bool // the INODE_ITEM is here, with the next five
	nlink  uint32
	mode   uint32
	size   uint64
	nbytes uint64
	flags  uint64

	refs     uint64 // names in INODE_REFs and INODE_EXTREFs
	dirBytes uint64 // lengths of the names in DIR_ITEMs and DIR_INDEXes
	dirItems bool

	extents          bool
	bytes            uint64 // what the file extents count to nbytes
	start, end       uint64 // of the file range between first and last extent
	gap              uint64 // first offset between two extents, none
	overlap          uint64 // file offset of an extent that begins inside the one before, none
	noCsum, withCsum uint64 // file offset of a written extent whose data has no checksums, or some; none
	nul              bool   // the last of them is inline and ends in a NUL
	compressedNoFlag uint8  // algorithm whose feature bit is missing, 0
}

func newFragment(ino ondisk.ObjectID, block ondisk.Logical) fragment {
	return fragment{ino: ino, block: block, gap: none, overlap: none, noCsum: none, withCsum: none}
}

// join appends what follows of the same inode.
func (f *fragment) join(g *fragment) {
	if g.item {
		f.item, f.nlink, f.mode, f.size, f.nbytes, f.flags = true, g.nlink, g.mode, g.size, g.nbytes, g.flags
	}
	f.torn = f.torn || g.torn
	f.refs += g.refs
	f.dirBytes += g.dirBytes
	f.dirItems = f.dirItems || g.dirItems
	f.gap, f.overlap = min(f.gap, g.gap), min(f.overlap, g.overlap)
	f.noCsum, f.withCsum = min(f.noCsum, g.noCsum), min(f.withCsum, g.withCsum)
	f.compressedNoFlag = max(f.compressedNoFlag, g.compressedNoFlag)
	if g.extents {
		f.nul = g.nul
		f.addRange(g.start, g.end, g.bytes)
	}
}

// addRange appends a range of the file.
func (f *fragment) addRange(start, end, bytes uint64) {
	f.bytes += bytes
	switch {
	case !f.extents:
		f.extents, f.start, f.end = true, start, end
		return
	case start > f.end:
		f.gap = min(f.gap, f.end)
	case start < f.end:
		f.overlap = min(f.overlap, start)
	}
	f.end = max(f.end, end)
}

// judge looks at an inode of which all items have been seen.
func (c *checker) judge(tree ondisk.TreeID, f *fragment) {
	if f.torn {
		return
	}
	at := Finding{Root: tree, Block: f.block, Inode: f.ino}
	say := func(id ID, format string, args ...any) {
		at.ID = id
		c.found(at, format, args...)
	}
	if !f.item {
		say(InodeMissing, "items of the inode are here, its INODE_ITEM is not")
		return
	}
	if uint64(f.nlink) != f.refs {
		say(LinkCount, "link count %d, %d names refer to the inode", f.nlink, f.refs)
	}
	if f.compressedNoFlag != 0 {
		say(FeatureFlag, "data is compressed by algorithm %d, whose feature bit the superblock lacks", f.compressedNoFlag)
	}
	if f.overlap != none {
		say(FileOverlap, "the file extent at %d begins inside the one before it", f.overlap)
	}
	if f.mode&ondisk.ModeFmt == ondisk.ModeDir {
		c.judgeDir(f, say)
		return
	}
	if f.dirItems {
		say(OddDirItems, "mode %o is no directory, but the inode has directory entries", f.mode)
	}
	c.judgeFile(f, say)
}

func (c *checker) judgeDir(f *fragment, say func(ID, string, ...any)) {
	if f.dirBytes != f.size {
		say(DirSize, "directory has size %d, its names give %d", f.size, f.dirBytes)
	}
	if f.extents {
		say(OddExtents, "a directory has file extents")
	}
}

func (c *checker) judgeFile(f *fragment, say func(ID, string, ...any)) {
	typ := f.mode & ondisk.ModeFmt
	if typ != ondisk.ModeReg && typ != ondisk.ModeLnk {
		if f.extents {
			say(OddExtents, "mode %o has no data, but the inode has file extents", f.mode)
		}
		return
	}
	if f.bytes != f.nbytes {
		say(FileBytes, "nbytes is %d, the file extents take %d", f.nbytes, f.bytes)
	}
	// mkfs.btrfs --rootdir stores the NUL behind a link's target, too. The size is what counts.
	if typ == ondisk.ModeLnk && f.bytes != f.size && !(f.nul && f.bytes == f.size+1) {
		say(SymlinkTarget, "the link's size is %d, its target has %d bytes", f.size, f.bytes)
	}
	if gap := f.firstGap(); typ == ondisk.ModeReg && gap < f.size && f.nlink > 0 && !c.sb.HasIncompat(ondisk.IncompatNoHoles) {
		say(FileHole, "no file extent covers offset %d, and holes must have one here", gap)
	}
	if c.lost.in(ondisk.CsumTree) {
		return
	}
	if f.flags&ondisk.InodeNoDataSum != 0 {
		if f.withCsum != none {
			say(CsumOdd, "the file is marked as without checksums, its data at %d has some", f.withCsum)
		}
	} else if f.noCsum != none {
		say(CsumMissing, "the data at %d has no checksum", f.noCsum)
	}
}

// firstGap returns the first offset that no file extent covers, at most the end of the last one.
func (f *fragment) firstGap() uint64 {
	switch {
	case !f.extents || f.start > 0:
		return 0
	case f.gap != none:
		return f.gap
	}
	return f.end
}

// sums are what a block of a file tree, or all below it, adds to four sums that are zero for a whole tree.
type sums struct {
	names   uint64 // DIR_INDEX less INODE_REF: parent, index, name, inode
	items   uint64 // DIR_ITEM less DIR_INDEX: parent, name, target, type
	types   uint64 // types in directory entries less those of the inodes, once for each link
	orphans uint64 // inodes without a link less ORPHAN_ITEMs
}

func (s *sums) add(o *sums) {
	s.names += o.names
	s.items += o.items
	s.types += o.types
	s.orphans += o.orphans
}

// summary is all that the tree above needs to know of a block of a file tree and of what lies below it.
type summary struct {
	sums
	empty       bool // no inode's items at all
	one         bool // first and last are the same fragment
	torn        bool // blocks were lost: the sums are not those of the tree
	first, last fragment
}

// lostSummary stands for a block that could not be read.
func lostSummary() summary { return summary{torn: true, one: true, first: fragment{torn: true}} }

// join appends the summary of what follows in key order. Inodes that are complete now are judged.
func (c *checker) join(tree ondisk.TreeID, s, next *summary) {
	s.sums.add(&next.sums)
	s.torn = s.torn || next.torn
	switch {
	case next.empty:
		return
	case s.empty:
		s.empty, s.one, s.first, s.last = false, next.one, next.first, next.last
		return
	}
	left := &s.last
	if s.one {
		left = &s.first
	}
	right := next.first
	if left.torn || right.torn {
		left.torn, right.torn = true, true
	}
	if left.ino == right.ino {
		left.join(&right)
		if next.one {
			return
		}
		if !s.one {
			c.judge(tree, left)
		}
		s.one, s.last = false, next.last
		return
	}
	if !s.one {
		c.judge(tree, left)
	}
	s.one = false
	if next.one {
		s.last = right
		return
	}
	c.judge(tree, &right)
	s.last = next.last
}
