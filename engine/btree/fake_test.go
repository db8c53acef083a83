package btree

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"imgtool/disk"
	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

const testNode = 4096

// memIO is a device in memory.
type memIO struct {
	mu     sync.Mutex
	blocks map[ondisk.Logical][]byte
	fail   map[ondisk.Logical]error // reads that fail
}

func newMemIO() *memIO {
	return &memIO{blocks: map[ondisk.Logical][]byte{}, fail: map[ondisk.Logical]error{}}
}

func (m *memIO) Copies(ondisk.Logical) int { return 1 }

func (m *memIO) ReadCopy(_ context.Context, l ondisk.Logical, p []byte, _ int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.fail[l]; err != nil {
		return err
	}
	b, ok := m.blocks[l]
	if !ok {
		return fmt.Errorf("memIO: nothing was written at %d", l)
	}
	copy(p, b)
	return nil
}

func (m *memIO) WriteBatch(_ context.Context, ws []volume.Write) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range ws {
		for off := 0; off < len(w.Buf); off += testNode {
			m.blocks[w.Addr+ondisk.Logical(off)] = append([]byte(nil), w.Buf[off:off+testNode]...)
		}
	}
	return nil
}

// ref is who refers to a block: a tree, or with full a parent block.
type ref struct {
	full bool
	id   uint64
}

// blockInfo is what the fake extent tree knows of one block or data extent.
type blockInfo struct {
	refs  map[ref]int
	flags uint64
	born  ondisk.Generation
}

func (b *blockInfo) total() (n int) {
	for _, c := range b.refs {
		n += c
	}
	return n
}

// fakeAlloc is an allocator with an exact extent tree in memory: it panics on references that go below zero.
type fakeAlloc struct {
	mu     sync.Mutex
	next   ondisk.Logical
	step   ondisk.Logical // node size
	free   []ondisk.Logical
	pinned []ondisk.Logical
	blocks map[ondisk.Logical]*blockInfo
	limit  int // blocks that may exist, 0: any number
	allocs int
	failAt int // the how many-th allocation fails, 0: none
}

func newFakeAlloc() *fakeAlloc {
	return &fakeAlloc{next: 1 << 20, step: testNode, blocks: map[ondisk.Logical]*blockInfo{}}
}

func (a *fakeAlloc) AllocTreeBlock(_ context.Context, tx Txn, r AllocReq) (ondisk.Logical, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.allocs++
	if a.limit > 0 && len(a.blocks) >= a.limit || a.failAt > 0 && a.allocs == a.failAt {
		return 0, fserr.ErrNoSpace
	}
	addr := a.next
	if n := len(a.free); n > 0 {
		addr, a.free = a.free[n-1], a.free[:n-1]
	} else {
		a.next += a.step
	}
	if a.blocks[addr] != nil {
		panic("fakeAlloc: address in use")
	}
	rf := ref{id: uint64(r.Owner)}
	if r.Parent != 0 {
		rf = ref{true, uint64(r.Parent)}
	}
	a.blocks[addr] = &blockInfo{refs: map[ref]int{rf: 1}, born: tx.Generation()}
	return addr, nil
}

func (a *fakeAlloc) mod(addr ondisk.Logical, r ref, delta int) *blockInfo {
	b := a.blocks[addr]
	if b == nil {
		panic(fmt.Sprintf("fakeAlloc: reference %v%+d to unknown block %d", r, delta, addr))
	}
	b.refs[r] += delta
	switch {
	case b.refs[r] < 0:
		panic(fmt.Sprintf("fakeAlloc: reference %v to block %d below zero", r, addr))
	case b.refs[r] == 0:
		delete(b.refs, r)
	}
	return b
}

func (a *fakeAlloc) DropTreeBlock(_ context.Context, tx Txn, d DropReq) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rf := ref{id: uint64(d.Owner)}
	if d.Parent != 0 {
		rf = ref{true, uint64(d.Parent)}
	}
	b := a.mod(d.Addr, rf, -1)
	if b.born != d.Born {
		panic(fmt.Sprintf("fakeAlloc: block %d was born in %d, not in %d", d.Addr, b.born, d.Born))
	}
	if last := b.total() == 0; last != d.Last {
		panic(fmt.Sprintf("fakeAlloc: block %d dropped with last=%v, left %v", d.Addr, d.Last, b.refs))
	}
	if !d.Last {
		return false, nil
	}
	delete(a.blocks, d.Addr)
	if d.Born == tx.Generation() && !d.Written {
		a.free = append(a.free, d.Addr)
		return true, nil
	}
	a.pinned = append(a.pinned, d.Addr)
	return false, nil
}

func (a *fakeAlloc) ExtentInfo(_ context.Context, _ Txn, addr ondisk.Logical, _ uint8) (uint64, uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.blocks[addr]
	if b == nil {
		return 0, 0, nil
	}
	return uint64(b.total()), b.flags, nil
}

func (a *fakeAlloc) ModChildRefs(_ context.Context, _ Txn, owner ondisk.TreeID, b ondisk.Block, add, full bool) error {
	if b.IsLeaf() {
		return nil // the items of these tests refer to no data
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	rf, delta := ref{id: uint64(owner)}, -1
	if full {
		rf = ref{true, uint64(b.Header().Bytenr())}
	}
	if add {
		delta = 1
	}
	for i := range b.NrItems() {
		a.mod(b.BlockPtr(i), rf, delta)
	}
	return nil
}

func (a *fakeAlloc) SetBlockFlags(_ Txn, addr ondisk.Logical, _ uint8, _ ondisk.Key, flags uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blocks[addr].flags |= flags
	return nil
}

// txn is a handle of one generation.
type txn ondisk.Generation

func (t txn) Generation() ondisk.Generation { return ondisk.Generation(t) }

// failer is what testing.T and rapid.T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is an allocator, a cache and a device.
type world struct {
	tb    failer
	io    *memIO
	cache *extbuf.Cache
	alloc *fakeAlloc
	gen   txn
	trees []*Tree
	tight func() bool // what Config.Tight answers; nil: no
}

func newWorld(tb failer) *world {
	w := &world{tb: tb, io: newMemIO(), alloc: newFakeAlloc(), gen: 10}
	w.cache = w.newCache()
	return w
}

// testPool serves all worlds: its slabs are dear in race builds.
var testPool = disk.NewPool()

func (w *world) newCache() *extbuf.Cache {
	return extbuf.NewCache(extbuf.Options{IO: w.io, NodeSize: testNode, FSID: ondisk.UUID{1}, ChunkTreeUUID: ondisk.UUID{2},
		Pool: testPool})
}

func (w *world) config(id ondisk.TreeID) Config {
	return Config{ID: id, Cache: w.cache, Alloc: w.alloc, Shareable: id.IsFileTree(),
		Tight: func() bool { return w.tight != nil && w.tight() }}
}

func (w *world) tree(id ondisk.TreeID) *Tree {
	t, err := NewEmpty(context.Background(), w.config(id), w.gen)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.trees = append(w.trees, t)
	return t
}

// snapshot makes a snapshot of t in the running transaction.
func (w *world) snapshot(t *Tree, id ondisk.TreeID) *Tree {
	b, err := t.CopyRoot(context.Background(), w.gen, id)
	if err != nil {
		w.tb.Fatal(err)
	}
	s := NewSnapshot(w.config(id), b)
	b.Release()
	w.trees = append(w.trees, s)
	return s
}

// commit ends the transaction: roots switch, blocks are written, what was pinned may be used again.
func (w *world) commit() {
	for _, t := range w.trees {
		t.SetForceCOW(false)
		t.SwitchCommitRoot()
	}
	if _, err := w.cache.WriteOut(context.Background(), ondisk.Generation(w.gen)); err != nil {
		w.tb.Fatal(err)
	}
	w.alloc.free = append(w.alloc.free, w.alloc.pinned...)
	w.alloc.pinned = nil
	w.gen++
}

// checkAll checks every tree and that the allocator knows exactly the references that the trees and blocks hold.
func (w *world) checkAll() {
	w.tb.Helper()
	seen := map[ondisk.Logical]map[ref]int{}
	for _, t := range w.trees {
		if err := t.Check(context.Background()); err != nil {
			w.tb.Fatalf("tree %d: %v", t.ID(), err)
		}
		addr, _, _ := t.Root()
		w.count(t, addr, ref{id: uint64(t.ID())}, seen)
	}
	if len(seen) != len(w.alloc.blocks) {
		w.tb.Fatalf("%d blocks are reachable, %d allocated", len(seen), len(w.alloc.blocks))
	}
	for addr, want := range seen {
		have := w.alloc.blocks[addr]
		if have == nil || !maps.Equal(have.refs, want) {
			w.tb.Fatalf("block %d: references %v, the extent tree has %+v", addr, want, have)
		}
	}
}

// count adds the references of the block at addr, and at its first visit those that it holds itself: full ones if it
// is flagged so, else one per tree that its header's owner is. That owner then still uses the block.
func (w *world) count(t *Tree, addr ondisk.Logical, by ref, seen map[ondisk.Logical]map[ref]int) {
	first := seen[addr] == nil
	if first {
		seen[addr] = map[ref]int{}
	}
	seen[addr][by]++
	if !first {
		return
	}
	b, err := w.cache.Read(context.Background(), addr, extbuf.Expect{Level: extbuf.AnyLevel})
	if err != nil {
		w.tb.Fatal(err)
	}
	defer b.Release()
	blk := b.Block()
	if blk.IsLeaf() {
		return
	}
	child := ref{id: uint64(blk.Header().Owner())}
	if w.alloc.blocks[addr] != nil && w.alloc.blocks[addr].flags&ondisk.ExtentFlagFullBackref != 0 {
		child = ref{true, uint64(addr)}
	}
	for i := range blk.NrItems() {
		w.count(t, blk.BlockPtr(i), child, seen)
	}
}

// done closes everything and fails on leaks (I12).
func (w *world) done() {
	w.tb.Helper()
	for _, t := range w.trees {
		t.Close()
	}
	w.cache.DropDirty(ondisk.Generation(w.gen))
	if err := w.cache.Close(); err != nil {
		w.tb.Fatal(err)
	}
}
