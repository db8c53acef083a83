package extbuf

import (
	"slices"
	"sync"
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// dirtySet holds the blocks of one generation that are still to be written. There are at most two sets with content:
// of the running transaction, and of the one being written out.
type dirtySet struct {
	gen  ondisk.Generation
	mu   sync.Mutex // protects bufs, and dirtyIdx and dirtyGen of those in it
	bufs []*Buffer  // in no order; removal swaps the last one in
	n    atomic.Int64

	// writing is held by WriteOut and WriteSome for their whole duration, so that two writes of a block never overlap.
	writing sync.Mutex
}

// set returns the dirty set of gen, made when needed.
func (c *Cache) set(gen ondisk.Generation) *dirtySet {
	c.dirty.Lock()
	defer c.dirty.Unlock()
	d := c.dirty.sets[gen]
	if d == nil {
		d = &dirtySet{gen: gen}
		c.dirty.sets[gen] = d
	}
	return d
}

// markDirty puts a clean buffer into the set of gen. The caller holds its write lock.
func (c *Cache) markDirty(b *Buffer, gen ondisk.Generation) {
	d := c.set(gen)
	d.mu.Lock()
	b.dirtyIdx = len(d.bufs)
	b.dirtyGen.Store(uint64(gen))
	d.bufs = append(d.bufs, b)
	d.n.Add(1)
	d.mu.Unlock()
	c.counters.dirty.Add(1)
}

// clearDirty takes b out of its set and reports whether it was in one.
func (c *Cache) clearDirty(b *Buffer) bool {
	g := ondisk.Generation(b.dirtyGen.Load())
	if g == 0 {
		return false
	}
	d := c.set(g)
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.dirtyGen.Load() != uint64(g) {
		return false
	}
	last := len(d.bufs) - 1
	d.bufs[b.dirtyIdx] = d.bufs[last]
	d.bufs[b.dirtyIdx].dirtyIdx = b.dirtyIdx
	d.bufs[last] = nil
	d.bufs = d.bufs[:last]
	b.dirtyIdx = -1
	b.dirtyGen.Store(0)
	d.n.Add(-1)
	c.counters.dirty.Add(-1)
	return true
}

// markClean is called when the block is on the disk as it is in memory: it may be evicted from now on.
func (c *Cache) markClean(b *Buffer) {
	if !c.clearDirty(b) {
		return
	}
	c.ringIn(b)
}

// snapshot returns the buffers of the set that keep accepts, each with a reference of its own.
func (d *dirtySet) snapshot(keep func(*Buffer) bool, max int) []*Buffer {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]*Buffer, 0, min(len(d.bufs), max))
	for _, b := range d.bufs {
		if len(list) == max {
			break
		}
		if keep(b) {
			b.refs.Add(1) // in the set implies in the map, or held by the one who forgets it under this mu
			list = append(list, b)
		}
	}
	return list
}

// drop removes the set of gen from the table once it is empty.
func (c *Cache) drop(d *dirtySet) {
	c.dirty.Lock()
	defer c.dirty.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.bufs) == 0 && c.dirty.sets[d.gen] == d {
		delete(c.dirty.sets, d.gen)
	}
}

// DirtyBytes returns how many bytes of blocks of gen are still to be written.
func (c *Cache) DirtyBytes(gen ondisk.Generation) int64 {
	c.dirty.Lock()
	d := c.dirty.sets[gen]
	c.dirty.Unlock()
	if d == nil {
		return 0
	}
	return d.n.Load() * int64(c.nodeSize)
}

// DropDirty gives up on all dirty blocks of gen, after its transaction was aborted: they stay readable for those who
// hold them and are evicted like clean ones. It returns how many there were. Nobody may change blocks of gen any more.
func (c *Cache) DropDirty(gen ondisk.Generation) int {
	d := c.set(gen)
	list := d.snapshot(func(*Buffer) bool { return true }, int(^uint(0)>>1))
	for _, b := range list {
		b.written.Store(true) // I4: whatever comes, nobody writes into it
		c.abandon(b)
		b.Release()
	}
	c.drop(d)
	return len(list)
}

// abandon takes a block whose bytes never reached the disk out of dirty set and map: the address must be read from the
// disk next time.
func (c *Cache) abandon(b *Buffer) {
	if !c.clearDirty(b) {
		return
	}
	s := c.shard(b.addr)
	s.mu.Lock()
	found := s.bufs[b.addr] == b
	if found {
		c.remove(s, b)
	}
	s.mu.Unlock()
	if found {
		b.Release()
	}
}

func byAddr(list []*Buffer) {
	slices.SortFunc(list, func(a, b *Buffer) int {
		switch {
		case a.addr < b.addr:
			return -1
		case a.addr > b.addr:
			return 1
		}
		return 0
	})
}
