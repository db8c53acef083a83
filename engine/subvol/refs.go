package subvol

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

func refKeys(parent, child ondisk.TreeID) (ref, back ondisk.Key) {
	return ondisk.Key{ObjectID: ondisk.ObjectID(parent), Type: ondisk.RootRefKey, Offset: uint64(child)},
		ondisk.Key{ObjectID: ondisk.ObjectID(child), Type: ondisk.RootBackrefKey, Offset: uint64(parent)}
}

// rootRef is the content of a ROOT_REF and of its ROOT_BACKREF.
func rootRef(dir ondisk.ObjectID, index uint64, name string) []byte {
	b := make([]byte, ondisk.RootRefSize+len(name))
	r := ondisk.AsRootRef(b)
	r.SetDirID(dir)
	r.SetSequence(index)
	r.SetNameLen(uint16(len(name)))
	copy(b[ondisk.RootRefSize:], name)
	return b
}

// addRootRef inserts ROOT_REF and ROOT_BACKREF, which have the same content.
func (m *Manager) addRootRef(ctx context.Context, h *txn.Handle, p Place, child ondisk.TreeID, index uint64) error {
	b := rootRef(p.Dir, index, p.Name)
	ref, back := refKeys(p.Tree, child)
	for _, k := range []ondisk.Key{back, ref} {
		if err := m.db.RootTree().Insert(ctx, h, k, b); err != nil {
			return fmt.Errorf("root ref %v: %w", k, err)
		}
	}
	return nil
}

func (m *Manager) removeRootRef(ctx context.Context, h *txn.Handle, parent, child ondisk.TreeID) error {
	ref, back := refKeys(parent, child)
	for _, k := range []ondisk.Key{back, ref} {
		if err := m.db.RootTree().Delete(ctx, h, k); err != nil {
			return fmt.Errorf("root ref %v: %w", k, err)
		}
	}
	return nil
}

// backref returns where a subvolume stands; ok is false for FS_TREE and for one without a place (being deleted).
func (m *Manager) backref(ctx context.Context, id ondisk.TreeID) (p Place, index uint64, ok bool, err error) {
	_, back := refKeys(0, id)
	k, b, ok, err := m.db.RootTree().SeekGE(ctx, back)
	if err != nil || !ok || k.ObjectID != back.ObjectID || k.Type != ondisk.RootBackrefKey {
		return Place{}, 0, false, err
	}
	r := ondisk.AsRootRef(b)
	return Place{ondisk.TreeID(k.Offset), r.DirID(), string(b[ondisk.RootRefSize:])}, r.Sequence(), true, nil
}

// uuidTree returns the UUID tree, nil when the file system has none: the kernel then builds one at its next mount.
func (m *Manager) uuidTree(ctx context.Context) (*txn.Root, error) {
	r, err := m.db.Root(ctx, ondisk.UUIDTree)
	if errors.Is(err, fserr.ErrNotFound) {
		return nil, nil
	}
	return r, err
}

// addUUID adds a subvolume's id to the item of a UUID; several subvolumes may have been received from one.
func (m *Manager) addUUID(ctx context.Context, h *txn.Handle, u ondisk.UUID, t ondisk.ItemType, id ondisk.TreeID) error {
	r, err := m.uuidTree(ctx)
	if err != nil || r == nil || u.IsZero() {
		return err
	}
	return r.Tree.Modify(ctx, h, u.UUIDKey(t), func(old []byte) ([]byte, error) {
		for i := 0; i+8 <= len(old); i += 8 {
			if binary.LittleEndian.Uint64(old[i:]) == uint64(id) {
				return append([]byte(nil), old...), nil
			}
		}
		return binary.LittleEndian.AppendUint64(append([]byte(nil), old...), uint64(id)), nil
	})
}

// removeUUID takes it out again; the item goes with its last id.
func (m *Manager) removeUUID(ctx context.Context, h *txn.Handle, u ondisk.UUID, t ondisk.ItemType, id ondisk.TreeID) error {
	r, err := m.uuidTree(ctx)
	if err != nil || r == nil || u.IsZero() {
		return err
	}
	return r.Tree.Modify(ctx, h, u.UUIDKey(t), func(old []byte) ([]byte, error) {
		var keep []byte
		for i := 0; i+8 <= len(old); i += 8 {
			if binary.LittleEndian.Uint64(old[i:]) != uint64(id) {
				keep = append(keep, old[i:i+8]...)
			}
		}
		return keep, nil
	})
}
