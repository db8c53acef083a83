package sendtest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
)

// fileType is what a node of the model is.
type fileType byte

const (
	typFile fileType = iota
	typDir
	typSymlink
	typChr
	typBlk
	typFifo
	typSock
	fileTypes
)

// place is one name of a node.
type place struct {
	dir  *node
	name string
}

// node is one inode of the model.
type node struct {
	ino    int // like the file system's: ascending, the next one is above all that there are when the tree was loaded
	typ    fileType
	places []place          // a directory has one; the top has none
	kids   map[string]*node // of a directory
	size   int64
	xattrs map[string]bool
	noCow  bool
}

// path is that of the node's i-th name.
func (n *node) path(i int) string {
	if len(n.places) == 0 {
		return ""
	}
	p := n.places[i]
	if up := p.dir.path(0); up != "" {
		return up + "/" + p.name
	}
	return p.name
}

// below reports whether n is dir or lies under it.
func (n *node) below(dir *node) bool {
	for ; n != dir; n = n.places[0].dir {
		if len(n.places) == 0 {
			return false
		}
	}
	return true
}

// attach gives n a name.
func (n *node) attach(dir *node, name string) {
	n.places = append(n.places, place{dir, name})
	dir.kids[name] = n
}

// detach takes a name away.
func (n *node) detach(p place) {
	n.places = slices.DeleteFunc(n.places, func(q place) bool { return q == p })
	delete(p.dir.kids, p.name)
}

// all returns every node once, the top first, in an order that only depends on the tree.
func (n *node) all() []*node {
	list, seen := []*node{n}, map[*node]bool{n: true}
	for i := 0; i < len(list); i++ {
		for _, name := range slices.Sorted(maps.Keys(list[i].kids)) {
			if k := list[i].kids[name]; !seen[k] {
				seen[k] = true
				list = append(list, k)
			}
		}
	}
	return list
}

// pick chooses a node that fits, nil if none does. The top only fits isDir.
func (g *gen) pick(fits ...func(*node) bool) *node {
	var list []*node
	for _, n := range g.root.all() {
		if n == g.root && len(fits) > 0 {
			continue
		}
		ok := true
		for _, f := range fits {
			ok = ok && f(n)
		}
		if ok {
			list = append(list, n)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[g.rng.IntN(len(list))]
}

// dir chooses a directory, often the top.
func (g *gen) dir() *node {
	var dirs []*node
	for _, n := range g.root.all() {
		if n.typ == typDir {
			dirs = append(dirs, n)
		}
	}
	return dirs[g.rng.IntN(len(dirs))]
}

func isDir(n *node) bool   { return n.typ == typDir }
func notDir(n *node) bool  { return n.typ != typDir }
func isFile(n *node) bool  { return n.typ == typFile }
func hasData(n *node) bool { return n.typ == typFile && n.size > 0 }
func hasKids(n *node) bool { return len(n.kids) > 0 }
func isEmpty(n *node) bool { return n.typ == typDir && len(n.kids) == 0 }

// names that all directories draw from, so that the same name means different things at different times and places.
var names = []string{"a", "b", "c", "d", "e", "f", "g", "h", "o257-5-0", "x y", "ü", strings.Repeat("long", 30)}

// free chooses a name that dir does not have.
func (g *gen) free(dir *node) string {
	for range 8 {
		if name := names[g.rng.IntN(len(names))]; dir.kids[name] == nil {
			return name
		}
	}
	for {
		name := names[g.rng.IntN(len(names))] + string(rune('0'+g.rng.IntN(10))) + string(rune('0'+g.rng.IntN(10)))
		if dir.kids[name] == nil {
			return name
		}
	}
}

// any place of a node.
func (g *gen) anyPlace(n *node) int {
	if len(n.places) < 2 {
		return 0
	}
	return g.rng.IntN(len(n.places))
}

// file is a file as the first snapshot has it: what clones may come from.
type file struct {
	path  string
	size  int64
	noCow bool
}

func (g *gen) files() (list []file) {
	for _, n := range g.root.all() {
		if n.typ == typFile && n.size > 0 {
			list = append(list, file{n.path(0), n.size, n.noCow})
		}
	}
	return list
}

var _ = rand.New
