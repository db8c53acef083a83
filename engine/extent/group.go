package extent

import (
	"fmt"
	"sync"
	"sync/atomic"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/freespace"
)

// addrRange is a range of logical addresses, in bytes.
type addrRange struct{ start, n uint64 }

// group is one block group.
type group struct {
	start, length uint64
	flags         uint64 // type and profile
	space         *space
	superStripes  []addrRange // what superblock copies occupy; merged, ascending
	super         uint64      // bytes of them

	cursor atomic.Uint64 // behind the last allocation here

	loadMu sync.Mutex
	index  atomic.Pointer[freespace.Index] // nil until loaded; stored once

	mu       sync.Mutex
	used     uint64           // bytes of extents in the extent tree
	reserved uint64           // bytes allocated whose extent item is not written yet
	pinned   uint64           // bytes freed and not given back by package pin
	itemUsed uint64           // used, as the block-group item on disk says
	created  bool             // the block-group item exists
	readOnly bool             // being removed: nothing is allocated here any more
	freed    map[uint64]int64 // notes for the free-space tree: start -> +bytes (freed), -bytes (taken)

	fstMu sync.Mutex
	fst   fstState // under fstMu once loaded
}

func (g *group) end() uint64 { return g.start + g.length }

func (g *group) holds(addr, n uint64) bool {
	return addr >= g.start && n <= g.length && addr-g.start <= g.length-n
}

func (g *group) String() string {
	return fmt.Sprintf("%s block group %d+%d", ondisk.BGTypeName(g.flags), g.start, g.length)
}

// check asserts I5. Called with mu held, after every change. A violation is a mistake of the engine or a lie of the
// disk that went unnoticed at load: the transaction has to be aborted.
func (g *group) check() error {
	x := g.index.Load()
	if x == nil {
		return fmt.Errorf("internal: %v is used before it is loaded", g)
	}
	free := x.Free()
	if g.used+free+g.pinned+g.reserved+g.super != g.length {
		return fmt.Errorf("internal: %v: used %d + free %d + pinned %d + reserved %d + super %d != size %d (I5)",
			g, g.used, free, g.pinned, g.reserved, g.super, g.length)
	}
	return nil
}

// takeUpTo allocates between least and most contiguous bytes; ok is false when there is no such range, or the group
// is being removed. align as freespace.Index.Alloc has it, with least == most.
func (g *group) takeUpTo(least, most, align, hint uint64) (addr, n uint64, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readOnly {
		return 0, 0, false, nil
	}
	x := g.index.Load()
	if least == most {
		addr, ok = x.Alloc(most, align, hint)
		n = most
	} else {
		addr, n, ok = x.AllocUpTo(least, most, hint)
	}
	if !ok {
		return 0, 0, false, nil
	}
	g.reserved += n
	g.space.reserved.Add(int64(n))
	g.cursor.Store(addr + n)
	return addr, n, true, g.check()
}

// giveBack returns reserved bytes that nothing has ever referred to, or whose only block was never written (I2).
func (g *group) giveBack(addr, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.reserved {
		return fmt.Errorf("internal: %v: giving back %d bytes at %d, only %d are reserved", g, n, addr, g.reserved)
	}
	if err := g.index.Load().Add(addr, n); err != nil {
		return err
	}
	g.reserved -= n
	g.space.reserved.Add(-int64(n))
	return g.check()
}

// inserted turns reserved bytes into used ones: their extent item has been written.
func (g *group) inserted(addr, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.reserved {
		return fmt.Errorf("internal: %v: extent item of %d bytes at %d, only %d are reserved", g, n, addr, g.reserved)
	}
	g.reserved -= n
	g.used += n
	g.space.reserved.Add(-int64(n))
	g.space.used.Add(int64(n))
	g.note(addr, -int64(n))
	return g.check()
}

// deleted turns used bytes into pinned ones: their extent item is gone.
func (g *group) deleted(addr, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.used {
		return fserr.Corruptf("block group", uint64(ondisk.ExtentTree), g.start, "used %d, but an extent of %d bytes is freed at %d", g.used, n, addr)
	}
	g.used -= n
	g.pinned += n
	g.space.used.Add(-int64(n))
	g.space.pinned.Add(int64(n))
	g.note(addr, int64(n))
	return g.check()
}

// abandoned turns reserved bytes into pinned ones: written, but their extent item never was.
func (g *group) abandoned(addr, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.reserved {
		return fmt.Errorf("internal: %v: pinning %d new bytes at %d, only %d are reserved", g, n, addr, g.reserved)
	}
	g.reserved -= n
	g.pinned += n
	g.space.reserved.Add(-int64(n))
	g.space.pinned.Add(int64(n))
	return g.check()
}

// unpinned makes pinned bytes free.
func (g *group) unpinned(addr, n uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n > g.pinned {
		return fmt.Errorf("internal: %v: unpinning %d bytes at %d, only %d are pinned", g, n, addr, g.pinned)
	}
	if err := g.index.Load().Add(addr, n); err != nil {
		return err
	}
	g.pinned -= n
	g.space.pinned.Add(-int64(n))
	return g.check()
}

// note remembers a change for the free-space tree. An extent that was inserted and deleted again before the notes were
// applied leaves none. Called with mu held.
func (g *group) note(addr uint64, n int64) {
	if g.freed == nil {
		g.freed = map[uint64]int64{}
	}
	before := len(g.freed)
	if g.freed[addr] += n; g.freed[addr] == 0 {
		delete(g.freed, addr)
	}
	g.space.notes.Add(int64(len(g.freed) - before))
}

// empty reports that every byte is free: the group can be removed. Called with mu held.
func (g *group) empty() bool {
	return g.used == 0 && g.reserved == 0 && g.pinned == 0 && len(g.freed) == 0
}
