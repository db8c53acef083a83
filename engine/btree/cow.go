package btree

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// Copy-on-write.
//
// References between blocks (and from leaves to data) are kept in one of two ways. As long as the tree that made a
// block still uses it, what the block points to is referenced "by the tree": one reference per tree, however many of
// the tree's blocks come and go. When a snapshot keeps the block alive after its maker has copied it, what it points
// to gets "full" references, which name the block itself as the parent, and the block's extent is flagged
// FULL_BACKREF. So when a block is copied (facts from the kernel's fs/btrfs/ctree.c, update_ref_for_cow):
//
//	still shared,  maker copies, not full yet   old block: + full references of its children, flag FULL_BACKREF
//	               (the references by tree that the children have are the new copy's from now on)
//	still shared,  anybody else, or full        new copy: + references by this tree
//	not shared,    full                         new copy: + references by this tree; old block: - its full references
//	not shared,    not full                     nothing: the copy inherits the references by tree
//
// and then this tree's reference to the old block is dropped.

// inconsistent marks an error after which references on disk would be wrong.
func inconsistent(err error) error {
	if errors.Is(err, ErrInconsistent) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrInconsistent, err)
}

// mustCOW reports whether b has to be copied before it is changed in generation gen (I4). b is locked.
func (t *Tree) mustCOW(b *extbuf.Buffer, gen ondisk.Generation) bool {
	return b.Generation() != gen || b.Written() || t.forceCOW.Load() ||
		(b.Block().Flags()&ondisk.HeaderFlagReloc != 0 && t.cfg.ID != ondisk.TreeRelocTree)
}

// mayBeShared reports whether another tree may refer to b. A root is never shared, for snapshots copy it, but what
// was the root when the transaction began may have got a parent since and then be shared like any other block.
func (t *Tree) mayBeShared(b *extbuf.Buffer, gen ondisk.Generation) bool {
	if !t.cfg.Shareable || t.root.Load() == b {
		return false
	}
	if b.Generation() > t.LastSnapshot() && b.Block().Flags()&ondisk.HeaderFlagReloc == 0 {
		return false
	}
	return b.Generation() == gen || t.CommitRootBuffer() != b
}

// sharing returns the references to b and its extent flags.
func (t *Tree) sharing(ctx context.Context, tx Txn, b *extbuf.Buffer) (refs, flags uint64, err error) {
	if !t.mayBeShared(b, tx.Generation()) {
		return 1, 0, nil
	}
	refs, flags, err = t.cfg.Alloc.ExtentInfo(ctx, tx, b.Addr(), b.Level())
	if err != nil {
		return 0, 0, fmt.Errorf("references of tree block %d: %w", b.Addr(), err)
	}
	if refs == 0 {
		return 0, 0, fserr.Corruptf("extent", uint64(t.cfg.ID), uint64(b.Addr()),
			"block of the tree has no references in the extent tree; run btrfs check")
	}
	return refs, flags, nil
}

// allocBlock returns a new empty block of the tree, write-locked and referenced.
func (t *Tree) allocBlock(ctx context.Context, tx Txn, level uint8, hint ondisk.Logical, first ondisk.Key) (*extbuf.Buffer, error) {
	addr, err := t.cfg.Alloc.AllocTreeBlock(ctx, tx, AllocReq{Owner: t.cfg.ID, Level: level, Hint: hint, FirstKey: first})
	if err != nil {
		return nil, fmt.Errorf("allocate a block of tree %d: %w", int64(t.cfg.ID), err)
	}
	gen := tx.Generation()
	b := t.cfg.Cache.Alloc(addr, gen, t.cfg.ID, level)
	t.usedDelta.Add(int64(len(b.Block())))
	trace.Emit(t.cfg.Tracer, trace.Event{Kind: trace.BlockAllocated, Gen: uint64(gen), Root: uint64(t.cfg.ID), Bytenr: uint64(addr)})
	return b, nil
}

// dropBlock gives up this tree's reference to b, which is unlinked, and ends with b unlocked and released. last says
// that nobody else refers to it. b stays locked until the cache has forgotten it, since a block that goes back to free
// space at once may be allocated again at once, and its next user waits for the lock; so nothing here takes a lock
// of a tree.
func (t *Tree) dropBlock(ctx context.Context, tx Txn, b *extbuf.Buffer, last bool) error {
	freed, err := t.cfg.Alloc.DropTreeBlock(ctx, tx, DropReq{
		Addr: b.Addr(), Born: b.Generation(), Owner: t.cfg.ID, Level: b.Level(), Written: b.Written(), Last: last,
	})
	t.usedDelta.Add(-int64(len(b.Block())))
	if err == nil && freed {
		t.cfg.Cache.Forget(b)
	}
	b.Unlock()
	b.Release()
	if err != nil {
		return inconsistent(fmt.Errorf("drop block %d of tree %d: %w", b.Addr(), int64(t.cfg.ID), err))
	}
	return nil
}

// cow returns b itself if it may be changed in place, else a copy that has taken its place below parent (nil: as the
// root), with b unlocked and released. b and parent are write-locked, and parent was copied before. On error b is
// still locked and in place, unless the error is ErrInconsistent, when the copy is in place and returned.
func (t *Tree) cow(ctx context.Context, tx Txn, b, parent *extbuf.Buffer, slot int) (*extbuf.Buffer, error) {
	gen := tx.Generation()
	if !t.mustCOW(b, gen) {
		return b, nil
	}
	refs, flags, err := t.sharing(ctx, tx, b)
	if err != nil {
		return b, err
	}
	old := b.Block()
	var first ondisk.Key
	if old.NrItems() > 0 {
		first = old.Key(0)
	}
	c, err := t.allocBlock(ctx, tx, b.Level(), b.Addr(), first)
	if err != nil {
		return b, err
	}
	copyItems(c.Block(), old)
	err = t.moveRefs(ctx, tx, old, c.Block(), refs, flags)
	if parent != nil {
		parent.Block().SetPtr(slot, first, c.Addr(), gen)
	} else {
		t.setRoot(tx, c)
	}
	trace.Emit(t.cfg.Tracer, trace.Event{Kind: trace.BlockCOWed, Gen: uint64(gen), Root: uint64(t.cfg.ID),
		Bytenr: uint64(b.Addr()), N: uint64(c.Addr())})
	if derr := t.dropBlock(ctx, tx, b, refs == 1); err == nil {
		err = derr
	}
	return c, err
}

// copyItems copies what block src holds into dst, an empty block of the same level. What deleted items left behind in
// the space between is not copied.
func copyItems(dst, src ondisk.Block) {
	n := src.NrItems()
	if src.IsLeaf() {
		leafAppend(dst, src, 0, n)
		return
	}
	copy(ptrsAt(dst, 0, n), ptrsAt(src, 0, n))
	dst.SetNrItems(n)
}

// moveRefs does the reference changes of the table at the top.
func (t *Tree) moveRefs(ctx context.Context, tx Txn, old, c ondisk.Block, refs, flags uint64) error {
	h, alloc := old.Header(), t.cfg.Alloc
	full := flags&ondisk.ExtentFlagFullBackref != 0
	var err error
	switch {
	case refs > 1 && h.Owner() == t.cfg.ID && !full:
		err = alloc.ModChildRefs(ctx, tx, t.cfg.ID, old, true, true)
		if err == nil {
			err = alloc.SetBlockFlags(tx, h.Bytenr(), old.Level(), firstKey(old), ondisk.ExtentFlagFullBackref)
		}
	case refs > 1:
		err = alloc.ModChildRefs(ctx, tx, t.cfg.ID, c, true, false)
	case full:
		err = alloc.ModChildRefs(ctx, tx, t.cfg.ID, c, true, false)
		if err == nil {
			err = alloc.ModChildRefs(ctx, tx, t.cfg.ID, old, false, true)
		}
	}
	if err != nil {
		return inconsistent(fmt.Errorf("references of block %d of tree %d: %w", h.Bytenr(), int64(t.cfg.ID), err))
	}
	return nil
}

// firstKey returns the first key of a block, the zero key of an empty one.
func firstKey(b ondisk.Block) ondisk.Key {
	if b.NrItems() == 0 {
		return ondisk.Key{}
	}
	return b.Key(0)
}

// CopyRoot makes the root of a snapshot: the root is copied to a new block of newOwner, and all that it points to gets
// a reference by newOwner. This tree then has LastSnapshot = T and ForceCOW set, before anybody can change it. The
// caller makes the tree with NewSnapshot and releases the result; it is unlocked and dirty.
func (t *Tree) CopyRoot(ctx context.Context, tx Txn, newOwner ondisk.TreeID) (*extbuf.Buffer, error) {
	b, err := t.lockRoot(ctx, true)
	if err != nil {
		return nil, err
	}
	defer func() { b.Unlock(); b.Release() }()
	if b, err = t.cow(ctx, tx, b, nil, 0); err != nil {
		return nil, err
	}
	src, gen := b.Block(), tx.Generation()
	addr, err := t.cfg.Alloc.AllocTreeBlock(ctx, tx, AllocReq{
		Owner: newOwner, Level: b.Level(), Hint: b.Addr(), FirstKey: firstKey(src),
	})
	if err != nil {
		return nil, fmt.Errorf("root of snapshot %d of tree %d: %w", int64(newOwner), int64(t.cfg.ID), err)
	}
	c := t.cfg.Cache.Alloc(addr, gen, newOwner, b.Level())
	copyItems(c.Block(), src)
	t.lastSnapshot.Store(uint64(gen))
	t.forceCOW.Store(true)
	err = t.cfg.Alloc.ModChildRefs(ctx, tx, newOwner, c.Block(), true, false)
	c.Unlock()
	if err != nil {
		c.Release()
		return nil, inconsistent(fmt.Errorf("references of snapshot %d: %w", int64(newOwner), err))
	}
	return c, nil
}
