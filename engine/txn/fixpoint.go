package txn

import (
	"fmt"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// maxPasses bounds the fixpoint. Each pass can only COW what no pass before it has COWed, so the number of passes is
// bounded by the depth of the trees that describe one another; real commits need two to four.
const maxPasses = 64

// fixpoint writes root items, block-group items and device items until no tree has changed since its root item was
// written, no block group since its item was written, and no delayed ref or chunk is waiting.
func (c *commitRun) fixpoint() error {
	db := c.db
	if err := c.cowRootTree(); err != nil {
		return err
	}
	for c.pass = 1; ; c.pass++ {
		if c.pass > maxPasses {
			return fmt.Errorf("internal: the commit's fixpoint did not settle in %d passes", maxPasses)
		}
		if err := db.extents.CreatePendingChunks(c.ctx, c.h); err != nil {
			return err
		}
		roots, err := db.writeRootItems(c)
		if err != nil {
			return err
		}
		if err := db.extents.RunDelayedRefs(c.ctx, c.h, -1); err != nil {
			return err
		}
		groups, err := db.extents.WriteDirtyBlockGroups(c.ctx, c.h)
		if err != nil {
			return err
		}
		if err := db.extents.RunDelayedRefs(c.ctx, c.h, -1); err != nil {
			return err
		}
		if !roots && !groups && !db.rootsDirty() && !db.extents.ChunksPending() && !db.extents.GroupsDirty() && db.extents.DelayedRefs() == 0 {
			break
		}
	}
	db.stats.passes(c.pass)
	return nil
}

// cowRootTree makes sure that the root tree's root is of this generation, as every reader of the super demands, even
// when no root item changes.
func (c *commitRun) cowRootTree() error {
	key := c.db.system[ondisk.ExtentTree].Key
	return c.db.rootTree.Update(c.ctx, c.h, key, func([]byte) error { return nil })
}

// switchRoots moves all commit roots to T at once and fixes T's super (I8); from here on T+1 may start.
func (c *commitRun) switchRoots() error {
	db, t := c.db, c.t
	if n := db.extents.DelayedRefs(); n != 0 {
		return fmt.Errorf("internal: %d delayed refs at Switch (I7)", n)
	}
	if err := c.drain(); err != nil { // it was on its way while the trees were made ready
		return err
	}
	db.treesMu.Lock()
	db.commitRootMu.Lock()
	db.touchMu.Lock()
	for _, r := range db.touched {
		r.Tree.SwitchCommitRoot()
		r.Tree.SetForceCOW(false)
		r.touched = false
	}
	clear(db.touched)
	db.touched = db.touched[:0]
	db.touchMu.Unlock()
	c.fillSuper()
	db.switched.Store(uint64(t.gen))
	// Under the lock, so that nobody takes a commit root from a tree whose references have been given back.
	for _, r := range db.dropped {
		r.Tree.Close()
	}
	db.dropped = nil
	db.commitRootMu.Unlock()
	db.treesMu.Unlock()

	db.mu.Lock()
	t.state = Unblocked
	db.running = nil
	db.committing = t
	db.mu.Unlock()
	close(t.unblocked)
	c.emit(trace.CommitRootsSwitched, 0)
	return nil
}

// fillSuper fixes the super of T. Called with the trees and commit roots locked: T+1 cannot have begun.
func (c *commitRun) fillSuper() {
	db := c.db
	sb := db.super
	sb.SetGeneration(c.t.gen)
	addr, level, _ := db.rootTree.Root()
	sb.SetRoot(addr)
	sb.SetRootLevel(level)
	addr, level, gen := db.chunkTree.Root()
	sb.SetChunkRoot(addr)
	sb.SetChunkRootLevel(level)
	sb.SetChunkRootGeneration(gen)
	sb.SetLogRoot(0)
	sb.SetLogRootLevel(0)
	// A v1 cache is void as soon as the super does not name its generation; btrfs-progs writes the same two values.
	sb.SetCacheGeneration(^uint64(0))
	if db.features.FreeSpaceTree {
		sb.SetCacheGeneration(0)
	}
	if db.roots[ondisk.UUIDTree] != nil {
		sb.SetUUIDTreeGeneration(uint64(c.t.gen))
	}
	db.extents.FillSuper(&sb)
	db.backup(&sb)
	db.super = sb
	c.super = sb
}

// backup rotates the superblock's root backups: the slot behind the newest one takes the roots of this commit.
func (db *DB) backup(sb *ondisk.SuperBlock) {
	next, newest := 0, ondisk.Generation(0)
	for i := range ondisk.NumBackupRoots {
		if g := sb.Backup(i).TreeRootGen(); g > newest && g < sb.Generation() {
			newest, next = g, (i+1)%ondisk.NumBackupRoots
		}
	}
	b := sb.Backup(next)
	clear(b[:])
	b.SetTreeRoot(sb.Root())
	b.SetTreeRootGen(sb.Generation())
	b.SetTreeRootLevel(sb.RootLevel())
	b.SetChunkRoot(sb.ChunkRoot())
	b.SetChunkRootGen(sb.ChunkRootGeneration())
	b.SetChunkRootLevel(sb.ChunkRootLevel())
	at := func(id ondisk.TreeID) (ondisk.Logical, uint8, ondisk.Generation) {
		if r := db.roots[id]; r != nil {
			return r.Item.Bytenr(), r.Item.Level(), r.Item.Generation()
		}
		return 0, 0, 0
	}
	addr, level, gen := at(ondisk.ExtentTree)
	b.SetExtentRoot(addr)
	b.SetExtentRootLevel(level)
	b.SetExtentRootGen(gen)
	addr, level, gen = at(ondisk.FSTree)
	b.SetFSRoot(addr)
	b.SetFSRootLevel(level)
	b.SetFSRootGen(gen)
	addr, level, gen = at(ondisk.DevTree)
	b.SetDevRoot(addr)
	b.SetDevRootLevel(level)
	b.SetDevRootGen(gen)
	addr, level, gen = at(ondisk.CsumTree)
	b.SetCsumRoot(addr)
	b.SetCsumRootLevel(level)
	b.SetCsumRootGen(gen)
	b.SetTotalBytes(sb.TotalBytes())
	b.SetBytesUsed(sb.BytesUsed())
	b.SetNumDevices(sb.NumDevices())
}
