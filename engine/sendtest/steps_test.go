package sendtest

// step is a change of one thing, with how often it comes.
type step struct {
	weight int
	do     func(g *gen)
}

// on plays fn on a node that fits.
func on(fn func(g *gen, n *node), fits ...func(*node) bool) func(*gen) {
	return func(g *gen) {
		if n := g.pick(fits...); n != nil {
			fn(g, n)
		}
	}
}

var attrSteps = []step{
	{3, on((*gen).xattr, isAny)},
	{2, on((*gen).unxattr, isAny)},
	{2, on(func(g *gen, n *node) { g.add(op{kind: opChmod, path: n.path(0), n: g.rng.Int64N(0o10000)}) }, notSymlink)},
	{2, on((*gen).chown, isAny)},
	{2, on(func(g *gen, n *node) { g.add(op{kind: opTimes, path: n.path(0), n: g.rng.Int64N(1 << 31)}) }, isAny)},
	{1, on(func(g *gen, n *node) { g.add(op{kind: opFlags, path: n.path(0), n: g.rng.Int64N(4) << 6}) }, isFileOrDir, isCow)},
	{1, func(g *gen) { g.add(op{kind: opChown, path: "", n: g.rng.Int64N(5), off: 1}) }},
	{1, func(g *gen) { g.add(op{kind: opXattr, path: "", name: "user.a", n: 5}) }},
	{1, func(g *gen) { g.add(op{kind: opTimes, path: "", n: g.rng.Int64N(1 << 31)}) }},
}

var dataSteps = []step{
	{8, on((*gen).write, isFile)},
	{3, on((*gen).truncate, isFile)},
	{3, on((*gen).fallocate, isFile)},
	{3, on((*gen).punch, hasData)},
	{6, on((*gen).clone, isFile)},
}

var nameSteps = []step{
	{10, func(g *gen) { g.createAny(g.dir()) }},
	{3, on(func(g *gen, n *node) { d := g.dir(); g.link(n, d, g.free(d)) }, notDir)},
	{6, on((*gen).move, isAny)},
	{2, on(func(g *gen, n *node) { g.remove(n, g.anyPlace(n)) }, notDir)},
	{1, on(func(g *gen, n *node) { g.remove(n, 0) }, isDir)},
}

var buildSteps = concat([]step{{25, func(g *gen) { g.createAny(g.dir()) }}}, nameSteps, dataSteps, attrSteps)
var changeSteps = concat(nameSteps, dataSteps, attrSteps)

func concat(lists ...[]step) (all []step) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

func (g *gen) step(list []step) {
	total := 0
	for _, s := range list {
		total += s.weight
	}
	at := g.rng.IntN(total)
	for _, s := range list {
		if at -= s.weight; at < 0 {
			s.do(g)
			return
		}
	}
}

func isAny(*node) bool         { return true }
func notSymlink(n *node) bool  { return n.typ != typSymlink }
func isFileOrDir(n *node) bool { return n.typ == typFile || n.typ == typDir }
func isCow(n *node) bool       { return !n.noCow }
func apart(a, b *node) bool    { return a != b && !a.below(b) && !b.below(a) }
func (g *gen) coin() bool      { return g.rng.IntN(2) == 0 }
func (g *gen) move(n *node)    { g.moveTo(n, g.dir()) }
func (g *gen) moveTo(n, d *node) { // under a free name, if the directory is not the node's own or below it
	if n.typ != typDir || !d.below(n) {
		g.rename(n, g.anyPlace(n), d, g.free(d))
	}
}
