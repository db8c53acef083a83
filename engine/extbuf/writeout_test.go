package extbuf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// What WriteOut leaves on the disk and in memory, for every checksum: the disk has checksum and WRITTEN, memory has
// neither, not a byte of it has changed.
func TestWriteOutContent(t *testing.T) {
	for _, csum := range []ondisk.CsumType{ondisk.CRC32C, ondisk.XXHash64, ondisk.SHA256, ondisk.Blake2b} {
		f := newFakeIO(2)
		c := newTestCache(t, f, func(o *Options) { o.Csum = csum })
		b := c.Alloc(at(0), 9, 5, 0)
		fill(b.Block(), at(0), 9)
		b.Unlock()
		before := bytes.Clone(b.Block())
		if n, err := c.WriteOut(t.Context(), 9); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if !bytes.Equal(before, b.Block()) {
			t.Errorf("%s: write-out changed bytes that readers see", csum)
		}
		if !b.Written() || b.Dirty() || c.DirtyBytes(9) != 0 || c.Stats().WrittenOut != 1 {
			t.Errorf("%s: written %v dirty %v", csum, b.Written(), b.Dirty())
		}
		for i := range 2 {
			d := ondisk.Block(f.copies[i][at(0)])
			if !csum.BlockCsumOK(d) || d.Flags() != ondisk.HeaderFlagWritten || d.BackrefRev() != ondisk.BackrefRevMixed ||
				!bytes.Equal(d[ondisk.HeaderSize:], before[ondisk.HeaderSize:]) {
				t.Errorf("%s: copy %d on the disk is wrong", csum, i)
			}
		}
		b.Release()
	}
}

func TestWriteOutMergesRuns(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f)
	var order []int
	for i := range 600 { // 2400 KiB in one run, then a gap, then 3 blocks
		order = append(order, i)
	}
	order = append(order, 700, 701, 702)
	slices.Reverse(order)
	for _, i := range order {
		alloc(c, at(i), 9)
	}
	alloc(c, at(601), 10) // the next generation's block stays
	if n, err := c.WriteOut(t.Context(), 9); n != 603 || err != nil {
		t.Fatal(n, err)
	}
	if got := fmt.Sprint(sortedAddrs(f)); got != fmt.Sprint([]ondisk.Logical{at(0), at(256), at(512), at(700)}) {
		t.Errorf("runs at %s", got)
	}
	for _, n := range f.sizes {
		if n > maxRun {
			t.Errorf("a run of %d bytes", n)
		}
	}
	if c.DirtyBytes(10) != testNode {
		t.Error("the next generation was written too")
	}
}

// After an error the blocks that were not written are still dirty, and a second call writes them.
func TestWriteOutFails(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f)
	for i := range 3000 {
		alloc(c, at(i), 9)
	}
	calls := 0
	f.onWrite = func([]volume.Write) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if calls++; calls == 2 {
			return errDevice
		}
		return nil
	}
	n, err := c.WriteOut(t.Context(), 9)
	if !errors.Is(err, errDevice) || n >= 3000 {
		t.Fatalf("%d, %v", n, err)
	}
	if left := int(c.DirtyBytes(9)) / testNode; left != 3000-n || left == 0 {
		t.Fatalf("%d dirty after %d were written", left, n)
	}
	m, err := c.WriteOut(t.Context(), 9)
	if err != nil || n+m != 3000 || len(f.copies[0]) != 3000 || c.DirtyBytes(9) != 0 {
		t.Errorf("then %d, %v, %d on disk", m, err, len(f.copies[0]))
	}
}

func TestCheckBeforeWrite(t *testing.T) {
	f := newFakeIO(1)
	bad := fserr.Corruptf("leaf", 5, 1, "bad")
	c := newTestCache(t, f, func(o *Options) {
		o.CheckWrite = func(b ondisk.Block) error {
			if b.NrItems() == 0 {
				return bad
			}
			return nil
		}
	})
	alloc(c, at(0), 9)
	b := c.Alloc(at(1), 9, 5, 0)
	b.Unlock()
	b.Release()
	if n, err := c.WriteOut(t.Context(), 9); n != 0 || !errors.Is(err, fserr.ErrCorrupt) || len(f.writes) != 0 {
		t.Errorf("%d, %v, wrote %v", n, err, f.writes)
	}
	if n := c.DropDirty(9); n != 2 || c.DirtyBytes(9) != 0 {
		t.Errorf("dropped %d", n)
	}
	if c.Lookup(at(0)) != nil {
		t.Error("a dropped block is still served from memory")
	}
}

// Early writing: leaves only, no locked block, no forgotten one; what was written comes back from the disk as WRITTEN.
func TestWriteSome(t *testing.T) {
	f := newFakeIO(1)
	c := newTestCache(t, f, func(o *Options) { o.Limit = 1 })
	for i := range 10 {
		alloc(c, at(i), 9)
	}
	node := c.Alloc(at(10), 9, 5, 1)
	node.Unlock()
	locked := c.Lookup(at(3))
	locked.Lock()
	n, err := c.WriteSome(t.Context(), 9, 100)
	if n != 9 || err != nil || c.DirtyBytes(9) != 2*testNode {
		t.Fatalf("%d, %v, %d bytes dirty", n, err, c.DirtyBytes(9))
	}
	if locked.Written() || node.Written() {
		t.Error("locked block or node written")
	}
	c.Forget(locked)
	locked.Unlock()
	locked.Release()
	for i := range 10 {
		if i == 3 {
			continue
		}
		b, err := c.Read(t.Context(), at(i), Expect{Gen: 9})
		if err != nil {
			t.Fatal(err)
		}
		if !b.Written() {
			t.Errorf("block %d is not WRITTEN", i)
		}
		b.Release()
	}
	if c.Stats().Misses == 0 {
		t.Error("nothing was evicted, so nothing was shown about reading back")
	}
	if n, err := c.WriteSome(t.Context(), 9, 100); n != 0 || err != nil {
		t.Errorf("second time: %d, %v", n, err)
	}
	alloc(c, at(20), 9)
	alloc(c, at(21), 9)
	if n, err := c.WriteSome(t.Context(), 9, 1); n != 1 || err != nil {
		t.Errorf("at most one: %d, %v", n, err)
	}
	if n, err := c.WriteOut(t.Context(), 9); n != 2 || err != nil {
		t.Errorf("the rest: %d, %v", n, err)
	}
	node.Release()
}

func TestLockEarly(t *testing.T) {
	c := newTestCache(t, newFakeIO(1))
	b := c.Alloc(at(0), 9, 5, 0)
	if b.lockEarly(9) {
		t.Error("a locked block")
	}
	b.Unlock()
	if !b.lockEarly(9) {
		t.Error("a free block was refused")
	} else if b.TryLock() {
		t.Error("a writer gets in beside")
	} else {
		b.RUnlock()
	}
	b.Lock()
	c.Forget(b)
	b.Unlock()
	if b.lockEarly(9) {
		t.Error("a forgotten block")
	}
	if !b.TryLock() {
		t.Fatal("a refusal keeps the lock")
	}
	b.Unlock()
	b.Release()
}
