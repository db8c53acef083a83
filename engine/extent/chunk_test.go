package extent

import (
	"errors"
	"slices"
	"testing"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/pin"
)

// TestChunkSize holds the sizes against those of the kernel (fs/btrfs/volumes.c, decide_stripe_size_regular).
func TestChunkSize(t *testing.T) {
	const mib, gib = 1 << 20, 1 << 30
	for _, c := range []struct {
		what                     string
		flags, devices, has, len uint64
	}{
		{"data, large", ondisk.BGData, 100 * gib, 80 * gib, gib},
		{"data, a tenth, in 16 MiB", ondisk.BGData, gib, gib, 112 * mib},
		{"data, little left", ondisk.BGData, gib, 50*mib + 5000, 50 * mib},
		{"data, in stripes", ondisk.BGData, gib, 50*mib + 65536 + 5000, 50*mib + 65536},
		{"metadata", ondisk.BGMetadata | ondisk.BGDup, 10 * gib, gib, 256 * mib},
		{"metadata, 50 GiB", ondisk.BGMetadata, 50 * gib, 10 * gib, 256 * mib},
		{"metadata above 50 GiB", ondisk.BGMetadata, 51 * gib, 10 * gib, gib},
		{"metadata, small", ondisk.BGMetadata, 109 * mib, 40 * mib, 16 * mib},
		{"system", ondisk.BGSystem, 10 * gib, gib, 32 * mib},
		{"system, small", ondisk.BGSystem, 109 * mib, 40 * mib, 16 * mib},
	} {
		if n := chunkSize(c.flags, c.devices, c.has); n != c.len {
			t.Errorf("%s: %d, want %d", c.what, n, c.len)
		}
	}
}

func TestHoles(t *testing.T) {
	d := &device{total: 100 << 20}
	d.add(20<<20, 10<<20)
	d.add(1<<20, 4<<20)
	d.add(60<<20, 40<<20)
	want := []addrRange{{5 << 20, 15 << 20}, {30 << 20, 30 << 20}}
	if h := d.holes(); !slices.Equal(h, want) {
		t.Fatalf("holes %v, want %v", h, want)
	}
	if h := d.hole(10 << 20); h != want[0] {
		t.Errorf("10 MiB fit at %v, want the first hole", h)
	}
	if h := d.hole(50 << 20); h != want[1] {
		t.Errorf("50 MiB: %v, want the largest hole", h)
	}
	if n := d.usable(1); n != 45<<20 {
		t.Errorf("usable single %d", n)
	}
	if n := d.usable(2); n != 7<<20+512<<10+15<<20 {
		t.Errorf("usable DUP %d", n)
	}
	d.remove(20 << 20)
	if h := d.holes(); !slices.Equal(h, []addrRange{{5 << 20, 55 << 20}}) {
		t.Errorf("holes after removal %v", h)
	}
}

// fill allocates data until there is none, and returns what it got.
func (f *fixture) fill(tx txn, model refModel) (got []addrRange) {
	f.t.Helper()
	for {
		addr, n, err := f.m.AllocData(f.ctx, tx, 4096, 16<<20, 0)
		if errors.Is(err, fserr.ErrNoSpace) {
			return got
		}
		f.check(err)
		f.check(f.m.AddDataRef(tx, addr, n, 5, 257, uint64(addr), true))
		model.add(uint64(addr), n)
		got = append(got, addrRange{uint64(addr), n})
	}
}

// TestFillDevice takes every data byte there is: no chunk overlaps another or the first MiB on the device, none of the
// data lies on a superblock copy, and what is left on the device is too small for a chunk.
func TestFillDevice(t *testing.T) {
	for _, profile := range []uint64{0, ondisk.BGDup} {
		o := defaultFixture
		o.size, o.data = 300<<20, profile
		f := newFixture(t, o)
		tx, model := f.begin(), refModel{}
		got := f.fill(tx, model)
		f.commit(tx)
		f.verify(model)
		for _, h := range f.m.devices[0].holes() {
			if h.n >= minChunk*copiesOf(profile) {
				t.Errorf("hole of %d bytes left at %d", h.n, h.start)
			}
		}
		f.checkDeviceExtents()
		for _, r := range got {
			g := f.m.groupOf(r.start)
			for _, s := range g.superStripes {
				if r.start < s.start+s.n && s.start < r.start+r.n {
					t.Errorf("data at %d lies on a superblock copy at %v", r.start, s)
				}
			}
		}
		f.reopen()
		f.verify(model)
	}
}

// checkDeviceExtents compares chunks, DEV_EXTENTs, the device item and memory.
func (f *fixture) checkDeviceExtents() {
	f.t.Helper()
	var items []addrRange
	f.check(f.trees.Dev().Scan(f.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		items = append(items, addrRange{k.Offset, ondisk.AsDevExtent(item).Length()})
		return true, nil
	}))
	var stripes []addrRange
	for _, c := range f.vol.Chunks() {
		for _, s := range c.Stripes {
			stripes = append(stripes, addrRange{uint64(s.Offset), c.StripeLength()})
		}
	}
	slices.SortFunc(stripes, func(a, b addrRange) int { return int(int64(a.start) - int64(b.start)) })
	if !slices.Equal(items, stripes) || !slices.Equal(items, f.m.devices[0].extents) {
		f.t.Fatalf("device tree %v, chunks %v, memory %v", items, stripes, f.m.devices[0].extents)
	}
	used, end := uint64(0), uint64(ondisk.ReservedEnd)
	for _, e := range items {
		if e.start < end || e.start+e.n > f.o.size {
			f.t.Fatalf("device extent %v overlaps one that ends at %d, or the end", e, end)
		}
		end = e.start + e.n
		used += e.n
	}
	k := ondisk.Key{ObjectID: ondisk.DevItemsObjectID, Type: ondisk.DevItemKey, Offset: 1}
	b, err := f.trees.Chunk().Get(f.ctx, k)
	f.check(err)
	if n := ondisk.AsDevItem(b).BytesUsed(); n != used || f.sb.DevItem().BytesUsed() != used {
		f.t.Fatalf("device item %d, super %d, extents %d bytes used", n, f.sb.DevItem().BytesUsed(), used)
	}
}

// TestRemoveEmpty empties data groups and removes them while a reader of an older generation looks on: the chunk stays
// mapped and its device extents stay taken until the reader has left.
func TestRemoveEmpty(t *testing.T) {
	o := defaultFixture
	o.size = 300 << 20
	f := newFixture(t, o)
	tx, model := f.begin(), refModel{}
	got := f.fill(tx, model)
	f.commit(tx)
	groups := len(f.m.spaces[kindData].list())
	tx = f.begin()
	for _, r := range got {
		f.check(f.m.DropDataRef(tx, ondisk.Logical(r.start), r.n, 5, 257, r.start))
	}
	f.commit(tx)
	f.verify(refModel{})
	reader := f.pin.Enter(func() uint64 { return uint64(f.gen) })
	tx = f.begin()
	n, err := f.m.RemoveEmptyBlockGroups(f.ctx, tx)
	f.check(err)
	if n != groups-1 {
		t.Fatalf("%d groups removed of %d", n, groups)
	}
	f.commit(tx)
	f.verify(refModel{})
	first := ondisk.Logical(got[0].start)
	if _, ok := f.vol.Chunk(first); !ok || len(f.m.devices[0].holes()) > 1 {
		t.Fatalf("mapped %t, holes %v while a reader looks on", ok, f.m.devices[0].holes())
	}
	reader.Leave()
	if len(f.vol.Chunks()) != 3 {
		t.Fatalf("%d chunks are mapped, want one of each kind", len(f.vol.Chunks()))
	}
	f.checkDeviceExtents()
	f.reopen()
	tx = f.begin()
	model = refModel{}
	if again := f.fill(tx, model); len(again) == 0 {
		t.Fatal("nothing can be allocated after the removal")
	}
	f.commit(tx)
	f.verify(model)
	f.checkDeviceExtents()
}

// TestSystemChunk uses SYSTEM space up: a new chunk is there in time, and the superblock lists it.
func TestSystemChunk(t *testing.T) {
	o := defaultFixture
	o.nodesize = 65536
	f := newFixture(t, o)
	tx := f.begin()
	sp := f.m.spaces[kindSystem]
	for n := len(sp.list()); len(sp.list()) == n; {
		if _, err := f.m.AllocTreeBlock(f.ctx, tx, btree.AllocReq{Owner: ondisk.ChunkTree}); err != nil {
			t.Fatal(err)
		}
	}
	f.commit(tx)
	if f.sb.SysChunkArraySize() != 2*(17+112) {
		t.Errorf("sys_chunk_array has %d bytes, want two DUP chunks", f.sb.SysChunkArraySize())
	}
}

// TestCancelledBlock drops a block in the transaction that made it: free at once while nothing of it is on disk, pinned
// once its item is, or when it has been written (I2).
func TestCancelledBlock(t *testing.T) {
	f := newFixture(t, defaultFixture)
	for _, c := range []struct {
		name               string
		written, run, free bool
		forgotten          bool
	}{{"never written", false, false, true, true}, {"written", true, false, false, false}, {"item on disk", false, true, false, true}} {
		tx := f.begin()
		addr, err := f.m.AllocTreeBlock(f.ctx, tx, btree.AllocReq{Owner: 300})
		f.check(err)
		g := f.m.groupOf(uint64(addr))
		if c.run {
			f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		}
		freed, err := f.m.DropTreeBlock(f.ctx, tx, btree.DropReq{Addr: addr, Born: tx.Generation(), Owner: 300, Written: c.written, Last: true})
		f.check(err)
		if freed != c.forgotten || g.index.Load().Has(uint64(addr), 4096) != c.free {
			t.Errorf("%s: freed %t, free %t", c.name, freed, g.index.Load().Has(uint64(addr), 4096))
		}
		f.check(f.m.RunDelayedRefs(f.ctx, tx, -1))
		if f.pin.Pinned(uint64(addr), 4096) == c.free {
			t.Errorf("%s: pinned %t", c.name, !c.free)
		}
		f.commit(tx)
		if !g.index.Load().Has(uint64(addr), 4096) {
			t.Errorf("%s: not free after the commit", c.name)
		}
		f.verify(refModel{})
	}
}

// TestHeld keeps what a reader can see out of free space until it leaves, and what it cannot see not.
func TestHeld(t *testing.T) {
	o := defaultFixture
	o.discard = true
	f := newFixture(t, o)
	tx, model := f.begin(), refModel{}
	a, n, err := f.m.AllocData(f.ctx, tx, 4096, 4096, 0)
	f.check(err)
	f.check(f.m.AddDataRef(tx, a, n, 5, 257, uint64(a), true))
	f.commit(tx)
	reader := f.pin.Enter(func() uint64 { return uint64(f.gen) })
	tx = f.begin()
	b, _, err := f.m.AllocData(f.ctx, tx, 4096, 4096, 0)
	f.check(err)
	f.check(f.m.AddDataRef(tx, b, n, 5, 257, uint64(b), true))
	f.commit(tx)
	tx = f.begin()
	for _, at := range []ondisk.Logical{a, b} {
		f.check(f.m.DropDataRef(tx, at, n, 5, 257, uint64(at)))
	}
	f.commit(tx)
	f.verify(model)
	x := f.m.groupOf(uint64(a)).index.Load()
	if x.Has(uint64(a), n) || !x.Has(uint64(b), n) {
		t.Errorf("free: seen by the reader %t, not seen %t", x.Has(uint64(a), n), x.Has(uint64(b), n))
	}
	if u := f.m.Usage(); u.Data.Held != n || u.Data.Free() != u.Data.Total-n-u.Data.Super {
		t.Errorf("usage %+v", u.Data)
	}
	reader.Leave()
	if !x.Has(uint64(a), n) || f.pin.Stats().Extents[pin.Held] != 0 {
		t.Error("not free after the reader has left")
	}
	f.verify(model)
}
