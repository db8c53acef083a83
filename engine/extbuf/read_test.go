package extbuf

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

func TestReadHitIsTheSameBuffer(t *testing.T) {
	f := newFakeIO(1)
	key := f.put(0, at(0), 7, ondisk.FSTree)
	c := newTestCache(t, f)
	want := Expect{Gen: 7, FirstKey: &key, Owner: ondisk.FSTree}
	a, err := c.Read(t.Context(), at(0), want)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.Read(t.Context(), at(0), want)
	if err != nil || a != b || c.Lookup(at(0)) != a {
		t.Fatalf("second read gave %p, first %p, err %v", b, a, err)
	}
	if !a.Written() || a.Generation() != 7 || a.Level() != 0 || a.Owner() != ondisk.FSTree || a.Dirty() {
		t.Errorf("written=%v gen=%d level=%d owner=%d", a.Written(), a.Generation(), a.Level(), a.Owner())
	}
	for range 3 {
		a.Release()
	}
	if st := c.Stats(); st.Hits != 1 || st.Misses != 1 || f.readCount(at(0)) != 1 {
		t.Errorf("stats %+v", st)
	}
	if c.Lookup(at(1)) != nil {
		t.Error("a block that was never read is in memory")
	}
}

// Every way in which a copy can be bad, alone in a file system with one copy: the error says which. With two copies the
// second one answers.
func TestBadCopies(t *testing.T) {
	other := testKey(at(3))
	good := testKey(at(0))
	resum := func(b ondisk.Block) { ondisk.CRC32C.SetBlockCsum(b) }
	checkErr := fserr.Corruptf("leaf", 5, uint64(at(0)), "tree check says no")
	for _, tc := range []struct {
		name, msg string
		bad       func(b ondisk.Block)
		want      Expect
		io        error
		check     bool
	}{
		{name: "flipped bit", msg: "checksum verify failed", bad: func(b ondisk.Block) { b[2000] ^= 1 }},
		{name: "zeros", msg: "bad tree block start, have 0", bad: func(b ondisk.Block) { clear(b) }},
		{name: "other address", msg: "bad tree block start", bad: func(b ondisk.Block) { b.Header().SetBytenr(at(1)); resum(b) }},
		{name: "other file system", msg: "bad fsid", bad: func(b ondisk.Block) { b.Header().SetFSID(ondisk.UUID{5}); resum(b) }},
		{name: "level 200", msg: "invalid level, have 200", bad: func(b ondisk.Block) { b.Header().SetLevel(200); resum(b) }},
		{name: "old generation", msg: "generation mismatch, have 6 expect 7", bad: func(b ondisk.Block) { b.Header().SetGeneration(6); resum(b) }},
		{name: "level", msg: "level mismatch, have 1 expect 0", bad: func(b ondisk.Block) { b.Header().SetLevel(1); resum(b) }},
		{name: "owner", msg: "owner mismatch, have 6 expect 5", bad: func(b ondisk.Block) { b.Header().SetOwner(6); resum(b) }},
		{name: "first key", msg: "first key mismatch", bad: func(b ondisk.Block) { b.SetKey(0, other); resum(b) }},
		{name: "empty", msg: "empty block", bad: func(b ondisk.Block) { b.SetNrItems(0); resum(b) }},
		{name: "tree check", msg: "tree check says no", bad: func(b ondisk.Block) { b.Item(0)[7] = 0xEE; resum(b) }, check: true},
		{name: "device", msg: "device says no", bad: func(ondisk.Block) {}, io: errDevice},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, copies := range []int{1, 2, 3} {
				f := newFakeIO(copies)
				for i := range copies {
					f.put(i, at(0), 7, ondisk.FSTree)
				}
				tc.bad(f.copies[0][at(0)])
				f.onRead = func(_ ondisk.Logical, i int) error {
					if i == 0 {
						return tc.io
					}
					return nil
				}
				c := newTestCache(t, f, func(o *Options) {
					o.Check = func(b ondisk.Block) error {
						if tc.check && b.Item(0)[7] == 0xEE {
							return checkErr
						}
						return nil
					}
				})
				b, err := c.Read(t.Context(), at(0), Expect{Gen: 7, Owner: ondisk.FSTree, FirstKey: &good})
				if st := c.Stats(); st.BadCopies != 1 {
					t.Errorf("%d bad copies counted", st.BadCopies)
				}
				if copies > 1 {
					if err != nil {
						t.Fatalf("with %d copies: %v", copies, err)
					}
					if b.Block().Item(0)[7] == 0xEE || !ondisk.CRC32C.BlockCsumOK(b.Block()) {
						t.Error("the bad copy was returned")
					}
					b.Release()
					continue
				}
				if err == nil || !strings.Contains(err.Error(), tc.msg) {
					t.Fatalf("error %v, want %q", err, tc.msg)
				}
				if tc.io == nil {
					var k *fserr.Corrupt
					if !errors.As(err, &k) || k.Block != uint64(at(0)) {
						t.Errorf("no coordinates in %v", err)
					}
				} else if !errors.Is(err, errDevice) || errors.Is(err, fserr.ErrCorrupt) {
					t.Errorf("a device's failure became %v", err)
				}
				if c.Lookup(at(0)) != nil {
					t.Error("a bad block entered the cache")
				}
			}
		})
	}
}

func TestReadOfBadAddresses(t *testing.T) {
	c := newTestCache(t, newFakeIO(2))
	for _, addr := range []ondisk.Logical{0, testBase - 4096, testBase + 1, ^ondisk.Logical(0)} {
		if _, err := c.Read(t.Context(), addr, Expect{}); !errors.Is(err, fserr.ErrCorrupt) {
			t.Errorf("block %d: %v", addr, err)
		}
	}
}

// A block in memory is compared with the pointer too (I9); ReadUnchecked is the exception.
func TestHitMismatch(t *testing.T) {
	f := newFakeIO(1)
	key := f.put(0, at(0), 7, ondisk.FSTree)
	other := testKey(at(9))
	c := newTestCache(t, f)
	held, err := c.Read(t.Context(), at(0), Expect{Level: AnyLevel})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		want Expect
		msg  string
	}{
		{Expect{Level: 1}, "level mismatch"}, {Expect{Gen: 8}, "generation mismatch"},
		{Expect{Owner: 256}, "owner mismatch"}, {Expect{FirstKey: &other}, "first key mismatch"},
		{Expect{Gen: 7, Owner: 5, FirstKey: &key}, ""},
	} {
		b, err := c.Read(t.Context(), at(0), tc.want)
		if tc.msg == "" {
			if err != nil {
				t.Error(err)
			} else {
				b.Release()
			}
			continue
		}
		if !errors.Is(err, fserr.ErrCorrupt) || !strings.Contains(err.Error(), tc.msg) {
			t.Errorf("%+v: %v", tc.want, err)
		}
	}
	if n := c.Stats().Mismatches; n != 4 {
		t.Errorf("%d mismatches counted", n)
	}
	b, err := c.ReadUnchecked(t.Context(), at(0))
	if err != nil || b != held {
		t.Errorf("unchecked: %p, %v", b, err)
	}
	b.Release()
	held.Release()
}

// Many readers of one address that is not in memory cause one read.
func TestSingleFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeIO(1)
		f.put(0, at(0), 7, ondisk.FSTree)
		release := make(chan struct{})
		f.onRead = func(ondisk.Logical, int) error { <-release; return nil }
		c := newTestCache(t, f)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				b, err := c.Read(t.Context(), at(0), Expect{Gen: 7})
				if err != nil {
					t.Error(err)
					return
				}
				b.Release()
			})
		}
		synctest.Wait() // one in the device, all others behind it
		close(release)
		wg.Wait()
		if n := f.readCount(at(0)); n != 1 || c.Stats().Misses != 1 {
			t.Errorf("%d reads, %d misses", n, c.Stats().Misses)
		}
	})
}

// What becomes of a reader who waits for the read of another one. The block has generation 7.
func TestFlightOfAnother(t *testing.T) {
	is, other := testKey(at(0)), testKey(at(1))
	gen7, gen8 := Expect{Gen: 7}, Expect{Gen: 8}
	for _, tc := range []struct {
		name          string
		first, second Expect
		cancelFirst   bool
		cancelSecond  bool
		reads         int
		err1, err2    error
	}{
		{name: "the first is cancelled", first: gen7, second: gen7, cancelFirst: true, reads: 1, err1: context.Canceled},
		{name: "the second is cancelled", first: gen7, second: gen7, cancelSecond: true, reads: 1, err2: context.Canceled},
		{name: "the first expects something else", first: gen8, second: gen7, reads: 2, err1: fserr.ErrCorrupt},
		{name: "the second expects something else", first: gen7, second: gen8, reads: 1, err2: fserr.ErrCorrupt},
		{name: "the first expects another key", first: Expect{FirstKey: &other}, second: Expect{FirstKey: &is}, reads: 2, err1: fserr.ErrCorrupt},
		{name: "both fail alike", first: gen8, second: gen8, reads: 1, err1: fserr.ErrCorrupt, err2: fserr.ErrCorrupt},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFakeIO(1)
			f.put(0, at(0), 7, ondisk.FSTree)
			release := make(chan struct{})
			f.onRead = func(ondisk.Logical, int) error { <-release; return nil }
			c := newTestCache(t, f)
			var wg sync.WaitGroup
			read := func(ctx context.Context, expect Expect, want error) {
				b, err := c.Read(ctx, at(0), expect)
				if !errors.Is(err, want) {
					t.Errorf("%s: reader of %+v: %v, want %v", tc.name, expect, err, want)
				}
				if err == nil {
					b.Release()
				}
			}
			ctx1, cancel1 := context.WithCancel(t.Context())
			ctx2, cancel2 := context.WithCancel(t.Context())
			defer cancel1()
			defer cancel2()
			wg.Go(func() { read(ctx1, tc.first, tc.err1) })
			synctest.Wait()
			wg.Go(func() { read(ctx2, tc.second, tc.err2) })
			synctest.Wait()
			if tc.cancelFirst {
				cancel1()
			}
			if tc.cancelSecond {
				cancel2()
				synctest.Wait()
			}
			close(release)
			wg.Wait()
			if n := f.readCount(at(0)); n != tc.reads {
				t.Errorf("%s: %d reads, want %d", tc.name, n, tc.reads)
			}
		})
	}
}
