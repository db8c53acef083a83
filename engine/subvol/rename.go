package subvol

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// renameItems is how many tree items a renaming between subvolumes touches at most: of each of two subvolumes its root
// refs, and in each of two directories two entries and the inode; and a directory that is replaced.
const renameItems = 24

// Rename moves a subvolume's entry into another subvolume; within one tree inode.FileTree.Rename does it. An empty
// directory in the way is replaced; with inode.RenameExchange two subvolumes change places. Errors: fserr.ErrCrossDevice
// for anything but subvolumes, ErrInvalid for a subvolume into itself or below, ErrReadOnly (of either parent, or of the
// subvolume, whose ".." would change), ErrNotFound, ErrExist, ErrNotDir, ErrIsDir, ErrNotEmpty (a subvolume or a directory with
// entries in the way), ErrOverflow, ErrNoSpace (rules of fs/btrfs/inode.c, btrfs_rename and btrfs_rename_exchange).
func (m *Manager) Rename(ctx context.Context, from, to Place, mode inode.RenameMode) error {
	// One at a time: while subvolumes move, the way up from one must stand still. Outside all inode locks.
	m.moveMu.Lock()
	defer m.moveMu.Unlock()
	r := &move{m: m, from: from, to: to, mode: mode}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.check(ctx); err != nil {
		return err
	}
	h, err := m.db.Start(ctx, renameItems)
	if err != nil {
		return err
	}
	if err := r.run(context.WithoutCancel(ctx), h); err != nil {
		err = fmt.Errorf("move subvolume %d to %q in tree %d: %w", r.src.Subvol(), to.Name, to.Tree, err)
		h.Abort(err)
		return errors.Join(err, h.End(ctx))
	}
	return h.End(ctx)
}

// move is one renaming between subvolumes, with what was found under the locks.
type move struct {
	m          *Manager
	from, to   Place
	mode       inode.RenameMode
	old, new   *inode.FileTree
	src, dst   inode.Entry
	replaces   bool // dst exists
	srcI, dstI uint64
}

// lock locks both directories, and the directory that is to be replaced, trees in the order of their ids, and looks both
// names up.
func (r *move) lock(ctx context.Context) (unlock func(), err error) {
	if r.old, err = r.m.trees(ctx, r.from.Tree); err != nil {
		return nil, err
	}
	if r.new, err = r.m.trees(ctx, r.to.Tree); err != nil {
		return nil, err
	}
	for {
		if err := r.find(ctx); err != nil {
			return nil, err
		}
		if err := r.checkNames(ctx); err != nil { // before a read-only tree refuses to be locked for a change
			return nil, err
		}
		seen := r.dst
		in := []ondisk.ObjectID{r.to.Dir}
		if r.replaces && !r.dst.IsSubvol() {
			in = append(in, r.dst.Ino())
		}
		if unlock, err = changeBoth(r.old, []ondisk.ObjectID{r.from.Dir}, r.new, in); err != nil {
			return nil, err
		}
		if err = r.find(ctx); err == nil && seen.Location == r.dst.Location {
			return unlock, nil
		}
		unlock()
		if err != nil {
			return nil, err
		}
	}
}

func changeBoth(a *inode.FileTree, inA []ondisk.ObjectID, b *inode.FileTree, inB []ondisk.ObjectID) (unlock func(), err error) {
	if a.ID() > b.ID() {
		a, inA, b, inB = b, inB, a, inA
	}
	first, err := a.Change(inA...)
	if err != nil {
		return nil, err
	}
	second, err := b.Change(inB...)
	if err != nil {
		first()
		return nil, err
	}
	return func() { second(); first() }, nil
}

func (r *move) find(ctx context.Context) error {
	var err error
	if r.src, err = r.old.Lookup(ctx, r.from.Dir, r.from.Name); err != nil {
		return err
	}
	r.dst, err = r.new.Lookup(ctx, r.to.Dir, r.to.Name)
	if r.replaces = err == nil; r.replaces {
		return nil
	}
	r.dst = inode.Entry{}
	if errors.Is(err, fserr.ErrNotFound) {
		return nil
	}
	return err
}

// checkNames finds what a rename(2) says before it asks who may write where: names that are there or not, and directories
// below themselves.
func (r *move) checkNames(ctx context.Context) error {
	switch {
	case r.mode == inode.RenameNoReplace && r.replaces:
		return fmt.Errorf("%q in directory %d of tree %d: %w", r.to.Name, r.to.Dir, r.to.Tree, fserr.ErrExist)
	case r.mode == inode.RenameExchange && !r.replaces:
		return fmt.Errorf("%q in directory %d of tree %d: %w", r.to.Name, r.to.Dir, r.to.Tree, fserr.ErrNotFound)
	}
	if err := r.checkLoop(ctx, r.from, &r.src, r.to.Tree); err != nil || r.mode != inode.RenameExchange {
		return err
	}
	return r.checkLoop(ctx, r.to, &r.dst, r.from.Tree)
}

// check finds everything that could refuse the renaming, in the order of Linux (fs/namei.c, vfs_rename, and then
// fs/btrfs/inode.c, btrfs_rename).
func (r *move) check(ctx context.Context) (err error) {
	if err := r.checkNames(ctx); err != nil {
		return err
	}
	if srcDir, dstDir := r.src.Type == ondisk.FTDir, r.dst.Type == ondisk.FTDir; r.mode == inode.RenameReplace && r.replaces && srcDir != dstDir {
		err := fserr.ErrNotDir
		if dstDir {
			err = fserr.ErrIsDir
		}
		return fmt.Errorf("%q in directory %d of tree %d: %w", r.to.Name, r.to.Dir, r.to.Tree, err)
	}
	src, err := r.mover(ctx, r.from, &r.src)
	if err != nil {
		return err
	}
	if r.srcI = src.index; r.mode == inode.RenameExchange {
		dst, err := r.mover(ctx, r.to, &r.dst)
		if err != nil {
			return err
		}
		r.dstI = dst.index
		return cmp.Or(src.stays, dst.stays)
	}
	switch {
	case src.stays != nil:
		return src.stays
	case !r.replaces:
		return r.new.CheckNewEntry(ctx, r.to.Dir, r.to.Name)
	}
	return r.new.CheckReplaceDir(ctx, r.to.Dir, &r.dst)
}

// checkLoop refuses to move a subvolume below itself.
func (r *move) checkLoop(ctx context.Context, at Place, e *inode.Entry, into ondisk.TreeID) error {
	if !e.IsSubvol() {
		return nil
	}
	if place, _, ok, err := r.m.backref(ctx, e.Subvol()); err != nil || !ok || place != at {
		return err
	}
	for up, depth := into, 0; up != ondisk.FSTree; depth++ {
		if depth > maxNesting {
			return fserr.Corruptf("root ref", uint64(ondisk.RootTree), 0, "subvolume %d is inside itself", into)
		}
		if up == e.Subvol() {
			return fmt.Errorf("subvolume %d into itself: %w", up, fserr.ErrInvalid)
		}
		above, _, ok, err := r.m.backref(ctx, up)
		if err != nil || !ok {
			return err
		}
		up = above.Tree
	}
	return nil
}

// mover is an entry that is to get into another tree: its index, and why it does not, if it leads to no subvolume.
type mover struct {
	index uint64
	stays error
}

// mover looks at an entry. A subvolume that is read-only is an error: it comes before what stays for another reason.
func (r *move) mover(ctx context.Context, at Place, e *inode.Entry) (mover, error) {
	if !e.IsSubvol() {
		return mover{stays: fmt.Errorf("%q is no subvolume and stays in tree %d: %w", e.Name, at.Tree, fserr.ErrCrossDevice)}, nil
	}
	id := e.Subvol()
	place, index, ok, err := r.m.backref(ctx, id)
	if err != nil {
		return mover{}, err
	}
	if !ok || place != at {
		return mover{stays: fmt.Errorf("%q only stands for subvolume %d, which is elsewhere or gone: %w", e.Name, id, fserr.ErrCrossDevice)}, nil
	}
	root, err := r.m.db.Root(ctx, id)
	if err != nil {
		return mover{}, err
	}
	if item := root.Snapshot(); item.Flags()&ondisk.RootSubvolReadonly != 0 {
		return mover{}, fmt.Errorf("subvolume %d is read-only and stays in its directory: %w", id, fserr.ErrReadOnly)
	}
	return mover{index: index}, nil
}

// run carries it out; every refusal has been made.
func (r *move) run(ctx context.Context, h *txn.Handle) error {
	if err := r.leave(ctx, h, r.old, r.from, r.src.Subvol(), r.srcI); err != nil {
		return err
	}
	if r.mode == inode.RenameExchange {
		if err := r.leave(ctx, h, r.new, r.to, r.dst.Subvol(), r.dstI); err != nil {
			return err
		}
		if err := r.arrive(ctx, h, r.old, r.from, r.dst.Subvol()); err != nil {
			return err
		}
	} else if r.replaces {
		if err := r.new.RemoveDirTx(ctx, h, r.to.Dir, &r.dst); err != nil {
			return err
		}
	}
	return r.arrive(ctx, h, r.new, r.to, r.src.Subvol())
}

func (r *move) leave(ctx context.Context, h *txn.Handle, tree *inode.FileTree, p Place, id ondisk.TreeID, index uint64) error {
	if err := tree.RemoveSubvolEntry(ctx, h, p.Dir, p.Name, index); err != nil {
		return err
	}
	return r.m.removeRootRef(ctx, h, p.Tree, id)
}

func (r *move) arrive(ctx context.Context, h *txn.Handle, tree *inode.FileTree, p Place, id ondisk.TreeID) error {
	index, err := tree.AddSubvolEntry(ctx, h, p.Dir, p.Name, id)
	if err != nil {
		return err
	}
	return r.m.addRootRef(ctx, h, p, id, index)
}
