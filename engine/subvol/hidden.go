package subvol

import (
	"context"
	"fmt"

	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// Hidden is a read-only snapshot that nobody sees, for a send of a writable subvolume. On disk it is an Incoming: no
// entry, no references, an orphan item. So a crash makes it a deleted one, which the next opening for writing drops.
// Discard must come.
type Hidden struct {
	m    *Manager
	root *txn.Root
}

// SnapshotHidden takes a hidden snapshot of source and commits. Readable returns its root, and BeginSend counts sends of
// it, as if it were in the tree.
func (m *Manager) SnapshotHidden(ctx context.Context, source ondisk.TreeID) (*Hidden, error) {
	id, err := m.db.NextSubvolID()
	if err != nil {
		return nil, err
	}
	m.incoming.set(id, hiddenSnapshot)
	if err = m.beginCopy(ctx, id, SnapshotSpec{Source: source, Readonly: true}); err == nil {
		var root *txn.Root
		if root, err = m.db.AnyRoot(ctx, id); err == nil {
			return &Hidden{m, root}, nil
		}
	}
	m.incoming.set(id, notIncoming)
	return nil, fmt.Errorf("snapshot of subvolume %d: %w", source, err)
}

// ID returns the snapshot's id.
func (s *Hidden) ID() ondisk.TreeID { return s.root.ID() }

// Discard drops the snapshot, which no send reads any more. If it fails, or the process ends first, the next opening for
// writing does it.
func (s *Hidden) Discard(ctx context.Context) error {
	sendable, err := s.m.sends.close(s.ID(), "dropped")
	if err != nil {
		return err
	}
	defer sendable()
	return s.m.discard(ctx, s.root)
}

// Readable returns the root of a subvolume that is there to be read: one in the tree of subvolumes, or a hidden snapshot.
func (m *Manager) Readable(ctx context.Context, id ondisk.TreeID) (*txn.Root, error) {
	if m.IsHidden(id) {
		return m.db.AnyRoot(ctx, id)
	}
	return m.db.Root(ctx, id)
}

// IsHidden reports whether a tree is a hidden snapshot.
func (m *Manager) IsHidden(id ondisk.TreeID) bool { return m.incoming.get(id) == hiddenSnapshot }
