package extent

import (
	"context"
	"fmt"

	"imgtool/disk"
	"imgtool/engine/btree"
	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
	"imgtool/pin"
)

// txn is a handle of the fixture's running transaction.
type txn ondisk.Generation

func (t txn) Generation() ondisk.Generation { return ondisk.Generation(t) }

// tb is what tests and rapid's checks have in common.
type tb interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// fixture is a file system of the trees that a Manager keeps, in memory, made without mkfs: every chunk is one that the
// Manager allocated.
type fixture struct {
	t     tb
	ctx   context.Context
	o     fixtureOptions
	sb    ondisk.SuperBlock
	dev   *disk.Mem
	vol   *volume.Volume
	cache *extbuf.Cache
	pin   *pin.Set
	m     *Manager
	trees fixtureTrees
	gen   ondisk.Generation
}

type fixtureOptions struct {
	size         uint64
	nodesize     int
	skinny       bool
	noFST, noBGT bool
	meta, data   uint64 // profiles
	discard      bool
	csum         ondisk.CsumType
}

type fixtureTrees map[ondisk.TreeID]*btree.Tree

func (t fixtureTrees) Root() *btree.Tree       { return nil }
func (t fixtureTrees) Extent() *btree.Tree     { return t[ondisk.ExtentTree] }
func (t fixtureTrees) Chunk() *btree.Tree      { return t[ondisk.ChunkTree] }
func (t fixtureTrees) Dev() *btree.Tree        { return t[ondisk.DevTree] }
func (t fixtureTrees) Csum() *btree.Tree       { return t[ondisk.CsumTree] }
func (t fixtureTrees) FreeSpace() *btree.Tree  { return t[ondisk.FreeSpaceTree] }
func (t fixtureTrees) BlockGroup() *btree.Tree { return t[ondisk.BlockGroupTree] }

var defaultFixture = fixtureOptions{size: 512 << 20, nodesize: 4096, skinny: true, meta: ondisk.BGDup}

func newFixture(t tb, o fixtureOptions) *fixture {
	f := &fixture{t: t, ctx: context.Background(), o: o, trees: fixtureTrees{}}
	f.sb.SetNodeSize(uint32(o.nodesize))
	f.sb.SetSectorSize(ondisk.SectorSize)
	f.sb.SetCsumType(uint16(o.csum))
	f.sb.SetTotalBytes(o.size)
	f.sb.SetNumDevices(1)
	f.sb.SetMagic(ondisk.Magic)
	if o.skinny {
		f.sb.SetIncompatFlags(ondisk.IncompatSkinnyMetadata)
	}
	it := f.sb.DevItem()
	it.SetDevID(1)
	it.SetTotalBytes(o.size)
	it.SetSectorSize(ondisk.SectorSize)
	it.SetIOAlign(ondisk.SectorSize)
	it.SetIOWidth(ondisk.SectorSize)
	it.SetUUID(ondisk.UUID{1})
	f.dev = disk.NewMem("mem", int64(o.size))
	var err error
	if f.vol, err = volume.Create(f.ctx, []disk.Device{f.dev}, &f.sb); err != nil {
		t.Fatal(err)
	}
	f.connect()
	f.format()
	return f
}

// connect makes cache, pin set and Manager.
func (f *fixture) connect() {
	checks := treecheck.FromSuper(&f.sb)
	checks.MaxGeneration, checks.Write = 1000, true
	f.cache = extbuf.NewCache(extbuf.Options{IO: f.vol, NodeSize: f.o.nodesize, Csum: f.o.csum, Limit: 64 << 20, Check: func(b ondisk.Block) error { return treecheck.Block(b, checks) }})
	f.pin = pin.New(pin.Options{Release: func(es []pin.Extent) { f.m.Unpinned(es) }})
	f.m = New(Options{Volume: f.vol, Cache: f.cache, Pin: f.pin, Trees: f.trees, Super: &f.sb, Discard: f.o.discard})
}

func (f *fixture) config(id ondisk.TreeID) btree.Config {
	return btree.Config{ID: id, Cache: f.cache, Alloc: f.m}
}

// format makes the first trees by allocating in a file system that has no chunk yet.
func (f *fixture) format() {
	f.m.devices = []*device{{id: 1, uuid: ondisk.UUID{1}, total: f.o.size, item: *f.sb.DevItem()}}
	f.m.nextChunk = 1 << 20
	for _, k := range []struct{ kind, profile uint64 }{{kindSystem, f.o.meta}, {kindMetadata, f.o.meta}, {kindData, f.o.data}} {
		f.m.spaces[k.kind].first = kindFlags[k.kind] | k.profile
	}
	tx := f.begin()
	ids := []ondisk.TreeID{ondisk.ChunkTree, ondisk.DevTree, ondisk.ExtentTree, ondisk.CsumTree}
	if !f.o.noFST {
		ids = append(ids, ondisk.FreeSpaceTree)
	}
	if !f.o.noBGT {
		ids = append(ids, ondisk.BlockGroupTree)
	}
	for _, id := range ids {
		tree, err := btree.NewEmpty(f.ctx, f.config(id), tx)
		f.check(err)
		f.trees[id] = tree
	}
	k := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: 1}
	f.check(f.trees.Chunk().Insert(f.ctx, tx, k, f.sb.DevItem()[:]))
	f.commit(tx)
}

func (f *fixture) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) begin() txn {
	f.gen++
	f.m.BeginTransaction(f.gen)
	return txn(f.gen)
}

// commit does what a commit does, in short: fixpoint, switch, write-out, release.
func (f *fixture) commit(tx txn) {
	f.t.Helper()
	for pass := 0; ; pass++ {
		if pass == 32 {
			f.t.Fatal("the fixpoint does not settle")
		}
		f.check(f.m.CreatePendingChunks(f.ctx, tx))
		f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		changed, err := f.m.WriteDirtyBlockGroups(f.ctx, tx)
		f.check(err)
		f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		if !changed && !f.m.GroupsDirty() && !f.m.ChunksPending() && f.m.DelayedRefs() == 0 {
			break
		}
	}
	for _, tree := range f.trees {
		tree.SwitchCommitRoot()
	}
	f.m.FillSuper(&f.sb)
	_, err := f.cache.WriteOut(f.ctx, f.gen)
	f.check(err)
	f.pin.Release(uint64(f.gen))
}

// reopen opens the same devices again, as a new process would after the last commit.
func (f *fixture) reopen() {
	f.t.Helper()
	type root struct {
		addr  ondisk.Logical
		level uint8
		gen   ondisk.Generation
	}
	roots := map[ondisk.TreeID]root{}
	for id, tree := range f.trees {
		a, l, g := tree.Root()
		roots[id] = root{a, l, g}
		tree.Close()
	}
	f.check(f.cache.Close())
	next := f.m.nextChunk
	f.connect()
	for id, r := range roots {
		f.trees[id] = btree.New(f.config(id), r.addr, r.level, r.gen)
	}
	f.check(f.m.Load(f.ctx))
	if f.m.nextChunk > next {
		f.t.Fatalf("next chunk %d after reopen, %d before", f.m.nextChunk, next)
	}
}

// blocks returns every tree block that the trees reach, with its owner and level.
func (f *fixture) blocks() map[uint64]string {
	out := map[uint64]string{}
	var walk func(id ondisk.TreeID, addr ondisk.Logical, level uint8, gen ondisk.Generation)
	walk = func(id ondisk.TreeID, addr ondisk.Logical, level uint8, gen ondisk.Generation) {
		out[uint64(addr)] = fmt.Sprintf("%d/%d", id, level)
		b, err := f.cache.Read(f.ctx, addr, extbuf.Expect{Level: level, Gen: gen, Owner: id})
		f.check(err)
		defer b.Release()
		for i := 0; level > 0 && i < b.Block().NrItems(); i++ {
			walk(id, b.Block().BlockPtr(i), level-1, b.Block().PtrGeneration(i))
		}
	}
	for id, tree := range f.trees {
		a, l, g := tree.Root()
		walk(id, a, l, g)
	}
	return out
}
