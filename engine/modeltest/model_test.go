package modeltest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// The naive model. All of it is immutable: a change makes a new node, tree and state, so that the state after each step
// of a client can be kept for as long as a crash may go back to it.

// node is an inode.
type node struct {
	ino      ondisk.ObjectID
	mode     uint32 // with the type
	uid, gid uint32
	rdev     uint64
	nocow    bool
	data     []byte // of a regular file
	target   string // of a symbolic link
	xattrs   map[string]string
	entries  map[string]ondisk.ObjectID // of a directory
	parent   ondisk.ObjectID            // of a directory
	nlink    int
	mtime    *ondisk.Timespec // nil: whatever it is
}

func (n *node) typ() uint32 { return n.mode & ondisk.ModeFmt }
func (n *node) isDir() bool { return n.typ() == ondisk.ModeDir }
func (n *node) isReg() bool { return n.typ() == ondisk.ModeReg }

// vol is a subvolume.
type vol struct {
	id    ondisk.TreeID // 0: not known, whatever it is
	ro    bool
	loose bool // inode numbers are not known
	// snapOf is the subvolume that it is a snapshot of, copyOf the one that it was received from, or that the subvolume was
	// of which it is a snapshot, if it has been read-only ever since. 0: none.
	snapOf, copyOf ondisk.TreeID
	nodes          map[ondisk.ObjectID]*node
}

// state is all that belongs to one client: its subvolumes by their names in the top directory.
type state map[string]*vol

func emptyVol(id ondisk.TreeID) *vol {
	root := &node{ino: inode.RootDir, mode: ondisk.ModeDir | 0o755, nlink: 1, parent: inode.RootDir}
	return &vol{id: id, nodes: map[ondisk.ObjectID]*node{inode.RootDir: root}}
}

// with returns the state with another volume of that name; nil takes it away.
func (s state) with(name string, v *vol) state {
	t := maps.Clone(s)
	if t == nil {
		t = state{}
	}
	if v == nil {
		delete(t, name)
	} else {
		t[name] = v
	}
	return t
}

// edit is a change to a volume under way.
type edit struct {
	v      *vol
	copied map[ondisk.ObjectID]bool // nodes of v that are the edit's own
}

func (v *vol) edit() *edit {
	return &edit{v: &vol{id: v.id, ro: v.ro, copyOf: v.copyOf, nodes: maps.Clone(v.nodes)}, copied: map[ondisk.ObjectID]bool{}}
}

// node returns a node that may be changed. Its maps and bytes are still to be replaced, not changed.
func (e *edit) node(ino ondisk.ObjectID) *node {
	n := e.v.nodes[ino]
	if n == nil {
		panic(fmt.Sprintf("model: no inode %d", ino))
	}
	if !e.copied[ino] {
		c := *n
		n = &c
		e.copied[ino] = true
		e.v.nodes[ino] = n
	}
	return n
}

// put adds a new inode under a name.
func (e *edit) put(n *node, dir ondisk.ObjectID, name string) {
	e.v.nodes[n.ino], e.copied[n.ino] = n, true
	e.enter(dir, name, n.ino)
}

// enter adds or replaces an entry.
func (e *edit) enter(dir ondisk.ObjectID, name string, ino ondisk.ObjectID) {
	d := e.node(dir)
	d.entries = maps.Clone(d.entries)
	if d.entries == nil {
		d.entries = map[string]ondisk.ObjectID{}
	}
	d.entries[name], d.mtime = ino, nil
	if n := e.v.nodes[ino]; n.isDir() {
		e.node(ino).parent = dir
	}
}

// leave takes an entry away, whatever becomes of its inode.
func (e *edit) leave(dir ondisk.ObjectID, name string) {
	d := e.node(dir)
	d.entries = maps.Clone(d.entries)
	delete(d.entries, name)
	d.mtime = nil
}

// drop takes a name off an inode, and the inode with its last one.
func (e *edit) drop(ino ondisk.ObjectID) {
	n := e.node(ino)
	if n.nlink--; n.nlink == 0 || n.isDir() {
		delete(e.v.nodes, ino)
	}
}

// write returns data with p at off.
func write(data, p []byte, off int64) []byte {
	out := make([]byte, max(int64(len(data)), off+int64(len(p))))
	copy(out, data)
	copy(out[off:], p)
	return out
}

// resize returns data cut or with zeros behind it.
func resize(data []byte, n int64) []byte {
	out := make([]byte, n)
	copy(out, data)
	return out
}

// zeroed returns data with zeros in [from, to), as far as it reaches.
func zeroed(data []byte, from, to int64) []byte {
	out := slices.Clone(data)
	if from = min(from, int64(len(out))); from < to {
		clear(out[from:min(to, int64(len(out)))])
	}
	return out
}

// renameErr is what stands against a renaming, nil if nothing does; same says that both names are of one inode.
func (v *vol) renameErr(oldDir ondisk.ObjectID, oldName string, newDir ondisk.ObjectID, newName string, mode inode.RenameMode) (same bool, err error) {
	src, ok := v.nodes[oldDir].entries[oldName]
	if !ok {
		return false, fserr.ErrNotFound
	}
	dst, replaces := v.nodes[newDir].entries[newName]
	switch {
	case mode == inode.RenameNoReplace && replaces:
		return false, fserr.ErrExist
	case mode == inode.RenameExchange && !replaces:
		return false, fserr.ErrNotFound
	case replaces && src == dst:
		return true, nil
	case v.within(newDir, src), replaces && mode == inode.RenameExchange && v.within(oldDir, dst):
		return false, fserr.ErrInvalid
	}
	if !replaces || mode == inode.RenameExchange {
		return false, nil
	}
	s, d := v.nodes[src], v.nodes[dst]
	switch {
	case s.isDir() && !d.isDir():
		return false, fserr.ErrNotDir
	case !s.isDir() && d.isDir():
		return false, fserr.ErrIsDir
	case d.isDir() && len(d.entries) > 0:
		return false, fserr.ErrNotEmpty
	}
	return false, nil
}

// within reports whether dir is ino or lies below it.
func (v *vol) within(dir, ino ondisk.ObjectID) bool {
	for {
		if dir == ino {
			return true
		}
		if dir == inode.RootDir {
			return false
		}
		dir = v.nodes[dir].parent
	}
}

// rename carries out a renaming that nothing stands against.
func (v *vol) rename(oldDir ondisk.ObjectID, oldName string, newDir ondisk.ObjectID, newName string, mode inode.RenameMode) *vol {
	e := v.edit()
	src := v.nodes[oldDir].entries[oldName]
	dst, replaces := v.nodes[newDir].entries[newName]
	e.leave(oldDir, oldName)
	if mode == inode.RenameExchange {
		e.enter(newDir, newName, src)
		e.enter(oldDir, oldName, dst)
		return e.v
	}
	if replaces {
		e.leave(newDir, newName)
		e.drop(dst)
	}
	e.enter(newDir, newName, src)
	return e.v
}

// diffStates says how got differs from want, "" if it does not.
func diffStates(want, got state) string {
	for name, v := range want {
		g, ok := got[name]
		if !ok {
			return fmt.Sprintf("subvolume %s is missing", name)
		}
		if v.id != 0 && g.id != 0 && v.id != g.id {
			return fmt.Sprintf("subvolume %s has id %d, want %d", name, g.id, v.id)
		}
		if v.ro != g.ro {
			return fmt.Sprintf("subvolume %s: read-only is %v, want %v", name, g.ro, v.ro)
		}
		if d := diffVols(v, g); d != "" {
			return fmt.Sprintf("subvolume %s: %s", name, d)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			return fmt.Sprintf("subvolume %s should not be there", name)
		}
	}
	return ""
}

// diffVols compares the content of two volumes.
func diffVols(want, got *vol) string {
	if want.loose {
		return diffObjects(objects(want), objects(got))
	}
	for _, ino := range slices.Sorted(maps.Keys(want.nodes)) {
		g, ok := got.nodes[ino]
		if !ok {
			return fmt.Sprintf("%s (inode %d) is missing", want.path(ino), ino)
		}
		if d := diffNodes(want.nodes[ino], g); d != "" {
			return fmt.Sprintf("%s (inode %d): %s", want.path(ino), ino, d)
		}
	}
	for ino := range got.nodes {
		if _, ok := want.nodes[ino]; !ok {
			return fmt.Sprintf("%s (inode %d) should not be there", got.path(ino), ino)
		}
	}
	return ""
}

func diffNodes(w, g *node) string {
	switch {
	case w == g:
		return ""
	case w.mode != g.mode:
		return fmt.Sprintf("mode %#o, want %#o", g.mode, w.mode)
	case w.uid != g.uid || w.gid != g.gid:
		return fmt.Sprintf("owner %d:%d, want %d:%d", g.uid, g.gid, w.uid, w.gid)
	case w.nlink != g.nlink:
		return fmt.Sprintf("%d links, want %d", g.nlink, w.nlink)
	case w.rdev != g.rdev:
		return fmt.Sprintf("rdev %#x, want %#x", g.rdev, w.rdev)
	case w.nocow != g.nocow:
		return fmt.Sprintf("nodatacow %v, want %v", g.nocow, w.nocow)
	case w.target != g.target:
		return fmt.Sprintf("target %q, want %q", g.target, w.target)
	case w.mtime != nil && g.mtime != nil && *w.mtime != *g.mtime:
		return fmt.Sprintf("mtime %v, want %v", *g.mtime, *w.mtime)
	case w.isDir() && w.parent != g.parent:
		return fmt.Sprintf("parent %d, want %d", g.parent, w.parent)
	case !maps.Equal(w.xattrs, g.xattrs):
		return fmt.Sprintf("xattrs %.200q, want %.200q", g.xattrs, w.xattrs)
	case !maps.Equal(w.entries, g.entries):
		return fmt.Sprintf("entries %v, want %v", g.entries, w.entries)
	}
	return diffData(w.data, g.data)
}

func diffData(want, got []byte) string {
	if len(want) != len(got) {
		return fmt.Sprintf("%d bytes, want %d", len(got), len(want))
	}
	if bytes.Equal(want, got) {
		return ""
	}
	at := 0
	for want[at] == got[at] {
		at++
	}
	end := min(at+8, len(want))
	return fmt.Sprintf("of %d bytes those at %d are %x, want %x", len(want), at, got[at:end], want[at:end])
}

// path finds a name of an inode, for messages.
func (v *vol) path(ino ondisk.ObjectID) string {
	if ino == inode.RootDir {
		return "/"
	}
	for _, d := range v.nodes {
		for name, i := range d.entries {
			if i == ino && d.ino != ino {
				if len(name) > 12 {
					name = name[:4] + "..."
				}
				return v.path(d.ino) + name + "/"
			}
		}
	}
	return "?/"
}
