package subvol

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// Incoming is a subvolume that is being made and that nobody sees yet. On disk it looks like a deleted one: no entry, no
// references, and an orphan item, which is why a crash leaves nothing of it behind: whoever opens the file system for
// writing next, the kernel too, drops it. Finish or Keep makes it visible, in one transaction with all that makes it what
// it is; Discard drops it. One of the three must come. It belongs to one goroutine.
type Incoming struct {
	// Tree is where its content is made; it is not to be used any more once the subvolume is finished or kept.
	Tree *inode.FileTree

	m     *Manager
	root  *txn.Root
	place Place
}

// Received is what makes a subvolume the copy of another file system's.
type Received struct {
	UUID     ondisk.UUID       // of the original
	STransID ondisk.Generation // the original's ctransid
}

// incomings are the ids of trees that look deleted and are not, which Clean leaves alone.
type incomings struct {
	mu  sync.Mutex
	ids map[ondisk.TreeID]incomingKind
}

// incomingKind is why a tree without references is none that has been deleted.
type incomingKind uint8

const (
	notIncoming    incomingKind = iota
	underWay                    // an Incoming
	hiddenSnapshot              // a Hidden
)

func (s *incomings) set(id ondisk.TreeID, kind incomingKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[ondisk.TreeID]incomingKind{}
	}
	if kind != notIncoming {
		s.ids[id] = kind
	} else {
		delete(s.ids, id)
	}
}

func (s *incomings) get(id ondisk.TreeID) incomingKind {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[id]
}

// Begin starts a subvolume that shall appear at p: an empty one, or, if source is not 0, with what source holds, for
// which it commits. Errors: those of Create, found now so that the work is not done for nothing.
func (m *Manager) Begin(ctx context.Context, p Place, source ondisk.TreeID) (*Incoming, error) {
	parent, err := m.trees(ctx, p.Tree)
	if err != nil {
		return nil, err
	}
	if parent.ReadOnly() {
		return nil, fmt.Errorf("subvolume %v is read-only: %w", p.Tree, fserr.ErrReadOnly)
	}
	if err := parent.CheckNewEntry(ctx, p.Dir, p.Name); err != nil {
		return nil, err
	}
	id, err := m.db.NextSubvolID()
	if err != nil {
		return nil, err
	}
	m.incoming.set(id, underWay)
	if source == 0 {
		err = m.beginEmpty(ctx, id, parent.Config())
	} else {
		err = m.beginCopy(ctx, id, SnapshotSpec{Source: source, Dest: p})
	}
	var root *txn.Root
	if err == nil {
		root, err = m.db.AnyRoot(ctx, id)
	}
	if err != nil {
		m.incoming.set(id, notIncoming)
		return nil, fmt.Errorf("begin subvolume %s: %w", p.Name, err)
	}
	return &Incoming{Tree: inode.New(parent.Config(), root.Tree), m: m, root: root, place: p}, nil
}

func (m *Manager) beginEmpty(ctx context.Context, id ondisk.TreeID, cfg *inode.Config) error {
	h, err := m.db.Start(ctx, createItems)
	if err != nil {
		return err
	}
	wctx := context.WithoutCancel(ctx)
	item := m.newItem(h)
	hide(item)
	root, err := m.db.NewRoot(wctx, h, id, *item)
	if err == nil {
		err = inode.InitRoot(wctx, h, cfg, root.Tree, inode.Attr{Mode: 0o755})
	}
	if err == nil {
		err = m.db.RootTree().Put(wctx, h, orphanKey(id), nil)
	}
	if err != nil {
		h.Abort(err)
	}
	return errors.Join(err, h.End(ctx))
}

// beginCopy makes a hidden snapshot and commits.
func (m *Manager) beginCopy(ctx context.Context, id ondisk.TreeID, spec SnapshotSpec) error {
	src, err := m.db.Root(ctx, spec.Source)
	if err != nil {
		return err
	}
	h, err := m.db.Start(ctx, createItems)
	if err != nil {
		return err
	}
	op := &pendingSnapshot{m: m, spec: spec, src: src, id: id, hidden: true}
	h.AddPending(op)
	if err := h.EndAndCommit(ctx); err != nil {
		return err
	}
	return op.err
}

// hide makes a root item that of a tree without references.
func hide(it *ondisk.RootItem) {
	it.SetRefs(0)
	it.SetFlags(it.Flags() | ondisk.RootSubvolDead)
}

// Finish makes the subvolume visible, read-only, as received from r. It is durable after the next commit. When it fails
// with an error that is the caller's (fserr.ErrExist, ...), the subvolume is still there to be discarded.
func (in *Incoming) Finish(ctx context.Context, r Received) error {
	return in.publish(ctx, func(h *txn.Handle, it *ondisk.RootItem) {
		it.SetFlags(it.Flags() | ondisk.RootSubvolReadonly)
		it.SetReceivedUUID(r.UUID)
		it.SetSTransID(r.STransID)
		it.SetRTransID(h.Generation())
		it.SetRTime(ondisk.TimeOf(in.m.db.Now()))
	})
}

// Keep makes the subvolume visible as an ordinary one that can be changed.
func (in *Incoming) Keep(ctx context.Context) error {
	return in.publish(ctx, func(*txn.Handle, *ondisk.RootItem) {})
}

// publish gives the subvolume its entry, references and UUIDs and takes its orphan item away, with fn's changes to the
// root item.
func (in *Incoming) publish(ctx context.Context, fn func(*txn.Handle, *ondisk.RootItem)) error {
	parent, err := in.m.trees(ctx, in.place.Tree)
	if err != nil {
		return err
	}
	done, err := parent.Change(in.place.Dir)
	if err != nil {
		return err
	}
	defer done()
	if err := parent.CheckNewEntry(ctx, in.place.Dir, in.place.Name); err != nil {
		return err
	}
	h, err := in.m.db.Start(ctx, createItems+4)
	if err != nil {
		return err
	}
	if err = in.link(context.WithoutCancel(ctx), h, parent, fn); err != nil {
		err = fmt.Errorf("finish subvolume %s: %w", in.place.Name, err)
		h.Abort(err)
	}
	err = errors.Join(err, h.End(ctx))
	in.m.incoming.set(in.root.ID(), notIncoming)
	return err
}

func (in *Incoming) link(ctx context.Context, h *txn.Handle, parent *inode.FileTree, fn func(*txn.Handle, *ondisk.RootItem)) error {
	m, id := in.m, in.root.ID()
	index, err := parent.AddSubvolEntry(ctx, h, in.place.Dir, in.place.Name, id)
	if err != nil {
		return err
	}
	if err := m.addRootRef(ctx, h, in.place, id, index); err != nil {
		return err
	}
	if err := m.db.RootTree().Delete(ctx, h, orphanKey(id)); err != nil {
		return err
	}
	in.root.Update(h, func(it *ondisk.RootItem) {
		it.SetRefs(1)
		it.SetFlags(it.Flags() &^ ondisk.RootSubvolDead)
		fn(h, it)
	})
	it := in.root.Snapshot()
	if err := m.addUUID(ctx, h, it.UUID(), ondisk.UUIDKeySubvol, id); err != nil {
		return err
	}
	return m.addUUID(ctx, h, it.ReceivedUUID(), ondisk.UUIDKeyReceived, id)
}

// Discard drops the subvolume. If it fails, or the process ends first, the next opening for writing does it.
func (in *Incoming) Discard(ctx context.Context) error {
	in.Tree.SetReadOnly(true)
	return in.m.discard(ctx, in.root)
}

func (m *Manager) discard(ctx context.Context, root *txn.Root) error {
	done, err := m.lockDropping(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = Drop(ctx, m.db, root.ID())
	m.incoming.set(root.ID(), notIncoming)
	return err
}
