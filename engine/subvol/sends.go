package subvol

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// sends knows which subvolumes are being sent, and which are about to change so that no send may begin.
//
//	nothing    BeginSend -> sent;  close -> closing
//	sent       by name, any number; close is refused
//	closing    BeginSend is refused
//
// mu is a leaf but for the root item's lock, which is taken under it: the read-only check and the count are one step.
type sends struct {
	mu      sync.Mutex
	sent    map[ondisk.TreeID][]string
	closing map[ondisk.TreeID]int
}

// close keeps sends of a subvolume from beginning until done is called. fserr.ErrPerm, naming the sends, if there are any.
func (s *sends) close(id ondisk.TreeID, what string) (done func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if names := s.sent[id]; len(names) > 0 {
		return nil, fmt.Errorf("subvolume %d cannot be %s while %s reads it, wait until that is done: %w",
			id, what, strings.Join(names, ", "), fserr.ErrPerm)
	}
	if s.closing == nil {
		s.closing = map[ondisk.TreeID]int{}
	}
	s.closing[id]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closing[id]--; s.closing[id] == 0 {
			delete(s.closing, id)
		}
	}, nil
}

// BeginSend counts a send, called name in messages, on read-only subvolumes: the one that is sent, its parent, and those
// that may be cloned from. Until done is called they can neither be deleted nor made writable. Errors: fserr.ErrPerm for
// a subvolume that is not read-only, fserr.ErrNotFound for one that is not there or is being deleted; then none is
// counted.
func (m *Manager) BeginSend(ctx context.Context, name string, ids ...ondisk.TreeID) (done func(), err error) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)
	for i, id := range ids {
		if err := m.countSend(ctx, name, id); err != nil {
			m.endSend(name, ids[:i])
			return nil, err
		}
	}
	return func() { m.endSend(name, ids) }, nil
}

func (m *Manager) countSend(ctx context.Context, name string, id ondisk.TreeID) error {
	if !id.IsSubvolume() {
		return fmt.Errorf("tree %v is no subvolume: %w", id, fserr.ErrInvalid)
	}
	root, err := m.Readable(ctx, id)
	if err != nil {
		return err
	}
	s := &m.sends
	s.mu.Lock()
	defer s.mu.Unlock()
	it := root.Snapshot()
	switch {
	case s.closing[id] > 0 || it.Refs() == 0 && !m.IsHidden(id):
		return fmt.Errorf("subvolume %d is being deleted or made writable: %w", id, fserr.ErrNotFound)
	case it.Flags()&ondisk.RootSubvolReadonly == 0:
		return fmt.Errorf("subvolume %d is not read-only: %w", id, fserr.ErrPerm)
	}
	if s.sent == nil {
		s.sent = map[ondisk.TreeID][]string{}
	}
	s.sent[id] = append(s.sent[id], name)
	return nil
}

func (m *Manager) endSend(name string, ids []ondisk.TreeID) {
	s := &m.sends
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		list := s.sent[id]
		i := slices.Index(list, name)
		if list = slices.Delete(list, i, i+1); len(list) == 0 {
			delete(s.sent, id)
		} else {
			s.sent[id] = list
		}
	}
}

// Sends lists the sends that read a subvolume.
func (m *Manager) Sends(id ondisk.TreeID) []string {
	m.sends.mu.Lock()
	defer m.sends.mu.Unlock()
	return slices.Clone(m.sends.sent[id])
}

// NameOf returns the name that a subvolume has in its directory. fserr.ErrNotFound for the top-level subvolume, which
// has none.
func (m *Manager) NameOf(ctx context.Context, id ondisk.TreeID) (string, error) {
	p, _, ok, err := m.backref(ctx, id)
	if err == nil && !ok {
		err = fmt.Errorf("subvolume %d, the top of the file system, has no name that a receiver could give it; send a snapshot of it: %w", id, fserr.ErrNotFound)
	}
	return p.Name, err
}
