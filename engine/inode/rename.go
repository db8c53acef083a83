package inode

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// RenameMode says what becomes of an existing target.
type RenameMode uint8

// The modes of renameat2(2).
const (
	RenameReplace   RenameMode = iota // the target's inode loses the name
	RenameNoReplace                   // fserr.ErrExist
	RenameExchange                    // source and target change places; there must be a target
)

// SubvolMove tells where the entry of a subvolume went.
type SubvolMove struct {
	Subvol, Parent ondisk.TreeID
	OldDir, NewDir ondisk.ObjectID
	OldName        string
	NewName        string
	NewIndex       uint64
}

// Rename moves a name, within this tree. Errors: fserr.ErrNotFound, ErrExist, ErrNotEmpty, ErrIsDir, ErrNotDir,
// ErrInvalid (a directory into itself), ErrOverflow, ErrTooMany, ErrPerm, ErrReadOnly. A subvolume that is the target
// counts as a directory that is not empty. Between trees only subvolumes move (subvol.Manager.Rename); for all else
// callers report fserr.ErrCrossDevice.
func (t *FileTree) Rename(ctx context.Context, oldDir ondisk.ObjectID, oldName string, newDir ondisk.ObjectID, newName string, mode RenameMode) error {
	if err := checkName(oldName); err != nil {
		return err
	}
	if err := checkName(newName); err != nil {
		return err
	}
	if oldDir != newDir {
		// While directories move between parents the way up from one must stand still.
		t.renameMu.Lock()
		defer t.renameMu.Unlock()
	}
	r := rename{oldDir: oldDir, newDir: newDir, oldName: oldName, newName: newName, mode: mode}
	l, err := t.lockRename(ctx, &r)
	if err != nil {
		return err
	}
	defer l.unlock()
	if done, err := t.checkRename(ctx, &r); done || err != nil {
		return err
	}
	o, err := t.begin(ctx, itemsRename+neighbours(smallFile), false)
	if err != nil {
		return err
	}
	evict, err := o.rename(ctx, &r)
	if err = o.end(ctx, err); err != nil {
		return err
	}
	if evict {
		return t.evict(context.WithoutCancel(ctx), r.dst.Ino())
	}
	return nil
}

// rename is one renaming with what was found under the locks.
type rename struct {
	oldDir, newDir   ondisk.ObjectID
	oldName, newName string
	mode             RenameMode
	src, dst         Entry
	replaces         bool // dst exists
}

// find looks up both names.
func (r *rename) find(ctx context.Context, t *FileTree) error {
	var err error
	if r.src, err = t.Lookup(ctx, r.oldDir, r.oldName); err != nil {
		return err
	}
	r.dst, err = t.Lookup(ctx, r.newDir, r.newName)
	r.replaces = err == nil
	if isNotFound(err) {
		return nil
	}
	return err
}

// lockRename locks both directories and the inodes of both names.
func (t *FileTree) lockRename(ctx context.Context, r *rename) (lockset, error) {
	l := t.lock(r.oldDir, r.newDir)
	for {
		if err := r.find(ctx, t); err != nil {
			l.unlock()
			return l, err
		}
		// A subvolume's own inode is in another tree; locking its number here does no harm.
		inos := []ondisk.ObjectID{r.oldDir, r.newDir, r.src.Ino()}
		if r.replaces {
			inos = append(inos, r.dst.Ino())
		}
		if l.also(inos[2]) && (!r.replaces || l.also(inos[3])) {
			return l, nil
		}
		l.unlock()
		l = t.lock(inos...)
		was := *r
		if err := r.find(ctx, t); err != nil {
			l.unlock()
			return l, err
		}
		if r.src.Location == was.src.Location && r.replaces == was.replaces && r.dst.Location == was.dst.Location {
			return l, nil
		}
		l.unlock()
		l = t.lock(r.oldDir, r.newDir)
	}
}

// checkRename finds everything that could refuse the renaming. done says that there is nothing to do.
func (t *FileTree) checkRename(ctx context.Context, r *rename) (done bool, err error) {
	for _, dir := range []ondisk.ObjectID{r.oldDir, r.newDir} {
		s, err := t.dir(ctx, dir)
		if err != nil {
			return false, err
		}
		if err := t.checkDirChange(dir, s, dir == r.oldDir || r.replaces); err != nil {
			return false, err
		}
	}
	switch {
	case r.mode == RenameNoReplace && r.replaces:
		return false, fmt.Errorf("%q in directory %d of tree %v: %w", r.newName, r.newDir, t.id, fserr.ErrExist)
	case r.mode == RenameExchange && !r.replaces:
		return false, fmt.Errorf("%q in directory %d of tree %v: %w", r.newName, r.newDir, t.id, fserr.ErrNotFound)
	case r.replaces && r.src.Location == r.dst.Location:
		return true, nil // two names of one inode, or one name: rename(2) does nothing
	}
	for _, e := range r.moving() {
		if e.IsSubvol() { // what stands against its moving is asked behind the types, see vfs_rename of Linux
			if err := t.checkTypes(r); err != nil {
				return false, err
			}
		}
		if err := t.checkMovable(ctx, r, e); err != nil {
			return false, err
		}
	}
	if err := t.checkLoops(ctx, r); err != nil {
		return false, err
	}
	if r.replaces && r.mode == RenameReplace {
		if err := t.checkReplace(ctx, r); err != nil {
			return false, err
		}
	}
	return false, t.checkRoomFor(ctx, r)
}

// moving lists the entries that get another place.
func (r *rename) moving() []*Entry {
	if r.mode == RenameExchange {
		return []*Entry{&r.src, &r.dst}
	}
	return []*Entry{&r.src}
}

// checkMovable refuses to move an entry, one of the two of r, whose inode or subvolume must stay as it is.
func (t *FileTree) checkMovable(ctx context.Context, r *rename, e *Entry) error {
	if e.IsSubvol() {
		if t.cfg.MoveSubvol == nil {
			return fmt.Errorf("%q is subvolume %d and stays where it is: %w", e.Name, e.Subvol(), fserr.ErrBusy)
		}
		if t.cfg.MayMoveSubvol == nil {
			return nil
		}
		mv := SubvolMove{Subvol: e.Subvol(), Parent: t.id, OldDir: r.oldDir, OldName: r.oldName, NewDir: r.newDir, NewName: r.newName}
		if e == &r.dst {
			mv.OldDir, mv.OldName, mv.NewDir, mv.NewName = r.newDir, r.newName, r.oldDir, r.oldName
		}
		return t.cfg.MayMoveSubvol(ctx, mv)
	}
	it, err := t.Inode(ctx, e.Ino())
	if err != nil {
		return err
	}
	return t.checkSettable(e.Ino(), &it)
}

// checkLoops refuses to move a directory into itself or beneath.
func (t *FileTree) checkLoops(ctx context.Context, r *rename) error {
	if r.oldDir == r.newDir {
		return nil
	}
	check := func(e *Entry, into ondisk.ObjectID) error {
		if e.Type != ondisk.FTDir || e.IsSubvol() {
			return nil
		}
		for at, depth := into, 0; ; depth++ {
			if at == e.Ino() {
				return fmt.Errorf("directory %q into itself: %w", e.Name, fserr.ErrInvalid)
			}
			if at == RootDir {
				return nil
			}
			if depth > maxDepth {
				return t.corrupt(into, "its directories form a loop")
			}
			up, err := t.Parent(ctx, at)
			if err != nil {
				return err
			}
			at = up
		}
	}
	if err := check(&r.src, r.newDir); err != nil {
		return err
	}
	if r.mode == RenameExchange {
		return check(&r.dst, r.oldDir)
	}
	return nil
}

// checkTypes refuses to put a directory in the place of something else, and the other way round.
func (t *FileTree) checkTypes(r *rename) error {
	srcDir, dstDir := r.src.Type == ondisk.FTDir, r.dst.Type == ondisk.FTDir
	switch {
	case !r.replaces || r.mode != RenameReplace:
		return nil
	case srcDir && !dstDir:
		return fmt.Errorf("%q in directory %d of tree %v: %w", r.newName, r.newDir, t.id, fserr.ErrNotDir)
	case !srcDir && dstDir:
		return fmt.Errorf("%q in directory %d of tree %v: %w", r.newName, r.newDir, t.id, fserr.ErrIsDir)
	}
	return nil
}

// checkReplace refuses targets that the source cannot take the place of.
func (t *FileTree) checkReplace(ctx context.Context, r *rename) error {
	if err := t.checkTypes(r); err != nil {
		return err
	}
	switch {
	case r.dst.IsSubvol():
		return t.checkPlaceholder(ctx, r.newDir, &r.dst)
	case r.dst.Type == ondisk.FTDir:
		if err := t.checkEmpty(ctx, r.dst.Ino()); err != nil {
			return err
		}
	}
	return t.checkMovable(ctx, r, &r.dst)
}

// checkRoomFor makes sure that the new names fit their items, so that nothing fails half way.
func (t *FileTree) checkRoomFor(ctx context.Context, r *rename) error {
	o := op{t: t}
	if !r.replaces {
		if err := o.checkRoom(ctx, r.newDir, r.newName); err != nil {
			return err
		}
	}
	if t.cfg.ExtendedIref {
		return nil
	}
	check := func(e *Entry, dir ondisk.ObjectID, name string) error {
		full := false
		err := t.tree.View(ctx, typeKey(e.Ino(), ondisk.InodeRefKey, uint64(dir)), func(item []byte) error {
			full = len(item)+ondisk.InodeRefSize+len(name) > ondisk.MaxItemSize(t.cfg.NodeSize)
			return nil
		})
		if err != nil && !isNotFound(err) {
			return err
		}
		if full {
			return fmt.Errorf("another name for inode %d in directory %d needs the feature extref: %w", e.Ino(), dir, fserr.ErrTooMany)
		}
		return nil
	}
	if err := check(&r.src, r.newDir, r.newName); err != nil {
		return err
	}
	if r.mode == RenameExchange {
		return check(&r.dst, r.oldDir, r.oldName)
	}
	return nil
}

// rename carries it out; every refusal has been made.
func (o *op) rename(ctx context.Context, r *rename) (evict bool, err error) {
	ctx = o.start(ctx)
	if r.mode == RenameExchange {
		return false, o.exchange(ctx, r)
	}
	if r.replaces {
		if evict, err = o.remove(ctx, r.newDir, &r.dst); err != nil {
			return false, err
		}
	}
	if err := o.takeAway(ctx, r.oldDir, &r.src); err != nil {
		return false, err
	}
	return evict, o.give(ctx, &r.src, r.oldDir, r.newDir, r.newName)
}

func (o *op) exchange(ctx context.Context, r *rename) error {
	for _, x := range []struct {
		dir ondisk.ObjectID
		e   *Entry
	}{{r.oldDir, &r.src}, {r.newDir, &r.dst}} {
		if err := o.takeAway(ctx, x.dir, x.e); err != nil {
			return err
		}
	}
	if err := o.give(ctx, &r.src, r.oldDir, r.newDir, r.newName); err != nil {
		return err
	}
	return o.give(ctx, &r.dst, r.newDir, r.oldDir, r.oldName)
}

// takeAway removes an entry from its directory; its inode lives on.
func (o *op) takeAway(ctx context.Context, dir ondisk.ObjectID, e *Entry) error {
	var index uint64
	var err error
	if e.IsSubvol() {
		index, err = o.t.indexOf(ctx, dir, e.Name)
	} else {
		index, err = o.dropRef(ctx, e.Ino(), dir, []byte(e.Name))
	}
	if err != nil {
		return err
	}
	return o.unlink(ctx, dir, e.Name, index)
}

// give adds an entry that was taken away from another place.
func (o *op) give(ctx context.Context, e *Entry, from, to ondisk.ObjectID, name string) error {
	s, err := o.t.dir(ctx, to)
	if err != nil {
		return err
	}
	index, err := o.link(ctx, to, s, name, e.Location, e.Type)
	if err != nil {
		return err
	}
	if e.IsSubvol() {
		return o.t.cfg.MoveSubvol(ctx, o.tx, SubvolMove{Subvol: e.Subvol(), Parent: o.t.id,
			OldDir: from, OldName: e.Name, NewDir: to, NewName: name, NewIndex: index})
	}
	if err := o.addRef(ctx, e.Ino(), to, index, []byte(name)); err != nil {
		return err
	}
	return o.touch(ctx, e.Ino())
}

// indexOf finds the index of an entry whose inode has no reference to say it, by looking through the directory.
func (t *FileTree) indexOf(ctx context.Context, dir ondisk.ObjectID, name string) (index uint64, err error) {
	err = t.ReadDir(ctx, dir, 0, func(e Entry) (bool, error) {
		if e.Name == name {
			index = e.Index
		}
		return index == 0, nil
	})
	if err == nil && index == 0 {
		err = t.corrupt(dir, "has no index for its name %q", name)
	}
	return index, err
}
