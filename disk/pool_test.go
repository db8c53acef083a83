package disk

import (
	"strings"
	"sync"
	"testing"
)

func TestPoolClasses(t *testing.T) {
	p := NewPool()
	for _, c := range []struct{ n, class int }{{0, 4096}, {1, 4096}, {4096, 4096}, {4097, 8192}, {16384, 16384},
		{65537, 131072}, {1 << 20, 1 << 20}, {1<<20 + 1, 2 << 20}, {MaxPooled, MaxPooled}} {
		b := p.Get(c.n)
		if len(b) != c.n || cap(b) != c.class || address(b[:1])%PoolAlign != 0 {
			t.Errorf("Get(%d): length %d, capacity %d, address %#x", c.n, len(b), cap(b), address(b[:1]))
		}
		if st := p.Stats(); st.InUse != 1 || st.InUseBytes != int64(c.class) {
			t.Errorf("Get(%d): %+v", c.n, st)
		}
		p.Put(b[:0])
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// Buffers that are out at the same time never overlap, and one that is back is used before memory is mapped anew.
func TestPoolDistinct(t *testing.T) {
	p := NewPool()
	const n = 200
	var bufs [][]byte
	for round := range 3 {
		for i := range n {
			b := p.Get(16 << 10)
			for j := range b {
				b[j] = byte(i)
			}
			bufs = append(bufs, b)
		}
		for i, b := range bufs {
			for j := range b {
				if b[j] != byte(i) {
					t.Fatalf("round %d: buffer %d is overwritten at %d", round, i, j)
				}
			}
			p.Put(b)
		}
		bufs = bufs[:0]
	}
	if st := p.Stats(); st != (PoolStats{Slabs: 4, SlabBytes: 4 << 20}) {
		t.Errorf("%+v", st)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPoolPanics(t *testing.T) {
	p, other := NewPool(), NewPool()
	closed := NewPool()
	closed.Put(closed.Get(1))
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	twice := p.Get(8192)
	p.Put(twice)
	out := p.Get(8192)
	big := p.Get(16384)
	for _, c := range []struct {
		name, want string
		call       func()
	}{
		{"double", "already back", func() { b := p.Get(4096); p.Put(b); p.Put(b) }},
		{"foreign", "not this pool's", func() { other.Put(out) }},
		{"heap", "not this pool's", func() { p.Put(make([]byte, 8192)) }},
		{"odd", "which Get never gave", func() { p.Put(make([]byte, 5000)) }},
		{"part", "not this pool's", func() { p.Put(big[:8192:8192]) }},
		{"rest", "which Get never gave", func() { p.Put(big[4096:]) }},
		{"too large", "limit", func() { p.Get(MaxPooled + 1) }},
		{"negative", "limit", func() { p.Get(-1) }},
		{"closed", "after Close", func() { closed.Get(1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer func() {
				if r, _ := recover().(string); !strings.Contains(r, c.want) {
					t.Errorf("panic %q, want %q", r, c.want)
				}
			}()
			c.call()
		})
	}
	p.Put(out) // the panics have left the pool usable
	p.Put(big)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPoolCloseWithLeak(t *testing.T) {
	p := NewPool()
	b := p.Get(100)
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "1 buffers (4096 bytes)") {
		t.Errorf("close with a buffer out: %v", err)
	}
	b[0] = 1 // still mapped
	p.Put(b)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPoolConcurrent(t *testing.T) {
	p := NewPool()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				b := p.Get(1 << (12 + i%4))
				b[0], b[len(b)-1] = byte(w), byte(w)
				if b[0] != byte(w) || b[len(b)-1] != byte(w) {
					t.Error("buffer shared")
				}
				p.Put(b)
			}
		})
	}
	wg.Wait()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkPool(b *testing.B) {
	p := NewPool()
	defer p.Close()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Put(p.Get(16 << 10))
		}
	})
}
