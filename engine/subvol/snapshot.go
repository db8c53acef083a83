package subvol

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/txn"
)

// SnapshotSpec asks for one snapshot.
type SnapshotSpec struct {
	Source   ondisk.TreeID
	Dest     Place
	Readonly bool
}

// Snapshot takes one snapshot, commits, and returns its id: it is durable.
func (m *Manager) Snapshot(ctx context.Context, s SnapshotSpec) (ondisk.TreeID, error) {
	ids, err := m.Snapshots(ctx, []SnapshotSpec{s})
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// Snapshots takes several snapshots in one commit, in the order given: each is its source as it is at that point of
// the commit, with the entries of those before it if they lie inside it. Errors: EEXIST, ENOENT, ENOSPC, EROFS for a
// read-only destination. If one fails by itself the others are still made; the error joins all failures and the failed
// ones have id 0.
func (m *Manager) Snapshots(ctx context.Context, specs []SnapshotSpec) ([]ondisk.TreeID, error) {
	unlock, err := m.lockDirs(ctx, specs)
	if err != nil {
		return nil, err
	}
	defer unlock()
	ops := make([]*pendingSnapshot, len(specs))
	for i, s := range specs {
		if ops[i], err = m.prepare(ctx, s); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", s.Dest.Name, err)
		}
	}
	h, err := m.db.Start(ctx, createItems*len(specs))
	if err != nil {
		return nil, err
	}
	for _, op := range ops {
		h.AddPending(op)
	}
	if err := h.EndAndCommit(ctx); err != nil {
		return nil, err
	}
	ids, errs := make([]ondisk.TreeID, len(ops)), []error(nil)
	for i, op := range ops {
		if op.err != nil {
			errs = append(errs, fmt.Errorf("snapshot %s: %w", op.spec.Dest.Name, op.err))
		} else {
			ids[i] = op.id
		}
	}
	return ids, errors.Join(errs...)
}

// maxDirs is how many inodes of one tree can be locked at a time.
const maxDirs = 6

// lockDirs locks the directories of all destinations, so that names checked now are still free in the commit.
func (m *Manager) lockDirs(ctx context.Context, specs []SnapshotSpec) (func(), error) {
	dirs := map[ondisk.TreeID][]ondisk.ObjectID{}
	for _, s := range specs {
		dirs[s.Dest.Tree] = append(dirs[s.Dest.Tree], s.Dest.Dir)
	}
	var unlocks []func()
	unlock := func() {
		for i := len(unlocks) - 1; i >= 0; i-- {
			unlocks[i]()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(dirs)) { // trees ascending, as the lock order has it
		slices.Sort(dirs[id])
		dirs[id] = slices.Compact(dirs[id])
		t, err := m.trees(ctx, id)
		if err == nil && len(dirs[id]) > maxDirs {
			err = fmt.Errorf("snapshots into %d directories of one subvolume in one commit, at most %d are possible: %w", len(dirs[id]), maxDirs, fserr.ErrInvalid)
		}
		var done func()
		if err == nil {
			done, err = t.Change(dirs[id]...)
		}
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, done)
	}
	return unlock, nil
}

// prepare checks what can be checked before the commit, and takes the id.
func (m *Manager) prepare(ctx context.Context, s SnapshotSpec) (*pendingSnapshot, error) {
	dest, err := m.trees(ctx, s.Dest.Tree)
	if err != nil {
		return nil, err
	}
	if err := dest.CheckNewEntry(ctx, s.Dest.Dir, s.Dest.Name); err != nil {
		return nil, err
	}
	if !s.Source.IsSubvolume() {
		return nil, fmt.Errorf("tree %v is no subvolume: %w", s.Source, fserr.ErrInvalid)
	}
	src, err := m.db.Root(ctx, s.Source)
	if err != nil {
		return nil, err
	}
	id, err := m.db.NextSubvolID()
	if err != nil {
		return nil, err
	}
	return &pendingSnapshot{m: m, spec: s, src: src, dest: dest, id: id}, nil
}

// pendingSnapshot is a snapshot waiting for the commit. err is its own failure, valid once the commit is done.
type pendingSnapshot struct {
	m    *Manager
	spec SnapshotSpec
	src  *txn.Root
	dest *inode.FileTree
	id   ondisk.TreeID
	err  error
	// hidden makes it an Incoming or Hidden: no entry (dest is not set), no references, no UUID items, and an orphan item.
	hidden bool
}

// Apply makes the snapshot, in COMMIT_DOING: no writer is left, and the commit's own handle changes the trees.
func (p *pendingSnapshot) Apply(ctx context.Context, h *txn.Handle) error {
	if !p.hidden {
		if err := p.dest.CheckNewEntry(ctx, p.spec.Dest.Dir, p.spec.Dest.Name); err != nil {
			p.err = err // two pending ones of one name: the first has it
			return nil
		}
	}
	if it := p.src.Snapshot(); it.Refs() == 0 {
		p.err = fmt.Errorf("the source was deleted: %w", fserr.ErrNotFound)
		return nil
	}
	addr, err := p.copyRoot(ctx, h)
	if err != nil {
		return fmt.Errorf("snapshot %s of %d: %w", p.spec.Dest.Name, p.spec.Source, err)
	}
	if !p.hidden {
		if err := p.link(ctx, h); err != nil {
			return err
		}
	}
	trace.Emit(p.m.db.Tracer(), trace.Event{Kind: trace.PendingOpApplied, Gen: uint64(h.Generation()), Root: uint64(p.id),
		Bytenr: uint64(addr), Note: p.spec.Dest.Name})
	return nil
}

// link makes the snapshot's entry and the references that belong to it.
func (p *pendingSnapshot) link(ctx context.Context, h *txn.Handle) error {
	index, err := p.dest.AddSubvolEntry(ctx, h, p.spec.Dest.Dir, p.spec.Dest.Name, p.id)
	if err != nil {
		return err
	}
	return p.m.addRootRef(ctx, h, p.spec.Dest, p.id, index)
}

// copyRoot copies the source's root block under the new id and inserts the ROOT_ITEM. From here on every block of the
// source may be shared: last_snapshot says so for what was born up to now, force-COW for what this transaction writes
// from now on.
func (p *pendingSnapshot) copyRoot(ctx context.Context, h *txn.Handle) (ondisk.Logical, error) {
	src, gen := p.src, h.Generation()
	var addr ondisk.Logical
	var level uint8
	err := src.Quietly(func() error {
		src.Tree.SetLastSnapshot(gen)
		buf, err := src.Tree.CopyRoot(ctx, h, p.id)
		if err != nil {
			return err
		}
		defer buf.Release()
		addr, level = buf.Addr(), buf.Level()
		src.Tree.SetForceCOW(true)
		return nil
	})
	if err != nil {
		return 0, err
	}
	src.Update(h, func(it *ondisk.RootItem) { it.SetLastSnapshot(gen) })
	item := p.item(h, addr, level)
	key := ondisk.Key{ObjectID: ondisk.ObjectID(p.id), Type: ondisk.RootItemKey, Offset: uint64(gen)}
	if err := p.m.db.RootTree().Insert(ctx, h, key, item[:]); err != nil {
		return 0, err
	}
	if p.hidden {
		return addr, p.m.db.RootTree().Put(ctx, h, orphanKey(p.id), nil)
	}
	if err := p.m.addUUID(ctx, h, item.UUID(), ondisk.UUIDKeySubvol, p.id); err != nil {
		return 0, err
	}
	return addr, p.m.addUUID(ctx, h, item.ReceivedUUID(), ondisk.UUIDKeyReceived, p.id)
}

// item is the snapshot's ROOT_ITEM: the source's, with an identity of its own. A writable snapshot is no longer what
// was received.
func (p *pendingSnapshot) item(h *txn.Handle, addr ondisk.Logical, level uint8) *ondisk.RootItem {
	gen := h.Generation()
	it := p.src.Snapshot()
	it.SetParentUUID(it.UUID())
	it.SetUUID(ondisk.NewUUID())
	it.SetBytenr(addr)
	it.SetLevel(level)
	it.SetGeneration(gen)
	it.SetGenerationV2(gen)
	it.SetLastSnapshot(gen)
	it.SetRefs(1)
	flags := it.Flags() &^ (ondisk.RootSubvolReadonly | ondisk.RootSubvolDead)
	if p.spec.Readonly {
		flags |= ondisk.RootSubvolReadonly
	} else {
		forgetReceived(&it)
	}
	it.SetFlags(flags)
	it.SetDropProgress(ondisk.Key{})
	it.SetDropLevel(0)
	it.SetOTransID(gen)
	it.SetOTime(ondisk.TimeOf(p.m.db.Now()))
	if p.hidden {
		hide(&it)
	}
	return &it
}
