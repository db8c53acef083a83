package extent

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"imgtool/engine/ondisk"
	"imgtool/pin"
)

// space is what all block groups of one kind have together. The atomic counters are sums of the groups'; each changes
// with its group, under that group's lock, so a reader sees figures that are at most one change apart.
type space struct {
	kind  int
	first uint64 // type and profile of a chunk that has no other to follow

	size     atomic.Int64 // bytes of the groups, less those of superblock stripes
	used     atomic.Int64
	reserved atomic.Int64
	pinned   atomic.Int64
	notes    atomic.Int64  // ranges that the free-space tree does not know yet
	chunks   atomic.Uint64 // chunks made in this session
	cursor   atomic.Uint64 // where the next allocation is looked for

	allocatable atomic.Uint64 // bytes that new chunks could give

	mu       sync.Mutex
	promised uint64                   // bytes of live reservations; under mu
	groups   atomic.Pointer[[]*group] // ascending; replaced under mu
}

func (s *space) list() []*group {
	if p := s.groups.Load(); p != nil {
		return *p
	}
	return nil
}

func (s *space) add(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gs := append(slices.Clone(s.list()), g)
	slices.SortFunc(gs, func(a, b *group) int { return int(int64(a.start) - int64(b.start)) })
	s.groups.Store(&gs)
	s.size.Add(int64(g.length - g.super))
	s.used.Add(int64(g.used))
}

// remove takes out a group with nothing in it.
func (s *space) remove(g *group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gs := slices.DeleteFunc(slices.Clone(s.list()), func(o *group) bool { return o == g })
	s.groups.Store(&gs)
	s.size.Add(-int64(g.length - g.super))
}

// free is how many bytes nothing occupies.
func (s *space) free() uint64 {
	return uint64(max(0, s.size.Load()-s.used.Load()-s.reserved.Load()-s.pinned.Load()))
}

// taken is how many bytes are not free.
func (s *space) taken() uint64 {
	return uint64(s.used.Load() + s.reserved.Load() + s.pinned.Load())
}

// order yields the groups in the order in which an allocation near hint tries them: the one that holds hint, those
// behind it, and then those before.
func (s *space) order(hint uint64) iter.Seq[*group] {
	return func(yield func(*group) bool) {
		gs := s.list()
		first := max(0, slices.IndexFunc(gs, func(g *group) bool { return hint < g.end() }))
		for i := range gs {
			if !yield(gs[(first+i)%len(gs)]) {
				return
			}
		}
	}
}

// settle moves the cursor to the lowest group that is half free, where the cursor stood last in it. Called when a
// transaction begins, so that its blocks lie together, and that those of a file system that shrinks gather in few
// groups.
func (s *space) settle() {
	for _, g := range s.list() {
		if g.roomAtMost() >= g.length/2 {
			s.cursor.Store(max(g.start, g.cursor.Load()))
			return
		}
	}
}

// profile returns type and profile of a new chunk: those of the youngest block group of this kind.
func (s *space) profile() uint64 {
	gs := s.list()
	if len(gs) == 0 {
		return s.first
	}
	return gs[len(gs)-1].flags & (ondisk.BGTypeMask | ondisk.BGProfileMask)
}

func (s *space) String() string {
	return fmt.Sprintf("%d of %d bytes used, %d allocated, %d pinned", s.used.Load(), s.size.Load(), s.reserved.Load(), s.pinned.Load())
}

// SpaceUsage is the state of one kind of space, in logical bytes.
type SpaceUsage struct {
	Flags    uint64 // type and profile
	Groups   int
	Total    uint64 // of all block groups
	Used     uint64 // of extents in the extent tree
	Reserved uint64 // allocated in the running transaction, not in the extent tree yet
	Pinned   uint64 // freed by a transaction that is not durable
	Held     uint64 // freed, and visible to a reader
	Super    uint64 // under superblock copies
	Promised uint64 // reservations of handles and writers
}

// Free is what can be allocated.
func (u SpaceUsage) Free() uint64 {
	return u.Total - min(u.Total, u.Used+u.Reserved+u.Pinned+u.Held+u.Super)
}

// Usage is the state of the whole file system's space.
type Usage struct {
	Data, Metadata, System SpaceUsage
	GlobalReserve          uint64 // of Metadata; for commits and for deletions
	DeviceTotal            uint64 // physical bytes
	DeviceAllocated        uint64 // physical bytes of device extents
	Unallocated            uint64 // physical bytes that chunks could get
}

// Usage returns the figures of this instant.
func (m *Manager) Usage() Usage {
	var u Usage
	held := m.pin.Stats()
	for k, p := range []*SpaceUsage{&u.Data, &u.Metadata, &u.System} {
		sp := m.spaces[k]
		*p = SpaceUsage{Flags: sp.profile(), Used: uint64(sp.used.Load()), Reserved: uint64(sp.reserved.Load())}
		for _, g := range sp.list() {
			p.Groups++
			p.Total += g.length
			p.Super += g.super
		}
		p.Held = held.Bytes[pin.Held][k]
		p.Pinned = uint64(max(0, sp.pinned.Load()-int64(p.Held)))
		sp.mu.Lock()
		p.Promised = sp.promised
		sp.mu.Unlock()
	}
	u.GlobalReserve = m.globalSize.Load()
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	for _, d := range m.devices {
		u.DeviceTotal += d.total
		u.DeviceAllocated += d.used
		for _, h := range d.holes() {
			u.Unallocated += h.n
		}
	}
	return u
}
