package extbuf

import (
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
// It must be what the parent's pointer says in address, generation, level, first key and owner, so a root, whose pointer
// has no key, is left to scrub.

// repair writes b's block, which judge has passed, over the bad copies, if that is safe. It does not flush: the next
// commit does, and until then the good copy is as good as before. That a repair fails is counted, no more: the block has
// been read.
func (c *Cache) repair(ctx context.Context, b *Buffer, want *Expect, bad []int) {
	if len(bad) == 0 || !want.vouches(b) || c.mayRepair == nil || !c.mayRepair() {
		return
	}
	w, ok := c.io.(CopyWriter)
	if !ok {
		return
	}
	for _, i := range bad {
		err := w.WriteCopy(ctx, b.addr, b.block, i)
		note := fmt.Sprintf("copy %d repaired", i+1)
		if err == nil {
			c.counters.repaired.Add(1)
		} else {
			c.counters.failedRepairs.Add(1)
			note = fmt.Sprintf("copy %d could not be repaired", i+1)
		}
		trace.Emit(c.tracer, trace.Event{Kind: trace.Warning, Root: b.owner.Load(), Bytenr: uint64(b.addr), N: uint64(len(b.block)), Note: note, Err: err})
	}
}

// vouches reports whether a block that is what e promises may be written over its bad copies. Where the tree's blocks may
// be shared the pointer names no owner; then it must be a subvolume's.
func (e *Expect) vouches(b *Buffer) bool {
	if !e.Repair || e.Level == AnyLevel || e.Gen == 0 || e.FirstKey == nil {
		return false
	}
	return e.Owner != 0 || ondisk.TreeID(b.owner.Load()).IsSubvolume()
}
