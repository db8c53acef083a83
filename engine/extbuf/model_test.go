package extbuf

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"imgtool/engine/ondisk"

	"pgregory.net/rapid"
)

// model is the naive cache: what each address holds by now (the last generation that filled it), and which of them are
// dirty. There is no eviction in it, so the real cache must behave as if it never evicted.
type model struct {
	content map[ondisk.Logical]ondisk.Generation // live blocks
	dirty   map[ondisk.Logical]bool              // of the running generation
	held    map[ondisk.Logical][]*Buffer
}

// Random allocations, forgets, reads, write-outs and early writes of a few addresses under a limit of a few blocks, with
// readers holding references: every read gives the model's content, and after each write-out the disk holds it.
func TestCacheAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newFakeIO(2)
		c := NewCache(Options{IO: f, NodeSize: testNode, FSID: testFSID, ChunkTreeUUID: testChunk, Limit: 4 * testNode})
		gen := ondisk.Generation(1)
		m := model{map[ondisk.Logical]ondisk.Generation{}, map[ondisk.Logical]bool{}, map[ondisk.Logical][]*Buffer{}}
		addr := rapid.Custom(func(t *rapid.T) ondisk.Logical { return at(rapid.IntRange(0, 19).Draw(t, "addr")) })
		ctx := context.Background()
		rt.Repeat(map[string]func(*rapid.T){
			"alloc": func(rt *rapid.T) {
				a := addr.Draw(rt, "addr")
				if m.dirty[a] {
					return // the allocator never gives that out
				}
				live := c.Lookup(a)
				b := c.Alloc(a, gen, ondisk.FSTree, 0)
				if live != nil {
					if live != b {
						rt.Fatalf("block %d: a second live buffer (I3)", a)
					}
					live.Release()
				}
				fill(b.Block(), a, gen)
				b.Unlock()
				b.Release()
				m.content[a], m.dirty[a] = gen, true
			},
			"forget": func(rt *rapid.T) {
				a := addr.Draw(rt, "addr")
				b := c.Lookup(a)
				if b == nil {
					return
				}
				b.Lock()
				if m.dirty[a] && !b.Written() {
					c.Forget(b)
					delete(m.dirty, a)
					delete(m.content, a)
				}
				b.Unlock()
				b.Release()
			},
			"read": func(rt *rapid.T) {
				a := addr.Draw(rt, "addr")
				g, ok := m.content[a]
				if !ok {
					return
				}
				key := testKey(a)
				b, err := c.Read(ctx, a, Expect{Gen: g, FirstKey: &key, Owner: ondisk.FSTree})
				if err != nil {
					rt.Fatal(err)
				}
				if b.Block().Item(0)[0] != byte(g) || b.Dirty() != m.dirty[a] || (!b.Written() && !m.dirty[a]) {
					rt.Fatalf("block %d: content of %d, want %d; dirty %v written %v", a, b.Block().Item(0)[0], g, b.Dirty(), b.Written())
				}
				if rapid.Bool().Draw(rt, "hold") {
					m.held[a] = append(m.held[a], b)
				} else {
					b.Release()
				}
			},
			"let go": func(rt *rapid.T) {
				a := addr.Draw(rt, "addr")
				for _, b := range m.held[a] {
					b.Release()
				}
				delete(m.held, a)
			},
			"write some": func(rt *rapid.T) {
				if _, err := c.WriteSome(ctx, gen, rapid.IntRange(0, 5).Draw(rt, "max")); err != nil {
					rt.Fatal(err)
				}
				for a := range m.dirty { // what was written is clean, and pinned: not for this generation again
					b := c.Lookup(a)
					if b == nil || !b.Dirty() {
						delete(m.dirty, a)
					}
					if b != nil {
						b.Release()
					}
				}
			},
			"commit": func(rt *rapid.T) {
				n, err := c.WriteOut(ctx, gen)
				if err != nil || n != len(m.dirty) {
					rt.Fatalf("wrote %d of %d, %v", n, len(m.dirty), err)
				}
				clear(m.dirty)
				gen++
				for a, g := range m.content {
					for i := range f.copies {
						if d := ondisk.Block(f.copies[i][a]); !ondisk.CRC32C.BlockCsumOK(d) || d.Header().Generation() != g || d.Item(0)[0] != byte(g) {
							rt.Fatalf("block %d copy %d is not on the disk as of generation %d", a, i, g)
						}
					}
				}
			},
			"": func(rt *rapid.T) {
				if got := c.DirtyBytes(gen); got != int64(len(m.dirty)*testNode) {
					rt.Fatalf("%d bytes dirty, want %d blocks", got, len(m.dirty))
				}
				for i := range c.shards {
					for a, b := range c.shards[i].bufs {
						if b.Dirty() == (b.ring >= 0) {
							rt.Fatalf("block %d: dirty %v, place in the ring %d", a, b.Dirty(), b.ring)
						}
					}
				}
			},
		})
		for _, list := range m.held {
			for _, b := range list {
				b.Release()
			}
		}
		if err := c.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// Writers of generation g fill and copy blocks while generation g-1 is written out, readers search, and the cache is so
// small that everything clean is evicted at once. Run under the race detector, this shows that the locks are enough;
// every reader checks that a block's bytes belong together.
func TestConcurrentUse(t *testing.T) {
	const (
		writersN    = 2
		readersN    = 2
		generations = 12
		perWriter   = 40
	)
	f := newFakeIO(2)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 8 * testNode })
	var committed atomic.Uint64 // every address of generations up to here can be read
	slot := func(g ondisk.Generation, w, i int) ondisk.Logical { return at((int(g)*writersN+w)*perWriter + i) }

	var readers, all sync.WaitGroup
	stop := make(chan struct{})
	for r := range readersN {
		readers.Go(func() {
			for n := r; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				top := committed.Load()
				if top == 0 {
					continue
				}
				g := ondisk.Generation(1 + uint64(n)%top)
				a := slot(g, n%writersN, n%perWriter)
				key := testKey(a)
				b, err := c.Read(context.Background(), a, Expect{Gen: g, FirstKey: &key})
				if err != nil {
					t.Error(err)
					return
				}
				if b.Block().Item(0)[0] != byte(g) {
					t.Errorf("block %d of generation %d holds %d", a, g, b.Block().Item(0)[0])
				}
				b.Release()
			}
		})
	}
	for g := ondisk.Generation(1); g <= generations; g++ {
		var writers sync.WaitGroup
		for w := range writersN {
			writers.Go(func() { writeGeneration(t, c, g, func(i int) ondisk.Logical { return slot(g, w, i) }, perWriter) })
		}
		writers.Go(func() {
			if _, err := c.WriteSome(context.Background(), g, 10); err != nil {
				t.Error(err)
			}
		})
		writers.Wait() // Switch: g is closed
		all.Wait()     // one write-out at a time, as the commit does
		all.Go(func() {
			if _, err := c.WriteOut(context.Background(), g); err != nil {
				t.Error(err)
			}
			committed.Store(uint64(g))
		})
	}
	all.Wait()
	close(stop)
	readers.Wait()
	for g := ondisk.Generation(1); g <= generations; g++ {
		if c.DirtyBytes(g) != 0 {
			t.Errorf("generation %d is still dirty", g)
		}
	}
}

// writeGeneration allocates n blocks, drops one in four again and re-uses its address, and changes another in place
// unless it was written meanwhile.
func writeGeneration(t *testing.T, c *Cache, g ondisk.Generation, slot func(int) ondisk.Logical, n int) {
	for i := range n {
		b := c.Alloc(slot(i), g, ondisk.FSTree, 0)
		fill(b.Block(), slot(i), g)
		if i%4 == 0 {
			c.Forget(b)
			b.Unlock()
			b.Release()
			b = c.Alloc(slot(i), g, ondisk.FSTree, 0)
			fill(b.Block(), slot(i), g)
		}
		b.Unlock()
		if i%4 == 1 {
			b.Lock()
			if !b.Written() { // I4
				b.Block().Item(0)[1]++
			}
			b.Unlock()
		}
		if b.Generation() != g {
			t.Errorf("block %d has generation %d", b.Addr(), b.Generation())
		}
		b.Release()
	}
}

func BenchmarkHit(b *testing.B) {
	for _, n := range []int{1, 1000, 20000} {
		b.Run(fmt.Sprintf("blocks=%d", n), func(b *testing.B) {
			c, wants := warm(b, n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				key := testKey(wants[i].Addr)
				buf, err := c.Read(b.Context(), wants[i].Addr, Expect{Gen: 7, FirstKey: &key})
				if err != nil {
					b.Fatal(err)
				}
				buf.Release()
				if i++; i == n {
					i = 0
				}
			}
		})
	}
}

func BenchmarkHitParallel(b *testing.B) {
	c, wants := warm(b, 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ctx := context.Background()
		for i := 0; pb.Next(); i++ {
			w := wants[i*7%len(wants)]
			buf, err := c.Read(ctx, w.Addr, w.Expect)
			if err != nil {
				b.Error(err)
				return
			}
			buf.Release()
		}
	})
}

func warm(b *testing.B, n int) (*Cache, []Want) {
	f := newFakeIO(1)
	c := newTestCache(b, f, func(o *Options) { o.Limit = 1 << 30 })
	var wants []Want
	for i := range n {
		f.put(0, at(i), 7, ondisk.FSTree)
		buf, err := c.Read(b.Context(), at(i), Expect{Gen: 7})
		if err != nil {
			b.Fatal(err)
		}
		buf.Release()
		wants = append(wants, Want{at(i), Expect{Gen: 7}})
	}
	return c, wants
}

func BenchmarkAllocForget(b *testing.B) {
	c := newTestCache(b, newFakeIO(1))
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		buf := c.Alloc(at(i%64), 9, 5, 0)
		c.Forget(buf)
		buf.Unlock()
		buf.Release()
		i++
	}
}

func BenchmarkClone(b *testing.B) {
	c := newTestCache(b, newFakeIO(1), func(o *Options) { o.NodeSize = 16384 })
	buf := c.Alloc(at(0), 9, 5, 0)
	b.ReportAllocs()
	for b.Loop() {
		buf.Clone().Release()
	}
	buf.Unlock()
	buf.Release()
}
