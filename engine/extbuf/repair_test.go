package extbuf

import (
	"bytes"
	"context"
	"testing"

	"imgtool/engine/ondisk"
)

// repairIO is a fakeIO whose copies can be repaired.
type repairIO struct {
	*fakeIO
	repaired []int
	err      error
}

func (r *repairIO) WriteCopy(_ context.Context, l ondisk.Logical, p []byte, i int) error {
	if r.err != nil {
		return r.err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repaired = append(r.repaired, i)
	r.copies[i][l] = bytes.Clone(p)
	return nil
}

// TestRepair goes through what a repair depends on: it must be wanted by the caller and allowed by the file system, and
// the pointer must say all there is to say about the block.
func TestRepair(t *testing.T) {
	addr := at(0)
	key := testKey(addr)
	full := Expect{Level: 0, Gen: 7, FirstKey: &key, Owner: ondisk.FSTree, Repair: true}
	may, mayNot := func() bool { return true }, func() bool { return false }
	for _, c := range []struct {
		name   string
		change func(*Expect)
		may    func() bool
		owner  ondisk.TreeID // of the block
		damage func(io *repairIO)
		want   bool // copy 0 is repaired
		fails  bool // the read
	}{
		{name: "checksum", may: may, want: true},
		{name: "a lost write, whose old block has a right checksum", may: may, want: true, damage: func(io *repairIO) { io.put(0, addr, 6, ondisk.FSTree) }},
		{name: "another tree's block", may: may, want: true, damage: func(io *repairIO) { io.put(0, addr, 7, ondisk.ExtentTree) }},
		{name: "unreadable", may: may, want: true, damage: func(io *repairIO) {
			io.onRead = func(_ ondisk.Logical, i int) error {
				if i == 0 {
					return errDevice
				}
				return nil
			}
		}},
		{name: "the address may be re-used", may: may, change: func(e *Expect) { e.Repair = false }},
		{name: "read-only", may: mayNot},
		{name: "no repairs at all", may: nil},
		{name: "the generation is not known", may: may, change: func(e *Expect) { e.Gen = 0 }},
		{name: "the level is not known", may: may, change: func(e *Expect) { e.Level = AnyLevel }},
		{name: "the first key is not known", may: may, change: func(e *Expect) { e.FirstKey = nil }},
		{name: "any subvolume's", may: may, owner: 300, change: func(e *Expect) { e.Owner = 0 }, want: true},
		{name: "no owner known, and no subvolume's", may: may, owner: ondisk.ExtentTree, change: func(e *Expect) { e.Owner = 0 }},
		{name: "a root", may: may, change: func(e *Expect) { e.FirstKey, e.RootOf = nil, ondisk.FSTree }, want: true},
		{name: "a subvolume's root", may: may, owner: 300, change: func(e *Expect) { e.FirstKey, e.Owner, e.RootOf = nil, 0, 300 }, want: true},
		{name: "a root that is another subvolume's", may: may, owner: 300, change: func(e *Expect) { e.FirstKey, e.Owner, e.RootOf = nil, 0, 301 }},
		{name: "a root of unknown generation", may: may, change: func(e *Expect) { e.FirstKey, e.RootOf, e.Gen = nil, ondisk.FSTree, 0 }},
		{name: "a root whose address may be re-used", may: may, change: func(e *Expect) { e.FirstKey, e.RootOf, e.Repair = nil, ondisk.FSTree, false }},
		{name: "a root, the good copy of which is of another generation", may: may, fails: true,
			change: func(e *Expect) { e.FirstKey, e.RootOf, e.Gen = nil, ondisk.FSTree, 8 }},
		{name: "the good copy is of another generation", may: may, change: func(e *Expect) { e.Gen = 8 }, fails: true},
		{name: "the good copy is another tree's", may: may, change: func(e *Expect) { e.Owner = ondisk.CsumTree }, fails: true},
		{name: "the good copy has another first key", may: may, change: func(e *Expect) { k := testKey(at(1)); e.FirstKey = &k }, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			io := &repairIO{fakeIO: newFakeIO(2)}
			owner := c.owner
			if owner == 0 {
				owner = ondisk.FSTree
			}
			io.put(0, addr, 7, owner)
			io.put(1, addr, 7, owner)
			if c.damage != nil {
				c.damage(io)
			} else {
				io.copies[0][addr][500] ^= 1
			}
			cache := newTestCache(t, io, func(o *Options) { o.Repair = c.may })
			want := full
			if c.change != nil {
				c.change(&want)
			}
			b, err := cache.Read(t.Context(), addr, want)
			if (err != nil) != c.fails {
				t.Fatalf("read: %v", err)
			}
			if err == nil {
				b.Release()
			}
			if got := len(io.repaired) == 1 && io.repaired[0] == 0; got != c.want || len(io.repaired) > 1 {
				t.Errorf("copies repaired: %v", io.repaired)
			}
			if c.want && !bytes.Equal(io.copies[0][addr], io.copies[1][addr]) {
				t.Error("the copies differ")
			}
			if n := cache.Stats().Repaired; (n == 1) != c.want {
				t.Errorf("%d repairs counted", n)
			}
		})
	}
}

// TestOwed reads while nothing may be repaired yet: it is done later, once, if it is allowed by then.
func TestOwed(t *testing.T) {
	for _, allowed := range []bool{true, false} {
		io := &repairIO{fakeIO: newFakeIO(2)}
		may := false
		cache := newTestCache(t, io, func(o *Options) { o.Repair, o.OweRepairs = func() bool { return may }, true })
		read := func(n int) {
			addr := at(n)
			key := io.put(0, addr, 7, ondisk.FSTree)
			io.put(1, addr, 7, ondisk.FSTree)
			io.copies[0][addr][500] ^= 1
			b, err := cache.Read(t.Context(), addr, Expect{Gen: 7, FirstKey: &key, Owner: ondisk.FSTree, Repair: true})
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		read(0)
		if len(io.repaired) > 0 {
			t.Errorf("copies repaired before it was allowed: %v", io.repaired)
		}
		may = allowed
		cache.RepairOwed(t.Context())
		if done := bytes.Equal(io.copies[0][at(0)], io.copies[1][at(0)]); done != allowed {
			t.Errorf("allowed %v, repaired %v", allowed, done)
		}
		may = false
		read(1)
		may = true
		cache.RepairOwed(t.Context())
		if bytes.Equal(io.copies[0][at(1)], io.copies[1][at(1)]) {
			t.Error("something is remembered after the opening")
		}
	}
}

// TestRepairFails checks that the block is there all the same.
func TestRepairFails(t *testing.T) {
	io := &repairIO{fakeIO: newFakeIO(2), err: errDevice}
	key := io.put(1, at(0), 7, ondisk.FSTree)
	cache := newTestCache(t, io, func(o *Options) { o.Repair = func() bool { return true } })
	b, err := cache.Read(t.Context(), at(0), Expect{Gen: 7, FirstKey: &key, Owner: ondisk.FSTree, Repair: true})
	if err != nil {
		t.Fatal(err)
	}
	b.Release()
	if st := cache.Stats(); st.NotRepaired != 1 || st.Repaired != 0 {
		t.Errorf("%d repaired, %d not", st.Repaired, st.NotRepaired)
	}
}

// TestPrefetchRepairsNothing: nobody vouches for what is read ahead.
func TestPrefetchRepairsNothing(t *testing.T) {
	io := &repairIO{fakeIO: newFakeIO(2)}
	key := io.put(1, at(0), 7, ondisk.FSTree)
	cache := NewCache(Options{IO: io, NodeSize: testNode, FSID: testFSID, ChunkTreeUUID: testChunk, Repair: func() bool { return true }})
	cache.Prefetch(t.Context(), []Want{{at(0), Expect{Gen: 7, FirstKey: &key, Owner: ondisk.FSTree}}})
	if err := cache.Close(); err != nil { // waits for it
		t.Fatal(err)
	}
	if len(io.repaired) > 0 || io.readCount(at(0)) == 0 {
		t.Errorf("copies repaired: %v, after %d reads", io.repaired, io.readCount(at(0)))
	}
}
