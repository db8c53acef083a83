package freespace

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

const gib = 1 << 30

func TestErrors(t *testing.T) {
	x := New(gib, 64*sector, sector)
	if err := x.Add(gib+8*sector, 8*sector); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"before the group", x.Add(gib-sector, sector), "outside block group"},
		{"past the end", x.Add(gib+63*sector, 2*sector), "outside block group"},
		{"empty", x.Add(gib, 0), "outside block group"},
		{"overflow", x.Add(^uint64(0)-sector+1, 2*sector), "outside block group"},
		{"huge", x.Add(gib, ^uint64(0)-sector+1), "outside block group"},
		{"half a sector", x.Add(gib, sector/2), "not whole sectors"},
		{"shifted", x.Add(gib+1, sector), "not whole sectors"},
		{"free twice", x.Add(gib+15*sector, sector), "[1073803264, +4096) is free already"},
		{"overlap from below", x.Add(gib, 9*sector), "[1073774592, +32768) is free already"},
		{"not free", x.Remove(gib, sector), "not free at 1073741824"},
		{"half free", x.Remove(gib+8*sector, 9*sector), "not free at 1073807360"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, c.err, c.want)
		}
	}
	if x.Free() != 8*sector || !x.Has(gib+8*sector, 8*sector) || x.Has(gib+8*sector, 9*sector) {
		t.Errorf("a refused change changed something: %v", x)
	}
}

func TestPanicsOnMisuse(t *testing.T) {
	x := New(0, gib, sector)
	for name, f := range map[string]func(){
		"sector size":  func() { New(0, gib, 5000) },
		"size zero":    func() { x.Alloc(0, 0, 0) },
		"size odd":     func() { x.Alloc(100, 0, 0) },
		"alignment":    func() { x.Alloc(sector, 3*sector, 0) },
		"least > most": func() { x.AllocUpTo(2*sector, sector, 0) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

type sourceFunc func(add func(start, n uint64) error) error

func (f sourceFunc) LoadFree(add func(start, n uint64) error) error { return f(add) }

func TestLoad(t *testing.T) {
	x := New(gib, gib, sector)
	err := x.Load(sourceFunc(func(add func(start, n uint64) error) error {
		return errors.Join(add(gib+gib/2, gib/2), add(gib, gib/4))
	}))
	if err != nil {
		t.Fatal(err)
	}
	// A superblock's stripe, in part free, in part not; and past the end.
	if got := x.Subtract(gib+gib/4-64<<10, 128<<10); got != 64<<10 {
		t.Errorf("Subtract = %d", got)
	}
	if got := x.Subtract(2*gib-sector, ^uint64(0)); got != sector {
		t.Errorf("Subtract past the end = %d", got)
	}
	var got [][2]uint64
	for start, n := range x.Ranges() {
		got = append(got, [2]uint64{start, n})
	}
	want := [][2]uint64{{gib, gib/4 - 64<<10}, {gib + gib/2, gib/2 - sector}}
	if !slices.Equal(got, want) {
		t.Errorf("ranges %v, want %v", got, want)
	}
	for range x.Ranges() {
		break // stopping early must not keep the lock
	}
	if err := x.Load(sourceFunc(func(add func(start, n uint64) error) error { return add(gib, sector) })); err == nil {
		t.Error("a source that frees twice was believed")
	}
}

// TestMemoryBounded fragments 1 GiB wholly, in random order.
func TestMemoryBounded(t *testing.T) {
	x := New(0, gib, sector)
	r := rand.New(rand.NewPCG(7, 7))
	for _, i := range r.Perm(gib / sector / 2) {
		if err := x.Add(uint64(2*i)*sector, sector); err != nil {
			t.Fatal(err)
		}
	}
	s := x.Stats()
	if s.Free != gib/2 || s.Largest != sector || s.Runs != gib/sector/2 || s.Bitmaps != s.Windows {
		t.Errorf("%+v", s)
	}
	if s.Memory > 64<<10 {
		t.Errorf("a fragmented GiB takes %d bytes", s.Memory)
	}
	for _, i := range r.Perm(gib / sector / 2) {
		if err := x.Add(uint64(2*i+1)*sector, sector); err != nil {
			t.Fatal(err)
		}
	}
	if s := x.Stats(); s.Largest != gib || s.Bitmaps != 0 || s.Memory > 16<<10 {
		t.Errorf("whole again: %+v", s)
	}
}

func TestSmallGroups(t *testing.T) {
	for _, n := range []uint64{0, 1, 63, windowBits - 1, windowBits, windowBits + 1, 3 * windowBits, 5*windowBits + 7} {
		x := New(1<<20, n*sector+100, sector)
		if n == 0 {
			if _, ok := x.Alloc(sector, 0, 0); ok || x.Add(1<<20, sector) == nil {
				t.Error("found space in a group of no sectors")
			}
			continue
		}
		if err := x.Add(1<<20, n*sector); err != nil {
			t.Fatal(err)
		}
		if x.Largest() != n*sector {
			t.Errorf("%d sectors: largest %d", n, x.Largest())
		}
		if at, ok := x.Alloc(n*sector, 0, 1<<20+n/2*sector); !ok || at != 1<<20 || x.Free() != 0 {
			t.Errorf("%d sectors: %d %v", n, at, ok)
		}
	}
}

// TestConcurrent: what two goroutines hold never overlaps, and all comes back.
func TestConcurrent(t *testing.T) {
	const size = 256 << 20
	x := New(0, size, sector)
	if err := x.Add(0, size); err != nil {
		t.Fatal(err)
	}
	owner := make([]int32, size/sector) // each element written only by who holds the sector
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 3))
			type piece struct{ start, n uint64 }
			var mine []piece
			for range 4000 {
				if len(mine) > 200 || len(mine) > 0 && r.IntN(3) == 0 {
					i := r.IntN(len(mine))
					p := mine[i]
					mine = slices.Delete(mine, i, i+1)
					for s := p.start / sector; s < (p.start+p.n)/sector; s++ {
						if owner[s] != int32(g)+1 {
							t.Errorf("sector %d was handed to %d as well", s, owner[s])
							return
						}
						owner[s] = 0
					}
					if err := x.Add(p.start, p.n); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				start, n, ok := x.AllocUpTo(sector, uint64(1+r.IntN(64))*sector, r.Uint64N(size))
				if !ok {
					continue
				}
				for s := start / sector; s < (start+n)/sector; s++ {
					owner[s] = int32(g) + 1
				}
				mine = append(mine, piece{start, n})
			}
			for _, p := range mine {
				if err := x.Add(p.start, p.n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if x.Free() != size || x.Largest() != size {
		t.Errorf("not all came back: %v", x)
	}
}

// BenchmarkSequential is the allocator of a commit: 16 KiB after 16 KiB.
func BenchmarkSequential(b *testing.B) {
	x := New(0, gib, sector)
	full := true
	hint := uint64(0)
	for b.Loop() {
		if full {
			_ = x.Subtract(0, gib)
			if err := x.Add(0, gib); err != nil {
				b.Fatal(err)
			}
		}
		at, ok := x.Alloc(16<<10, 16<<10, hint)
		hint, full = at+16<<10, !ok
	}
}

// BenchmarkFragmented allocates and frees single nodes where every other node is
// free, from a random hint.
func BenchmarkFragmented(b *testing.B) {
	x := New(0, gib, sector)
	for at := uint64(0); at < gib; at += 32 << 10 {
		if err := x.Add(at, 16<<10); err != nil {
			b.Fatal(err)
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for b.Loop() {
		at, ok := x.Alloc(16<<10, 16<<10, r.Uint64N(gib))
		if !ok {
			b.Fatal("full")
		}
		if err := x.Add(at, 16<<10); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargestOfFragmented takes the largest of a million sectors' worth of
// crumbs, and gives it back.
func BenchmarkLargestOfFragmented(b *testing.B) {
	x := New(0, 4*gib, sector)
	for at := uint64(0); at < 4*gib; at += 2 * sector {
		if err := x.Add(at, sector); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		at, n, _ := x.AllocUpTo(sector, 128<<20, 2*gib)
		if err := x.Add(at, n); err != nil {
			b.Fatal(err)
		}
	}
}
