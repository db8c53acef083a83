package extbuf

import (
	"bytes"
	"context"
	"fmt"

	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Repair on read.
//
// A copy that cannot be read, or is not what the pointer promises, is written over with one that is. The danger is the
// address: when its block has been dropped and the transaction that dropped it is durable, the address may be another
// block's, and good bytes of the past would destroy it. So nothing is repaired unless the caller says that the address
// stays (Expect.Repair): the blocks of a commit root stay while a ticket of package pin sees them, and a block of a
// living tree stays while the lock of its parent is held, since whoever drops it changes the parent. What merely reads
// ahead, or reads commit roots by other means, repairs nothing.
//
// Nor is the good copy good because its checksum is: a write that was lost leaves an old block with a right checksum.
// It must be what the parent's pointer says in address, generation, level, first key and owner. A root's pointer, in a
// root item or the superblock, has no key; there the block must be the tree's own. A block is written once, so another one
// of the same generation, level and owner has been at its address only if a transaction was lost in a crash and the next one
// of its number put the same kind of block there, of which this copy never got to the disk: the format cannot tell, with a
// key or without, and a reader that repairs nothing takes it as well.
//
// While a file system is being opened nothing may be written yet, since what is read may still lead to a refusal; but the
// roots of most trees, and all of the chunk tree, are read just then and stay in memory. What has to be repaired there is
// remembered (owed), and done when the file system has been found fit to be written to, before its first transaction: until
// then no address can be re-used.

// maxOwed bounds what is remembered, in blocks.
const maxOwed = 256

// owed is a repair that has to wait.
type owed struct {
	addr  ondisk.Logical
	owner uint64
	block ondisk.Block // a copy of its own
	bad   []int
}

// repair writes b's block, which judge has passed, over the bad copies, if that is safe. It does not flush: the next
// commit does, and until then the good copy is as good as before. That a repair fails is counted, no more: the block has
// been read.
func (c *Cache) repair(ctx context.Context, b *Buffer, want *Expect, bad []int) {
	if len(bad) == 0 || !want.vouches(b) || c.mayRepair == nil {
		return
	}
	if c.mayRepair() {
		c.writeBad(ctx, owed{b.addr, b.owner.Load(), b.block, bad})
		return
	}
	c.owed.Lock()
	defer c.owed.Unlock()
	if c.owed.until && len(c.owed.list) < maxOwed {
		c.owed.list = append(c.owed.list, owed{b.addr, b.owner.Load(), bytes.Clone(b.block), bad})
	}
}

// RepairOwed repairs what was read before it was allowed to, see Options.OweRepairs; from now on nothing is remembered. The
// caller has seen to it that no transaction has begun.
func (c *Cache) RepairOwed(ctx context.Context) {
	c.owed.Lock()
	list := c.owed.list
	c.owed.list, c.owed.until = nil, false
	c.owed.Unlock()
	for _, o := range list {
		if c.mayRepair() {
			c.writeBad(ctx, o)
		}
	}
}

// writeBad writes a block over its bad copies.
func (c *Cache) writeBad(ctx context.Context, o owed) {
	w, ok := c.io.(CopyWriter)
	if !ok {
		return
	}
	for _, i := range o.bad {
		err := w.WriteCopy(ctx, o.addr, o.block, i)
		note := fmt.Sprintf("copy %d repaired", i+1)
		if err == nil {
			c.counters.repaired.Add(1)
		} else {
			c.counters.failedRepairs.Add(1)
			note = fmt.Sprintf("copy %d could not be repaired", i+1)
		}
		trace.Emit(c.tracer, trace.Event{Kind: trace.Warning, Root: o.owner, Bytenr: uint64(o.addr), N: uint64(len(o.block)), Note: note, Err: err})
	}
}

// vouches reports whether a block that is what e promises may be written over its bad copies. Where the tree's blocks may
// be shared the pointer names no owner; then it must be a subvolume's.
func (e *Expect) vouches(b *Buffer) bool {
	owner := ondisk.TreeID(b.owner.Load())
	switch {
	case !e.Repair || e.Level == AnyLevel || e.Gen == 0:
		return false
	case e.FirstKey == nil:
		return e.RootOf != 0 && owner == e.RootOf
	}
	return e.Owner != 0 || owner.IsSubvolume()
}
