package pin

import "testing"

const node = 16 << 10

// BenchmarkPinRelease is what one freed block costs a commit.
func BenchmarkPinRelease(b *testing.B) {
	s := New(Options{Release: func([]Extent) {}})
	gen, n := uint64(2), uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Pin(Extent{Start: n * node, Len: node, Born: gen - 1, Died: gen, BG: n >> 12}); err != nil {
			b.Fatal(err)
		}
		if n++; n == 10000 {
			s.Release(gen)
			gen, n = gen+1, 0
		}
	}
}

// BenchmarkEnterLeave enters and leaves beside 100,000 extents that another
// reader holds: none of them is looked at.
func BenchmarkEnterLeave(b *testing.B) {
	s := New(Options{Release: func([]Extent) {}})
	s.Enter(at(1))
	for n := range uint64(100_000) {
		if err := s.Pin(Extent{Start: n * node, Len: node, Born: 1, Died: 2}); err != nil {
			b.Fatal(err)
		}
	}
	s.Release(2)
	b.ReportAllocs()
	for b.Loop() {
		s.Enter(at(2)).Leave()
	}
}
