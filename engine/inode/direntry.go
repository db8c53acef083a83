package inode

import (
	"bytes"
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// addName adds a name to a directory's DIR_ITEM. It changes nothing when the name is there (fserr.ErrExist) or when
// names of equal hash fill the item (fserr.ErrOverflow).
func (o *op) addName(ctx context.Context, dir ondisk.ObjectID, name []byte, entry []byte) error {
	limit := ondisk.MaxItemSize(o.t.cfg.NodeSize)
	var problem error
	err := o.t.tree.Modify(ctx, o.tx, dirItemKey(dir, name), func(old []byte) ([]byte, error) {
		if len(old) == 0 {
			return entry, nil
		}
		if _, found := findName(old, name); found {
			problem = fserr.ErrExist
		} else if len(old)+len(entry) > limit {
			problem = fserr.ErrOverflow
		}
		if problem != nil {
			return nil, errNoChange
		}
		return append(clip(old), entry...), nil
	})
	if problem != nil {
		return fmt.Errorf("%q in directory %d of tree %v: %w", name, dir, o.t.id, problem)
	}
	return o.t.at(dir, err)
}

// dropName removes a name from a directory's DIR_ITEM.
func (o *op) dropName(ctx context.Context, dir ondisk.ObjectID, name []byte) error {
	err := o.t.tree.Modify(ctx, o.tx, dirItemKey(dir, name), func(old []byte) ([]byte, error) {
		d, found := findName(old, name)
		if !found {
			return nil, o.t.corrupt(dir, "has lost its name %q", name)
		}
		return cut(old, d.Off, d.Len), nil
	})
	return o.t.at(dir, err)
}

// findName finds a name in a DIR_ITEM or XATTR_ITEM. An entry that runs over the item's end is treecheck's to report;
// here the name is not found.
func findName(item, name []byte) (at ondisk.DirEntry, found bool) {
	_ = ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
		if bytes.Equal(d.Name, name) {
			at, found = d, true
		}
		return !found
	})
	return at, found
}

// makeEntry encodes a directory entry at the end of b.
func (o *op) makeEntry(b []byte, loc ondisk.Key, ft uint8, name string) []byte {
	at := len(b)
	b = append(b, make([]byte, ondisk.DirItemSize)...)
	d := ondisk.AsDirItem(b[at:])
	d.SetLocation(loc)
	d.SetTransID(o.tx.Generation())
	d.SetNameLen(uint16(len(name)))
	d.SetType(ft)
	return append(b, name...)
}

// resizeDir tells a directory that names of so many bytes came (or went, if negative): its size is twice the sum of
// its names' lengths.
func (o *op) resizeDir(ctx context.Context, dir ondisk.ObjectID, names int) error {
	return o.updateInode(ctx, dir, func(it *ondisk.InodeItem) {
		it.SetSize(it.Size() + uint64(2*int64(names)))
		it.SetCTime(o.now)
		it.SetMTime(o.now)
	})
}

// link adds a directory entry, all but the inode's own reference: DIR_ITEM, DIR_INDEX, the directory's size and times.
// The first change is the DIR_ITEM, so the errors of addName leave nothing behind. It returns the index.
func (o *op) link(ctx context.Context, dir ondisk.ObjectID, s dirState, name string, loc ondisk.Key, ft uint8) (uint64, error) {
	var space [ondisk.DirItemSize + ondisk.MaxNameLen]byte
	entry := o.makeEntry(space[:0], loc, ft, name)
	raw := entry[ondisk.DirItemSize:]
	if err := o.addName(ctx, dir, raw, entry); err != nil {
		return 0, err
	}
	ctx = o.start(ctx)
	index := s.next
	if err := o.t.tree.Insert(ctx, o.tx, typeKey(dir, ondisk.DirIndexKey, index), entry); err != nil {
		return 0, o.t.at(dir, err)
	}
	s.next++
	o.t.dirs.put(dir, s)
	return index, o.resizeDir(ctx, dir, len(name))
}

// unlink removes a directory entry, all but the inode's own reference.
func (o *op) unlink(ctx context.Context, dir ondisk.ObjectID, name string, index uint64) error {
	if err := o.dropName(ctx, dir, []byte(name)); err != nil {
		return err
	}
	if err := o.t.tree.Delete(ctx, o.tx, typeKey(dir, ondisk.DirIndexKey, index)); err != nil {
		return fmt.Errorf("directory index %d of %q: %w", index, name, o.t.at(dir, err))
	}
	return o.resizeDir(ctx, dir, -len(name))
}

// AddSubvolEntry adds the entry of a subvolume to a directory on the caller's handle and returns its index, which goes
// into the subvolume's ROOT_REF and ROOT_BACKREF. fserr.ErrExist if the name is taken; nothing is changed then.
func (t *FileTree) AddSubvolEntry(ctx context.Context, tx Txn, dir ondisk.ObjectID, name string, id ondisk.TreeID) (index uint64, err error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	s, err := t.dir(ctx, dir)
	if err != nil {
		return 0, err
	}
	if err := t.checkDirChange(dir, s, false); err != nil {
		return 0, err
	}
	loc := ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	return t.with(tx).link(ctx, dir, s, name, loc, ondisk.FTDir)
}

// RemoveSubvolEntry removes the entry of a subvolume, whose index the caller has from its ROOT_REF, on the caller's
// handle.
func (t *FileTree) RemoveSubvolEntry(ctx context.Context, tx Txn, dir ondisk.ObjectID, name string, index uint64) error {
	s, err := t.dir(ctx, dir)
	if err != nil {
		return err
	}
	if err := t.checkDirChange(dir, s, true); err != nil {
		return err
	}
	return t.with(tx).unlink(ctx, dir, name, index)
}
