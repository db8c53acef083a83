package extent

import (
	"context"
	"fmt"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/pin"
)

// AllocTreeBlock implements btree.Allocator: it takes the space of one node, in a SYSTEM group for the chunk tree and
// in a METADATA group for all others, and queues the block's first reference. Blocks of one transaction are handed out
// side by side. A new chunk is made in memory when nothing is left; ENOSPC when that is impossible, which reservations
// are there to prevent. The address is a multiple of the node size, and chunks begin at multiples of 64 KiB, so no
// block crosses a stripe.
func (m *Manager) AllocTreeBlock(ctx context.Context, _ btree.Txn, r btree.AllocReq) (ondisk.Logical, error) {
	sp := m.spaces[kindMetadata]
	if r.Owner == ondisk.ChunkTree {
		sp = m.spaces[kindSystem]
	}
	addr, _, err := m.take(ctx, sp, m.nodesize, m.nodesize, m.nodesize, sp.cursor.Load())
	if err != nil {
		return 0, fmt.Errorf("tree block of %v, level %d: %w", r.Owner, r.Level, err)
	}
	sp.cursor.Store(addr + m.nodesize)
	ref := delayedref.Ref{Kind: delayedref.TreeBlock, Level: r.Level, Root: uint64(r.Owner)}
	op := delayedref.ExtentOp{UpdateKey: true, Level: r.Level}
	op.Key.Objectid, op.Key.Type, op.Key.Offset = uint64(r.FirstKey.ObjectID), uint8(r.FirstKey.Type), r.FirstKey.Offset
	if r.Parent != 0 {
		ref = delayedref.Ref{Kind: delayedref.SharedBlock, Level: r.Level, Parent: uint64(r.Parent)}
		op.Flags, op.UpdateFlags = ondisk.ExtentFlagFullBackref, true
	}
	err = m.refs.Load().Add(addr, m.nodesize, ref, delayedref.AddOptions{New: true, Owner: uint64(r.Owner), Op: &op})
	if err != nil {
		return 0, err
	}
	m.treeSizes.add(r.Owner, int64(m.nodesize))
	return ondisk.Logical(addr), nil
}

// DropTreeBlock implements btree.Allocator. freed tells the caller to have the cache forget the block: nothing reaches
// it, so it need not be written. Another writer may get the address at once: the caller holds the block's write lock
// until the cache has forgotten it, so that the new owner, who gets the same buffer (I3), waits for that. A block whose
// extent item has been written already is forgotten too, but its space is pinned when its delayed ref runs.
func (m *Manager) DropTreeBlock(ctx context.Context, tx btree.Txn, d btree.DropReq) (freed bool, err error) {
	addr := uint64(d.Addr)
	set := m.refs.Load()
	if err := set.Drop(addr, m.nodesize, treeRef(d.Owner, d.Parent, d.Level), delayedref.DropOptions{Born: uint64(d.Born)}); err != nil {
		return false, err
	}
	m.treeSizes.add(d.Owner, -int64(m.nodesize))
	if d.Born != tx.Generation() || d.Written {
		return false, nil
	}
	if !set.CancelNew(addr) {
		return d.Last, nil
	}
	g := m.groupOf(addr)
	if g == nil {
		return false, fmt.Errorf("internal: tree block %d lies in no block group", addr)
	}
	return true, g.giveBack(addr, m.nodesize)
}

// treeRef is the reference of owner to a tree block, or of the block at parent if that is not 0.
func treeRef(owner ondisk.TreeID, parent ondisk.Logical, level uint8) delayedref.Ref {
	if parent != 0 {
		return delayedref.Ref{Kind: delayedref.SharedBlock, Level: level, Parent: uint64(parent)}
	}
	return delayedref.Ref{Kind: delayedref.TreeBlock, Level: level, Root: uint64(owner)}
}

// take allocates between least and most contiguous bytes of a kind, from hint on if possible, and makes a new chunk
// when it must. For data, a range shorter than most is taken only when no chunk can be made either.
func (m *Manager) take(ctx context.Context, sp *space, least, most, align, hint uint64) (addr, n uint64, err error) {
	for range 3 { // a chunk made here may be used up by others before we look again
		addr, n, ok, err := m.takeFrom(ctx, sp, most, most, align, hint)
		if ok || err != nil {
			return addr, n, err
		}
		if sp.kind == kindData && sp.free() >= 2*most && least < most {
			break // fragmented, not full: pieces do
		}
		if made, err := m.makeChunk(sp, most); err != nil {
			return 0, 0, err
		} else if !made {
			break
		}
	}
	if least < most {
		addr, n, ok, err := m.takeLargest(ctx, sp, least, most, hint)
		if ok || err != nil {
			return addr, n, err
		}
		if made, err := m.makeChunk(sp, most); err != nil {
			return 0, 0, err
		} else if made {
			addr, n, ok, err = m.takeLargest(ctx, sp, least, most, hint)
			if ok || err != nil {
				return addr, n, err
			}
		}
	}
	return 0, 0, fmt.Errorf("no %s space for %d bytes (%s): delete files or snapshots, or enlarge the image: %w",
		ondisk.BGTypeName(kindFlags[sp.kind]), least, sp, fserr.ErrNoSpace)
}

// takeFrom tries the group that hint lies in, from there on, and then the others in order of address.
func (m *Manager) takeFrom(ctx context.Context, sp *space, least, most, align, hint uint64) (addr, n uint64, ok bool, err error) {
	for g := range sp.order(hint) {
		if g.roomAtMost() < least {
			continue
		}
		if err := m.loaded(ctx, g); err != nil {
			return 0, 0, false, err
		}
		if addr, n, ok, err = g.takeUpTo(least, most, align, hint); ok || err != nil {
			return addr, n, ok, err
		}
	}
	return 0, 0, false, nil
}

// takeLargest takes what the group with the largest free range has, up to most.
func (m *Manager) takeLargest(ctx context.Context, sp *space, least, most, hint uint64) (addr, n uint64, ok bool, err error) {
	for range 4 { // others may take the range between looking and taking
		var best *group
		largest := uint64(0)
		for g := range sp.order(hint) {
			if g.roomAtMost() < max(least, largest) {
				continue
			}
			if err := m.loaded(ctx, g); err != nil {
				return 0, 0, false, err
			}
			if l := g.index.Load().Largest(); l > largest {
				best, largest = g, l
			}
		}
		if best == nil || largest < least {
			return 0, 0, false, nil
		}
		if addr, n, ok, err = best.takeUpTo(least, most, 0, hint); ok || err != nil {
			return addr, n, ok, err
		}
	}
	return 0, 0, false, nil
}

// roomAtMost is an upper bound on the free bytes, known without loading the group.
func (g *group) roomAtMost() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readOnly {
		return 0
	}
	return g.length - g.super - g.used - g.reserved - g.pinned
}

// AllocData takes between min and max contiguous bytes of data space (multiples of the sector size), near hint if that
// is not 0, and returns what it got: less than max only when no range of max is left and no chunk can be made. Nothing
// refers to it yet: AddDataRef or UnallocData must follow within the transaction. ENOSPC when even min is not there;
// space that a commit would give back is not waited for, since the caller holds a handle (see ReserveData).
func (m *Manager) AllocData(ctx context.Context, _ btree.Txn, min, max uint64, hint ondisk.Logical) (ondisk.Logical, uint64, error) {
	if min == 0 || min > max || (min|max)%ondisk.SectorSize != 0 {
		return 0, 0, fmt.Errorf("internal: AllocData of %d to %d bytes: %w", min, max, fserr.ErrInvalid)
	}
	sp := m.spaces[kindData]
	h := uint64(hint)
	if g := m.groupOf(h); g == nil || g.space != sp {
		h = sp.cursor.Load()
	}
	addr, n, err := m.take(ctx, sp, min, max, 0, h)
	if err != nil {
		return 0, 0, err
	}
	sp.cursor.Store(addr + n)
	return ondisk.Logical(addr), n, nil
}

// UnallocData gives back a range from AllocData, or a part of one, that nothing refers to and never did: a write that
// failed. Part of it may have reached the disk, where no super of any transaction leads to it.
func (m *Manager) UnallocData(addr ondisk.Logical, n uint64) {
	g := m.groupOf(uint64(addr))
	if g == nil {
		panic(fmt.Sprintf("extent: UnallocData of %d bytes at %d: no block group is there", n, addr))
	}
	if err := g.giveBack(uint64(addr), n); err != nil {
		panic(err) // two owners of one address, inside this process
	}
}

// Unpinned makes ranges free again, after discarding them if that is enabled. It is package pin's Options.Release:
// called without locks, by the committer or a reader that leaves, several at once with different extents.
func (m *Manager) Unpinned(es []pin.Extent) {
	if m.discard {
		m.discardExtents(es)
	}
	for _, e := range es {
		g := m.groupOf(e.Start)
		if g == nil {
			panic(fmt.Sprintf("extent: unpinned %v lies in no block group", e))
		}
		if err := g.unpinned(e.Start, e.Len); err != nil {
			panic(err)
		}
		if g.space.spares(g) {
			m.removeEmpty.Store(true)
		}
		if m.tracer != nil {
			m.tracer.Trace(trace.Event{Kind: trace.ExtentUnpinned, Gen: e.Died, Bytenr: e.Start, N: e.Len})
		}
	}
}

// discardExtents discards neighbours together. A device that cannot discard says that it could; one that says it failed
// is broken like one that fails to write, and the ranges may hold anything: they are free all the same, but the owner is
// told, who writes no more.
func (m *Manager) discardExtents(es []pin.Extent) {
	ranges := make([]addrRange, 0, len(es))
	for _, e := range es {
		if n := len(ranges); n > 0 && ranges[n-1].start+ranges[n-1].n == e.Start && m.groupOf(ranges[n-1].start) == m.groupOf(e.Start) {
			ranges[n-1].n += e.Len
			continue
		}
		ranges = append(ranges, addrRange{e.Start, e.Len})
	}
	for _, r := range ranges {
		ev := trace.Event{Kind: trace.Discarded, Bytenr: r.start, N: r.n}
		if err := m.volume.Discard(context.Background(), ondisk.Logical(r.start), r.n); err != nil {
			ev = trace.Event{Kind: trace.Warning, Bytenr: r.start, N: r.n, Note: "discard failed", Err: err}
			if m.failed != nil {
				m.failed(fmt.Errorf("discard %d bytes at logical %d: %w", r.n, r.start, err))
			}
		}
		trace.Emit(m.tracer, ev)
	}
}
