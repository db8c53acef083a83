package inode_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// node is an inode of the naive model.
type node struct {
	ino      ondisk.ObjectID
	typ      uint32
	mode     uint32
	data     []byte
	target   string
	xattrs   map[string]string
	children map[string]*node // of a directory
	parent   *node            // of a directory
	nlink    int
	noSum    bool
}

func (n *node) isDir() bool { return n.typ == ondisk.ModeDir }

func newNode(ino ondisk.ObjectID, typ uint32) *node {
	n := &node{ino: ino, typ: typ, mode: 0o644, nlink: 1, xattrs: map[string]string{}}
	if n.isDir() {
		n.children = map[string]*node{}
	}
	return n
}

// model runs random operations on a tree and on nodes, and compares errors and results.
type model struct {
	t     testing.TB
	ctx   context.Context
	rng   *rand.Rand
	tree  *inode.FileTree
	root  *node
	names []string
	count map[string]int
	big   int // largest file, bytes
}

func newModel(t testing.TB, tree *inode.FileTree, seed uint64) *model {
	m := &model{t: t, ctx: context.Background(), tree: tree, rng: rand.New(rand.NewPCG(seed, 1)), count: map[string]int{}, big: 400 << 10}
	m.root = newNode(inode.RootDir, ondisk.ModeDir)
	m.root.mode = 0o755
	m.names = append(m.names, collidingNames()...)
	for i := range 30 {
		m.names = append(m.names, fmt.Sprintf("name-%d", i))
	}
	m.names = append(m.names, string(bytes.Repeat([]byte{'n'}, 255)), "\xff\xfe not utf-8")
	return m
}

// collidingNames returns pairs of names of equal hash, found by a birthday search. The tails are long enough for it: as
// lower-case letters differ in five bits only, six of them never collide.
func collidingNames() []string {
	const stem = "collision-"
	seen := map[uint64]string{}
	var out []string
	rng := rand.New(rand.NewPCG(7, 7))
	for len(out) < 4 {
		b := []byte(stem)
		for range 12 {
			b = append(b, byte('a'+rng.IntN(26)))
		}
		h := ondisk.NameHash(b)
		if was, ok := seen[h]; ok && was != string(b) {
			out = append(out, was, string(b))
		}
		seen[h] = string(b)
	}
	return out
}

// all returns every directory and every other node with a place of it.
type place struct {
	dir  *node
	name string
	n    *node
}

func (m *model) walk() (dirs []*node, places []place) {
	var visit func(d *node)
	visit = func(d *node) {
		dirs = append(dirs, d)
		for _, name := range slices.Sorted(maps.Keys(d.children)) {
			c := d.children[name]
			places = append(places, place{d, name, c})
			if c.isDir() {
				visit(c)
			}
		}
	}
	visit(m.root)
	return dirs, places
}

func pick[T any](m *model, s []T) T { return s[m.rng.IntN(len(s))] }

// expect compares an operation's error with what the model says.
func (m *model) expect(what string, got, want error) bool {
	m.t.Helper()
	m.count[what]++
	if (want == nil) != (got == nil) || want != nil && !errors.Is(got, want) {
		m.t.Fatalf("%s: got error %v, model says %v", what, got, want)
	}
	return want == nil
}

func (m *model) file() (place, bool) {
	_, ps := m.walk()
	ps = slices.DeleteFunc(ps, func(p place) bool { return p.n.typ != ondisk.ModeReg })
	if len(ps) == 0 {
		return place{}, false
	}
	return pick(m, ps), true
}

func (m *model) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.rng.Uint32())
	}
	if n > 0 && b[n-1] == 0 {
		b[n-1] = 1
	}
	return b
}

// size draws sizes that hit the boundaries: inline limit, sectors, and some beyond.
func (m *model) size() int {
	switch m.rng.IntN(6) {
	case 0:
		return m.rng.IntN(50)
	case 1:
		return 2040 + m.rng.IntN(20)
	case 2:
		return max(0, 4096*m.rng.IntN(4)+m.rng.IntN(5)-2)
	case 3:
		return m.rng.IntN(9000)
	case 4:
		return 4096 * m.rng.IntN(20)
	}
	return m.rng.IntN(m.big)
}

func (n *node) resize(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size:size]
	} else {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
}

// step does one random operation.
func (m *model) step() {
	m.t.Helper()
	ops := []func(){m.create, m.create, m.mkdir, m.symlink, m.write, m.write, m.write, m.write, m.truncate, m.truncate, m.punch,
		m.fallocate, m.unlink, m.rmdir, m.rename, m.rename, m.exchange, m.link, m.setXattr, m.removeXattr, m.chmod, m.clone, m.read}
	pick(m, ops)()
}

func (m *model) free(d *node, name string) error {
	if d.children[name] != nil {
		return fserr.ErrExist
	}
	return nil
}

func (m *model) create() {
	dirs, _ := m.walk()
	d, name := pick(m, dirs), pick(m, m.names)
	a := inode.Attr{Mode: 0o644, UID: 1, GID: 2}
	if m.rng.IntN(8) == 0 {
		a.Flags = ondisk.InodeNoDataCow
	}
	if m.rng.IntN(4) == 0 {
		a.Xattrs = []inode.Xattr{{Name: "user.b", Value: []byte("1")}, {Name: "user.a", Value: nil}}
	}
	ino, err := m.tree.Create(m.ctx, d.ino, name, a)
	if m.expect("create", err, m.free(d, name)) {
		n := newNode(ino, ondisk.ModeReg)
		n.noSum = a.Flags != 0
		for _, x := range a.Xattrs {
			n.xattrs[x.Name] = string(x.Value)
		}
		d.children[name] = n
	}
}

func (m *model) mkdir() {
	dirs, _ := m.walk()
	if len(dirs) > 12 {
		return
	}
	d, name := pick(m, dirs), pick(m, m.names)
	ino, err := m.tree.Mkdir(m.ctx, d.ino, name, inode.Attr{Mode: 0o755})
	if m.expect("mkdir", err, m.free(d, name)) {
		n := newNode(ino, ondisk.ModeDir)
		n.mode, n.parent = 0o755, d
		d.children[name] = n
	}
}

func (m *model) symlink() {
	dirs, _ := m.walk()
	d, name := pick(m, dirs), pick(m, m.names)
	target := string(bytes.Repeat([]byte{'t'}, 1+m.rng.IntN(300)))
	ino, err := m.tree.Symlink(m.ctx, d.ino, name, target, inode.Attr{})
	if m.expect("symlink", err, m.free(d, name)) {
		n := newNode(ino, ondisk.ModeLnk)
		n.mode, n.target = 0o777, target
		d.children[name] = n
	}
}

func (m *model) write() {
	f, ok := m.file()
	if !ok {
		return
	}
	p, off := m.bytes(m.size()), m.size()
	if m.rng.IntN(3) == 0 {
		off = len(f.n.data)
	}
	n, err := m.tree.WriteAt(m.ctx, f.n.ino, p, int64(off))
	if m.expect("write", err, nil) && n != len(p) {
		m.t.Fatalf("wrote %d of %d", n, len(p))
	}
	if len(p) > 0 {
		f.n.resize(max(len(f.n.data), off+len(p)))
		copy(f.n.data[off:], p)
	}
}

func (m *model) truncate() {
	if f, ok := m.file(); ok {
		size := m.size()
		if m.rng.IntN(2) == 0 {
			size = m.rng.IntN(len(f.n.data) + 1)
		}
		m.expect("truncate", m.tree.Truncate(m.ctx, f.n.ino, int64(size)), nil)
		f.n.resize(size)
	}
}

func (m *model) punch() {
	if f, ok := m.file(); ok {
		off, n := m.size(), m.size()+1
		m.expect("punch", m.tree.PunchHole(m.ctx, f.n.ino, int64(off), int64(n)), nil)
		if off < len(f.n.data) {
			clear(f.n.data[off:min(off+n, len(f.n.data))])
		}
	}
}

func (m *model) fallocate() {
	if f, ok := m.file(); ok {
		off, n, keep := m.size(), m.size()+1, m.rng.IntN(2) == 0
		m.expect("fallocate", m.tree.Fallocate(m.ctx, f.n.ino, int64(off), int64(n), keep), nil)
		if !keep {
			f.n.resize(max(len(f.n.data), off+n))
		}
	}
}

func (m *model) clone() {
	src, ok := m.file()
	dst, _ := m.file()
	if !ok || src.n == dst.n {
		return
	}
	from := m.rng.IntN(len(src.n.data)/4096+1) * 4096
	n := min(m.rng.IntN(40)*4096, (len(src.n.data)-from)/4096*4096)
	to := m.rng.IntN(20) * 4096
	if to+len(src.n.data)-from >= len(dst.n.data) && m.rng.IntN(2) == 0 {
		n = len(src.n.data) - from
	}
	if n == 0 {
		return
	}
	var want error
	if src.n.noSum != dst.n.noSum {
		want = fserr.ErrInvalid
	}
	err := m.tree.CloneRange(m.ctx, inode.Clone{Src: m.tree, SrcIno: src.n.ino, SrcOff: int64(from), N: int64(n), Ino: dst.n.ino, Off: int64(to)})
	if m.expect("clone", err, want) {
		dst.n.resize(max(len(dst.n.data), to+n))
		copy(dst.n.data[to:], src.n.data[from:from+n])
	}
}

func (m *model) read() {
	if f, ok := m.file(); ok {
		off, p := m.size(), make([]byte, m.size()+1)
		n, err := m.tree.ReadAt(m.ctx, f.n.ino, p, int64(off))
		var want []byte
		if off < len(f.n.data) {
			want = f.n.data[off:min(off+len(p), len(f.n.data))]
		}
		if !bytes.Equal(p[:n], want) || (n < len(p)) != (err == io.EOF) || err != nil && err != io.EOF {
			m.t.Fatalf("read of %d at %d of a file of %d: %d bytes, %v", len(p), off, len(f.n.data), n, err)
		}
		m.count["read"]++
	}
}

func (m *model) unlink() {
	_, ps := m.walk()
	if len(ps) == 0 || len(ps) < 20 && m.rng.IntN(2) == 0 {
		return
	}
	p := pick(m, ps)
	var want error
	if p.n.isDir() {
		want = fserr.ErrIsDir
	}
	if m.expect("unlink", m.tree.Unlink(m.ctx, p.dir.ino, p.name), want) {
		delete(p.dir.children, p.name)
		p.n.nlink--
	}
}

func (m *model) rmdir() {
	_, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	p := pick(m, ps)
	var want error
	if !p.n.isDir() {
		want = fserr.ErrNotDir
	} else if len(p.n.children) > 0 {
		want = fserr.ErrNotEmpty
	}
	if m.expect("rmdir", m.tree.Rmdir(m.ctx, p.dir.ino, p.name), want) {
		delete(p.dir.children, p.name)
	}
}

// below reports whether d is n or lies beneath it.
func below(d, n *node) bool {
	for ; d != nil; d = d.parent {
		if d == n {
			return true
		}
	}
	return false
}

func (m *model) rename() {
	dirs, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	p, d, name := pick(m, ps), pick(m, dirs), pick(m, m.names)
	old := d.children[name]
	var want error
	switch {
	case old == p.n:
	case p.n.isDir() && below(d, p.n):
		want = fserr.ErrInvalid
	case old != nil && p.n.isDir() && !old.isDir():
		want = fserr.ErrNotDir
	case old != nil && !p.n.isDir() && old.isDir():
		want = fserr.ErrIsDir
	case old != nil && old.isDir() && len(old.children) > 0:
		want = fserr.ErrNotEmpty
	}
	err := m.tree.Rename(m.ctx, p.dir.ino, p.name, d.ino, name, inode.RenameReplace)
	if m.expect("rename", err, want) && old != p.n {
		if old != nil {
			old.nlink--
		}
		delete(p.dir.children, p.name)
		d.children[name] = p.n
		if p.n.isDir() {
			p.n.parent = d
		}
	}
}

func (m *model) exchange() {
	_, ps := m.walk()
	if len(ps) < 2 {
		return
	}
	a, b := pick(m, ps), pick(m, ps)
	var want error
	if a.n != b.n && a.dir != b.dir && (a.n.isDir() && below(b.dir, a.n) || b.n.isDir() && below(a.dir, b.n)) {
		want = fserr.ErrInvalid
	}
	err := m.tree.Rename(m.ctx, a.dir.ino, a.name, b.dir.ino, b.name, inode.RenameExchange)
	if m.expect("exchange", err, want) {
		a.dir.children[a.name], b.dir.children[b.name] = b.n, a.n
		if a.n.isDir() {
			a.n.parent = b.dir
		}
		if b.n.isDir() {
			b.n.parent = a.dir
		}
	}
}

func (m *model) link() {
	dirs, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	p, d, name := pick(m, ps), pick(m, dirs), pick(m, m.names)
	want := m.free(d, name)
	if p.n.isDir() {
		want = fserr.ErrPerm
	}
	if m.expect("link", m.tree.Link(m.ctx, p.n.ino, d.ino, name), want) {
		d.children[name] = p.n
		p.n.nlink++
	}
}

func (m *model) setXattr() {
	_, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	n, name := pick(m, ps).n, "user."+pick(m, m.names[:8])
	value := m.bytes(m.rng.IntN(300))
	m.expect("setxattr", m.tree.SetXattr(m.ctx, n.ino, name, value, inode.XattrAny), nil)
	n.xattrs[name] = string(value)
}

func (m *model) removeXattr() {
	_, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	n, name := pick(m, ps).n, "user."+pick(m, m.names[:8])
	var want error
	if _, ok := n.xattrs[name]; !ok {
		want = fserr.ErrNoData
	}
	if m.expect("removexattr", m.tree.RemoveXattr(m.ctx, n.ino, name), want) {
		delete(n.xattrs, name)
	}
}

func (m *model) chmod() {
	_, ps := m.walk()
	if len(ps) == 0 {
		return
	}
	n := pick(m, ps).n
	if n.typ == ondisk.ModeLnk {
		return
	}
	n.mode = uint32(m.rng.IntN(0o1000)) | 0o400
	m.expect("chmod", m.tree.Chmod(m.ctx, n.ino, n.mode), nil)
}

// compare checks that the tree holds what the model says, and that its own numbers agree.
func (m *model) compare(r inode.FileReader) {
	m.t.Helper()
	dirs, ps := m.walk()
	for _, d := range dirs {
		m.compareDir(r, d)
	}
	seen := map[*node]bool{}
	for _, p := range ps {
		if !seen[p.n] {
			seen[p.n] = true
			m.compareNode(r, p)
		}
	}
}

func (m *model) compareDir(r inode.FileReader, d *node) {
	m.t.Helper()
	es, err := r.Entries(m.ctx, d.ino)
	if err != nil {
		m.t.Fatal(err)
	}
	sum := 0
	var last uint64
	for _, e := range es {
		c := d.children[e.Name]
		if c == nil || c.ino != e.Ino() || len(es) != len(d.children) || e.Index <= last || e.Index < 2 {
			m.t.Fatalf("directory %d: entry %+v is not the model's", d.ino, e)
		}
		last = e.Index
		sum += len(e.Name)
		if l, err := r.Lookup(m.ctx, d.ino, e.Name); err != nil || l.Location != e.Location || l.Type != e.Type {
			m.t.Fatalf("lookup %q: %+v %v", e.Name, l, err)
		}
		if refs, err := r.Refs(m.ctx, c.ino); err != nil || len(refs) != c.nlink || !slices.Contains(refs, inode.NameRef{Parent: d.ino, Index: e.Index, Name: e.Name}) {
			m.t.Fatalf("references of inode %d, %d names: %v %v, no %q in %d at %d", c.ino, c.nlink, refs, err, e.Name, d.ino, e.Index)
		}
	}
	it, err := r.Inode(m.ctx, d.ino)
	if err != nil || it.Size() != uint64(2*sum) || len(es) != len(d.children) {
		m.t.Fatalf("directory %d: size %d, %d entries, model has %d of %d bytes: %v", d.ino, it.Size(), len(es), len(d.children), sum, err)
	}
}

func (m *model) compareNode(r inode.FileReader, p place) {
	m.t.Helper()
	n := p.n
	it, err := r.Inode(m.ctx, n.ino)
	if err != nil {
		m.t.Fatal(err)
	}
	if it.Mode() != n.typ|n.mode || int(it.NLink()) != n.nlink {
		m.t.Fatalf("inode %d (%q): mode %o nlink %d, model has %o %d", n.ino, p.name, it.Mode(), it.NLink(), n.typ|n.mode, n.nlink)
	}
	xs, err := r.Xattrs(m.ctx, n.ino)
	if err != nil || len(xs) != len(n.xattrs) {
		m.t.Fatalf("inode %d: %d xattrs, model has %d: %v", n.ino, len(xs), len(n.xattrs), err)
	}
	for _, x := range xs {
		if v, ok := n.xattrs[x.Name]; !ok || v != string(x.Value) {
			m.t.Fatalf("inode %d: xattr %q differs", n.ino, x.Name)
		}
	}
	switch n.typ {
	case ondisk.ModeLnk:
		if s, err := r.Readlink(m.ctx, n.ino); err != nil || s != n.target {
			m.t.Fatalf("symlink %q: %q %v", p.name, s, err)
		}
	case ondisk.ModeReg:
		m.compareFile(r, p, &it)
	}
}

func (m *model) compareFile(r inode.FileReader, p place, it *ondisk.InodeItem) {
	m.t.Helper()
	n := p.n
	got := make([]byte, it.Size())
	k, err := r.ReadAt(m.ctx, n.ino, got, 0)
	if err != nil && (err != io.EOF || it.Size() > 0) || k != len(got) || !bytes.Equal(got, n.data) {
		at := 0
		for at < len(got) && at < len(n.data) && got[at] == n.data[at] {
			at++
		}
		m.t.Fatalf("inode %d (%q): %d bytes, model has %d, equal up to %d: %v", n.ino, p.name, len(got), len(n.data), at, err)
	}
	var bytes, end uint64
	err = r.Extents(m.ctx, n.ino, 0, 1<<62, func(e inode.Extent) (bool, error) {
		if e.Start < end {
			m.t.Fatalf("inode %d: extent at %d before %d", n.ino, e.Start, end)
		}
		end = e.End()
		if e.Type == ondisk.FileExtentInline && e.Start != 0 || e.Type == ondisk.FileExtentInline && e.Len != it.Size() {
			m.t.Fatalf("inode %d of %d bytes: inline extent of %d at %d", n.ino, it.Size(), e.Len, e.Start)
		}
		if !e.IsHole() {
			bytes += e.Len
		}
		return true, nil
	})
	if err != nil || bytes != it.NBytes() {
		m.t.Fatalf("inode %d: nbytes %d, extents have %d: %v", n.ino, it.NBytes(), bytes, err)
	}
}
