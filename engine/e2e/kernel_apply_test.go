package e2e

import (
	"maps"
	"path"
	"strings"
)

// find returns the node of a path and the directory it is in.
func (m *model) find(p string) (n, dir *node, name string) {
	n = m.top
	for part := range strings.SplitSeq(p, "/") {
		dir, name = n, part
		if n = dir.children[part]; n == nil {
			break
		}
	}
	return n, dir, name
}

// applied takes note of an operation that was done.
func (m *model) applied(o op) {
	n, dir, name := m.find(o.path)
	switch o.kind {
	case opCreate:
		dir.children[name] = newNode(nodeFile)
	case opMkdir:
		dir.children[name] = newNode(nodeDir)
	case opSymlink, opMknod:
		dir.children[name] = newNode(nodeOther)
	case opSubvolume:
		dir.children[name] = newNode(nodeSubvol)
	case opWrite, opOverwrite:
		n.size = max(n.size, o.off+o.n)
	case opTruncate:
		n.size = o.n
	case opFallocate:
		if o.mode == 0 {
			n.size = max(n.size, o.off+o.n)
		}
	case opReflink:
		n.size = max(n.size, o.off+o.n)
	case opRename:
		if _, toDir, toName := m.find(o.to); toDir.children[toName] != n { // two names of one inode both stay
			delete(dir.children, name)
			toDir.children[toName] = n
		}
	case opExchange:
		to, toDir, toName := m.find(o.to)
		dir.children[name], toDir.children[toName] = to, n
	case opLink:
		_, toDir, toName := m.find(o.to)
		toDir.children[toName] = n
	case opUnlink, opRmdir, opDeleteSubvol:
		delete(dir.children, name)
	case opSetXattr:
		n.xattrs[o.name] = true
	case opRemoveXattr:
		delete(n.xattrs, o.name)
	case opSnapshotRW, opSnapshotRO:
		c := copySubvol(n)
		c.readonly = o.kind == opSnapshotRO
		_, toDir, toName := m.find(o.to)
		toDir.children[toName] = c
	}
}

// copySubvol is what a snapshot has: the inodes with all their names, and placeholders for subvolumes.
func copySubvol(n *node) *node {
	copies := map[*node]*node{}
	var walk func(n *node, top bool) *node
	walk = func(n *node, top bool) *node {
		if c := copies[n]; c != nil {
			return c
		}
		if n.kind == nodeSubvol && !top {
			return newNode(nodePlaceholder)
		}
		c := newNode(n.kind)
		c.size, c.xattrs = n.size, maps.Clone(n.xattrs)
		copies[n] = c
		for name, child := range n.children {
			c.children[name] = walk(child, false)
		}
		return c
	}
	return walk(n, true)
}

// fits tells whether the model can follow an operation; a rename of a directory into itself is one it cannot.
func (m *model) fits(o op) bool {
	return !(o.kind == opRename || o.kind == opExchange) ||
		!strings.HasPrefix(o.to+"/", o.path+"/") && !strings.HasPrefix(o.path+"/", path.Clean(o.to)+"/")
}
