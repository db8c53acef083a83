package extent

import (
	"context"
	"fmt"
	"slices"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/pin"
)

// maxFreeNotes is how many ranges may wait for the free-space tree before a run of delayed refs applies them.
const maxFreeNotes = 1 << 16

// RunDelayedRefs writes up to max heads of delayed refs into the extent tree; with max < 0 it goes on until nothing is
// pending, the free-space tree included. Several goroutines may run at once. The context is looked at between heads;
// any other error leaves the extent tree in between: abort. The caller holds no tree-block lock.
func (m *Manager) RunDelayedRefs(ctx context.Context, tx btree.Txn, max int) error {
	set := m.refs.Load()
	a := applier{m, context.WithoutCancel(ctx), tx, new(extentItem), new([]byte)}
	if max >= 0 {
		if _, err := set.Run(ctx, a, max); err != nil {
			return err
		}
		if m.spaces[kindData].notes.Load()+m.spaces[kindMetadata].notes.Load() < maxFreeNotes {
			return nil
		}
		_, err := m.flushFreeSpace(a.ctx, tx)
		return err
	}
	for {
		if _, err := set.Run(ctx, a, -1); err != nil {
			return err
		}
		// Changing the free-space tree COWs blocks of it, and so queues refs; each block once in a transaction.
		if more, err := m.flushFreeSpace(a.ctx, tx); err != nil {
			return err
		} else if !more && set.Empty() {
			return nil
		}
	}
}

// applier is the delayedref.Applier of one call of RunDelayedRefs. Its context does not end, since half a head on disk
// would be worse than waiting for it.
type applier struct {
	m    *Manager
	ctx  context.Context
	tx   btree.Txn
	item *extentItem // memory for one item at a time: a commit changes hundreds of thousands
	buf  *[]byte     // the same, encoded
}

// Apply implements delayedref.Applier. The head belongs to us alone, and with it the extent's items.
func (a applier) Apply(h *delayedref.Head) error {
	g := a.m.groupOf(h.Bytenr)
	if g == nil || !g.holds(h.Bytenr, h.NumBytes) {
		return corruptExtent(ondisk.ObjectID(h.Bytenr), "%d bytes lie in no block group", h.NumBytes)
	}
	if err := a.m.loaded(a.ctx, g); err != nil {
		return err
	}
	refs := h.Refs()
	switch {
	case h.MustInsert && len(refs) == 0:
		return a.abandon(g, h)
	case h.MustInsert:
		return a.insert(g, h, refs)
	}
	return a.update(g, h, refs)
}

// abandon pins an extent that was born and dropped in this transaction before it had an item. Data has been written to
// it, or a tree block before the commit: it is not reused before the super is durable (I2).
func (a applier) abandon(g *group, h *delayedref.Head) error {
	if err := g.abandoned(h.Bytenr, h.NumBytes); err != nil {
		return err
	}
	gen := uint64(a.tx.Generation())
	if err := a.pin(g, h, gen); err != nil {
		return err
	}
	if h.IsData {
		return a.m.deleteCsums(a.ctx, a.tx, h.Bytenr, h.NumBytes)
	}
	return nil
}

// insert writes the item of a new extent, with all its references.
func (a applier) insert(g *group, h *delayedref.Head, refs []delayedref.RefCount) error {
	e := a.item
	*e = extentItem{gen: a.tx.Generation(), flags: ondisk.ExtentFlagData, refsV: e.refsV[:0]}
	key := ondisk.Key{ObjectID: ondisk.ObjectID(h.Bytenr), Type: ondisk.ExtentItemKey, Offset: h.NumBytes}
	if !h.IsData {
		key = a.m.blockKeys(h.Bytenr, h.Level)[0]
		e.flags = ondisk.ExtentFlagTreeBlock
		if !a.m.skinny {
			e.info = make([]byte, ondisk.TreeBlockInfoSize)
			ondisk.AsTreeBlockInfo(e.info).SetLevel(h.Level)
		}
	}
	e.applyOp(h.Op)
	keyed, err := e.change(key.ObjectID, refs, maxExtentItem(int(a.m.nodesize)))
	if err != nil {
		return err
	}
	*a.buf = e.append(*a.buf)
	if err := a.m.trees.Extent().Insert(a.ctx, a.tx, key, *a.buf); err != nil {
		return fmt.Errorf("insert %v: %w", key, err)
	}
	if err := a.changeKeyed(key.ObjectID, keyed); err != nil {
		return err
	}
	if err := g.inserted(h.Bytenr, h.NumBytes); err != nil {
		return err
	}
	a.m.markDirty(g)
	return nil
}

// update changes the item of an extent that has one, and deletes it with the last reference.
func (a applier) update(g *group, h *delayedref.Head, refs []delayedref.RefCount) error {
	keys := []ondisk.Key{{ObjectID: ondisk.ObjectID(h.Bytenr), Type: ondisk.ExtentItemKey, Offset: h.NumBytes}}
	if !h.IsData {
		keys = a.m.blockKeys(h.Bytenr, h.Level)
	}
	for _, k := range keys {
		r, err := a.modify(k, h, refs)
		if err != nil {
			return err
		}
		if !r.found {
			continue
		}
		if err := a.changeKeyed(k.ObjectID, r.keyed); err != nil {
			return err
		}
		if r.refs > 0 {
			return nil
		}
		return a.free(g, h, r.gen)
	}
	return corruptExtent(ondisk.ObjectID(h.Bytenr), "no extent item for %v", h)
}

// modified is what became of an extent item.
type modified struct {
	found bool
	refs  uint64
	gen   ondisk.Generation
	keyed []delayedref.RefCount
}

// modify changes one extent item in one descent. The function given to the tree may run more than once.
func (a applier) modify(k ondisk.Key, h *delayedref.Head, refs []delayedref.RefCount) (r modified, err error) {
	want := ondisk.ExtentFlagTreeBlock
	if h.IsData {
		want = ondisk.ExtentFlagData
	}
	err = a.m.trees.Extent().Modify(a.ctx, a.tx, k, func(old []byte) ([]byte, error) {
		r = modified{}
		if old == nil {
			return nil, nil
		}
		e := a.item
		if err := e.parse(old, k); err != nil {
			return nil, err
		}
		if e.flags&want == 0 {
			return nil, corruptExtent(k.ObjectID, "flags %#x do not fit %v", e.flags, h)
		}
		keyed, err := e.change(k.ObjectID, refs, maxExtentItem(int(a.m.nodesize)))
		if err != nil {
			return nil, err
		}
		r = modified{true, e.refs, e.gen, keyed}
		if e.refs == 0 {
			return nil, nil
		}
		e.applyOp(h.Op)
		*a.buf = e.append(*a.buf)
		return *a.buf, nil
	})
	if err != nil {
		return r, fmt.Errorf("change %v: %w", k, err)
	}
	return r, nil
}

// applyOp changes flags, and the key where the item has room for one.
func (e *extentItem) applyOp(op *delayedref.ExtentOp) {
	if op == nil {
		return
	}
	if op.UpdateFlags {
		e.flags |= op.Flags
	}
	if op.UpdateKey && e.info != nil {
		ondisk.AsTreeBlockInfo(e.info).SetKey(ondisk.Key{
			ObjectID: ondisk.ObjectID(op.Key.Objectid), Type: ondisk.ItemType(op.Key.Type), Offset: op.Key.Offset})
	}
}

// free is the end of an extent whose item is gone.
func (a applier) free(g *group, h *delayedref.Head, born ondisk.Generation) error {
	if err := g.deleted(h.Bytenr, h.NumBytes); err != nil {
		return err
	}
	a.m.markDirty(g)
	if h.Born != 0 {
		born = min(born, ondisk.Generation(h.Born))
	}
	if err := a.pin(g, h, uint64(born)); err != nil {
		return err
	}
	if h.IsData {
		return a.m.deleteCsums(a.ctx, a.tx, h.Bytenr, h.NumBytes)
	}
	return nil
}

func (a applier) pin(g *group, h *delayedref.Head, born uint64) error {
	died := uint64(a.tx.Generation())
	if born > died {
		return corruptExtent(ondisk.ObjectID(h.Bytenr), "generation %d, the running one is %d", born, died)
	}
	err := a.m.pin.Pin(pin.Extent{Start: h.Bytenr, Len: h.NumBytes, Born: born, Died: died, BG: g.start, Kind: uint8(g.space.kind)})
	if err == nil && a.m.tracer != nil {
		a.m.tracer.Trace(trace.Event{Kind: trace.ExtentPinned, Gen: died, Bytenr: h.Bytenr, N: h.NumBytes})
	}
	return err
}

// changeKeyed applies reference changes to items of their own, one descent each.
func (a applier) changeKeyed(addr ondisk.ObjectID, refs []delayedref.RefCount) error {
	for _, r := range refs {
		k, err := a.keyedKey(addr, r.Ref)
		if err != nil {
			return err
		}
		err = a.m.trees.Extent().Modify(a.ctx, a.tx, k, func(old []byte) ([]byte, error) { return changeKeyedItem(k, old, r) })
		if err != nil {
			return fmt.Errorf("change %v: %w", k, err)
		}
	}
	return nil
}

// changeKeyedItem returns the new content of a keyed ref item, nil when its last reference goes. Tree refs have no
// content: an item that is there counts one.
func changeKeyedItem(k ondisk.Key, old []byte, r delayedref.RefCount) ([]byte, error) {
	count, at, size := int64(0), 0, 0
	switch r.Kind {
	case delayedref.ExtentData:
		at, size = ondisk.ExtentDataRefSize-ondisk.SharedDataRefSize, ondisk.ExtentDataRefSize
	case delayedref.SharedData:
		size = ondisk.SharedDataRefSize
	}
	switch {
	case old != nil && len(old) != size:
		return nil, corruptExtent(k.ObjectID, "%v of %d bytes", k, len(old))
	case old != nil && size == 0:
		count = 1
	case old != nil:
		count = int64(ondisk.AsSharedDataRef(old[at:]).Count())
	}
	n := count + int64(r.Count)
	if n < 0 || n > 1 && size == 0 || n > 1<<32-1 {
		return nil, corruptExtent(k.ObjectID, "%v has count %d, cannot change by %d", k, count, r.Count)
	}
	if n == 0 {
		return nil, nil
	}
	b := slices.Clone(old)
	if b == nil {
		b = make([]byte, size)
	}
	switch r.Kind {
	case delayedref.ExtentData:
		putDataRef(b, r.Ref, uint32(n))
	case delayedref.SharedData:
		ondisk.AsSharedDataRef(b).SetCount(uint32(n))
	}
	return b, nil
}

// maxCollisions is how far behind its hash a colliding EXTENT_DATA_REF may stand.
const maxCollisions = 1 << 10

// keyedKey returns the key of a keyed ref item: the one that exists, or the one to insert. EXTENT_DATA_REFs whose
// hashes collide stand at the next free offsets; others of them may have gone since, so gaps are looked across.
func (a applier) keyedKey(addr ondisk.ObjectID, r delayedref.Ref) (ondisk.Key, error) {
	k := ondisk.Key{ObjectID: addr, Type: refType(r.Kind), Offset: order(r)}
	if r.Kind != delayedref.ExtentData {
		return k, nil
	}
	free, found := k, false
	end := ondisk.Key{ObjectID: addr, Type: k.Type, Offset: k.Offset + maxCollisions}
	err := a.m.trees.Extent().Scan(a.ctx, k, end, func(at ondisk.Key, item []byte) (bool, error) {
		if len(item) < ondisk.ExtentDataRefSize {
			return false, corruptExtent(addr, "%v of %d bytes", at, len(item))
		}
		d := ondisk.AsExtentDataRef(item)
		if uint64(d.Root()) == r.Root && uint64(d.ObjectID()) == r.Objectid && d.Offset() == r.Offset {
			k, found = at, true
			return false, nil
		}
		if at == free {
			free.Offset++
		}
		return true, nil
	})
	if err != nil || found {
		return k, err
	}
	return free, nil
}
