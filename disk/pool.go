package disk

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

const (
	// PoolAlign is the alignment of every pooled buffer in memory, in bytes: enough for O_DIRECT on every device that
	// the kernel knows, whose logical blocks are at most a page.
	PoolAlign = 4096

	// MaxPooled is the largest buffer a pool gives, in bytes.
	MaxPooled = 64 << 20

	minClass  = 12 // log2 of the smallest size class
	maxClass  = 26 // log2 of the largest
	slabShift = 20 // log2 of slabSize
	slabSize  = 1 << slabShift
)

// Pool gives out page-aligned buffers fit for O_DIRECT.
//
// Buffers come from slabs of at least 1 MiB, mapped outside the Go heap: the collector neither scans nor moves nor counts
// them, and nothing is zeroed. A slab stays mapped until Close, so even a reader that wrongly keeps a returned buffer
// reads other bytes and does not fault (the `shared` policy of commit-root searches counts on that).
//
// Each buffer is returned exactly once; a second Put, or a Put of something else, is a mistake of ours and panics. The
// race detector does not see mapped memory, so a build with -race takes its slabs from the Go heap.
//
// Sizes are rounded up to a power of two from 4 KiB to 64 MiB. Every size class has its own lock and a free list that
// is last in, first out, so a hot loop finds its buffer in the CPU's cache. A Pool is safe for concurrent use.
type Pool struct {
	classes [maxClass - minClass + 1]poolClass
}

// poolClass is the buffers of one size. mu protects all of it.
type poolClass struct {
	mu     sync.Mutex
	closed bool
	free   []*poolBuf
	slabs  map[uintptr]*slab // by address >> slabShift
	inUse  int               // buffers out
	_      [64]byte          // no false sharing with the next class
}

// slab is one mapping, aligned to slabSize, cut into buffers of one size.
type slab struct {
	mem  []byte // the buffers
	raw  []byte // the whole mapping or heap object that mem lies in
	bufs []poolBuf
}

// poolBuf is one buffer; out says that a caller has it.
type poolBuf struct {
	b   []byte
	out bool
}

// mapped is the size of all slabs of all pools, in bytes.
var mapped atomic.Int64

// Mapped is how many bytes the slabs of all pools take that have not been closed.
func Mapped() int64 { return mapped.Load() }

// NewPool makes an empty pool; memory is mapped when first needed.
func NewPool() *Pool { return &Pool{} }

// classOf is the index of the class that holds n bytes.
func classOf(n int) int {
	if n <= 1<<minClass {
		return 0
	}
	return bits.Len(uint(n-1)) - minClass
}

// Get returns a buffer of n bytes at an address that is a multiple of [PoolAlign], with whatever its last user left in
// it. Its capacity is the size class; it may be resliced, but Put wants a slice that begins where this one does and has
// not lost capacity. It panics when n is negative or above [MaxPooled], when the pool is closed, and when there is no
// memory, as the Go heap does.
func (p *Pool) Get(n int) []byte {
	if n < 0 || n > MaxPooled {
		panic(fmt.Sprintf("disk: Pool.Get of %d bytes, limit %d", n, MaxPooled))
	}
	k := classOf(n)
	c := &p.classes[k]
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		panic("disk: Pool.Get after Close")
	}
	if len(c.free) == 0 {
		c.grow(1 << (k + minClass))
	}
	last := len(c.free) - 1
	pb := c.free[last]
	c.free = c.free[:last]
	pb.out = true
	c.inUse++
	c.mu.Unlock()
	return pb.b[:n]
}

// grow maps another slab of buffers of size bytes. The caller holds mu, and loses it to a panic.
func (c *poolClass) grow(size int) {
	s, err := newSlab(max(size, slabSize))
	if err != nil {
		c.mu.Unlock()
		panic(fmt.Sprintf("disk: Pool: no memory for %d bytes: %v", max(size, slabSize), err))
	}
	s.bufs = make([]poolBuf, len(s.mem)/size)
	if c.slabs == nil {
		c.slabs = make(map[uintptr]*slab)
	}
	c.slabs[address(s.mem)>>slabShift] = s
	mapped.Add(int64(len(s.mem)))
	for i := len(s.bufs) - 1; i >= 0; i-- {
		s.bufs[i].b = s.mem[i*size : (i+1)*size : (i+1)*size]
		c.free = append(c.free, &s.bufs[i])
	}
}

// Put returns a buffer that Get gave. The caller must not touch it again.
func (p *Pool) Put(b []byte) {
	size := cap(b)
	k := classOf(size)
	if size < 1<<minClass || size > MaxPooled || size&(size-1) != 0 {
		panic(fmt.Sprintf("disk: Pool.Put of a slice of capacity %d, which Get never gave", size))
	}
	addr := address(b[:size])
	c := &p.classes[k]
	c.mu.Lock()
	problem := c.put(addr, size)
	c.mu.Unlock()
	if problem != "" {
		panic("disk: Pool.Put " + problem)
	}
}

// put does the work of Put and says what is wrong, if anything. The caller holds mu.
func (c *poolClass) put(addr uintptr, size int) string {
	s := c.slabs[addr>>slabShift]
	if s == nil {
		return "of memory that is not this pool's"
	}
	at := addr - address(s.mem)
	if at%uintptr(size) != 0 {
		return "of the middle of a buffer"
	}
	pb := &s.bufs[at/uintptr(size)]
	if !pb.out {
		return "of a buffer that is already back"
	}
	pb.out = false
	c.free = append(c.free, pb)
	c.inUse--
	return ""
}

// PoolStats is what a pool holds.
type PoolStats struct {
	InUse      int   // buffers that callers have
	InUseBytes int64 // their size, by class
	Slabs      int   // mappings
	SlabBytes  int64 // their size
}

// Stats adds up the classes, one after the other.
func (p *Pool) Stats() PoolStats {
	var st PoolStats
	for k := range p.classes {
		c := &p.classes[k]
		c.mu.Lock()
		st.InUse += c.inUse
		st.InUseBytes += int64(c.inUse) << (k + minClass)
		st.Slabs += len(c.slabs)
		for _, s := range c.slabs {
			st.SlabBytes += int64(len(s.mem))
		}
		c.mu.Unlock()
	}
	return st
}

// Close unmaps everything. If callers still have buffers it says how many and leaves the memory mapped, for unmapping
// it under them would turn a leak into a crash; Get panics from then on, Put still works, and Close may be tried again.
func (p *Pool) Close() error {
	for k := range p.classes {
		c := &p.classes[k]
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
	}
	if st := p.Stats(); st.InUse > 0 {
		return fmt.Errorf("disk: pool closed with %d buffers (%d bytes) not returned", st.InUse, st.InUseBytes)
	}
	var errs []error
	for k := range p.classes {
		c := &p.classes[k]
		c.mu.Lock()
		for _, s := range c.slabs {
			mapped.Add(-int64(len(s.mem)))
			errs = append(errs, s.release())
		}
		c.slabs, c.free = nil, nil
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}

// address is where b begins.
func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// alignTo cuts n bytes out of raw that begin at a multiple of slabSize. raw is at least slabSize longer than n.
func alignTo(raw []byte, n int) []byte {
	skip := int(-address(raw) & (slabSize - 1))
	return raw[skip : skip+n : skip+n]
}
