package extent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"imgtool/engine/ondisk"
)

// csumWalk is a csum tree and a map of what it should hold.
type csumWalk struct {
	f     *fixture
	rt    *rapid.T
	tx    txn
	model map[uint64]uint32 // sector address -> number that stands at the front of its checksum
	next  uint32
}

// TestCsumModel adds, overwrites and cuts checksums at random and compares look-ups and the items with a map.
func TestCsumModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := defaultFixture
		o.csum = rapid.SampledFrom([]ondisk.CsumType{ondisk.CRC32C, ondisk.SHA256}).Draw(rt, "csum")
		f := newFixture(rt, o)
		w := &csumWalk{f: f, rt: rt, tx: f.begin(), model: map[uint64]uint32{}}
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			addr := 1<<30 + rapid.Uint64Range(0, 3000).Draw(rt, "sector")*ondisk.SectorSize
			n := rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 2500)).Draw(rt, "n")
			if rapid.IntRange(0, 2).Draw(rt, "op") == 0 {
				w.cut(addr, n)
			} else {
				w.add(addr, n)
			}
			w.lookup()
		}
		w.items()
		f.commit(w.tx)
		w.lookup()
		f.verify(refModel{})
	})
}

func (w *csumWalk) add(addr uint64, n int) {
	size := w.f.m.csumSize
	sums := make([]byte, n*size)
	for i := range n {
		w.next++
		binary.LittleEndian.PutUint32(sums[i*size:], w.next)
		w.model[addr+uint64(i)*ondisk.SectorSize] = w.next
	}
	w.f.check(w.f.m.AddCsums(w.f.ctx, w.tx, ondisk.Logical(addr), sums))
}

func (w *csumWalk) cut(addr uint64, n int) {
	w.f.check(w.f.m.deleteCsums(w.f.ctx, w.tx, addr, uint64(n)*ondisk.SectorSize))
	for i := range n {
		delete(w.model, addr+uint64(i)*ondisk.SectorSize)
	}
}

func (w *csumWalk) lookup() {
	start, n := uint64(1<<30-4*ondisk.SectorSize), 6000
	size := w.f.m.csumSize
	want, have := make([]byte, n*size), 0
	for addr, v := range w.model {
		if i := int(addr-start) / ondisk.SectorSize; i < n {
			binary.LittleEndian.PutUint32(want[i*size:], v)
			have++
		}
	}
	sums, present, err := w.f.m.LookupCsums(w.f.ctx, ondisk.Logical(start), uint64(n)*ondisk.SectorSize)
	w.f.check(err)
	for i, p := range present {
		if _, ok := w.model[start+uint64(i)*ondisk.SectorSize]; p != ok {
			w.rt.Fatalf("sector %d: present %t, want %t", i, p, ok)
		}
	}
	if !bytes.Equal(sums, want) {
		w.rt.Fatalf("checksums differ, %d in the model", have)
	}
	root := w.f.trees.Csum().CommitRootBuffer()
	if len(present) != n || root == nil {
		w.rt.Fatalf("%d sectors looked up, want %d", len(present), n)
	}
}

// items checks sizes, and that no two items overlap.
func (w *csumWalk) items() {
	end, size := uint64(0), w.f.m.csumSize
	count := 0
	w.f.check(w.f.trees.Csum().Scan(w.f.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		n := len(item) / size
		if k.Offset < end || n == 0 || n > maxCsums(w.f.o.nodesize, size) {
			w.rt.Fatalf("item %v of %d checksums; the one before ends at %d", k, n, end)
		}
		end = k.Offset + uint64(n)*ondisk.SectorSize
		count += n
		return true, nil
	}))
	if count != len(w.model) {
		w.rt.Fatalf("items hold %d checksums, want %d", count, len(w.model))
	}
}

// TestCsumsMerge writes checksums of neighbouring sectors in any order: they end up in as few items as can be.
func TestCsumsMerge(t *testing.T) {
	f := newFixture(t, defaultFixture)
	tx := f.begin()
	for _, i := range []uint64{4, 2, 0, 1, 3, 5, 7, 6} {
		f.check(f.m.AddCsums(f.ctx, tx, ondisk.Logical(1<<30+i*4096), []byte{byte(i), 0, 0, 0}))
	}
	n := 0
	f.check(f.trees.Csum().Scan(f.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		if n++; k.Offset != 1<<30 || len(item) != 8*4 || item[28] != 7 {
			t.Errorf("item %v: %v", k, item)
		}
		return true, nil
	}))
	if n != 1 {
		t.Errorf("%d items, want 1", n)
	}
}

func TestMaxCsums(t *testing.T) {
	for _, c := range []struct{ nodesize, size, want int }{
		{4096, 4, 985}, {16384, 4, 4057}, {16384, 32, 506}, {65536, 4, 4096}, {65536, 8, 4096}, {65536, 32, 2042},
	} {
		if n := maxCsums(c.nodesize, c.size); n != c.want {
			t.Errorf("maxCsums(%d, %d) = %d, want %d", c.nodesize, c.size, n, c.want)
		}
	}
}

// TestCutsLeaveFullLeaves deletes every other of many checksums, as the removal of every other small file does: what is
// left lies in leaves that are reasonably full.
func TestCutsLeaveFullLeaves(t *testing.T) {
	o := defaultFixture
	o.nodesize = 16384
	f := newFixture(t, o)
	tx := f.begin()
	const n = 8000
	f.check(f.m.AddCsums(f.ctx, tx, 1<<30, make([]byte, n*f.m.csumSize)))
	for i := uint64(0); i < n; i += 2 {
		f.check(f.m.deleteCsums(f.ctx, tx, 1<<30+i*ondisk.SectorSize, ondisk.SectorSize))
	}
	leaves := 0
	for _, b := range f.blocks() {
		if b == fmt.Sprintf("%d/0", ondisk.CsumTree) {
			leaves++
		}
	}
	need := (n/2*(ondisk.ItemSize+f.m.csumSize) + ondisk.LeafDataSize(o.nodesize) - 1) / ondisk.LeafDataSize(o.nodesize)
	if leaves > 5*need { // splits around the long rest leave some of them half empty
		t.Errorf("%d leaves, %d would do", leaves, need)
	}
}
