package sendtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// gen makes the operations of one pair.
type gen struct {
	rng  *rand.Rand
	root *node
	next int // inode number
	ops  []op
	// What the last snapshot had, and its name; "" if there is none yet.
	snapFiles []file
	snap      string
}

// generate makes the operations of the pair of a seed. tail goes on from snapshot b to a snapshot c.
func generate(seed uint64) (ops, tail []op) {
	g := &gen{rng: rand.New(rand.NewPCG(seed, 42)), root: &node{ino: 256, typ: typDir, kids: map[string]*node{}}, next: 257}
	for range 2 + g.rng.IntN(5) {
		g.create(g.root, typDir)
	}
	for range 10 + g.rng.IntN(30) {
		g.step(buildSteps)
	}
	g.snapshot("a")
	g.change(1 + g.rng.IntN(8))
	g.snapshot("b")
	n := len(g.ops)
	g.change(1 + g.rng.IntN(3))
	g.snapshot("c")
	return g.ops[:n:n], g.ops[n:]
}

func (g *gen) change(n int) {
	for range n {
		scenes[g.rng.IntN(len(scenes))].play(g)
		for range g.rng.IntN(3) {
			g.step(changeSteps)
		}
	}
}

// text is a list of operations as failures show it.
func text(ops []op) string {
	var b strings.Builder
	for i, o := range ops {
		fmt.Fprintf(&b, "%3d %v\n", i, o)
	}
	return b.String()
}

func (g *gen) add(o op) {
	o.seed = g.rng.Uint32()
	g.ops = append(g.ops, o)
}

func (g *gen) snapshot(name string) {
	g.add(op{kind: opSnapshot, to: name})
	g.snapFiles, g.snap = g.files(), name
}

// reload lets inode numbers be used again.
func (g *gen) reload() {
	g.add(op{kind: opReload})
	g.next = 257
	for _, n := range g.root.all() {
		g.next = max(g.next, n.ino+1)
	}
}

// create makes a node under a free name.
func (g *gen) create(dir *node, typ fileType) *node { return g.createAs(dir, g.free(dir), typ) }

func (g *gen) createAs(dir *node, name string, typ fileType) *node {
	n := &node{ino: g.next, typ: typ, xattrs: map[string]bool{}}
	g.next++
	if typ == typDir {
		n.kids = map[string]*node{}
	}
	n.attach(dir, name)
	o := op{kind: opCreate, typ: typ, path: n.path(0)}
	switch typ {
	case typSymlink:
		o.to = "../" + strings.Repeat("t", 1+g.rng.IntN(40))
	case typChr, typBlk:
		o.n = int64(g.rng.IntN(300)<<20 | g.rng.IntN(70000))
	case typFile:
		o.flag = g.rng.IntN(25) == 0
		n.noCow = o.flag
	}
	g.add(o)
	return n
}

// createAny makes a node of any type, files with data.
func (g *gen) createAny(dir *node) *node {
	typ := typFile
	switch g.rng.IntN(10) {
	case 0, 1:
		typ = typDir
	case 2:
		typ = fileType(g.rng.IntN(int(fileTypes)))
	}
	n := g.create(dir, typ)
	if typ == typFile && g.rng.IntN(4) > 0 {
		g.write(n)
	}
	return n
}

// length of a write: inline, a few sectors, or some that take several commands.
func (g *gen) length() int64 {
	switch g.rng.IntN(8) {
	case 0, 1:
		return 1 + g.rng.Int64N(2048)
	case 2:
		return 1 + g.rng.Int64N(200000)
	case 3:
		return 4096 * (1 + g.rng.Int64N(8))
	}
	return 1 + g.rng.Int64N(20000)
}

// offset in or behind a file, half the time of a sector.
func (g *gen) offset(n *node) int64 {
	switch g.rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return n.size
	case 2:
		return g.rng.Int64N(n.size + 20000)
	}
	return g.rng.Int64N(n.size/4096+4) * 4096
}

func (g *gen) write(n *node) {
	o := op{kind: opWrite, path: n.path(g.anyPlace(n)), off: g.offset(n), n: g.length(), flag: g.rng.IntN(4) == 0}
	if n.size == 0 && g.rng.IntN(3) > 0 {
		o.off = 0
	}
	n.size = max(n.size, o.off+o.n)
	g.add(o)
}

func (g *gen) truncate(n *node) {
	to := g.offset(n)
	if g.rng.IntN(2) == 0 {
		to = g.rng.Int64N(n.size + 1)
	}
	n.size = to
	g.add(op{kind: opTruncate, path: n.path(0), n: to})
}

func (g *gen) fallocate(n *node) {
	o := op{kind: opFallocate, path: n.path(0), off: g.offset(n), n: g.length(), flag: g.rng.IntN(2) == 0}
	if !o.flag {
		n.size = max(n.size, o.off+o.n)
	}
	g.add(o)
}

func (g *gen) punch(n *node) {
	g.add(op{kind: opPunch, path: n.path(0), off: g.rng.Int64N(n.size + 1), n: g.length()})
}

// clone shares a range with a file of this tree or of the first snapshot.
func (g *gen) clone(dst *node) {
	o := op{kind: opClone, path: dst.path(0)}
	var size int64
	same := false
	if g.rng.IntN(3) == 0 && len(g.snapFiles) > 0 {
		f := g.snapFiles[g.rng.IntN(len(g.snapFiles))]
		if f.noCow != dst.noCow {
			return
		}
		o.to, size, o.name = f.path, f.size, g.snap
	} else {
		src := g.pick(hasData, func(n *node) bool { return n.noCow == dst.noCow })
		if src == nil {
			return
		}
		o.to, size, same = src.path(0), src.size, src == dst
	}
	o.src = g.rng.Int64N((size+4095)/4096) * 4096
	if g.rng.IntN(3) == 0 {
		o.src = 0
	}
	o.off = g.rng.Int64N(dst.size/4096+3) * 4096
	o.n = min(size-o.src, 4096*(1+g.rng.Int64N(12)))
	if o.src+o.n != size || o.off+o.n < dst.size { // an end within a sector must be that of both files
		o.n &^= 4095
	}
	if o.n == 0 || same && o.src < o.off+o.n && o.off < o.src+o.n {
		return
	}
	dst.size = max(dst.size, o.off+o.n)
	g.add(o)
}

func (g *gen) link(n *node, dir *node, name string) {
	o := op{kind: opLink, path: n.path(g.anyPlace(n))}
	n.attach(dir, name)
	o.to = n.path(len(n.places) - 1)
	g.add(o)
}

// rename moves the node's i-th name, over what is there.
func (g *gen) rename(n *node, i int, dir *node, name string) {
	o := op{kind: opRename, path: n.path(i)}
	if old := dir.kids[name]; old != nil {
		old.detach(place{dir, name})
	}
	n.detach(n.places[i])
	n.attach(dir, name)
	o.to = n.path(len(n.places) - 1)
	g.add(o)
}

// exchange lets two names change places, if neither lies under the other.
func (g *gen) exchange(a, b *node) {
	i, j := g.anyPlace(a), g.anyPlace(b)
	pa, pb := a.places[i], b.places[j]
	if pa.dir.below(b) || pb.dir.below(a) {
		return
	}
	g.add(op{kind: opExchange, path: a.path(i), to: b.path(j)})
	a.places[i], b.places[j] = pb, pa
	pa.dir.kids[pa.name], pb.dir.kids[pb.name] = b, a
}

// remove takes away one name, or a whole directory with what is in it.
func (g *gen) remove(n *node, i int) {
	for hasKids(n) {
		k := n.all()[1]
		g.remove(k, slices.IndexFunc(k.places, func(p place) bool { return p.dir == n }))
	}
	o := op{kind: opRemove, path: n.path(i)}
	n.detach(n.places[i])
	g.add(o)
}

// removeAll removes a node with all its names.
func (g *gen) removeAll(n *node) {
	for len(n.places) > 0 {
		g.remove(n, 0)
	}
}

func (g *gen) xattr(n *node) {
	pool := []string{"user.a", "user.b", "trusted.c", "security.d", "system.posix_acl_access"}
	switch n.typ {
	case typFile:
		pool = append(pool, "security.capability", "security.capability")
	case typDir:
		pool = append(pool, "system.posix_acl_default")
	case typSymlink:
		pool = []string{"trusted.c", "security.d"}
	default:
		pool = []string{"trusted.c", "security.d", "system.posix_acl_access"}
	}
	o := op{kind: opXattr, path: n.path(0), name: pool[g.rng.IntN(len(pool))], n: g.rng.Int64N(300)}
	n.xattrs[o.name] = true
	g.add(o)
}

func (g *gen) unxattr(n *node) {
	for _, name := range []string{"user.a", "user.b", "trusted.c", "security.d"} { // a capability may be gone: writing drops it
		if n.xattrs[name] {
			delete(n.xattrs, name)
			g.add(op{kind: opUnxattr, path: n.path(0), name: name})
			return
		}
	}
}

// chown sets the capability of a regular file anew half the time, which the kernel has dropped.
func (g *gen) chown(n *node) {
	g.add(op{kind: opChown, path: n.path(0), n: g.rng.Int64N(5), off: g.rng.Int64N(5)})
	if n.typ == typFile && g.rng.IntN(2) == 0 {
		g.add(op{kind: opXattr, path: n.path(0), name: "security.capability"})
	}
}
