package subvol

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// FindSent finds the subvolume that a send stream means by a UUID: one that was received from the subvolume of that
// UUID, or else that subvolume itself. Of several it prefers a read-only one whose content is of generation transid of
// the sender's, then a read-only one. fserr.ErrNotFound if there is none.
func (m *Manager) FindSent(ctx context.Context, u ondisk.UUID, transid ondisk.Generation) (Info, error) {
	for _, t := range []ondisk.ItemType{ondisk.UUIDKeyReceived, ondisk.UUIDKeySubvol} {
		ids, err := m.byUUID(ctx, u, t)
		if err != nil {
			return Info{}, err
		}
		best, score := Info{}, -1
		for _, id := range ids {
			root, err := m.db.Root(ctx, id)
			if errors.Is(err, fserr.ErrNotFound) {
				continue
			}
			if err != nil {
				return Info{}, err
			}
			in := infoOf(id, root.Snapshot())
			have, gen := in.ReceivedUUID, in.STransID
			if t == ondisk.UUIDKeySubvol {
				have, gen = in.UUID, in.CTransID
			}
			if have != u {
				continue // the item is out of date
			}
			if s := rank(in.Readonly, gen == transid); s > score {
				best, score = in, s
			}
		}
		if score >= 0 {
			err := m.locate(ctx, &best)
			return best, err
		}
	}
	return Info{}, fmt.Errorf("subvolume with UUID %v, or received from it: %w", u, fserr.ErrNotFound)
}

func rank(readonly, sameGeneration bool) int {
	switch {
	case readonly && sameGeneration:
		return 2
	case readonly:
		return 1
	}
	return 0
}

// byUUID returns the ids that the UUID tree has for a UUID, or, where there is no UUID tree, all subvolumes that have it.
func (m *Manager) byUUID(ctx context.Context, u ondisk.UUID, t ondisk.ItemType) ([]ondisk.TreeID, error) {
	if u.IsZero() {
		return nil, nil
	}
	r, err := m.uuidTree(ctx)
	if err != nil {
		return nil, err
	}
	var ids []ondisk.TreeID
	if r != nil {
		err := r.Tree.View(ctx, u.UUIDKey(t), func(item []byte) error {
			for ; len(item) >= 8; item = item[8:] {
				ids = append(ids, ondisk.TreeID(binary.LittleEndian.Uint64(item)))
			}
			return nil
		})
		if errors.Is(err, fserr.ErrNotFound) {
			err = nil
		}
		return ids, err
	}
	all, err := m.List(ctx)
	for _, in := range all {
		if t == ondisk.UUIDKeySubvol && in.UUID == u || t == ondisk.UUIDKeyReceived && in.ReceivedUUID == u {
			ids = append(ids, in.ID)
		}
	}
	return ids, err
}
