package check_test

import (
	"bytes"
	"slices"
	"testing"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// surgeon damages an image. It finds blocks through ondisk and volume alone and knows nothing of the engine, so it
// makes what the engine never would; checksums are mended behind each change.
type surgeon struct {
	t   testing.TB
	dev disk.Device
	vol *volume.Volume
	sb  ondisk.SuperBlock
}

func newSurgeon(t testing.TB, dev disk.Device) *surgeon {
	t.Helper()
	vol, err := volume.Open(t.Context(), []disk.Device{dev}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := &surgeon{t: t, dev: dev, vol: vol, sb: vol.Super()}
	s.each(s.sb.ChunkRoot(), func(_ []step, b ondisk.Block) bool {
		for i := range b.NrItems() {
			if k := b.Key(i); b.IsLeaf() && k.Type == ondisk.ChunkItemKey {
				if err := vol.AddChunk(ondisk.Logical(k.Offset), b.Item(i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		return true
	})
	return s
}

func (s *surgeon) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// step is a block on the way from a root to a leaf, and the slot that leads on.
type step struct {
	addr ondisk.Logical
	slot int
}

func (s *surgeon) read(addr ondisk.Logical) ondisk.Block {
	s.t.Helper()
	b := make(ondisk.Block, s.sb.NodeSize())
	s.must(s.vol.ReadCopy(s.t.Context(), addr, b, 0))
	return b
}

// write mends the checksum and writes all copies.
func (s *surgeon) write(addr ondisk.Logical, b ondisk.Block) {
	s.t.Helper()
	s.sb.Checksum().SetBlockCsum(b)
	s.must(s.vol.WriteAll(s.t.Context(), addr, b))
}

func (s *surgeon) edit(addr ondisk.Logical, f func(b ondisk.Block)) {
	s.t.Helper()
	b := s.read(addr)
	f(b)
	s.write(addr, b)
}

// each goes through a tree in key order, nodes before what is below them, until f returns false.
func (s *surgeon) each(root ondisk.Logical, f func(path []step, b ondisk.Block) bool) {
	var down func(path []step, addr ondisk.Logical) bool
	down = func(path []step, addr ondisk.Logical) bool {
		b := s.read(addr)
		path = append(path, step{addr, 0})
		if !f(path, b) {
			return false
		}
		for i := range b.NrItems() {
			path[len(path)-1].slot = i
			if !b.IsLeaf() && !down(path, b.BlockPtr(i)) {
				return false
			}
		}
		return true
	}
	down(nil, root)
}

// root returns the root block of a tree.
func (s *surgeon) root(id ondisk.TreeID) ondisk.Logical {
	s.t.Helper()
	switch id {
	case ondisk.RootTree:
		return s.sb.Root()
	case ondisk.ChunkTree:
		return s.sb.ChunkRoot()
	}
	path := s.find(ondisk.RootTree, func(k ondisk.Key, _ []byte) bool {
		return k.ObjectID == ondisk.ObjectID(id) && k.Type == ondisk.RootItemKey
	})
	last := path[len(path)-1]
	return ondisk.AsRootItem(s.read(last.addr).Item(last.slot)).Bytenr()
}

type match func(k ondisk.Key, item []byte) bool

// find returns the way to the first item that matches.
func (s *surgeon) find(tree ondisk.TreeID, m match) []step {
	s.t.Helper()
	path := s.look(tree, m)
	if path == nil {
		s.t.Fatalf("the base image has no such item in tree %v", tree)
	}
	return path
}

func (s *surgeon) look(tree ondisk.TreeID, m match) (found []step) {
	s.t.Helper()
	s.each(s.root(tree), func(path []step, b ondisk.Block) bool {
		for i := 0; b.IsLeaf() && i < b.NrItems(); i++ {
			if m(b.Key(i), b.Item(i)) {
				found = slices.Clone(path)
				found[len(found)-1].slot = i
				return false
			}
		}
		return true
	})
	return found
}

// item changes the data of the first item that matches.
func (s *surgeon) item(tree ondisk.TreeID, m match, f func(item []byte)) {
	s.t.Helper()
	path := s.find(tree, m)
	last := path[len(path)-1]
	s.edit(last.addr, func(b ondisk.Block) { f(b.Item(last.slot)) })
}

// key changes the key of the first item that matches.
func (s *surgeon) key(tree ondisk.TreeID, m match, f func(k *ondisk.Key)) {
	s.t.Helper()
	path := s.find(tree, m)
	s.repack(path, func(l []entry) []entry { f(&l[path[len(path)-1].slot].key); return l })
}

// remove takes the first item that matches away.
func (s *surgeon) remove(tree ondisk.TreeID, m match) {
	s.t.Helper()
	path := s.find(tree, m)
	at := path[len(path)-1].slot
	s.repack(path, func(l []entry) []entry { return slices.Delete(l, at, at+1) })
}

// resize replaces the data of the first item that matches.
func (s *surgeon) resize(tree ondisk.TreeID, m match, f func(item []byte) []byte) {
	s.t.Helper()
	path := s.find(tree, m)
	at := path[len(path)-1].slot
	s.repack(path, func(l []entry) []entry { l[at].data = f(l[at].data); return l })
}

// insert adds an item where its key belongs.
func (s *surgeon) insert(tree ondisk.TreeID, k ondisk.Key, data []byte) {
	s.t.Helper()
	var path []step
	s.each(s.root(tree), func(p []step, b ondisk.Block) bool {
		if !b.IsLeaf() {
			return true
		}
		if path == nil || b.Key(0).Compare(k) <= 0 {
			path = slices.Clone(p)
			return true
		}
		return false
	})
	s.repack(path, func(l []entry) []entry {
		at := slices.IndexFunc(l, func(e entry) bool { return k.Less(e.key) })
		if at < 0 {
			at = len(l)
		}
		return slices.Insert(l, at, entry{k, data})
	})
}

type entry struct {
	key  ondisk.Key
	data []byte
}

// repack rewrites a leaf with other items, and the keys above it.
func (s *surgeon) repack(path []step, f func([]entry) []entry) {
	s.t.Helper()
	leaf := path[len(path)-1].addr
	b := s.read(leaf)
	var list []entry
	for i := range b.NrItems() {
		list = append(list, entry{b.Key(i), bytes.Clone(b.Item(i))})
	}
	list = f(list)
	slices.SortStableFunc(list, func(a, b entry) int { return a.key.Compare(b.key) })
	need := 0
	for _, e := range list {
		need += ondisk.ItemSize + len(e.data)
	}
	if need > ondisk.LeafDataSize(len(b)) || len(list) == 0 {
		s.t.Fatalf("leaf %d would have %d items of %d bytes", leaf, len(list), need)
	}
	clear(b[ondisk.HeaderSize:])
	b.SetNrItems(len(list))
	end := ondisk.LeafDataSize(len(b))
	for i, e := range list {
		end -= len(e.data)
		b.SetItem(i, e.key, end, len(e.data))
		copy(b[ondisk.HeaderSize+end:], e.data)
	}
	s.write(leaf, b)
	for i := len(path) - 2; i >= 0; i-- {
		s.edit(path[i].addr, func(n ondisk.Block) { n.SetKey(path[i].slot, list[0].key) })
		if path[i].slot > 0 {
			break
		}
	}
}

// node returns the way to the first node of level 1 of a tree, and a leaf below it.
func (s *surgeon) node(tree ondisk.TreeID) (addr ondisk.Logical, b ondisk.Block) {
	s.t.Helper()
	s.each(s.root(tree), func(_ []step, n ondisk.Block) bool {
		if n.Level() == 1 {
			b = n
			addr = n.Header().Bytenr()
			return false
		}
		return true
	})
	if b == nil {
		s.t.Fatalf("tree %v has one block only", tree)
	}
	return addr, b
}

// super changes superblock copies: all, or one.
func (s *surgeon) super(which int, f func(sb *ondisk.SuperBlock)) {
	s.t.Helper()
	for i, off := range ondisk.SuperOffsets {
		if int64(off) >= s.dev.Size() || which >= 0 && which != i {
			continue
		}
		var sb ondisk.SuperBlock
		_, err := s.dev.ReadAt(s.t.Context(), sb[:], int64(off))
		s.must(err)
		f(&sb)
		sb.UpdateCsum()
		_, err = s.dev.WriteAt(s.t.Context(), sb[:], int64(off))
		s.must(err)
	}
}

// smash overwrites bytes of one copy of a logical address, checksums are not mended.
func (s *surgeon) smash(l ondisk.Logical, copies ...int) {
	s.t.Helper()
	c, ok := s.vol.Chunk(l)
	if !ok {
		s.t.Fatalf("no chunk at %d", l)
	}
	for _, i := range copies {
		_, err := s.dev.WriteAt(s.t.Context(), []byte("smashed"), int64(c.Stripes[i].Offset)+int64(l-c.Start))
		s.must(err)
	}
}

// is matches a type, and an objectid unless it is 0.
func is(typ ondisk.ItemType, id ondisk.ObjectID) match {
	return func(k ondisk.Key, _ []byte) bool { return k.Type == typ && (id == 0 || k.ObjectID == id) }
}
