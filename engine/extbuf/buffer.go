package extbuf

import (
	"fmt"
	"sync"
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// Buffer is one tree block in memory. It is made by a [Cache], counted by Ref and Release, and must not be used after
// its holder's last Release.
type Buffer struct {
	mu    sync.RWMutex // the bytes of block, see the package's section on locks
	cache *Cache
	addr  ondisk.Logical
	block ondisk.Block // from the pool; the slice itself never changes

	refs atomic.Int32 // holders, the cache's map included

	// Copies of header fields, readable without mu. Set before the buffer is published, and by Alloc under mu.
	gen     atomic.Uint64
	owner   atomic.Uint64
	level   atomic.Uint32
	written atomic.Bool // WRITTEN: on its way to the disk or there; I4 forbids changes

	hot  atomic.Bool // used since the clock hand passed
	ring int         // index in the shard's ring, -1 when not clean; protected by the shard's mu

	dirtyGen atomic.Uint64 // the generation whose dirty set holds it, 0 none; changed under the set's mu
	dirtyIdx int           // index in that set; protected by the set's mu
	private  bool          // a Clone: never in the map
}

// Addr returns the block's logical address.
func (b *Buffer) Addr() ondisk.Logical { return b.addr }

// Block returns the block's bytes, shared. Reading them takes RLock, or a block that only commit roots reach; changing
// them takes Lock and what I4 says.
func (b *Buffer) Block() ondisk.Block { return b.block }

// Lock takes the write lock.
func (b *Buffer) Lock() { b.mu.Lock() }

// Unlock gives the write lock back.
func (b *Buffer) Unlock() { b.mu.Unlock() }

// RLock takes the read lock. It does not nest: with a writer waiting between, the second RLock of one goroutine hangs.
func (b *Buffer) RLock() { b.mu.RLock() }

// RUnlock gives the read lock back.
func (b *Buffer) RUnlock() { b.mu.RUnlock() }

// TryLock takes the write lock if that needs no waiting, and reports whether it did.
func (b *Buffer) TryLock() bool { return b.mu.TryLock() }

// TryRLock takes the read lock if that needs no waiting, and reports whether it did.
func (b *Buffer) TryRLock() bool { return b.mu.TryRLock() }

// Ref takes one more reference; the caller holds one already.
func (b *Buffer) Ref() *Buffer {
	if b.refs.Add(1) <= 1 {
		panic(fmt.Sprintf("extbuf: reference taken on block %d, which nobody holds (I12)", b.addr))
	}
	return b
}

// Release gives one reference back (I12). The last one of a buffer that has left the cache returns its memory to the
// pool; one in the cache becomes fit for eviction.
func (b *Buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n == 0:
		b.free()
	case n < 0:
		panic(fmt.Sprintf("extbuf: block %d released once too often (I12)", b.addr))
	}
}

// free returns the memory. The reference count has reached zero and the buffer is in no map, so nobody can find it.
func (b *Buffer) free() {
	if b.private {
		b.cache.clones.Add(-1)
	} else {
		b.cache.live.Add(-1)
	}
	b.cache.pool.Put(b.block)
}

// Written reports whether the block is on the disk or on its way there: from then on it is copied before it is changed.
func (b *Buffer) Written() bool { return b.written.Load() }

// Generation returns the header's generation.
func (b *Buffer) Generation() ondisk.Generation { return ondisk.Generation(b.gen.Load()) }

// Owner returns the header's owner as it was when the block was read or allocated.
func (b *Buffer) Owner() ondisk.TreeID { return ondisk.TreeID(b.owner.Load()) }

// Level returns the header's level, 0 for a leaf.
func (b *Buffer) Level() uint8 { return uint8(b.level.Load()) }

// Dirty reports whether the block still has to be written.
func (b *Buffer) Dirty() bool { return b.dirtyGen.Load() != 0 }

// holders returns how many references a buffer in the map has besides the map's own. Others may change it at any time.
func (b *Buffer) holders() int { return int(b.refs.Load()) - 1 }

// Clone returns a private copy of the block, outside the cache and clean, with one reference that the caller owns. The
// caller holds the lock, or otherwise knows that the bytes stand still.
func (b *Buffer) Clone() *Buffer {
	n := b.cache.newBuffer(b.addr)
	n.private = true
	copy(n.block, b.block)
	n.gen.Store(b.gen.Load())
	n.owner.Store(b.owner.Load())
	n.level.Store(b.level.Load())
	n.written.Store(b.written.Load())
	n.refs.Store(1)
	b.cache.clones.Add(1)
	return n
}

// fromHeader sets the atomics from the block's bytes.
func (b *Buffer) fromHeader() {
	h := b.block.Header()
	b.gen.Store(uint64(h.Generation()))
	b.owner.Store(uint64(h.Owner()))
	b.level.Store(uint32(h.Level()))
	b.written.Store(b.block.Flags()&ondisk.HeaderFlagWritten != 0)
}
