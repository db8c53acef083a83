package extbuf

import (
	"testing"

	"imgtool/engine/ondisk"
)

func TestEvictionKeepsTheLimit(t *testing.T) {
	f := newFakeIO(1)
	const limit = 100
	c := newTestCache(t, f, func(o *Options) { o.Limit = limit * testNode })
	for i := range 1000 {
		f.put(0, at(i), 7, ondisk.FSTree)
		b, err := c.Read(t.Context(), at(i), Expect{Gen: 7})
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
		if st := c.Stats(); st.CleanBytes > limit*testNode {
			t.Fatalf("%d blocks cached after %d reads", st.CleanBytes/testNode, i+1)
		}
	}
	st := c.Stats()
	if st.CleanBytes != limit*testNode || st.Evicted != 900 || c.pool.Stats().InUse != limit {
		t.Errorf("%+v, pool %+v", st, c.pool.Stats())
	}
}

// A block that is used again and again survives a scan of many blocks that are used once.
func TestClockKeepsWhatIsHot(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 512 * testNode })
	read := func(i int) {
		b, err := c.Read(t.Context(), at(i), Expect{Gen: 7})
		if err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	for i := range 12000 {
		f.put(0, at(i), 7, ondisk.FSTree)
	}
	for i := 1; i < 12000; i++ {
		read(0)
		read(i)
	}
	if n := f.readCount(at(0)); n > 3 {
		t.Errorf("the hot block was read %d times", n)
	}
	kept := 0
	for i := 12000 - 256; i < 12000; i++ {
		if b := c.Lookup(at(i)); b != nil {
			kept++
			b.Release()
		}
	}
	if kept < 200 {
		t.Errorf("of the last 256 blocks %d are in memory, with room for 512", kept)
	}
}

// With everything held or dirty nothing is evicted, and allocation still works.
func TestEvictionSparesHeldAndDirty(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 1 })
	var held []*Buffer
	for i := range 200 {
		f.put(0, at(i), 7, ondisk.FSTree)
		b, err := c.Read(t.Context(), at(i), Expect{Gen: 7})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
		alloc(c, at(1000+i), 9)
	}
	for i, b := range held {
		if b.Block().Header().Bytenr() != at(i) || c.Lookup(at(i)) != b {
			t.Fatalf("block %d was evicted", i)
		}
		d := c.Lookup(at(1000 + i))
		if d == nil || d.Block().Item(0)[0] != 9 {
			t.Fatalf("dirty block %d was evicted", i)
		}
		d.Release()
		b.Release()
		b.Release()
	}
	if n := c.Stats().Evicted; n != 0 {
		t.Errorf("%d evicted", n)
	}
	c.evict()
	c.evict()
	if st := c.Stats(); st.CleanBytes != 0 || st.DirtyBytes != 200*testNode {
		t.Errorf("%+v", st)
	}
}
