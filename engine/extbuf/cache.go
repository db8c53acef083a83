package extbuf

import (
	"context"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/volume"
)

// BlockIO is what the cache needs of a volume; *volume.Volume has it.
type BlockIO interface {
	// Copies returns how many copies of the block at l there are, 0 when no chunk covers l.
	Copies(l ondisk.Logical) int
	// ReadCopy fills p from one copy, counted from 0.
	ReadCopy(ctx context.Context, l ondisk.Logical, p []byte, copy int) error
	// WriteBatch writes every copy of every element and returns when all are written.
	WriteBatch(ctx context.Context, ws []volume.Write) error
}

// CopyWriter is a BlockIO that can repair; *volume.Volume is one.
type CopyWriter interface {
	// WriteCopy writes p to one copy, counted from 0, and leaves the others alone.
	WriteCopy(ctx context.Context, l ondisk.Logical, p []byte, copy int) error
}

// Options of NewCache. IO, NodeSize and Csum are required.
type Options struct {
	IO            BlockIO
	NodeSize      int // bytes
	Csum          ondisk.CsumType
	FSID          ondisk.UUID // what headers carry: SuperBlock.MetadataFSID
	ChunkTreeUUID ondisk.UUID
	Limit         int64 // bytes of blocks, dirty ones included; clean ones keep a quarter of it. 0: DefaultLimit
	Tracer        trace.Tracer
	Pool          *disk.Pool // nil: one of its own
	// Check judges a block after it was read (I10), CheckWrite before it is written; nil: as Check. Both are called by
	// many goroutines at once, with bytes that stand still, and without locks but perhaps the block's own.
	Check, CheckWrite func(ondisk.Block) error
	// Repair says whether bad copies may be written over now; nil: never. It is asked before each repair. IO must be a
	// CopyWriter. With OweRepairs what it forbids is remembered, up to a bound, until RepairOwed is called.
	Repair     func() bool
	OweRepairs bool
	// ReadDepth bounds the reads that Prefetch has under way, each of up to 256 KiB; 0: 16.
	ReadDepth int
}

// DefaultLimit is the size of a cache in bytes unless told otherwise.
const DefaultLimit = 128 << 20

const nShards = 64

// Cache is the extent-buffer cache of one file system. It is safe for concurrent use.
type Cache struct {
	io         BlockIO
	pool       *disk.Pool
	ownPool    bool
	nodeSize   int
	addrShift  uint
	csum       ondisk.CsumType
	fsid       ondisk.UUID
	chunkUUID  ondisk.UUID
	limit      int64
	tracer     trace.Tracer
	check      func(ondisk.Block) error
	checkWrite func(ondisk.Block) error
	mayRepair  func() bool // nil: never

	owed struct {
		sync.Mutex      // protects the rest
		until      bool // repairs are still remembered
		list       []owed
	}

	noIdentity atomic.Bool
	shards     [nShards]shard
	evictFrom  atomic.Uint32 // the shard where the next eviction begins

	dirty struct {
		sync.Mutex // protects sets
		sets       map[ondisk.Generation]*dirtySet
	}
	prefetch prefetcher

	live, clones atomic.Int64 // buffers: non-private, private
	clean        atomic.Int64 // buffers in rings
	counters     counters
}

// shard is a part of the map. mu protects all but hits.
type shard struct {
	mu      sync.RWMutex
	bufs    map[ondisk.Logical]*Buffer
	flights map[ondisk.Logical]*flight
	ring    []*Buffer // clean buffers, in no order; the clock hand goes round
	hand    int
	hits    atomic.Uint64
	_       [64]byte // no false sharing with the next shard
}

// NewCache makes an empty cache. It panics on a node size that is no power of two from 4 to 64 KiB, on an unknown
// checksum and without IO: those come from a superblock that was checked before.
func NewCache(o Options) *Cache {
	if o.IO == nil || !o.Csum.Valid() || o.NodeSize < 4096 || o.NodeSize > 65536 || o.NodeSize&(o.NodeSize-1) != 0 {
		panic(fmt.Sprintf("extbuf: NewCache with node size %d, %s", o.NodeSize, o.Csum))
	}
	c := &Cache{
		io: o.IO, pool: o.Pool, nodeSize: o.NodeSize, addrShift: uint(bits.TrailingZeros(ondisk.SectorSize)),
		csum: o.Csum, fsid: o.FSID, chunkUUID: o.ChunkTreeUUID, limit: o.Limit, tracer: o.Tracer,
		check: o.Check, checkWrite: o.CheckWrite, mayRepair: o.Repair,
	}
	c.owed.until = o.OweRepairs
	if c.limit == 0 {
		c.limit = DefaultLimit
	}
	if c.pool == nil {
		c.pool, c.ownPool = disk.NewPool(), true
	}
	if c.check == nil {
		c.check = func(ondisk.Block) error { return nil }
	}
	if c.checkWrite == nil {
		c.checkWrite = c.check
	}
	for i := range c.shards {
		c.shards[i].bufs = make(map[ondisk.Logical]*Buffer)
		c.shards[i].flights = make(map[ondisk.Logical]*flight)
	}
	c.dirty.sets = make(map[ondisk.Generation]*dirtySet)
	c.prefetch.init(o.ReadDepth)
	return c
}

// NodeSize returns the size of a block in bytes.
func (c *Cache) NodeSize() int { return c.nodeSize }

// shard returns the shard of an address. The multiplication spreads runs of addresses evenly, whatever the node size.
func (c *Cache) shard(addr ondisk.Logical) *shard {
	return &c.shards[uint64(addr)>>c.addrShift*0x9E3779B97F4A7C15>>58]
}

// newBuffer makes a buffer with memory of unknown content, no references and in no map.
func (c *Cache) newBuffer(addr ondisk.Logical) *Buffer {
	return &Buffer{cache: c, addr: addr, block: c.pool.Get(c.nodeSize), ring: -1, dirtyIdx: -1}
}

// Lookup returns the buffer of addr with one more reference, or nil when it is not in memory. Nothing is compared.
func (c *Cache) Lookup(addr ondisk.Logical) *Buffer { return c.shard(addr).lookup(addr) }

func (s *shard) lookup(addr ondisk.Logical) *Buffer {
	s.mu.RLock()
	b := s.bufs[addr]
	if b != nil {
		// The map's own reference keeps it above zero while mu is held.
		b.refs.Add(1)
	}
	s.mu.RUnlock()
	if b != nil && !b.hot.Load() {
		b.hot.Store(true)
	}
	return b
}

// insert puts b into the map, with the map's own reference. The caller holds mu and has seen that the address is free.
func (c *Cache) insert(s *shard, b *Buffer) {
	b.refs.Add(1)
	s.bufs[b.addr] = b
	c.live.Add(1)
}

// remove takes b out of map and ring and returns it for the caller to Release once mu is gone: the map's reference.
func (c *Cache) remove(s *shard, b *Buffer) *Buffer {
	delete(s.bufs, b.addr)
	c.unring(s, b)
	return b
}

// SetIdentity turns the identity rule (I3) on, as it is from the start, or off. Without it a re-allocation of a live
// address replaces the map's entry by a new buffer, and the old one stays with its readers.
func (c *Cache) SetIdentity(on bool) { c.noIdentity.Store(!on) }
