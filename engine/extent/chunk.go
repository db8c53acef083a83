package extent

import (
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/freespace"
)

// minChunk is the smallest chunk worth making, in logical bytes.
const minChunk = 1 << 20

// chunkSize returns how long a new chunk of a type should be, on devices of so many bytes together: 1 GiB of data,
// 256 MiB of metadata (1 GiB above 50 GiB), 32 MiB of system; never more than a tenth of the devices, in whole 16 MiB
// above that, and what is there when there is less (fs/btrfs/volumes.c, decide_stripe_size_regular).
func chunkSize(flags, devices, available uint64) uint64 {
	most := uint64(10 << 30)
	switch {
	case flags&ondisk.BGSystem != 0:
		most = 32 << 20
	case flags&ondisk.BGMetadata != 0:
		if most = 256 << 20; devices > 50<<30 {
			most = 1 << 30
		}
	}
	most = min(most, devices/10)
	n := available
	if n > most {
		n = min((most+16<<20-1)/(16<<20)*(16<<20), n)
	}
	n = min(n, 1<<30)
	return n / ondisk.StripeLen * ondisk.StripeLen
}

func copiesOf(flags uint64) uint64 {
	if flags&ondisk.BGDup != 0 {
		return 2
	}
	return 1
}

// sysMargin is how much SYSTEM space must be left before a chunk is made: the chunk tree's blocks that its items may
// change (fs/btrfs/volumes.c, check_system_chunk: two paths of eight levels, and one for the device item).
func (m *Manager) sysMargin() uint64 { return 24 * m.nodesize }

// makeChunk makes a chunk of the kind, in memory; its items follow in CreatePendingChunks. made is false when there is
// no room on the devices. want is what the caller is after: with as much free already (somebody else has just made a
// chunk) it only reports success. It may be called under tree-block locks.
func (m *Manager) makeChunk(sp *space, want uint64) (made bool, err error) {
	seen, keep := sp.chunks.Load(), max(m.commitNeed(), m.globalSize.Load())
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	if sp.chunks.Load() != seen {
		return true, nil
	}
	if sp.kind != kindSystem {
		if sys := m.spaces[kindSystem]; sys.free() < m.sysMargin() {
			if _, err := m.makeChunkLocked(sys); err != nil {
				return false, err
			}
		}
	}
	if sp.kind == kindData && m.metadataShort(keep) > 0 {
		// Reservations of metadata count on unallocated space: they get theirs first.
		if _, err := m.makeChunkLocked(m.spaces[kindMetadata]); err != nil {
			return false, err
		}
	}
	return m.makeChunkLocked(sp)
}

func (m *Manager) makeChunkLocked(sp *space) (bool, error) {
	flags := sp.profile()
	copies := copiesOf(flags)
	if flags&ondisk.BGProfileMask&^ondisk.BGDup != 0 {
		return false, nil // a profile that this engine does not write
	}
	if sp.kind == kindSystem && !m.sysArrayRoom(int(copies)) {
		return false, nil
	}
	d, hole := m.roomiest(chunkSize(flags, m.deviceBytes(), ^uint64(0)) * copies)
	if d == nil {
		return false, nil
	}
	n := chunkSize(flags, m.deviceBytes(), hole.n/copies)
	if n < minChunk {
		return false, nil
	}
	start := m.nextChunk
	item := m.chunkItem(flags, n, d, hole.start, int(copies))
	if err := m.volume.AddChunk(ondisk.Logical(start), item); err != nil {
		return false, fmt.Errorf("new chunk %d: %w", start, err)
	}
	m.nextChunk += n
	for i := range copies {
		d.add(hole.start+i*n, n)
	}
	d.used += n * copies
	d.dirty = true
	if sp.kind == kindSystem {
		m.sysItems.Set(start, item)
	}
	g, err := m.freshGroup(start, n, flags)
	if err != nil {
		return false, err
	}
	m.pending = append(m.pending, g)
	m.updateAllocatable() // before the group counts: what it has must not be promised twice
	m.addGroup(g)
	sp.chunks.Add(1)
	trace.Emit(m.tracer, trace.Event{Kind: trace.ChunkAllocated, Gen: m.gen.Load(), Bytenr: start, N: n, Note: ondisk.BGTypeName(flags)})
	return true, nil
}

// ForceChunk makes a chunk of a type (ondisk.BGData, BGMetadata or BGSystem) although there is space left, as a write to
// the kernel's sysfs file force_chunk_alloc does, and has the next allocations of the type begin there. Its items are
// inserted before the caller's handle ends. ENOSPC if no room is left on the devices or, for SYSTEM, in the superblock's
// list; fserr.ErrInvalid for another type. The chunk goes again when it is found empty.
func (m *Manager) ForceChunk(typ uint64) error {
	for kind, flags := range kindFlags {
		if typ != flags {
			continue
		}
		sp := m.spaces[kind]
		last := m.lastGroup(sp)
		made, err := m.makeChunk(sp, 0)
		if err != nil {
			return err
		}
		if !made {
			return fmt.Errorf("no room for a chunk of %s on the devices (%d bytes in holes of at least %d are left), or in the superblock's list of system chunks: %w",
				ondisk.BGTypeName(typ), sp.allocatable.Load(), minChunk, fserr.ErrNoSpace)
		}
		if g := m.lastGroup(sp); g != last {
			sp.cursor.Store(g.start)
		}
		return nil
	}
	return fmt.Errorf("chunk of type %#x: %w", typ, fserr.ErrInvalid)
}

// lastGroup is the block group at the highest address, which is the youngest of this session; nil if there is none.
func (m *Manager) lastGroup(sp *space) *group {
	if gs := sp.list(); len(gs) > 0 {
		return gs[len(gs)-1]
	}
	return nil
}

// freshGroup is the block group of a new chunk: all free, loaded.
func (m *Manager) freshGroup(start, n, flags uint64) (*group, error) {
	g := m.newGroup(start, n, flags)
	g.fst.needInit = true
	x := freespace.New(start, n, ondisk.SectorSize)
	if err := x.Add(start, n); err != nil {
		return nil, err
	}
	for _, r := range g.superStripes {
		x.Subtract(r.start, r.n)
	}
	g.index.Store(x)
	return g, g.check()
}

// roomiest returns the device with the largest hole, up to n bytes.
func (m *Manager) roomiest(n uint64) (best *device, hole addrRange) {
	for _, d := range m.devices {
		if h := d.hole(n); min(h.n, n) > min(hole.n, n) {
			best, hole = d, h
		}
	}
	return best, hole
}

func (m *Manager) deviceBytes() (n uint64) {
	for _, d := range m.devices {
		n += d.total
	}
	return n
}

// sysArrayRoom reports whether the superblock can list one more SYSTEM chunk.
func (m *Manager) sysArrayRoom(stripes int) bool {
	n := ondisk.KeySize + ondisk.ChunkItemSize(stripes)
	m.sysItems.Scan(func(_ uint64, item []byte) bool {
		n += ondisk.KeySize + len(item)
		return true
	})
	return n <= ondisk.SysChunkArrayMax
}

func (m *Manager) chunkItem(flags, n uint64, d *device, physical uint64, stripes int) []byte {
	b := make([]byte, ondisk.ChunkItemSize(stripes))
	c := ondisk.AsChunk(b)
	c.SetLength(n)
	c.SetOwner(ondisk.ExtentTree)
	c.SetStripeLen(ondisk.StripeLen)
	c.SetType(flags)
	c.SetIOAlign(ondisk.StripeLen)
	c.SetIOWidth(ondisk.StripeLen)
	c.SetSectorSize(ondisk.SectorSize)
	c.SetNumStripes(uint16(stripes))
	c.SetSubStripes(1)
	for i := range stripes {
		s := ondisk.ChunkStripe(b, i)
		s.SetDevID(d.id)
		s.SetOffset(ondisk.Physical(physical + uint64(i)*n))
		s.SetDevUUID(d.uuid)
	}
	return b
}

// ChunksPending reports whether chunks have been made whose items are not inserted.
func (m *Manager) ChunksPending() bool {
	m.chunkMu.Lock()
	defer m.chunkMu.Unlock()
	return len(m.pending) > 0 || slices.ContainsFunc(m.devices, func(d *device) bool { return d.dirty })
}
