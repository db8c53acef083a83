package sendtest

// scene is a group of changes that belong together: a case that is known to be hard for an incremental stream. A scene
// for which the tree has not what it takes does nothing, or less.
type scene struct {
	name string
	play func(g *gen)
}

var scenes = []scene{
	{"chain", sceneChain},
	{"swap", sceneSwap},
	{"swap", sceneSwap},
	{"under child", sceneUnderChild},
	{"reverse", sceneReverse},
	{"file to directory", sceneFileToDir},
	{"directory to file", sceneDirToFile},
	{"inode re-used", sceneReuse},
	{"inode re-used", sceneReuse},
	{"replaced", sceneReplaced},
	{"deep", sceneDeep},
	{"references", sceneReferences},
	{"many references", sceneManyReferences},
	{"ancestors", sceneAncestors},
	{"emptied", sceneEmptied},
	{"new above old", sceneNewAboveOld},
	{"taken name", sceneTakenName},
	{"data", sceneData},
	{"data", sceneData},
	{"holes", sceneHoles},
	{"clones", sceneClones},
	{"attributes", sceneAttributes},
}

// sceneChain: each of some names goes to what the next one leaves, a -> b -> c -> new; or around, c -> a.
func sceneChain(g *gen) {
	var chain []*node
	for range 3 + g.rng.IntN(3) {
		n := g.pick(isAny, func(n *node) bool {
			for _, c := range chain {
				if !apart(n, c) {
					return false
				}
			}
			return true
		})
		if n == nil {
			break
		}
		chain = append(chain, n)
	}
	if len(chain) < 2 {
		return
	}
	last := chain[len(chain)-1]
	left := last.places[0]
	if d := g.dir(); g.coin() || d.below(last) {
		g.rename(last, 0, left.dir, g.free(left.dir))
	} else {
		g.rename(last, 0, d, g.free(d))
	}
	for i := len(chain) - 2; i >= 0; i-- {
		n, was := chain[i], chain[i].places[0]
		if left.dir.below(n) {
			return
		}
		g.rename(n, 0, left.dir, left.name)
		left = was
	}
	if n := last; g.coin() && !left.dir.below(n) && left.dir.kids[left.name] == nil {
		g.rename(n, 0, left.dir, left.name)
	}
}

// sceneSwap: two names change places, of whatever type.
func sceneSwap(g *gen) {
	a := g.pick(isAny)
	if a == nil {
		return
	}
	if b := g.pick(func(b *node) bool { return apart(a, b) }); b != nil {
		g.exchange(a, b)
	}
}

// sceneUnderChild: a directory moves under a directory that was below it: d/e becomes e, then e/d.
func sceneUnderChild(g *gen) {
	e := g.pick(isDir, func(n *node) bool { return n.places[0].dir != g.root })
	if e == nil {
		return
	}
	d := e.places[0].dir
	for d.places[0].dir != g.root && g.coin() {
		d = d.places[0].dir
	}
	up := d.places[0]
	name := g.free(up.dir)
	g.rename(e, 0, up.dir, name)
	g.rename(d, 0, e, g.free(e))
	if g.coin() {
		g.rename(e, 0, up.dir, up.name) // under the very name of its former parent
	}
}

// sceneReverse: a chain of directories is turned around, a/b/c to c/b/a.
func sceneReverse(g *gen) {
	deepest := g.root
	for _, n := range g.root.all() {
		if n.typ == typDir && depth(n) > depth(deepest) {
			deepest = n
		}
	}
	if depth(deepest) < 2 {
		d := g.dir()
		for range 3 {
			d = g.create(d, typDir)
		}
		return
	}
	var chain []*node // from the deepest up
	for n := deepest; n != g.root; n = n.places[0].dir {
		chain = append(chain, n)
	}
	to := g.root
	for _, n := range chain {
		g.rename(n, 0, to, g.free(to))
		to = n
	}
}

func depth(n *node) (d int) {
	for ; len(n.places) > 0; n = n.places[0].dir {
		d++
	}
	return d
}

func sceneFileToDir(g *gen) {
	n := g.pick(notDir)
	if n == nil {
		return
	}
	i := g.anyPlace(n)
	p := n.places[i]
	switch d := g.dir(); g.rng.IntN(3) {
	case 0:
		g.removeAll(n)
	case 1:
		g.rename(n, i, d, g.free(d))
	case 2:
		g.remove(n, i)
	}
	if p.dir.kids[p.name] != nil {
		return
	}
	d := g.createAs(p.dir, p.name, typDir)
	for range g.rng.IntN(3) {
		g.createAny(d)
	}
	if n := g.pick(notDir); n != nil && g.coin() {
		g.rename(n, 0, d, g.free(d))
	}
}

func sceneDirToFile(g *gen) {
	n := g.pick(isDir)
	if n == nil {
		return
	}
	p := n.places[0]
	if d := g.dir(); g.coin() && !d.below(n) {
		g.rename(n, 0, d, g.free(d))
	} else {
		g.removeAll(n)
	}
	if p.dir.kids[p.name] == nil {
		g.write(g.createAs(p.dir, p.name, typFile))
	}
}

// sceneReuse: the newest inodes go, and others come that get their numbers, of the same types or of others.
func sceneReuse(g *gen) {
	k := 1 + g.rng.IntN(6)
	for range k {
		var newest *node
		for _, n := range g.root.all()[1:] {
			if newest == nil || n.ino > newest.ino {
				newest = n
			}
		}
		if newest == nil {
			break
		}
		if newest.typ == typDir && g.coin() {
			for hasKids(newest) { // what is in it stays, elsewhere
				for _, kid := range newest.all()[1:2] {
					for j, p := range kid.places {
						if p.dir == newest {
							g.rename(kid, j, newest.places[0].dir, g.free(newest.places[0].dir))
							break
						}
					}
				}
			}
		}
		g.removeAll(newest)
	}
	g.reload()
	for range 1 + g.rng.IntN(6) {
		n := g.createAny(g.dir())
		if g.rng.IntN(3) == 0 {
			g.xattr(n)
		}
	}
}

// sceneReplaced: a rename over something that is there.
func sceneReplaced(g *gen) {
	if g.coin() {
		a := g.pick(isDir)
		if a == nil {
			return
		}
		if b := g.pick(isEmpty, func(b *node) bool { return apart(a, b) }); b != nil {
			g.rename(a, 0, b.places[0].dir, b.places[0].name)
		}
		return
	}
	a, b := g.pick(notDir), g.pick(notDir)
	if a == nil || a == b {
		return
	}
	p := b.places[g.anyPlace(b)]
	g.rename(a, g.anyPlace(a), p.dir, p.name)
}

// sceneDeep: something deep down changes its name while directories above it do, too.
func sceneDeep(g *gen) {
	n := g.pick(isAny, func(n *node) bool { return depth(n) > 2 })
	if n == nil {
		d := g.dir()
		for range 3 {
			d = g.create(d, typDir)
		}
		g.createAny(d)
		return
	}
	if g.coin() {
		d := n.places[0].dir
		g.rename(n, 0, d, g.free(d))
	}
	for d := n.places[0].dir; d != g.root; d = d.places[0].dir {
		if up := d.places[0].dir; g.rng.IntN(3) > 0 {
			g.rename(d, 0, up, g.free(up))
		}
	}
	if g.coin() {
		g.move(n)
	}
}

// sceneReferences: a file gains and loses names in one step, also such as others had.
func sceneReferences(g *gen) {
	n := g.pick(notDir)
	if n == nil {
		return
	}
	for range 1 + g.rng.IntN(3) {
		d := g.dir()
		g.link(n, d, g.free(d))
	}
	if o := g.pick(notDir, func(o *node) bool { return o != n }); o != nil && g.coin() {
		p := o.places[0]
		g.link(o, g.root, g.free(g.root))
		g.remove(o, 0)
		g.link(n, p.dir, p.name)
	}
	for len(n.places) > 1 && g.coin() {
		g.remove(n, g.rng.IntN(len(n.places)))
	}
	for i := range n.places {
		if d := n.places[i].dir; d != g.root && g.rng.IntN(3) == 0 {
			g.move(d)
			break
		}
	}
}

// sceneManyReferences: so many names in one directory that they take extended references, and then some go.
func sceneManyReferences(g *gen) {
	n := g.pick(notDir, func(n *node) bool { return len(n.places) > 20 })
	if n == nil {
		if n = g.pick(isFile); n == nil || g.rng.IntN(3) > 0 {
			return
		}
		d := g.dir()
		for i := range 80 {
			name := names[len(names)-1][:100] + string(rune('A'+i%26)) + string(rune('A'+i/26)) + string(make200())
			if d.kids[name] == nil {
				g.link(n, d, name)
			}
		}
	}
	for range g.rng.IntN(12) {
		g.remove(n, g.rng.IntN(len(n.places)))
	}
	for range g.rng.IntN(3) {
		g.rename(n, g.rng.IntN(len(n.places)), g.root, g.free(g.root))
	}
}

func make200() []byte {
	b := make([]byte, 140)
	for i := range b {
		b[i] = 'r'
	}
	return b
}

// sceneAncestors: a directory and one far below it change places in the hierarchy, with something in between.
func sceneAncestors(g *gen) {
	low := g.pick(isDir, func(n *node) bool { return depth(n) > 2 })
	if low == nil {
		return
	}
	mid := low.places[0].dir
	top := mid
	for top.places[0].dir != g.root {
		top = top.places[0].dir
	}
	g.rename(low, 0, g.root, g.free(g.root))
	if mid != top {
		g.rename(mid, 0, low, g.free(low))
		if g.coin() {
			g.rename(top, 0, mid, g.free(mid))
		}
	} else {
		g.rename(top, 0, low, g.free(low))
	}
}

// sceneEmptied: a directory goes, and what was in it goes on elsewhere.
func sceneEmptied(g *gen) {
	d := g.pick(isDir, hasKids)
	if d == nil {
		return
	}
	for _, k := range d.all()[1:] {
		for j, p := range k.places {
			if p.dir != d {
				continue
			}
			to := g.dir()
			if to.below(d) || k.typ == typDir && to.below(k) {
				to = g.root
			}
			if d == to || g.rng.IntN(4) == 0 {
				g.remove(k, j)
			} else {
				g.rename(k, j, to, g.free(to))
			}
			break
		}
	}
	if !hasKids(d) {
		g.remove(d, 0)
	}
}

// sceneNewAboveOld: old things move into new directories, which so have higher numbers than what they hold.
func sceneNewAboveOld(g *gen) {
	d := g.create(g.dir(), typDir)
	if g.coin() {
		d = g.create(d, typDir)
	}
	for range 1 + g.rng.IntN(3) {
		if n := g.pick(isAny, func(n *node) bool { return !d.below(n) }); n != nil {
			g.rename(n, g.anyPlace(n), d, g.free(d))
		}
	}
	if g.coin() {
		g.move(d)
	}
}

// sceneTakenName: a new or moved thing gets a name that something else leaves or loses.
func sceneTakenName(g *gen) {
	n := g.pick(isAny)
	if n == nil {
		return
	}
	p := n.places[0]
	if d := g.dir(); g.coin() && !d.below(n) {
		g.rename(n, 0, d, g.free(d))
	} else {
		g.removeAll(n)
	}
	if p.dir != g.root && (len(p.dir.places) == 0) || p.dir.kids[p.name] != nil {
		return
	}
	if o := g.pick(func(o *node) bool { return !p.dir.below(o) }); o != nil && g.coin() {
		g.rename(o, g.anyPlace(o), p.dir, p.name)
	} else {
		g.createAs(p.dir, p.name, typFile)
	}
}

func sceneData(g *gen) {
	for range 1 + g.rng.IntN(5) {
		g.step(dataSteps)
	}
}

func sceneHoles(g *gen) {
	n := g.pick(isFile)
	if n == nil {
		return
	}
	for range 1 + g.rng.IntN(3) {
		switch g.rng.IntN(5) {
		case 0:
			n.size += 1 + g.rng.Int64N(100000)
			g.add(op{kind: opTruncate, path: n.path(0), n: n.size})
		case 1:
			g.fallocate(n)
		case 2:
			if n.size > 0 {
				g.punch(n)
			}
		case 3:
			n.size = g.rng.Int64N(n.size + 1)
			g.add(op{kind: opTruncate, path: n.path(0), n: n.size})
		case 4:
			g.write(n)
		}
	}
}

func sceneClones(g *gen) {
	n := g.pick(isFile)
	if g.coin() || n == nil {
		n = g.create(g.dir(), typFile)
	}
	for range 1 + g.rng.IntN(4) {
		g.clone(n)
	}
	if g.coin() {
		g.write(n)
	}
}

func sceneAttributes(g *gen) {
	for range 1 + g.rng.IntN(6) {
		g.step(attrSteps)
	}
}
