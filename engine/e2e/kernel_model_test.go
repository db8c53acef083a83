package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// opKind is a kind of operation.
type opKind int

const (
	opCreate opKind = iota
	opWrite
	opOverwrite
	opTruncate
	opPunch
	opFallocate
	opRename
	opExchange
	opLink
	opUnlink
	opMkdir
	opRmdir
	opSymlink
	opMknod
	opSetXattr
	opRemoveXattr
	opChmod
	opChown
	opUtimes
	opSubvolume
	opSnapshotRW
	opSnapshotRO
	opDeleteSubvol
	opReflink
	opKinds
)

var opNames = [opKinds]string{"create", "write", "overwrite", "truncate", "punch", "fallocate", "rename", "exchange",
	"link", "unlink", "mkdir", "rmdir", "symlink", "mknod", "setxattr", "removexattr", "chmod", "chown", "utimes",
	"subvolume", "snapshot-rw", "snapshot-ro", "delete-subvolume", "reflink"}

func (k opKind) String() string { return opNames[k] }

// opWeights is how often a kind is drawn, in a thousand or so. Not all that is drawn can be done (there may be no
// subvolume to snapshot); next keeps each kind above minShare all the same.
var opWeights = [opKinds]int{
	opCreate: 110, opWrite: 100, opOverwrite: 60, opTruncate: 40, opPunch: 35, opFallocate: 35, opRename: 60,
	opExchange: 30, opLink: 45, opUnlink: 85, opMkdir: 45, opRmdir: 30, opSymlink: 30, opMknod: 30, opSetXattr: 60,
	opRemoveXattr: 30, opChmod: 30, opChown: 30, opUtimes: 30, opSubvolume: 25, opSnapshotRW: 25, opSnapshotRO: 25,
	opDeleteSubvol: 65, opReflink: 40,
}

// minShare is the least share of the operations done that each kind has, in a thousand: report promises 10, and what
// a last few draws cannot do lies between.
const minShare = 16

// needs is the kind that brings what another kind takes, so that a kind that is due can be drawn.
var needs = map[opKind]opKind{
	opWrite: opCreate, opOverwrite: opWrite, opTruncate: opCreate, opPunch: opWrite, opFallocate: opCreate, opRename: opCreate,
	opExchange: opCreate, opLink: opCreate, opUnlink: opCreate, opRmdir: opMkdir, opSetXattr: opCreate, opRemoveXattr: opSetXattr,
	opChmod: opCreate, opChown: opCreate, opUtimes: opCreate, opSnapshotRW: opSubvolume, opSnapshotRO: opSubvolume,
	opDeleteSubvol: opSubvolume, opReflink: opWrite,
}

// nodeKind is what the model knows of a path's type.
type nodeKind int

const (
	nodeFile nodeKind = iota
	nodeDir
	nodeSubvol
	nodePlaceholder // a snapshot's empty directory in place of a nested subvolume
	nodeOther       // symlink, device, fifo, socket
)

// node is one inode of the model; names of one inode share it. The model knows enough to choose operations, most of
// which then succeed; what they must do is not its concern, that is what the shadow file system is for.
type node struct {
	kind     nodeKind
	size     int64
	xattrs   map[string]bool
	children map[string]*node
	readonly bool // of a read-only snapshot
	hidden   bool // random operations leave it alone
}

func newNode(k nodeKind) *node {
	n := &node{kind: k, xattrs: map[string]bool{}}
	if k == nodeDir || k == nodeSubvol {
		n.children = map[string]*node{}
	}
	return n
}

// pathNode is a path of the model with the subvolume it lies in.
type pathNode struct {
	path           string
	n, dir, subvol *node
}

// model is the tree of paths and the generator of operations.
type model struct {
	rnd    *rand.Rand
	top    *node
	limit  int // paths beyond which it rather deletes
	serial int
	equal  []string
	maxX   int          // largest xattr value
	done   [opKinds]int // of the drawn operations, those that succeeded
}

func newModel(rnd *rand.Rand, limit, maxXattr int) *model {
	return &model{rnd: rnd, top: newNode(nodeSubvol), limit: limit, equal: equalHashNames(40), maxX: maxXattr}
}

// all lists the paths in a fixed order, without the top.
func (m *model) all() []pathNode {
	var list []pathNode
	var walk func(p string, dir, subvol *node)
	walk = func(p string, dir, subvol *node) {
		for _, name := range slices.Sorted(maps.Keys(dir.children)) {
			c := dir.children[name]
			if c.hidden {
				continue
			}
			q := path.Join(p, name)
			list = append(list, pathNode{q, c, dir, subvol})
			switch c.kind {
			case nodeDir:
				walk(q, c, subvol)
			case nodeSubvol:
				walk(q, c, c)
			}
		}
	}
	walk("", m.top, m.top)
	return list
}

// pick draws one of the paths that satisfy ok.
func (m *model) pick(list []pathNode, ok func(pathNode) bool) (pathNode, bool) {
	if len(list) == 0 {
		return pathNode{}, false
	}
	start := m.rnd.IntN(len(list))
	for i := range list {
		if p := list[(start+i)%len(list)]; ok(p) {
			return p, true
		}
	}
	return pathNode{}, false
}

// writable reports whether a path may be changed; now and then it lets a read-only one pass, to see it refused.
func (m *model) writable(p pathNode) bool { return !p.subvol.readonly || m.rnd.IntN(50) == 0 }

func (m *model) file(p pathNode) bool { return p.n.kind == nodeFile && m.writable(p) }

// dirFor draws a directory in which to make a name, as a path, and the subvolume it belongs to.
func (m *model) dirFor(list []pathNode) (string, *node) {
	if m.rnd.IntN(4) == 0 {
		return "", m.top
	}
	p, ok := m.pick(list, func(p pathNode) bool {
		return p.n.kind == nodeDir && m.writable(p) || p.n.kind == nodeSubvol && (!p.n.readonly || m.rnd.IntN(50) == 0)
	})
	if !ok {
		return "", m.top
	}
	if p.n.kind == nodeSubvol {
		return p.path, p.n
	}
	return p.path, p.subvol
}

// newName draws a name: short ones, some of equal hash, some as long as may be, some that are not UTF-8.
func (m *model) newName(dir string) string {
	m.serial++
	name := fmt.Sprintf("n%d", m.serial)
	switch m.rnd.IntN(8) {
	case 0, 1:
		name = m.equal[m.rnd.IntN(len(m.equal))]
	case 2:
		name = fmt.Sprintf("%0200d-long", m.serial)
	case 3:
		name = fmt.Sprintf("\xff\xfe%d", m.serial)
	}
	return path.Join(dir, name)
}

// next draws an operation: one of a kind whose share is too low, if there is any, else by weight. What cannot be done
// now is drawn again.
func (m *model) next() op {
	list := m.all()
	if k, due := m.due(); due {
		if o, ok := m.make(k, list); ok {
			return o
		}
		if o, ok := m.make(needs[k], list); ok {
			return o
		}
	}
	for {
		k := m.kind(len(list))
		if o, ok := m.make(k, list); ok {
			return o
		}
	}
}

// due is the kind furthest below minShare, if one is below. Counted is from 100 operations on, so that the first ones
// are drawn by weight.
func (m *model) due() (opKind, bool) {
	total, least := 0, opKind(0)
	for k, n := range m.done {
		total += n
		if n < m.done[least] {
			least = opKind(k)
		}
	}
	return least, total >= 100 && m.done[least]*1000 < total*minShare
}

func (m *model) kind(paths int) opKind {
	total := 0
	for _, w := range opWeights {
		total += w
	}
	r := m.rnd.IntN(total)
	for k, w := range opWeights {
		if r -= w; r < 0 {
			// Beyond the limit what adds many paths gives way to what removes many.
			if paths > m.limit && (opKind(k) == opSnapshotRW || opKind(k) == opSnapshotRO) && m.rnd.IntN(3) == 0 {
				return opDeleteSubvol
			}
			if paths > m.limit && (opKind(k) == opCreate || opKind(k) == opLink) && m.rnd.IntN(2) == 0 {
				return opUnlink
			}
			return opKind(k)
		}
	}
	panic("unreachable")
}

func (m *model) make(k opKind, list []pathNode) (op, bool) {
	o := op{kind: k, seed: m.rnd.Uint64()}
	dir, subvol := m.dirFor(list)
	var p pathNode
	ok := true
	switch k {
	case opCreate, opMkdir, opSymlink, opMknod, opSubvolume:
		o.path = m.newName(dir)
		o.mode = []uint32{0o644, 0o600, 0o755, 0o700}[m.rnd.IntN(4)]
		switch k {
		case opSymlink:
			o.name = fmt.Sprintf("%0*d", 1+m.rnd.IntN(1000), m.serial)
		case opMknod:
			o.mode |= []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFBLK, unix.S_IFCHR}[m.rnd.IntN(4)]
			if t := o.mode & unix.S_IFMT; t == unix.S_IFBLK || t == unix.S_IFCHR {
				o.rdev = unix.Mkdev(uint32(m.rnd.IntN(4096)), uint32(m.rnd.IntN(1<<20)))
			}
		}
		return o, true
	case opWrite, opOverwrite, opTruncate, opPunch, opFallocate, opReflink:
		p, ok = m.pick(list, func(p pathNode) bool { return m.file(p) && (k != opOverwrite && k != opPunch || p.n.size > 0) })
		if ok {
			o.path = p.path
			ok = m.fileRange(&o, p, list)
		}
	case opRename, opExchange, opLink, opUnlink, opRmdir:
		return m.makeNames(o, list, dir, subvol)
	case opSetXattr, opRemoveXattr:
		p, ok = m.pick(list, func(p pathNode) bool {
			return m.writable(p) && p.n.kind != nodePlaceholder && p.n.kind != nodeOther && (k == opSetXattr || len(p.n.xattrs) > 0)
		})
		if ok {
			o.path = p.path
			m.xattr(&o, p.n)
		}
	case opChmod, opChown, opUtimes:
		p, ok = m.pick(list, func(p pathNode) bool {
			return m.writable(p) && p.n.kind != nodePlaceholder && (k != opChmod || p.n.kind != nodeOther)
		})
		o.path = p.path
		o.mode = uint32(m.rnd.IntN(0o1000))
		o.uid, o.gid = uint32(m.rnd.IntN(70000)), uint32(m.rnd.IntN(70000))
		o.sec = int64(m.rnd.IntN(900_000_000)) - 100_000_000
	case opSnapshotRW, opSnapshotRO, opDeleteSubvol:
		p, ok = m.pick(list, func(p pathNode) bool {
			// Leaves first: a subvolume that holds another cannot be deleted. Big ones are not copied.
			return p.n.kind == nodeSubvol && (k != opDeleteSubvol || m.rnd.IntN(20) == 0 || !holdsSubvol(p.n)) &&
				(k == opDeleteSubvol || count(p.n) < m.limit/8)
		})
		o.path = p.path
		if k != opDeleteSubvol {
			o.to = m.newName(dir)
		}
	}
	return o, ok
}

func count(n *node) int {
	c := len(n.children)
	for _, x := range n.children {
		c += count(x)
	}
	return c
}

func holdsSubvol(n *node) bool {
	for _, c := range n.children {
		if c.kind == nodeSubvol || holdsSubvol(c) {
			return true
		}
	}
	return false
}

// makeNames draws the operations that take names of what there is.
func (m *model) makeNames(o op, list []pathNode, dir string, subvol *node) (op, bool) {
	same := func(p pathNode) bool {
		return p.subvol == subvol || m.rnd.IntN(60) == 0 || p.n.kind == nodeSubvol && m.rnd.IntN(4) == 0
	}
	p, ok := m.pick(list, func(p pathNode) bool {
		if !m.writable(p) {
			return false
		}
		switch o.kind {
		case opUnlink:
			return p.n.kind == nodeFile || p.n.kind == nodeOther
		case opRmdir:
			return p.n.kind == nodePlaceholder || p.n.kind == nodeSubvol && len(p.n.children) == 0 || p.n.kind == nodeDir && (len(p.n.children) == 0 || m.rnd.IntN(60) == 0)
		case opLink:
			return (p.n.kind == nodeFile || p.n.kind == nodeOther) && same(p)
		}
		return p.n.kind != nodePlaceholder && same(p)
	})
	if !ok {
		return o, false
	}
	o.path = p.path
	switch o.kind {
	case opLink:
		o.to = m.newName(dir)
	case opRename:
		o.to = m.newName(dir)
		if m.rnd.IntN(8) == 0 {
			o.mode = unix.RENAME_NOREPLACE
		}
	case opExchange:
		q, ok := m.pick(list, func(q pathNode) bool {
			return q.n.kind != nodePlaceholder && (q.subvol == p.subvol || m.rnd.IntN(60) == 0 || q.n.kind == nodeSubvol && p.n.kind == nodeSubvol)
		})
		if !ok || q.path == p.path {
			return o, false
		}
		o.to = q.path
	}
	return o, true
}

const maxTestFile = 300 << 10

// fileRange draws the range of an operation on a file's data.
func (m *model) fileRange(o *op, p pathNode, list []pathNode) bool {
	size := p.n.size
	align := int64(1)
	if m.rnd.IntN(2) == 0 {
		align = 4096
	}
	o.n = 1 + m.rnd.Int64N(40<<10)
	if m.rnd.IntN(3) == 0 {
		o.n = 1 + m.rnd.Int64N(3000)
	}
	switch o.kind {
	case opWrite:
		o.off = size
		if m.rnd.IntN(3) == 0 {
			o.off = m.rnd.Int64N(min(size, maxTestFile)+8192) / align * align
		}
	case opOverwrite:
		o.off = m.rnd.Int64N(size) / align * align
		o.n = max(1, min(o.n, size-o.off))
	case opTruncate:
		o.n = m.rnd.Int64N(min(2*size, maxTestFile)+5000) / align * align
	case opPunch, opFallocate:
		o.off = m.rnd.Int64N(min(size, maxTestFile)+4096) / align * align
		o.n = max(1, o.n/align*align)
		if o.kind == opFallocate && m.rnd.IntN(2) == 0 {
			o.mode = unix.FALLOC_FL_KEEP_SIZE
		}
	case opReflink:
		src, ok := m.pick(list, func(q pathNode) bool { return q.n.kind == nodeFile && q.n.size >= 4096 && q.n != p.n })
		if !ok {
			return false
		}
		o.to = src.path
		o.off = m.rnd.Int64N(src.n.size) / 4096 * 4096
		o.n = min(o.n+4095, src.n.size-o.off) / 4096 * 4096
		if o.n == 0 || m.rnd.IntN(3) == 0 && src.n.size > size {
			o.n = src.n.size - o.off // up to an end that need not be aligned
		}
		return o.n > 0
	}
	return true
}

func (m *model) xattr(o *op, n *node) {
	if o.kind == opRemoveXattr {
		names := slices.Sorted(maps.Keys(n.xattrs))
		o.name = names[m.rnd.IntN(len(names))]
		return
	}
	o.name = fmt.Sprintf("user.x%d", m.rnd.IntN(20))
	size := m.rnd.IntN(200)
	switch m.rnd.IntN(5) {
	case 0:
		o.name = "user." + m.equal[m.rnd.IntN(8)]
	case 1:
		o.name = fmt.Sprintf("trusted.x%d", m.rnd.IntN(5))
		size = m.maxX - len(o.name) - m.rnd.IntN(3) + 1 // one in three is one byte too long
	}
	o.value = testData(o.seed, int64(size))
}
