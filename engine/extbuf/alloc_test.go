package extbuf

import (
	"bytes"
	"strings"
	"sync"
	"testing"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

func TestAllocIsInitialisedAndDirty(t *testing.T) {
	c := newTestCache(t, newFakeIO(1))
	b := c.Alloc(at(3), 9, 257, 2)
	if b.TryLock() || b.TryRLock() {
		t.Fatal("not write-locked")
	}
	h := b.Block().Header()
	if h.Bytenr() != at(3) || h.Generation() != 9 || h.Owner() != 257 || h.Level() != 2 || h.FSID() != testFSID ||
		h.ChunkTreeUUID() != testChunk || b.Block().BackrefRev() != ondisk.BackrefRevMixed || b.Block().NrItems() != 0 {
		t.Errorf("header %x", h[:])
	}
	if !b.Dirty() || b.Written() || b.Generation() != 9 || b.Owner() != 257 || b.Level() != 2 || c.DirtyBytes(9) != testNode || c.DirtyBytes(8) != 0 {
		t.Error("state")
	}
	b.Unlock()
	b.Release()
	if got := c.Lookup(at(3)); got != b {
		t.Fatal("a dirty block left the cache")
	}
	b.Release()
}

// The identity rule (I3): who holds a buffer sees its address being allocated again. Without the rule he keeps what he
// has.
func TestIdentityRule(t *testing.T) {
	for _, identity := range []bool{true, false} {
		var events []trace.Event
		f := newFakeIO(1)
		f.put(0, at(0), 7, ondisk.FSTree)
		c := newTestCache(t, f, func(o *Options) {
			o.Tracer = trace.Func(func(e trace.Event) { events = append(events, e) })
		})
		c.SetIdentity(identity)
		reader, err := c.Read(t.Context(), at(0), Expect{Gen: 7})
		if err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(reader.Block())
		b := c.Alloc(at(0), 9, 300, 1)
		if (b == reader) != identity {
			t.Fatalf("identity %v: new buffer %p, old %p", identity, b, reader)
		}
		if bytes.Equal(before, reader.Block()) == identity {
			t.Errorf("identity %v: the reader's bytes are not as they should be", identity)
		}
		b.Unlock()
		if l := c.Lookup(at(0)); l != b {
			t.Error("the cache has another buffer")
		} else {
			l.Release()
		}
		reader.Release()
		b.Release()
		st := c.Stats()
		if identity {
			if len(events) != 1 || events[0].Kind != trace.BufferReused || events[0].Gen != 9 || events[0].Root != 300 ||
				events[0].Bytenr != uint64(at(0)) || events[0].N != 1 {
				t.Errorf("events %v", events)
			}
			if st.Reused != 1 || st.Detached != 0 {
				t.Errorf("%+v", st)
			}
		} else if len(events) != 0 || st.Detached != 1 || st.Reused != 0 {
			t.Errorf("events %v, %+v", events, st)
		}
		if st.Buffers != 1 || st.DirtyBytes != testNode || st.CleanBytes != 0 {
			t.Errorf("identity %v: %+v", identity, st)
		}
	}
}

// A buffer that nobody holds any more but that is still cached is re-used as well, and is no candidate for eviction
// afterwards.
func TestAllocOfCachedAddress(t *testing.T) {
	f := newFakeIO(1)
	f.put(0, at(0), 7, ondisk.FSTree)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 1 })
	b, err := c.Read(t.Context(), at(0), Expect{Gen: 7})
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	alloc(c, at(0), 9)
	for i := 1; i < 20; i++ { // pressure
		f.put(0, at(i), 7, ondisk.FSTree)
		r, err := c.Read(t.Context(), at(i), Expect{Gen: 7})
		if err != nil {
			t.Fatal(err)
		}
		r.Release()
	}
	got := c.Lookup(at(0))
	if got == nil {
		t.Fatal("a dirty block was evicted")
	}
	if got.Generation() != 9 || c.Stats().CleanBytes > 2*testNode {
		t.Errorf("generation %d, %+v", got.Generation(), c.Stats())
	}
	got.Release()
}

func TestForget(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f)
	b := c.Alloc(at(0), 9, 5, 0)
	c.Forget(b)
	c.Forget(b) // twice is once
	b.Unlock()
	if b.Dirty() || c.DirtyBytes(9) != 0 || c.Stats().Forgotten != 1 {
		t.Errorf("dirty %v, %+v", b.Dirty(), c.Stats())
	}
	again := c.Alloc(at(0), 9, 6, 0) // the address was given back within T
	if again != b || !b.Dirty() {
		t.Error("not re-used")
	}
	c.Forget(again)
	again.Unlock()
	if n, err := c.WriteOut(t.Context(), 9); n != 0 || err != nil || len(f.writes) != 0 {
		t.Errorf("wrote %d, %v", n, err)
	}
	b.Release()
	again.Release()
}

func TestAllocPanics(t *testing.T) {
	f := newFakeIO(1)
	for _, identity := range []bool{true, false} {
		c := NewCache(Options{IO: f, NodeSize: testNode}) // not closed: a panic leaves it unfit for use
		c.SetIdentity(identity)
		alloc(c, at(0), 9)
		mustPanic(t, "dirty in 9 (I2)", func() { c.Alloc(at(0), 10, 5, 0) })
		mustPanic(t, "Alloc of block", func() { c.Alloc(at(1)+1, 10, 5, 0) })
		mustPanic(t, "Alloc of block", func() { c.Alloc(at(1), 0, 5, 0) })
	}
}

func mustPanic(t *testing.T, msg string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		r := recover()
		if s, ok := r.(string); !ok || !strings.Contains(s, msg) {
			t.Errorf("panic %v, want %q", r, msg)
		}
	}()
	f()
}

// One goroutine drops a block (lock, give the address back, Forget, unlock) while another one is handed the address: the
// new block must come out dirty, and stay in memory.
func TestForgetAgainstAlloc(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 1 })
	for i := range 300 {
		addr := at(i % 4)
		b := c.Alloc(addr, 9, 5, 0)
		free := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			close(free) // the allocator has the address again; b is still locked here
			c.Forget(b)
			b.Unlock()
			b.Release()
		})
		wg.Go(func() {
			<-free
			n := c.Alloc(addr, 9, 6, 0)
			n.Unlock()
			n.Release()
		})
		wg.Wait()
		c.evict()
		got := c.Lookup(addr)
		if got == nil || !got.Dirty() || got.ring >= 0 || got.Owner() != 6 {
			t.Fatalf("round %d: %+v", i, got)
		}
		got.Lock()
		c.Forget(got)
		got.Unlock()
		got.Release()
	}
}

// A read is under way when its address is allocated: what it brings must neither enter the cache nor be returned.
func TestReadAgainstAlloc(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		f := newFakeIO(1)
		f.put(0, at(0), 7, ondisk.FSTree)
		entered, release := make(chan struct{}), make(chan struct{})
		first := true
		f.late = func(ondisk.Logical) {
			if first {
				first = false
				close(entered)
				<-release
			}
		}
		c := newTestCache(t, f, func(o *Options) { o.Limit = 1 })
		var wg sync.WaitGroup
		wg.Go(func() {
			b, err := c.Read(t.Context(), at(0), Expect{Level: AnyLevel})
			if err != nil {
				t.Error(err)
				return
			}
			if b.Generation() != 9 {
				t.Errorf("generation %d", b.Generation())
			}
			b.Release()
		})
		<-entered
		alloc(c, at(0), 9)
		if evicted {
			if _, err := c.WriteOut(t.Context(), 9); err != nil {
				t.Fatal(err)
			}
			c.evict() // once to cool it, once to go
			c.evict()
			if b := c.Lookup(at(0)); b != nil {
				t.Fatal("not evicted")
			}
		}
		close(release)
		wg.Wait()
		b := c.Lookup(at(0))
		if b == nil || b.Generation() != 9 || b.Dirty() == evicted {
			t.Errorf("evicted %v: %+v", evicted, b)
		}
		b.Release()
	}
}

func TestClone(t *testing.T) {
	f := newFakeIO(1)
	f.put(0, at(0), 7, 256)
	c := newTestCache(t, f)
	b, err := c.Read(t.Context(), at(0), Expect{})
	if err != nil {
		t.Fatal(err)
	}
	k := b.Clone()
	if !bytes.Equal(k.Block(), b.Block()) || &k.Block()[0] == &b.Block()[0] || k.Addr() != b.Addr() || k.Generation() != 7 ||
		k.Owner() != 256 || !k.Written() || k.Dirty() || c.Lookup(at(0)) != b {
		t.Error("clone differs")
	}
	b.Release()
	b.Release()
	if st := c.Stats(); st.Clones != 1 || st.Buffers != 2 {
		t.Errorf("%+v", st)
	}
	mustPanic(t, "Forget of a clone", func() { c.Forget(k) })
	k.Release()
	if st := c.Stats(); st.Clones != 0 || st.Buffers != 1 {
		t.Errorf("%+v", st)
	}
	mustPanic(t, "released once too often", func() { k.Release() })
}

func TestCloseListsLeaks(t *testing.T) {
	f := newFakeIO(1)
	f.put(0, at(0), 7, ondisk.FSTree)
	c := NewCache(Options{IO: f, NodeSize: testNode})
	b, err := c.Read(t.Context(), at(0), Expect{Gen: 7})
	if err != nil {
		t.Fatal(err)
	}
	k := b.Clone()
	alloc(c, at(5), 8) // dirty, but held by nobody: no leak
	c.SetIdentity(false)
	alloc(c, at(0), 9) // b is detached
	d := c.Alloc(at(6), 9, 300, 1)
	err = c.Close()
	if err == nil || !strings.Contains(err.Error(), "1 blocks still referenced (I12): block=1073152(root=300 gen=9 level=1 refs=1)") ||
		!strings.Contains(err.Error(), "1 private copies") || !strings.Contains(err.Error(), "1 detached blocks") {
		t.Errorf("leaks: %v", err)
	}
	d.Unlock()
	for _, x := range []*Buffer{b, k, d} {
		x.Release()
	}
	if st := c.Stats(); st.Buffers != 0 || c.pool.Stats().InUse != 0 {
		t.Errorf("%+v, %+v", st, c.pool.Stats())
	}
}
