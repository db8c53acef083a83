package subvol

import (
	"context"
	"fmt"
	"path"
	"time"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// Info is what subvolume list and show print.
type Info struct {
	ID         ondisk.TreeID
	Parent     ondisk.TreeID // subvolume that holds it, 0 for FS_TREE
	Dir        ondisk.ObjectID
	Name       string
	Path       string // from the top of the file system
	Generation ondisk.Generation
	// OGeneration is the generation in which it was created.
	OGeneration                     ondisk.Generation
	UUID, ParentUUID, ReceivedUUID  ondisk.UUID
	Readonly, Dead                  bool
	Created, Changed, Sent, Receive time.Time
	CTransID, STransID, RTransID    ondisk.Generation
	Snapshots                       []string // paths of its snapshots
}

// List returns all living subvolumes but FS_TREE, by ascending id.
func (m *Manager) List(ctx context.Context) ([]Info, error) {
	var infos []Info
	from := ondisk.Key{ObjectID: ondisk.FirstFreeObjectID, Type: ondisk.RootItemKey}
	to := ondisk.Key{ObjectID: ondisk.LastFreeObjectID, Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	err := m.db.RootTree().Scan(ctx, from, to, func(k ondisk.Key, item []byte) (bool, error) {
		if k.Type == ondisk.RootItemKey {
			infos = append(infos, infoOf(ondisk.TreeID(k.ObjectID), txn.DecodeRootItem(ondisk.TreeID(k.ObjectID), item)))
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	live := infos[:0]
	for _, in := range infos {
		if r := m.db.OpenRoot(in.ID); r != nil {
			in = infoOf(in.ID, r.Snapshot()) // changed, or deleted, in the running transaction
		}
		if in.Dead {
			continue
		}
		if err := m.locate(ctx, &in); err != nil {
			return nil, err
		}
		live = append(live, in)
	}
	return live, nil
}

// Show returns one subvolume with its snapshots.
func (m *Manager) Show(ctx context.Context, id ondisk.TreeID) (Info, error) {
	root, err := m.db.Root(ctx, id)
	if err != nil {
		return Info{}, err
	}
	in := infoOf(id, root.Snapshot())
	if err := m.locate(ctx, &in); err != nil {
		return Info{}, err
	}
	all, err := m.List(ctx)
	if err != nil {
		return Info{}, err
	}
	for _, o := range all {
		if !in.UUID.IsZero() && o.ParentUUID == in.UUID {
			in.Snapshots = append(in.Snapshots, o.Path)
		}
	}
	return in, nil
}

func infoOf(id ondisk.TreeID, it ondisk.RootItem) Info {
	return Info{ID: id, Generation: it.Generation(), OGeneration: it.OTransID(), UUID: it.UUID(), ParentUUID: it.ParentUUID(),
		ReceivedUUID: it.ReceivedUUID(), Readonly: it.Flags()&ondisk.RootSubvolReadonly != 0, Dead: it.Refs() == 0,
		Created: it.OTime().Time(), Changed: it.CTime().Time(), Sent: it.STime().Time(), Receive: it.RTime().Time(),
		CTransID: it.CTransID(), STransID: it.STransID(), RTransID: it.RTransID()}
}

// maxNesting bounds how deep subvolumes are in one another, so that a loop of root refs ends.
const maxNesting = 4096

// locate finds the place and the path of a subvolume by going up through the parents.
func (m *Manager) locate(ctx context.Context, in *Info) error {
	id, seen := in.ID, 0
	for id != ondisk.FSTree {
		p, _, ok, err := m.backref(ctx, id)
		if err != nil {
			return err
		}
		if !ok {
			return nil // deleted between the listing and now
		}
		if id == in.ID {
			in.Parent, in.Dir, in.Name = p.Tree, p.Dir, p.Name
		}
		tree, err := m.trees(ctx, p.Tree)
		if err != nil {
			return err
		}
		dir, err := tree.PathOf(ctx, p.Dir)
		if err != nil {
			return fmt.Errorf("path of subvolume %d: %w", in.ID, err)
		}
		in.Path = path.Join(dir, p.Name, in.Path)
		if id, seen = p.Tree, seen+1; seen > maxNesting {
			return fserr.Corruptf("root ref", uint64(ondisk.RootTree), 0, "subvolume %d is inside itself", in.ID)
		}
	}
	return nil
}

// defaultKey is the entry "default" of the root tree's directory.
func defaultKey() ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.RootTreeDirObjectID, Type: ondisk.DirItemKey, Offset: ondisk.NameHash([]byte("default"))}
}

// Default returns the subvolume that a mount without options shows: FS_TREE unless set-default chose another.
func (m *Manager) Default(ctx context.Context) (ondisk.TreeID, error) {
	id := ondisk.FSTree
	item, err := m.db.RootTree().Get(ctx, defaultKey())
	if err != nil {
		return id, nil //nolint:nilerr // no entry means FS_TREE, as in the kernel
	}
	err = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
		if string(e.Name) == "default" {
			id = ondisk.TreeID(e.Location().ObjectID)
			return false
		}
		return true
	})
	return id, err
}

// SetDefault chooses the subvolume that a mount without options shows.
func (m *Manager) SetDefault(ctx context.Context, id ondisk.TreeID) error {
	if _, err := m.db.Root(ctx, id); err != nil {
		return err
	}
	if !id.IsSubvolume() {
		return fmt.Errorf("tree %v is no subvolume: %w", id, fserr.ErrInvalid)
	}
	h, err := m.db.Start(ctx, 2)
	if err != nil {
		return err
	}
	found := false
	err = m.db.RootTree().Update(ctx, h, defaultKey(), func(item []byte) error {
		return ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
			if found = string(e.Name) == "default"; found {
				e.SetLocation(ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey, Offset: ^uint64(0)})
			}
			return !found
		})
	})
	if err == nil && !found {
		err = fserr.Corruptf("dir item", uint64(ondisk.RootTree), 0, "the root tree's directory has no entry %q", "default")
	}
	if err == nil {
		err = m.db.UpdateSuper(h, func(sb *ondisk.SuperBlock) error {
			sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatDefaultSubvol)
			return nil
		})
	}
	if e := h.End(ctx); err == nil {
		err = e
	}
	return err
}

// SetReadonly turns a subvolume's read-only flag on or off. fserr.ErrPerm if it is being sent and is to become writable.
//
// What becomes writable is no longer what was received: it loses its received UUID, as btrfs property set -f has it (the
// kernel's ioctl alone leaves it). Else its later snapshots would all claim to be that one subvolume, and streams between
// them would name one when they mean another.
func (m *Manager) SetReadonly(ctx context.Context, id ondisk.TreeID, ro bool) error {
	if !ro {
		sendable, err := m.sends.close(id, "made writable")
		if err != nil {
			return err
		}
		defer sendable()
	}
	root, err := m.db.Root(ctx, id)
	if err != nil {
		return err
	}
	tree, err := m.trees(ctx, id)
	if err != nil {
		return err
	}
	before := tree.ReadOnly()
	tree.SetReadOnly(ro)
	h, err := m.db.Start(ctx, 2) // the root item, the received UUID
	if err != nil {
		tree.SetReadOnly(before)
		return err
	}
	var received ondisk.UUID
	root.Update(h, func(it *ondisk.RootItem) {
		flags := it.Flags() &^ ondisk.RootSubvolReadonly
		if ro {
			flags |= ondisk.RootSubvolReadonly
		} else {
			received = it.ReceivedUUID()
			forgetReceived(it)
		}
		it.SetFlags(flags)
	})
	if err := m.removeUUID(context.WithoutCancel(ctx), h, received, ondisk.UUIDKeyReceived, id); err != nil {
		h.Abort(fmt.Errorf("make subvolume %d writable: %w", id, err))
	}
	return h.End(ctx)
}

// forgetReceived makes a subvolume one that was not received.
func forgetReceived(it *ondisk.RootItem) {
	it.SetReceivedUUID(ondisk.UUID{})
	it.SetSTransID(0)
	it.SetRTransID(0)
	it.SetSTime(ondisk.Timespec{})
	it.SetRTime(ondisk.Timespec{})
}
