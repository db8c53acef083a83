package freespace

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the naive index: one bool a sector, addresses counted from 0.
type model struct {
	free []bool
}

func (m *model) set(a, n int, free bool) {
	for i := a; i < a+n; i++ {
		m.free[i] = free
	}
}

func (m *model) all(a, n int, free bool) bool {
	for i := a; i < a+n; i++ {
		if m.free[i] != free {
			return false
		}
	}
	return true
}

// runs returns the maximal free runs as {start, end}.
func (m *model) runs() (out [][2]uint64) {
	for i := 0; i < len(m.free); i++ {
		if m.free[i] {
			j := i
			for j < len(m.free) && m.free[j] {
				j++
			}
			out = append(out, [2]uint64{uint64(i), uint64(j)})
			i = j
		}
	}
	return out
}

// firstFit is the lowest s >= from with n free sectors at an address that is a
// multiple of align, given that sector 0 has address base.
func (m *model) firstFit(n, from int, align, base uint64) int {
	got := 0
	for s, i := from, from; i < len(m.free); i++ {
		if got++; !m.free[i] {
			s, got = i+1, 0
			continue
		}
		for got > 0 && (base+uint64(s)*sector)%max(align, 1) != 0 {
			s, got = s+1, got-1
		}
		if got >= n {
			return s
		}
	}
	return -1
}

const sector = 4096

// machine drives an index and the model together. The group has two whole
// windows and a part of a third, and does not begin at a multiple of much.
type machine struct {
	x    *Index
	m    model
	base uint64
}

const machineSectors = 2*windowBits + 1000

func newMachine() *machine {
	base := uint64(1<<30 + 3*sector)
	return &machine{
		x:    New(base, machineSectors*sector, sector),
		m:    model{make([]bool, machineSectors)},
		base: base,
	}
}

func (k *machine) addr(s int) uint64 { return k.base + uint64(s)*sector }

func (k *machine) add(a, n int) error {
	err := k.x.Add(k.addr(a), uint64(n)*sector)
	if legal := k.m.all(a, n, false); legal != (err == nil) {
		return fmt.Errorf("Add(%d, %d): legal %v, got %v", a, n, legal, err)
	}
	if err == nil {
		k.m.set(a, n, true)
	}
	return nil
}

func (k *machine) remove(a, n int) error {
	err := k.x.Remove(k.addr(a), uint64(n)*sector)
	if legal := k.m.all(a, n, true); legal != (err == nil) {
		return fmt.Errorf("Remove(%d, %d): legal %v, got %v", a, n, legal, err)
	}
	if err == nil {
		k.m.set(a, n, false)
	}
	return nil
}

func (k *machine) subtract(a, n int) error {
	want := uint64(0)
	for i := a; i < a+n; i++ {
		if k.m.free[i] {
			want += sector
		}
	}
	if got := k.x.Subtract(k.addr(a), uint64(n)*sector); got != want {
		return fmt.Errorf("Subtract(%d, %d) = %d, want %d", a, n, got, want)
	}
	k.m.set(a, n, false)
	return nil
}

func (k *machine) alloc(n, hint int, align uint64) error {
	want := k.m.firstFit(n, hint, align, k.base)
	if want < 0 {
		want = k.m.firstFit(n, 0, align, k.base)
	}
	got, ok := k.x.Alloc(uint64(n)*sector, align, k.addr(hint))
	if ok != (want >= 0) || ok && got != k.addr(want) {
		return fmt.Errorf("Alloc(%d, align %d, hint %d) = sector %d, %v; want %d", n, align, hint, int64(got-k.base)/sector, ok, want)
	}
	if ok {
		k.m.set(want, n, false)
	}
	return nil
}

func (k *machine) allocUpTo(least, most, hint int) error {
	largest := 0
	for _, r := range k.m.runs() {
		largest = max(largest, int(r[1]-r[0]))
	}
	start, got, ok := k.x.AllocUpTo(uint64(least)*sector, uint64(most)*sector, k.addr(hint))
	if ok != (largest >= least) {
		return fmt.Errorf("AllocUpTo(%d, %d): %v, largest %d", least, most, ok, largest)
	}
	if !ok {
		return nil
	}
	n := min(most, largest)
	want := k.m.firstFit(n, hint, 0, k.base)
	if want < 0 {
		want = k.m.firstFit(n, 0, 0, k.base)
	}
	if start != k.addr(want) || got != uint64(n)*sector {
		return fmt.Errorf("AllocUpTo(%d, %d, hint %d) = %d, %d; want %d, %d", least, most, hint, start, got, k.addr(want), n*sector)
	}
	k.m.set(want, n, false)
	return nil
}

// comb makes a region fragmented: one sector in `step` free, the others used.
func (k *machine) comb(a, n, step int) error {
	if err := k.subtract(a, n); err != nil {
		return err
	}
	for i := a; i < a+n; i += step {
		if err := k.add(i, 1); err != nil {
			return err
		}
	}
	return nil
}

// check compares everything the index can be asked with the model, and every
// summary with what it summarises.
func (k *machine) check() error {
	runs := k.m.runs()
	free, largest := uint64(0), uint64(0)
	for _, r := range runs {
		free += r[1] - r[0]
		largest = max(largest, r[1]-r[0])
	}
	if got := k.x.Free(); got != free*sector {
		return fmt.Errorf("Free() = %d, want %d", got, free*sector)
	}
	if got := k.x.Largest(); got != largest*sector {
		return fmt.Errorf("Largest() = %d, want %d", got, largest*sector)
	}
	if got := k.x.snapshot(); !slices.Equal(got, runs) {
		return fmt.Errorf("runs %v, want %v", got, runs)
	}
	t := &k.x.tree
	for i := range t.windows {
		w := &t.windows[i]
		if w.bitmap != nil && len(w.extents) > 0 {
			return fmt.Errorf("window %d has both forms", i)
		}
		length := min(windowBits, machineSectors-i*windowBits)
		part := model{k.m.free[i*windowBits : i*windowBits+length]}
		var s summary
		for _, r := range part.runs() {
			s.longest = max(s.longest, r[1]-r[0])
			if r[0] == 0 {
				s.front = r[1]
			}
			if r[1] == uint64(length) {
				s.back = r[1] - r[0]
			}
		}
		if n := len(part.runs()); n != w.runs || n > bitmapAt && w.bitmap == nil || n <= extentsAt && w.bitmap != nil {
			return fmt.Errorf("window %d: runs %d, want %d; bitmap %v", i, w.runs, n, w.bitmap != nil)
		}
		if got := t.nodes[int(t.leaves)+i]; got != s {
			return fmt.Errorf("window %d: summary %+v, want %+v", i, got, s)
		}
	}
	return nil
}

func TestModel(t *testing.T) {
	bitmaps := 0
	rapid.Check(t, func(t *rapid.T) {
		k := newMachine()
		pos := rapid.OneOf(
			rapid.IntRange(0, machineSectors-1),
			rapid.SampledFrom([]int{0, windowBits - 1, windowBits, 2*windowBits - 1, 2 * windowBits, machineSectors - 1}))
		size := rapid.OneOf(rapid.IntRange(1, 16), rapid.IntRange(1, 600), rapid.IntRange(windowBits-2, machineSectors))
		// span draws a range that lies within the group.
		span := func() (int, int) {
			a := pos.Draw(t, "at")
			return a, min(size.Draw(t, "n"), machineSectors-a)
		}
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add":      func(*rapid.T) { a, n := span(); ok(k.add(a, n)) },
			"remove":   func(*rapid.T) { a, n := span(); ok(k.remove(a, n)) },
			"subtract": func(*rapid.T) { a, n := span(); ok(k.subtract(a, n)) },
			"comb": func(t *rapid.T) {
				a, n := span()
				ok(k.comb(a, min(n, 2000), rapid.IntRange(2, 20).Draw(t, "step")))
			},
			"alloc": func(t *rapid.T) {
				align := rapid.SampledFrom([]uint64{0, 512, sector, 4 * sector, 16 * sector, 1 << 20}).Draw(t, "align")
				ok(k.alloc(size.Draw(t, "n"), pos.Draw(t, "hint"), align))
			},
			"allocUpTo": func(t *rapid.T) {
				least := rapid.IntRange(1, 64).Draw(t, "least")
				ok(k.allocUpTo(least, least+rapid.IntRange(0, 5000).Draw(t, "more"), pos.Draw(t, "hint")))
			},
			"has": func(t *rapid.T) {
				a, n := span()
				if got, want := k.x.Has(k.addr(a), uint64(n)*sector), k.m.all(a, n, true); got != want {
					t.Fatalf("Has(%d, %d) = %v, want %v", a, n, got, want)
				}
			},
			"": func(*rapid.T) { ok(k.check()); bitmaps += k.x.Stats().Bitmaps },
		})
	})
	if bitmaps == 0 {
		t.Error("no window ever became a bitmap: the test does not test them")
	}
}

// TestRandomSectors is the model at the finest grain: windows go to bitmaps and
// back, sector by sector.
func TestRandomSectors(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	k := newMachine()
	forms := map[int]bool{}
	for round := range 8 {
		for range 4000 {
			s, n := r.IntN(machineSectors-8), 1+r.IntN(8)
			var err error
			if round%2 == 0 {
				err = k.add(s, n)
			} else {
				err = k.subtract(s, n)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := k.check(); err != nil {
			t.Fatal(err)
		}
		for i := range 200 {
			if err := k.alloc(1+r.IntN(12), r.IntN(machineSectors), uint64(sector)<<(i%4)); err != nil {
				t.Fatal(err)
			}
			forms[k.x.Stats().Bitmaps] = true
		}
	}
	if len(forms) < 2 {
		t.Errorf("windows never changed their form: %v", forms)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte{0, 0, 0, 255, 255, 3, 0, 16, 0, 4, 1, 2, 3, 4, 5, 2, 200, 0, 100, 7})
	f.Add([]byte{0, 0, 0, 255, 255, 5, 0, 0, 255, 2, 4, 4, 4, 4, 4, 1, 16, 0, 16, 0})
	f.Fuzz(func(t *testing.T, ops []byte) {
		k := newMachine()
		for ; len(ops) >= 5; ops = ops[5:] {
			a := (int(ops[1])<<8 | int(ops[2])) % machineSectors
			n := 1 + int(ops[3])<<8 | int(ops[4])
			in := min(n, machineSectors-a)
			var err error
			switch ops[0] % 6 {
			case 0:
				err = k.add(a, in)
			case 1:
				err = k.remove(a, in)
			case 2:
				err = k.subtract(a, in)
			case 3:
				err = k.alloc(n, a, sector<<(ops[4]%6))
			case 4:
				err = k.allocUpTo(1+n%64, 64+n, a)
			case 5:
				err = k.comb(a, min(in, 1000), 2+n%16)
			}
			if err == nil {
				err = k.check()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}
