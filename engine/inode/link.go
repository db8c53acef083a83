package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// smallFile is how many extents an inode may have at most to be removed in the operation that removes its last name.
const smallFile = 32

// lockEntry locks a directory and the inode that one of its names leads to. A subvolume's entry locks nothing more.
func (t *FileTree) lockEntry(ctx context.Context, dir ondisk.ObjectID, name string) (lockset, Entry, error) {
	l := t.lock(dir)
	for {
		e, err := t.Lookup(ctx, dir, name)
		if err != nil {
			l.unlock()
			return l, e, err
		}
		if e.IsSubvol() || l.also(e.Ino()) {
			return l, e, nil
		}
		// The inode's lock is lower than the directory's and taken: take both in order and look again.
		l.unlock()
		l = t.lock(dir, e.Ino())
		again, err := t.Lookup(ctx, dir, name)
		if err != nil {
			l.unlock()
			return l, e, err
		}
		if again.Location == e.Location {
			return l, again, nil
		}
		l.unlock()
		l = t.lock(dir)
	}
}

// Link gives an inode another name. Errors: fserr.ErrExist, ErrPerm (a directory, or immutable), ErrTooMany (65,535
// names, or an INODE_REF full without extended refs), ErrNotFound (inode without names) and Create's.
func (t *FileTree) Link(ctx context.Context, ino, dir ondisk.ObjectID, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	l := t.lock(ino, dir)
	defer l.unlock()
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return err
	}
	switch {
	case it.Mode()&ondisk.ModeFmt == ondisk.ModeDir || it.Flags()&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0:
		return t.at(ino, fserr.ErrPerm)
	case it.NLink() == 0:
		return t.at(ino, fserr.ErrNotFound)
	case it.NLink() >= ondisk.MaxLinks:
		return fmt.Errorf("inode %d of tree %v has %d names: %w", ino, t.id, it.NLink(), fserr.ErrTooMany)
	}
	s, err := t.dir(ctx, dir)
	if err != nil {
		return err
	}
	if err := t.checkDirChange(dir, s, false); err != nil {
		return err
	}
	o, err := t.begin(ctx, itemsCreate, false)
	if err != nil {
		return err
	}
	return o.end(ctx, o.hardLink(ctx, ino, &it, dir, s, name))
}

// hardLink records the reference first: that is where a full item shows, and after it the name may still turn out to
// be taken, which is looked up before for that reason.
func (o *op) hardLink(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem, dir ondisk.ObjectID, s dirState, name string) error {
	if _, err := o.t.Lookup(ctx, dir, name); err == nil {
		return fmt.Errorf("%q in directory %d of tree %v: %w", name, dir, o.t.id, fserr.ErrExist)
	} else if !isNotFound(err) {
		return err
	}
	if err := o.checkRoom(ctx, dir, name); err != nil {
		return err
	}
	if err := o.addRef(ctx, ino, dir, s.next, []byte(name)); err != nil {
		return o.t.at(ino, err)
	}
	ctx = o.start(ctx)
	if _, err := o.link(ctx, dir, s, name, inodeKey(ino), ondisk.ModeToFT(it.Mode())); err != nil {
		return err
	}
	return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) {
		it.SetNLink(it.NLink() + 1)
		it.SetCTime(o.now)
	})
}

// checkRoom finds out beforehand whether another name fits the DIR_ITEM of its hash: fserr.ErrOverflow if not.
func (o *op) checkRoom(ctx context.Context, dir ondisk.ObjectID, name string) error {
	full := false
	err := o.t.tree.View(ctx, dirItemKey(dir, []byte(name)), func(item []byte) error {
		full = len(item)+ondisk.DirItemSize+len(name) > ondisk.MaxItemSize(o.t.cfg.NodeSize)
		return nil
	})
	if err != nil && !isNotFound(err) {
		return o.t.at(dir, err)
	}
	if full {
		return fmt.Errorf("%q in directory %d of tree %v: names of equal hash fill an item: %w", name, dir, o.t.id, fserr.ErrOverflow)
	}
	return nil
}

// Unlink removes a name that is not a directory's, and with the last name the inode: at once, or, while a File has it
// open, at its last close; an orphan item keeps that from being forgotten. Errors: fserr.ErrNotFound, ErrIsDir, ErrPerm,
// ErrReadOnly.
func (t *FileTree) Unlink(ctx context.Context, dir ondisk.ObjectID, name string) error {
	return t.remove(ctx, dir, name, false)
}

// Rmdir removes an empty directory, or deletes an empty subvolume (see Config.RmdirSubvol, which has its own errors).
// Errors: fserr.ErrNotEmpty, ErrNotDir, and Unlink's.
func (t *FileTree) Rmdir(ctx context.Context, dir ondisk.ObjectID, name string) error {
	if t.cfg.RmdirSubvol != nil && t.cfg.Leads != nil {
		e, err := t.Lookup(ctx, dir, name)
		if err == nil && e.IsSubvol() {
			leads, err := t.cfg.Leads(ctx, t.id, dir, name, e.Subvol())
			if err != nil {
				return err
			}
			if leads {
				return t.cfg.RmdirSubvol(ctx, t.id, dir, name, e.Subvol())
			}
		}
	}
	return t.remove(ctx, dir, name, true)
}

func (t *FileTree) remove(ctx context.Context, dir ondisk.ObjectID, name string, isDir bool) error {
	if err := checkName(name); err != nil {
		return err
	}
	l, e, err := t.lockEntry(ctx, dir, name)
	if err != nil {
		return err
	}
	defer l.unlock()
	s, err := t.dir(ctx, dir)
	if err != nil {
		return err
	}
	if err := t.checkRemove(ctx, dir, s, &e, isDir); err != nil {
		return err
	}
	o, err := t.begin(ctx, itemsUnlink+neighbours(smallFile), true)
	if err != nil {
		return err
	}
	evict, err := o.remove(ctx, dir, &e)
	if err = o.end(ctx, err); err != nil {
		return err
	}
	if evict {
		return t.evict(context.WithoutCancel(ctx), e.Ino())
	}
	return nil
}

// checkRemove refuses the removal of an entry that is of the wrong kind or must stay.
func (t *FileTree) checkRemove(ctx context.Context, dir ondisk.ObjectID, s dirState, e *Entry, isDir bool) error {
	if err := t.checkDirChange(dir, s, true); err != nil {
		return err
	}
	switch {
	case e.IsSubvol() && !isDir:
		return fmt.Errorf("%q in directory %d of tree %v is subvolume %d: %w", e.Name, dir, t.id, e.Subvol(), fserr.ErrIsDir)
	case e.IsSubvol():
		if t.cfg.Leads != nil {
			if leads, err := t.cfg.Leads(ctx, t.id, dir, e.Name, e.Subvol()); err != nil || !leads {
				return err
			}
		}
		return fmt.Errorf("%q in directory %d of tree %v is subvolume %d, delete it as one: %w", e.Name, dir, t.id, e.Subvol(), fserr.ErrBusy)
	case isDir && e.Type != ondisk.FTDir:
		return fmt.Errorf("%q in directory %d of tree %v: %w", e.Name, dir, t.id, fserr.ErrNotDir)
	case !isDir && e.Type == ondisk.FTDir:
		return fmt.Errorf("%q in directory %d of tree %v: %w", e.Name, dir, t.id, fserr.ErrIsDir)
	case isDir:
		return t.checkEmpty(ctx, e.Ino())
	}
	return nil
}

// checkEmpty refuses a directory with entries.
func (t *FileTree) checkEmpty(ctx context.Context, dir ondisk.ObjectID) error {
	used := false
	err := t.tree.Scan(ctx, typeKey(dir, ondisk.DirItemKey, 0), typeKey(dir, ondisk.DirIndexKey, ^uint64(0)),
		func(ondisk.Key, []byte) (bool, error) {
			used = true
			return false, nil
		})
	if err == nil && used {
		err = fserr.ErrNotEmpty
	}
	return t.at(dir, err)
}

// remove removes an entry and its inode's name. evict says that the inode is an orphan now whose removal takes
// operations of its own.
func (o *op) remove(ctx context.Context, dir ondisk.ObjectID, e *Entry) (evict bool, err error) {
	t, ino := o.t, e.Ino()
	if e.IsSubvol() { // a placeholder: there is nothing but the entry
		index, err := t.indexOf(ctx, dir, e.Name)
		if err != nil {
			return false, err
		}
		return false, o.unlink(o.start(ctx), dir, e.Name, index)
	}
	index, gone, err := o.removeSmall(ctx, dir, e)
	if err != nil {
		return false, err
	}
	if gone {
		t.dirs.forget(ino)
		return false, o.unlink(o.start(ctx), dir, e.Name, index)
	}
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return false, err
	}
	if it.Flags()&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0 {
		return false, t.at(ino, fserr.ErrPerm)
	}
	if it.NLink() == 0 {
		return false, t.corrupt(ino, "has the name %q and no links", e.Name)
	}
	ctx = o.start(ctx)
	if index, err = o.dropRef(ctx, ino, dir, []byte(e.Name)); err != nil {
		return false, err
	}
	if err := o.unlink(ctx, dir, e.Name, index); err != nil {
		return false, err
	}
	return o.dropLink(ctx, ino, &it)
}

// removeSmall removes in one search the whole inode of a name, if that is its only one, nobody has it open and it has no
// extents with space; otherwise it changes nothing.
func (o *op) removeSmall(ctx context.Context, dir ondisk.ObjectID, e *Entry) (index uint64, gone bool, err error) {
	t, ino := o.t, e.Ino()
	if t.isOpen(ino) {
		return 0, false, nil
	}
	named := false
	err = t.tree.DeleteRange(ctx, o.tx, inodeKey(ino), ondisk.Key{ObjectID: ino, Type: 255, Offset: ^uint64(0)},
		func(k ondisk.Key, item []byte) (del, more bool, err error) {
			switch k.Type {
			case ondisk.InodeItemKey:
				it := ondisk.AsInodeItem(item)
				small := it.NLink() == 1 && it.Flags()&(ondisk.InodeImmutable|ondisk.InodeAppend) == 0 &&
					(it.Mode()&ondisk.ModeFmt != ondisk.ModeReg || it.Size() == 0 && it.NBytes() == 0)
				if !small {
					return false, false, nil
				}
				gone = true
			case ondisk.InodeRefKey, ondisk.InodeExtrefKey:
				if r, ok := findRef(k, item, dir, []byte(e.Name)); ok {
					index, named = r.Index, true
				}
			}
			return gone, gone, nil
		})
	if err != nil {
		o.changed = true // some of it may be gone
		return 0, false, t.at(ino, err)
	}
	if gone {
		o.changed = true
		if !named {
			return 0, false, t.corrupt(ino, "has no reference for its name %q in directory %d", e.Name, dir)
		}
	}
	return index, gone, nil
}

// dropLink counts an inode's names down, after one has been removed. At the last it removes an inode of few extents, or
// makes it an orphan; evict says that the orphan has nobody who still uses it.
func (o *op) dropLink(ctx context.Context, ino ondisk.ObjectID, it *ondisk.InodeItem) (evict bool, err error) {
	t := o.t
	if it.NLink() == 1 && !t.isOpen(ino) {
		exts, err := t.extents(ctx, ino, 0, math.MaxInt64, nil, smallFile)
		if err != nil {
			return false, err
		}
		if len(exts) < smallFile {
			if err := o.removeExtents(ctx, ino, exts); err != nil {
				return false, err
			}
			t.dirs.forget(ino)
			return false, o.removeItems(ctx, ino)
		}
	}
	last := it.NLink() == 1
	err = o.updateInode(ctx, ino, func(it *ondisk.InodeItem) {
		it.SetNLink(it.NLink() - 1)
		it.SetCTime(o.now)
	})
	if err != nil || !last {
		return false, err
	}
	return !t.isOpen(ino), o.addOrphan(ctx, ino)
}
