package extbuf

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// wants puts good leaves of generation 7 at the places given and returns what a pointer to each would promise.
func (f *fakeIO) wants(places ...int) (list []Want) {
	for _, i := range places {
		var key ondisk.Key
		for c := range f.copies {
			key = f.put(c, at(i), 7, ondisk.FSTree)
		}
		list = append(list, Want{at(i), Expect{Gen: 7, FirstKey: &key}})
	}
	return list
}

// TestPrefetch looks which reads a call makes: neighbours, in the order of the call, in one.
func TestPrefetch(t *testing.T) {
	most := joinedRead / testNode
	var many []int
	for i := range most + 3 {
		many = append(many, i)
	}
	for _, tc := range []struct {
		name   string
		places []int
		known  []int
		reads  []int // blocks of each
	}{
		{"neighbours", []int{0, 1, 2, 3}, nil, []int{4}},
		{"alone", []int{0, 2, 4}, nil, []int{1, 1, 1}},
		{"two runs", []int{0, 1, 5, 6, 7}, nil, []int{2, 3}},
		{"against the order of the disk", []int{2, 1, 0}, nil, []int{1, 1, 1}},
		{"some are there", []int{0, 1, 2, 3, 4}, []int{0, 3}, []int{1, 2}},
		{"all are there", []int{0, 1}, []int{0, 1}, nil},
		{"more than one read may have", many, nil, []int{3, most}},
		{"one twice", []int{0, 1, 1, 2}, nil, []int{1, 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFakeIO(1)
			list := f.wants(tc.places...)
			c := newTestCache(t, f)
			for _, i := range tc.known {
				b, err := c.Read(t.Context(), at(i), Expect{})
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
			}
			f.requests = nil
			c.Prefetch(t.Context(), list)
			c.prefetch.wg.Wait()
			slices.Sort(f.requests)
			if !slices.Equal(f.requests, tc.reads) {
				t.Errorf("reads of %v blocks, want %v", f.requests, tc.reads)
			}
			for _, w := range list {
				b, err := c.Read(t.Context(), w.Addr, w.Expect)
				if err != nil {
					t.Fatal(err)
				}
				b.Release()
			}
			if n := c.Stats().Misses; int(n) != len(c.shardsBlocks()) {
				t.Errorf("%d misses for %d blocks", n, len(c.shardsBlocks()))
			}
		})
	}
}

// shardsBlocks lists the addresses in the map.
func (c *Cache) shardsBlocks() (list []ondisk.Logical) {
	for i := range c.shards {
		for a := range c.shards[i].bufs {
			list = append(list, a)
		}
	}
	return list
}

// TestPrefetchBad puts one bad block among neighbours: it comes from its other copy, or stays away and is left to its
// reader; the others are there.
func TestPrefetchBad(t *testing.T) {
	resum := func(b ondisk.Block) { ondisk.CRC32C.SetBlockCsum(b) }
	for name, spoil := range map[string]func(b ondisk.Block){
		"flipped":        func(b ondisk.Block) { b[2000] ^= 1 },
		"of the past":    func(b ondisk.Block) { b.Header().SetGeneration(6); resum(b) },
		"of other place": func(b ondisk.Block) { b.Header().SetBytenr(at(9)); resum(b) },
	} {
		for _, copies := range []int{1, 2} {
			f := newFakeIO(copies)
			list := f.wants(0, 1, 2, 3)
			spoil(f.copies[0][at(2)])
			c := newTestCache(t, f)
			c.Prefetch(t.Context(), list)
			c.prefetch.wg.Wait()
			for i := range 4 {
				b := c.Lookup(at(i))
				if want := i != 2 || copies == 2; (b != nil) != want {
					t.Errorf("%s, %d copies: block %d is there: %v", name, copies, i, b != nil)
				}
				if b != nil {
					if b.Generation() != 7 || b.Addr() != b.Block().Header().Bytenr() {
						t.Errorf("%s, %d copies: block %d is not what was promised", name, copies, i)
					}
					b.Release()
				}
			}
			if n := c.Stats().BadCopies; n != 1 {
				t.Errorf("%s, %d copies: %d bad copies counted", name, copies, n)
			}
		}
	}
}

// TestPrefetchUnreadable lets the read of all neighbours fail: each is read alone.
func TestPrefetchUnreadable(t *testing.T) {
	f := newFakeIO(1)
	list := f.wants(0, 1, 2, 3)
	var once sync.Once
	f.onRead = func(ondisk.Logical, int) (err error) {
		once.Do(func() { err = errDevice })
		return err
	}
	c := newTestCache(t, f)
	c.Prefetch(t.Context(), list)
	c.prefetch.wg.Wait()
	if n := len(c.shardsBlocks()); n != 4 || !slices.Equal(f.requests, []int{1, 1, 1, 1}) {
		t.Errorf("%d blocks are there, reads of %v", n, f.requests)
	}
}

// TestPrefetchStale allocates an address again while it is on its way: what was read is of the past and does not come in
// the way of what is there now, nor after that has gone.
func TestPrefetchStale(t *testing.T) {
	for _, forget := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeIO(1)
			list := f.wants(0, 1, 2)
			release := make(chan struct{})
			f.late = func(ondisk.Logical) { <-release } // the bytes are read, and not published yet
			c := newTestCache(t, f)
			c.Prefetch(t.Context(), list)
			synctest.Wait()
			alloc(c, at(1), 8)
			if forget {
				b := c.Lookup(at(1))
				b.Lock()
				c.Forget(b)
				b.Unlock()
				b.Release()
				s := c.shard(at(1))
				s.mu.Lock()
				c.remove(s, b)
				s.mu.Unlock()
				b.Release()
			}
			close(release)
			c.prefetch.wg.Wait()
			b := c.Lookup(at(1))
			switch {
			case forget && b != nil:
				t.Errorf("the block of generation %d has entered the cache", b.Generation())
			case !forget && (b == nil || b.Generation() != 8):
				t.Error("the block of generation 8 is not there any more")
			}
			if b != nil {
				b.Release()
			}
			for _, i := range []int{0, 2} {
				if b := c.Lookup(at(i)); b == nil {
					t.Errorf("block %d is not there", i)
				} else {
					b.Release()
				}
			}
		})
	}
}

// TestPrefetchAndReaders lets readers come while the read of neighbours is under way: they wait for it, whoever is
// cancelled meanwhile, and there is no other read.
func TestPrefetchAndReaders(t *testing.T) {
	for _, cancelled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeIO(1)
			list := f.wants(0, 1, 2, 3)
			release := make(chan struct{})
			f.onRead = func(ondisk.Logical, int) error { <-release; return nil }
			c := newTestCache(t, f)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.Prefetch(ctx, list)
			c.Prefetch(t.Context(), list)
			var wg sync.WaitGroup
			for _, w := range list {
				wg.Go(func() {
					b, err := c.Read(t.Context(), w.Addr, w.Expect)
					if err != nil {
						t.Error(err)
						return
					}
					b.Release()
				})
			}
			synctest.Wait()
			reads := []int{4}
			if cancelled { // then each reads for himself
				cancel()
				reads = []int{1, 1, 1, 1}
			}
			close(release)
			wg.Wait()
			if !slices.Equal(f.requests, reads) {
				t.Errorf("reads of %v blocks, want %v", f.requests, reads)
			}
		})
	}
}

// TestPrefetchNothing prefetches what cannot be read, and after Close: nobody hears of it.
func TestPrefetchNothing(t *testing.T) {
	f := newFakeIO(1)
	list := append(f.wants(0), Want{at(1), Expect{Gen: 7}}, Want{1, Expect{}})
	c := NewCache(Options{IO: f, NodeSize: testNode, FSID: testFSID, ChunkTreeUUID: testChunk})
	c.Prefetch(t.Context(), list)
	c.prefetch.wg.Wait()
	if n := len(c.shardsBlocks()); n != 1 {
		t.Errorf("%d blocks are there", n)
	}
	if _, err := c.Read(t.Context(), at(1), Expect{Gen: 7}); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("the reader of what was not there: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	c.Prefetch(t.Context(), list)
	if n := len(c.shardsBlocks()); n != 0 || len(c.prefetch.slots) != 0 {
		t.Errorf("after Close %d blocks were read, %d slots are taken", n, len(c.prefetch.slots))
	}
}
