package extent

import (
	"context"
	"sync"
	"sync/atomic"

	tree "github.com/tidwall/btree"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/volume"
	"imgtool/pin"
)

// Trees gives the Manager the trees that it keeps. BlockGroup is nil without that feature, and FreeSpace is nil when
// there is no free-space tree or when it is not valid: then free space is derived from the extent tree.
type Trees interface {
	Root() *btree.Tree
	Extent() *btree.Tree
	Chunk() *btree.Tree
	Dev() *btree.Tree
	Csum() *btree.Tree
	FreeSpace() *btree.Tree
	BlockGroup() *btree.Tree
}

// Options are what a Manager is made of.
type Options struct {
	Volume *volume.Volume
	Cache  *extbuf.Cache
	Pin    *pin.Set // its Options.Release is Manager.Unpinned
	Tracer trace.Tracer
	Trees  Trees
	Super  *ondisk.SuperBlock // node size, features, checksum; read by New only

	// Discard makes Unpinned discard ranges before they are free again.
	Discard bool
	// Reclaim commits the running transaction, so that pinned space comes back. It is called before ENOSPC, by callers
	// that hold no handle and no lock. May be nil.
	Reclaim func(context.Context) error
	// Settle runs the delayed refs of the running transaction, if there is one, with RunDelayedRefs. It is called before
	// Reclaim, by the same callers. May be nil.
	Settle func(context.Context) error
	// Failed is told that a device failed where nobody waits for the outcome: in a discard. May be nil.
	Failed func(error)
}

// Manager owns the space of one file system. It implements btree.Allocator. Safe for concurrent use; the methods that
// take a btree.Txn are called by holders of a live handle.
type Manager struct {
	volume  *volume.Volume
	cache   *extbuf.Cache
	pin     *pin.Set
	tracer  trace.Tracer
	trees   Trees
	discard bool
	reclaim func(context.Context) error
	settle  func(context.Context) error
	failed  func(error)

	nodesize  uint64
	skinny    bool
	csumType  ondisk.CsumType
	csumSize  int
	chunkUUID ondisk.UUID // of device extents
	cacheGen  uint64      // the superblock's cache_generation as it was opened

	refs atomic.Pointer[delayedref.Set] // of the running transaction
	gen  atomic.Uint64                  // its generation

	pastMu sync.Mutex       // leaf; guards past, and the replacement of refs against a reader of both
	past   delayedref.Stats // of the transactions before

	groupsMu sync.RWMutex
	groups   tree.Map[uint64, *group] // by start; removed groups leave it at once

	spaces [3]*space // by kind

	chunkMu   sync.Mutex
	devices   []*device // sorted by id; changes under chunkMu
	nextChunk uint64    // logical address behind every chunk there has been in this session
	pending   []*group  // made in memory, items not inserted yet
	sysItems  tree.Map[uint64, []byte]

	createMu sync.Mutex
	csumMu   sync.RWMutex

	dirtyMu  sync.Mutex
	dirty    map[*group]struct{} // block-group item to write
	fstDirty map[*group]struct{} // free-space tree to bring up to date

	removeEmpty atomic.Bool // the next commit removes empty block groups

	globalSize atomic.Uint64 // bytes of the global reserve, see reserve.go
	treesSize  atomic.Uint64 // bytes of the trees that the Manager keeps, as the transaction began
	treeSizes  treeSizes     // of each of them, now
}

// The kinds of space, in the order of pin.Extent.Kind.
const (
	kindData = iota
	kindMetadata
	kindSystem
)

var kindFlags = [...]uint64{ondisk.BGData, ondisk.BGMetadata, ondisk.BGSystem}

func kindOf(flags uint64) int {
	switch {
	case flags&ondisk.BGSystem != 0:
		return kindSystem
	case flags&ondisk.BGMetadata != 0:
		return kindMetadata
	}
	return kindData
}

// New returns a Manager that knows no block groups yet; Load reads them.
func New(o Options) *Manager {
	m := &Manager{
		volume: o.Volume, cache: o.Cache, pin: o.Pin, tracer: o.Tracer, trees: o.Trees, discard: o.Discard, reclaim: o.Reclaim, settle: o.Settle, failed: o.Failed,
		nodesize: uint64(o.Super.NodeSize()),
		skinny:   o.Super.HasIncompat(ondisk.IncompatSkinnyMetadata),
		csumType: o.Super.Checksum(),
		csumSize: o.Super.Checksum().Size(),
		cacheGen: o.Super.CacheGeneration(),
		dirty:    map[*group]struct{}{},
		fstDirty: map[*group]struct{}{},
	}
	for k := range m.spaces {
		m.spaces[k] = &space{kind: k, first: kindFlags[k]}
	}
	m.refs.Store(delayedref.NewSet())
	m.gen.Store(uint64(o.Super.Generation()))
	return m
}

// BeginTransaction makes an empty set of delayed refs for the transaction gen. The one before has left nothing (I7).
func (m *Manager) BeginTransaction(gen ondisk.Generation) {
	if n := m.refs.Load().Len(); n != 0 {
		panic("extent: a transaction begins while delayed refs of the one before are pending (I7)")
	}
	m.pastMu.Lock()
	m.past = addRefStats(m.past, m.refs.Load().Stats())
	m.refs.Store(delayedref.NewSet())
	m.pastMu.Unlock()
	m.gen.Store(uint64(gen))
	m.updateGlobalReserve()
	m.spaces[kindMetadata].settle()
}

// DelayedRefs returns the number of delayed-ref heads that are queued or being applied.
func (m *Manager) DelayedRefs() int { return m.refs.Load().Len() }

// RefStats returns the figures of delayed refs since the file system was opened; Heads and Refs are those queued now.
func (m *Manager) RefStats() delayedref.Stats {
	m.pastMu.Lock()
	defer m.pastMu.Unlock()
	return addRefStats(m.past, m.refs.Load().Stats())
}

// addRefStats adds the counters of a finished transaction to those of the present one.
func addRefStats(past, now delayedref.Stats) delayedref.Stats {
	now.Queued += past.Queued
	now.Merged += past.Merged
	now.Run += past.Run
	now.RefsRun += past.RefsRun
	now.Dropped += past.Dropped
	now.Canceled += past.Canceled
	return now
}

// groupOf returns the block group that holds addr, nil if there is none.
func (m *Manager) groupOf(addr uint64) *group {
	m.groupsMu.RLock()
	defer m.groupsMu.RUnlock()
	var g *group
	m.groups.Descend(addr, func(_ uint64, v *group) bool {
		if addr < v.start+v.length {
			g = v
		}
		return false
	})
	return g
}

func (m *Manager) allGroups() []*group {
	m.groupsMu.RLock()
	defer m.groupsMu.RUnlock()
	return m.groups.Values()
}

func (m *Manager) addGroup(g *group) {
	m.groupsMu.Lock()
	m.groups.Set(g.start, g)
	m.groupsMu.Unlock()
	g.space.add(g)
}
