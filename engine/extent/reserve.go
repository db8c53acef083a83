package extent

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// ReserveKind says what a reservation of metadata is for.
type ReserveKind uint8

// The kinds.
const (
	ReserveNormal  ReserveKind = iota // leaves the global reserve alone
	ReserveFreeing                    // for an operation that gives space back: may use most of the global reserve
)

// Reservation is a promise of space that nobody else gets until Release. The zero value promises nothing.
type Reservation struct {
	space *space
	bytes uint64
}

// Bytes returns how much is promised.
func (r Reservation) Bytes() uint64 { return r.bytes }

// Release ends the promise. What was allocated meanwhile is accounted for by itself. Once only; the copies of a
// Reservation are one promise.
func (r Reservation) Release() {
	if r.space == nil {
		return
	}
	r.space.mu.Lock()
	defer r.space.mu.Unlock()
	if r.bytes > r.space.promised {
		panic(fmt.Sprintf("extent: release of %d bytes, %d are promised: a reservation was released twice (I12)", r.bytes, r.space.promised))
	}
	r.space.promised -= r.bytes
}

// pathBlocks is how many tree blocks the change of one item may take: copies of a path through a tree of four levels,
// and as many again for splits.
const pathBlocks = 8

// ItemBytes returns how much metadata the change of so many items may take.
func (m *Manager) ItemBytes(items int) uint64 { return uint64(items) * pathBlocks * m.nodesize }

// Reserve promises metadata for changes to items tree items. Before ENOSPC it has a commit give back pinned space, and
// asks readers to let go of what they hold; so its caller holds no handle, no ticket and no lock. ENOSPC, or the
// context's error, or the commit's.
func (m *Manager) Reserve(ctx context.Context, kind ReserveKind, items int) (Reservation, error) {
	if items <= 0 {
		return Reservation{}, nil
	}
	n := m.ItemBytes(items)
	return m.reserve(ctx, m.spaces[kindMetadata], n, func() uint64 { return m.metadataFor(kind) })
}

// ReserveData promises n bytes of data space, waiting for a commit as Reserve does. A writer takes it before its handle,
// and releases it when AllocData has given it the space.
func (m *Manager) ReserveData(ctx context.Context, n uint64) (Reservation, error) {
	if n == 0 {
		return Reservation{}, nil
	}
	sp := m.spaces[kindData]
	return m.reserve(ctx, sp, n, func() uint64 { return uint64(sp.size.Load()) + sp.allocatable.Load() })
}

// reclaimTries is how many commits a reservation waits for: the first may have begun before our own frees, the second
// moves the last blocks out of a group, and the third removes it.
const reclaimTries = 3

// A reservation of metadata first has queued changes applied, if there are more than settleAbove: what they take is then
// known, and mostly much less than what has to be kept for them. settleTries is how often, since others queue more.
const (
	settleTries = 2
	settleAbove = 16
)

// reserve promises n bytes of a space, of which limit tells the bytes that this caller may count on.
func (m *Manager) reserve(ctx context.Context, sp *space, n uint64, limit func() uint64) (Reservation, error) {
	tries, runs := 0, 0
	for {
		since := m.pin.Changed()
		if sp.promise(n, limit()) {
			return Reservation{sp, n}, nil
		}
		if err := ctx.Err(); err != nil {
			return Reservation{}, context.Cause(ctx)
		}
		if m.settle != nil && sp.kind == kindMetadata && runs < settleTries && m.queued() > settleAbove {
			runs++
			if err := m.settle(ctx); err != nil {
				return Reservation{}, err
			}
			continue
		}
		if m.reclaim != nil && tries < reclaimTries && m.reclaimable(sp) {
			tries++
			m.removeEmpty.Store(true) // chunks of the other kinds may be in the way
			if err := m.reclaim(ctx); err != nil {
				return Reservation{}, err
			}
			continue
		}
		again, err := m.pin.WaitReleased(ctx, since)
		if err != nil {
			return Reservation{}, err
		}
		if !again {
			break
		}
	}
	return Reservation{}, fmt.Errorf("no %s space for %d bytes (%s): delete files or snapshots, or enlarge the image: %w",
		ondisk.BGTypeName(kindFlags[sp.kind]), n, sp, fserr.ErrNoSpace)
}

func (s *space) promise(n, limit uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken()+s.promised+n > limit {
		return false
	}
	s.promised += n
	return true
}

// reclaimable reports whether a commit would give anything back: pinned space, or the chunks of empty block groups.
func (m *Manager) reclaimable(sp *space) bool {
	if sp.pinned.Load() > 0 || sp.reserved.Load() > 0 || m.DelayedRefs() > 0 {
		return true
	}
	for _, g := range m.allGroups() {
		if g.space != sp && g.space.spares(g) {
			return true
		}
	}
	return false
}

// spares reports whether a group is empty, and not the last of its kind.
func (s *space) spares(g *group) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.readOnly && g.created && g.empty() && len(s.list()) > 1
}

// metadataFor is how many bytes of metadata a kind of reservation may count on: the block groups, the chunks that can
// still be made (overcommit), less what the commit will need, and less the global reserve.
//
// Deletions may use the global reserve, but not what the commit of what they have queued will need: after that commit
// they go on with what it gave back.
func (m *Manager) metadataFor(kind ReserveKind) uint64 {
	sp := m.spaces[kindMetadata]
	total := uint64(sp.size.Load()) + sp.allocatable.Load()
	keep := m.commitNeed()
	if kind == ReserveNormal {
		keep = max(keep, m.globalSize.Load())
	}
	return total - min(total, keep)
}

// MetadataTight reports that more than three quarters of the metadata space that there is, or could be, are taken: time
// to keep trees dense. Cheap, takes no lock.
func (m *Manager) MetadataTight() bool {
	sp := m.spaces[kindMetadata]
	total := uint64(sp.size.Load()) + sp.allocatable.Load()
	return sp.taken() > total/4*3
}

// commitNeed is how much metadata the commit of the running transaction may still take: a few paths for root items and
// the like; for each change that is queued a copy of the leaf that it goes to, in the extent, free-space and csum tree;
// and again for their growth, two items of which half-full leaves are made. The copies cannot be more than those trees
// had blocks when the transaction began, since a block is copied once.
func (m *Manager) commitNeed() uint64 {
	queued := m.queued()
	return m.ItemBytes(commitItems) + min(3*queued*m.nodesize, m.treesSize.Load()) + queued*max(m.nodesize/32, growthBytes)
}

// queued is how many changes the commit will have to apply to the Manager's own trees.
func (m *Manager) queued() uint64 {
	n := uint64(m.DelayedRefs())
	for _, sp := range m.spaces {
		n += uint64(max(0, sp.notes.Load()))
	}
	return n
}

// growthBytes is what a queued change adds to the trees: an extent item with a data reference (25 + 53 bytes) and an
// item of free space (25 bytes), in leaves that a split has left half empty.
const growthBytes = 2 * (25 + 53 + 25)

// commitItems is how many items of other trees the commit itself may change.
const commitItems = 8

// updateAllocatable computes anew what chunks could still give each kind. Called with chunkMu held whenever a device
// extent has come or gone.
func (m *Manager) updateAllocatable() {
	for _, sp := range m.spaces {
		n, flags := uint64(0), sp.profile()
		if flags&ondisk.BGProfileMask&^ondisk.BGDup == 0 {
			for _, d := range m.devices {
				n += d.usable(copiesOf(flags))
			}
		}
		sp.allocatable.Store(n)
	}
}

// metadataShort is by how much what is taken and promised of metadata, and what is kept for the commit, exceeds the block
// groups: bytes that only a new chunk can give.
func (m *Manager) metadataShort(keep uint64) uint64 {
	sp := m.spaces[kindMetadata]
	sp.mu.Lock()
	need := sp.taken() + sp.promised + keep
	sp.mu.Unlock()
	size := uint64(sp.size.Load())
	return need - min(need, size)
}

// updateGlobalReserve sizes the global reserve: what a commit may have to copy of the trees that describe the others, and
// again for their growth (an eighth of the metadata at most), since a kernel that mounts the full file system needs as
// much for its first deletions; at least what some deletions need, at most 512 MiB or a quarter of the metadata
// (fs/btrfs/block-rsv.c, btrfs_update_global_block_rsv, has the tree sizes and the upper bound).
func (m *Manager) updateGlobalReserve() {
	need := uint64(0)
	for _, t := range m.ownTrees() {
		need += m.treeSizes.of(t, m.nodesize)
	}
	m.treesSize.Store(need)
	size := uint64(m.spaces[kindMetadata].size.Load())
	m.globalSize.Store(min(max(2*need, m.ItemBytes(20)), max(need, size/8), 512<<20, size/4))
}
