package extbuf

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

const (
	testNode = 4096
	testBase = ondisk.Logical(1 << 20)
)

var (
	testFSID  = ondisk.UUID{1, 2, 3}
	testChunk = ondisk.UUID{9, 8, 7}
	errDevice = errors.New("device says no")
)

// fakeIO is a BlockIO in memory: per copy a map of blocks. Hooks run without its lock.
type fakeIO struct {
	mu     sync.Mutex
	copies []map[ondisk.Logical][]byte
	reads  map[ondisk.Logical]int // by first address

	requests []int // blocks of each read

	writes  []ondisk.Logical // first addresses of the runs written
	sizes   []int
	onRead  func(l ondisk.Logical, copy int) error
	late    func(l ondisk.Logical) // after a read
	onWrite func(ws []volume.Write) error
}

func newFakeIO(n int) *fakeIO {
	f := &fakeIO{reads: map[ondisk.Logical]int{}}
	for range n {
		f.copies = append(f.copies, map[ondisk.Logical][]byte{})
	}
	return f
}

func (f *fakeIO) Copies(l ondisk.Logical) int {
	if l < testBase {
		return 0
	}
	return len(f.copies)
}

func (f *fakeIO) ReadCopy(ctx context.Context, l ondisk.Logical, p []byte, i int) error {
	if f.onRead != nil {
		if err := f.onRead(l, i); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	f.reads[l]++
	f.requests = append(f.requests, len(p)/testNode)
	clear(p)
	for off := 0; off < len(p); off += testNode {
		copy(p[off:], f.copies[i][l+ondisk.Logical(off)])
	}
	f.mu.Unlock()
	if f.late != nil {
		f.late(l)
	}
	return nil
}

func (f *fakeIO) WriteBatch(_ context.Context, ws []volume.Write) error {
	if f.onWrite != nil {
		if err := f.onWrite(ws); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range ws {
		f.writes = append(f.writes, w.Addr)
		f.sizes = append(f.sizes, len(w.Buf))
		for off := 0; off < len(w.Buf); off += testNode {
			for _, m := range f.copies {
				m[w.Addr+ondisk.Logical(off)] = bytes.Clone(w.Buf[off : off+testNode])
			}
		}
	}
	return nil
}

// put stores a good leaf with one item in copy i, and returns its first key.
func (f *fakeIO) put(i int, addr ondisk.Logical, gen ondisk.Generation, owner ondisk.TreeID) ondisk.Key {
	b := leaf(addr, gen, owner)
	b.SetFlags(ondisk.HeaderFlagWritten)
	ondisk.CRC32C.SetBlockCsum(b)
	f.mu.Lock()
	f.copies[i][addr] = b
	f.mu.Unlock()
	return b.Key(0)
}

func (f *fakeIO) readCount(addr ondisk.Logical) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads[addr]
}

// leaf is a block whose one item names its address and generation.
func leaf(addr ondisk.Logical, gen ondisk.Generation, owner ondisk.TreeID) ondisk.Block {
	b := make(ondisk.Block, testNode)
	b.Init(addr, gen, owner, 0, testFSID, testChunk)
	fill(b, addr, gen)
	return b
}

func fill(b ondisk.Block, addr ondisk.Logical, gen ondisk.Generation) {
	b.SetNrItems(1)
	b.SetItem(0, testKey(addr), ondisk.LeafDataSize(len(b))-8, 8)
	b.Item(0)[0] = byte(gen)
}

func testKey(addr ondisk.Logical) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.ObjectID(addr), Type: ondisk.InodeItemKey}
}

func at(i int) ondisk.Logical { return testBase + ondisk.Logical(i*testNode) }

// newTestCache makes a cache whose Close is checked at the end of the test (I12).
func newTestCache(t testing.TB, io BlockIO, change ...func(*Options)) *Cache {
	o := Options{IO: io, NodeSize: testNode, FSID: testFSID, ChunkTreeUUID: testChunk}
	for _, f := range change {
		f(&o)
	}
	c := NewCache(o)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// alloc makes a filled dirty leaf and gives it back.
func alloc(c *Cache, addr ondisk.Logical, gen ondisk.Generation) {
	b := c.Alloc(addr, gen, ondisk.FSTree, 0)
	fill(b.Block(), addr, gen)
	b.Unlock()
	b.Release()
}

func sortedAddrs(f *fakeIO) []ondisk.Logical {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(slices.Values(f.writes))
}
