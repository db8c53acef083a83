package subvol

import (
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
// subvolume, whose ".." would change), ErrNotFound, ErrExist, ErrNotDir, ErrNotEmpty (a subvolume or a directory with
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

// check finds everything that could refuse the renaming.
func (r *move) check(ctx context.Context) (err error) {
	switch {
	case r.mode == inode.RenameNoReplace && r.replaces:
		return fmt.Errorf("%q in directory %d of tree %d: %w", r.to.Name, r.to.Dir, r.to.Tree, fserr.ErrExist)
	case r.mode == inode.RenameExchange && !r.replaces:
		return fmt.Errorf("%q in directory %d of tree %d: %w", r.to.Name, r.to.Dir, r.to.Tree, fserr.ErrNotFound)
	}
	if r.srcI, err = r.mayLeave(ctx, r.from, &r.src, r.to.Tree); err != nil {
		return err
	}
	switch {
	case r.mode == inode.RenameExchange:
		if r.dstI, err = r.mayLeave(ctx, r.to, &r.dst, r.from.Tree); err != nil {
			return err
		}
		return nil
	case !r.replaces:
		return r.new.CheckNewEntry(ctx, r.to.Dir, r.to.Name)
	}
	return r.new.CheckReplaceDir(ctx, r.to.Dir, &r.dst)
}

// mayLeave checks that an entry leads to a subvolume that may move into another tree, and returns its index.
func (r *move) mayLeave(ctx context.Context, at Place, e *inode.Entry, into ondisk.TreeID) (index uint64, err error) {
	if !e.IsSubvol() {
		return 0, fmt.Errorf("%q is no subvolume and stays in tree %d: %w", e.Name, at.Tree, fserr.ErrCrossDevice)
	}
	id := e.Subvol()
	place, index, ok, err := r.m.backref(ctx, id)
	if err != nil {
		return 0, err
	}
	if !ok || place != at {
		return 0, fmt.Errorf("%q only stands for subvolume %d, which is elsewhere or gone: %w", e.Name, id, fserr.ErrCrossDevice)
	}
	for up := into; up != ondisk.FSTree; {
		if up == id {
			return 0, fmt.Errorf("subvolume %d into itself: %w", id, fserr.ErrInvalid)
		}
		above, _, ok, err := r.m.backref(ctx, up)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		up = above.Tree
	}
	root, err := r.m.db.Root(ctx, id)
	if err != nil {
		return 0, err
	}
	if item := root.Snapshot(); item.Flags()&ondisk.RootSubvolReadonly != 0 {
		return 0, fmt.Errorf("subvolume %d is read-only and stays in its directory: %w", id, fserr.ErrReadOnly)
	}
	return index, nil
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
