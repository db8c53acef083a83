package check

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// runBlocks is how many neighbouring tree blocks are read by one request at most.
const runBlocks = 16

// readRuns reads blocks, which are sorted by address, and calls fn for the good ones from several goroutines. With
// report set, what is wrong with a block is a finding and marks it as lost; otherwise it is passed over in silence.
func (c *checker) readRuns(workers []*worker, ids []uint32, report bool, fn leafFunc) error {
	runs := c.runsOf(ids)
	var next atomic.Int64
	return c.parallel(workers, func(w *worker) {
		buf := c.pool.Get(runBlocks * c.nodeSize)
		spare := c.pool.Get(c.nodeSize)
		defer c.pool.Put(buf)
		defer c.pool.Put(spare)
		for c.ctx.Err() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(runs) {
				return
			}
			c.readRun(w, runs[i], buf, spare, report, fn)
		}
	})
}

// runsOf cuts a sorted list where addresses do not follow each other.
func (c *checker) runsOf(ids []uint32) [][]uint32 {
	var runs [][]uint32
	for from := 0; from < len(ids); {
		to := from + 1
		for to < len(ids) && to-from < runBlocks && c.blocks[ids[to]].addr == c.blocks[ids[to-1]].addr+ondisk.Logical(c.nodeSize) {
			to++
		}
		runs = append(runs, ids[from:to])
		from = to
	}
	return runs
}

func (c *checker) readRun(w *worker, ids []uint32, buf, spare []byte, report bool, fn leafFunc) {
	n := len(ids) * c.nodeSize
	whole := c.vol.ReadCopy(c.ctx, c.blocks[ids[0]].addr, buf[:n], 0) == nil
	for i, id := range ids {
		b := ondisk.Block(buf[i*c.nodeSize : (i+1)*c.nodeSize : (i+1)*c.nodeSize])
		if !whole || !c.sb.Checksum().BlockCsumOK(b) || c.headerProblem(id, b) != nil {
			if b = c.readCopies(id, spare, report); b == nil {
				continue
			}
		}
		if err := treecheck.Block(b, c.tc); err != nil {
			if report {
				c.lose(id, classify(err, b), "%v", err)
			}
			continue
		}
		fn(w, id, b)
		if report {
			c.progress.add(uint64(c.nodeSize))
		}
	}
}

// lose reports a block that cannot be used.
func (c *checker) lose(id uint32, f Finding, format string, args ...any) {
	if c.ctx.Err() != nil {
		return
	}
	b := &c.blocks[id]
	b.state = lost
	c.lost.add(b.tree)
	f.Block = b.addr
	if f.Root == 0 {
		f.Root = b.tree
	}
	c.found(f, format, args...)
}

// readCopies tries all copies of a block and returns the first good one, nil if there is none. It reports the copies
// before it, but for those on devices that were not given, or what is wrong with the one that is least wrong.
func (c *checker) readCopies(id uint32, buf []byte, report bool) ondisk.Block {
	addr := c.blocks[id].addr
	copies := c.vol.Copies(addr)
	if copies == 0 {
		if report {
			c.lose(id, Finding{ID: BlockUnmapped}, "no chunk covers address %d", uint64(addr))
		}
		return nil
	}
	b := ondisk.Block(buf[:c.nodeSize])
	var bad []Finding
	var missing error
	worst := func(f Finding) { f.Block, f.Root = addr, c.blocks[id].tree; bad = append(bad, f) }
	for i := range copies {
		if err := c.vol.ReadCopy(c.ctx, addr, b, i); errors.Is(err, volume.ErrMissing) {
			missing = err
			continue
		} else if err != nil {
			worst(Finding{ID: BlockUnreadable, Detail: err.Error()})
			continue
		}
		if !c.sb.Checksum().BlockCsumOK(b) {
			worst(Finding{ID: BlockCsum, Detail: fmt.Sprintf("checksum of copy %d of %d is wrong", i+1, copies)})
			continue
		}
		if f := c.headerProblem(id, b); f != nil {
			worst(*f)
			continue
		}
		if report && c.ctx.Err() == nil {
			for _, f := range bad {
				f.Detail, f.ID = fmt.Sprintf("%s (%s); copy %d is good", f.Detail, f.ID, i+1), BlockCopy
				c.rep.add(f)
			}
		}
		return b
	}
	if report {
		if len(bad) == 0 {
			worst(Finding{ID: BlockUnreadable, Detail: missing.Error()})
		}
		last := bad[len(bad)-1]
		for _, f := range bad { // a copy with a right checksum says the most
			if f.ID != BlockCsum && f.ID != BlockUnreadable {
				last = f
			}
		}
		c.lose(id, Finding{ID: last.ID}, "%s", last.Detail)
	}
	return nil
}

// headerProblem compares a header with what the pointer to the block promised.
func (c *checker) headerProblem(id uint32, b ondisk.Block) *Finding {
	k, h := &c.blocks[id], b.Header()
	switch {
	case h.Bytenr() != k.addr:
		return &Finding{ID: BlockBytenr, Detail: fmt.Sprintf("header says that it is block %d", uint64(h.Bytenr()))}
	case h.FSID() != c.tc.FSID:
		return &Finding{ID: BlockFSID, Detail: fmt.Sprintf("header has file system %s, expect %s", h.FSID(), c.tc.FSID)}
	case h.Level() != k.level:
		return &Finding{ID: BlockLevel, Detail: fmt.Sprintf("header has level %d, the pointer to it says %d", h.Level(), k.level)}
	case k.gen != 0 && h.Generation() != k.gen:
		return &Finding{ID: BlockGeneration, Detail: fmt.Sprintf("header has generation %d, the pointer to it says %d", uint64(h.Generation()), uint64(k.gen))}
	}
	return nil
}

// itemFindings names what treecheck has against an item, by the item's type.
var itemFindings = map[ondisk.ItemType]ID{
	ondisk.InodeItemKey: ItemInode, ondisk.InodeRefKey: ItemInodeRef, ondisk.InodeExtrefKey: ItemInodeRef,
	ondisk.DirItemKey: ItemDir, ondisk.DirIndexKey: ItemDir, ondisk.XattrItemKey: ItemXattr,
	ondisk.ExtentDataKey: ItemFileExtent, ondisk.ExtentCsumKey: ItemCsum,
	ondisk.RootItemKey: ItemRoot, ondisk.RootRefKey: ItemRootRef, ondisk.RootBackrefKey: ItemRootRef,
	ondisk.ExtentItemKey: ItemExtent, ondisk.MetadataItemKey: ItemExtent,
	ondisk.TreeBlockRefKey: ItemBackref, ondisk.SharedBlockRefKey: ItemBackref, ondisk.ExtentDataRefKey: ItemBackref,
	ondisk.SharedDataRefKey: ItemBackref, ondisk.BlockGroupItemKey: ItemBlockGroup,
	ondisk.FreeSpaceInfoKey: ItemFreeSpace, ondisk.FreeSpaceExtentKey: ItemFreeSpace, ondisk.FreeSpaceBitmapKey: ItemFreeSpace,
	ondisk.ChunkItemKey: ItemChunk, ondisk.DevItemKey: ItemDevice, ondisk.DevExtentKey: ItemDevice,
	ondisk.OrphanItemKey: ItemOrphan, ondisk.UUIDKeySubvol: ItemUUID, ondisk.UUIDKeyReceived: ItemUUID,
}

// classify gives what treecheck found its id and coordinates.
func classify(err error, b ondisk.Block) Finding {
	f := Finding{ID: BlockContent}
	bad, ok := err.(*fserr.Corrupt)
	if !ok {
		return f
	}
	if bad.Slot >= 0 {
		f.Slot = bad.Slot + 1
	}
	f.Inode = ondisk.ObjectID(bad.Ino)
	switch {
	case strings.HasPrefix(bad.Msg, "bad key order"):
		f.ID = BlockKeyOrder
	case strings.HasPrefix(bad.Msg, "invalid item end"), strings.HasPrefix(bad.Msg, "slot overlaps"):
		f.ID = BlockLayout
	case strings.HasPrefix(bad.Msg, "invalid previous key objectid"):
		f.ID = InodeMissing
	case strings.HasPrefix(bad.Msg, "invalid nritems"):
		f.ID = BlockItems
	case bad.Slot >= 0 && !b.IsLeaf():
		f.ID = BlockPointer
	case bad.Slot >= 0:
		f.ID = itemFindings[b.Key(bad.Slot).Type]
		if f.ID == "" {
			f.ID = ItemOther
		}
	}
	return f
}
