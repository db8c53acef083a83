package extent

import (
	"math/rand/v2"
	"testing"

	"imgtool/engine/ondisk"
)

// TestThresholds holds the computation against figures of a kernel's block groups (by the formula in
// fs/btrfs/free-space-tree.c: bitmaps of 281 bytes against extents of 25).
func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		length    uint64
		high, low uint32
	}{
		{8 << 20, 11, 0}, {16 << 20, 22, 0}, {64 << 20, 89, 0}, {72 << 20, 101, 1}, {256 << 20, 359, 259}, {1 << 30, 1438, 1338}, {8<<20 + 65536, 22, 0},
	} {
		if high, low := fstThresholds(c.length); high != c.high || low != c.low {
			t.Errorf("%d bytes: %d, %d, want %d, %d", c.length, high, low, c.high, c.low)
		}
	}
}

// TestFormats fragments a group until its free space goes to bitmaps, works on those, and frees until it comes back.
func TestFormats(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	o := defaultFixture
	o.size = 1200 << 20
	f := newFixture(t, o)
	model := refModel{}
	data := make([]ondisk.Logical, 0, 4000)
	tx := f.begin()
	for range 4000 {
		addr, n, err := f.m.AllocData(f.ctx, tx, 4096, 4096, 0)
		f.check(err)
		f.check(f.m.AddDataRef(tx, addr, n, 5, 257, uint64(addr), true))
		data = append(data, addr)
		model.add(uint64(addr), n)
	}
	f.commit(tx)
	f.verify(model)
	g := f.m.groupOf(uint64(data[0]))
	drop := func(i int) {
		addr := data[i]
		f.check(f.m.DropDataRef(tx, addr, 4096, 5, 257, uint64(addr)))
		delete(model, uint64(addr))
	}
	was := map[bool]bool{}
	perm := rng.Perm(len(data))
	for len(perm) > 0 { // in random order: many small holes first, one large at the end
		tx = f.begin()
		n := min(len(perm), 100+rng.IntN(600))
		for _, i := range perm[:n] {
			drop(i)
		}
		perm = perm[n:]
		if rng.IntN(3) == 0 {
			addr, got, err := f.m.AllocData(f.ctx, tx, 4096, 64<<10, data[0])
			f.check(err)
			f.check(f.m.AddDataRef(tx, addr, got, 5, 257, uint64(addr), true))
			model.add(uint64(addr), got)
		}
		f.commit(tx)
		f.verify(model)
		was[g.fst.bitmaps] = true
		if rng.IntN(6) == 0 {
			f.reopen()
			g = f.m.groupOf(uint64(data[0]))
		}
	}
	if g.fst.bitmaps || !was[true] {
		t.Errorf("bitmaps at the end: %t, ever: %t (%v)", g.fst.bitmaps, was[true], g)
	}
}

func (m refModel) add(addr, n uint64) {
	m[addr] = &extentModel{n: n, data: true, refs: oneRef(addr)}
}
