package extbuf

import (
	"fmt"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Alloc returns the buffer of a block that has just been allocated at addr: referenced, write-locked, empty but for its
// header, dirty in gen. Writes begin when the caller has filled it and unlocked it.
//
// If a buffer of this address is still alive, that one is taken and re-initialised in place (I3), with a BufferReused
// event that counts the other holders in N; Alloc then waits for its lock. Whoever dropped the block before (Forget)
// holds that lock from before the address became free until after Forget, and takes no other lock in between, so the
// wait is short and no cycle. With SetIdentity(false) the live buffer leaves the cache and a new one takes its place.
//
// It panics when the address is still dirty: the allocator handed out a block that was not forgotten (I2).
func (c *Cache) Alloc(addr ondisk.Logical, gen ondisk.Generation, owner ondisk.TreeID, level uint8) *Buffer {
	if gen == 0 || uint64(addr)%ondisk.SectorSize != 0 {
		panic(fmt.Sprintf("extbuf: Alloc of block %d in generation %d", addr, gen))
	}
	b, reused := c.claim(addr)
	if reused {
		b.Lock() // the shard's lock is not held: its order is after this one
		if g := b.dirtyGen.Load(); g != 0 {
			b.Unlock()
			panic(fmt.Sprintf("extbuf: block %d allocated in generation %d while it is dirty in %d (I2)", addr, gen, g))
		}
		c.counters.reused.Add(1)
		trace.Emit(c.tracer, trace.Event{Kind: trace.BufferReused, Gen: uint64(gen), Root: uint64(owner),
			Bytenr: uint64(addr), N: uint64(max(b.holders()-1, 0))})
	}
	b.block.Init(addr, gen, owner, level, c.fsid, c.chunkUUID)
	b.gen.Store(uint64(gen))
	b.owner.Store(uint64(owner))
	b.level.Store(uint32(level))
	b.written.Store(false)
	c.markDirty(b, gen)
	if reused {
		c.ringOut(b)
	}
	c.evict()
	return b
}

// claim returns the buffer to use, referenced so that it cannot be evicted: the live one, not locked, or a new one,
// locked.
func (c *Cache) claim(addr ondisk.Logical) (b *Buffer, reused bool) {
	s := c.shard(addr)
	var old *Buffer
	s.mu.Lock()
	if f := s.flights[addr]; f != nil {
		f.stale = true // what it reads is the block that stood here before
	}
	if old = s.bufs[addr]; old != nil && !c.noIdentity.Load() {
		old.refs.Add(1)
		s.mu.Unlock()
		return old, true
	}
	if old != nil {
		c.remove(s, old)
		c.counters.detached.Add(1)
	}
	b = c.newBuffer(addr)
	b.Lock()
	b.refs.Store(1)
	c.insert(s, b)
	s.mu.Unlock()
	if old != nil {
		if g := old.dirtyGen.Load(); g != 0 {
			panic(fmt.Sprintf("extbuf: block %d allocated while it is dirty in %d (I2)", addr, g))
		}
		old.Release()
	}
	return b, false
}

// Forget takes a block out of the dirty set: it was dropped before it was written, and its address is free again (I2).
// The caller holds the write lock, taken before the address was given back, so that no new owner of the address can be
// under way. The buffer keeps its references.
func (c *Cache) Forget(b *Buffer) {
	if b.private {
		panic(fmt.Sprintf("extbuf: Forget of a clone of block %d", b.addr))
	}
	if !c.clearDirty(b) {
		return // written meanwhile: then it is clean, and in the ring
	}
	c.counters.forgotten.Add(1)
	c.ringIn(b)
	b.hot.Store(false) // nobody wants these bytes again: the first to be evicted
}
