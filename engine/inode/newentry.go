package inode

import (
	"context"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Config returns what the file trees of this file system have in common.
func (t *FileTree) Config() *Config { return t.cfg }

// Change locks directories for changes on the caller's own handle, and keeps the subvolume from becoming read-only until
// done is called. It is called before the handle is started. Errors: fserr.ErrReadOnly.
func (t *FileTree) Change(dirs ...ondisk.ObjectID) (done func(), err error) {
	unlock := t.LockInodes(dirs...)
	t.gate.RLock()
	done = func() {
		t.gate.RUnlock()
		unlock()
	}
	if t.readOnly.Load() {
		done()
		return nil, fmt.Errorf("subvolume %v is read-only: %w", t.id, fserr.ErrReadOnly)
	}
	return done, nil
}

// CheckEmpty returns fserr.ErrNotEmpty if a directory has entries.
func (t *FileTree) CheckEmpty(ctx context.Context, dir ondisk.ObjectID) error {
	return t.checkEmpty(ctx, dir)
}

// CheckReplaceDir finds out whether RemoveDirTx may remove an entry of a directory, so that another directory takes its
// place. Errors: fserr.ErrNotDir, ErrNotEmpty (a subvolume, too), ErrPerm.
func (t *FileTree) CheckReplaceDir(ctx context.Context, dir ondisk.ObjectID, e *Entry) error {
	s, err := t.dir(ctx, dir)
	if err != nil {
		return err
	}
	if err := t.checkDirChange(dir, s, true); err != nil {
		return err
	}
	switch {
	case e.Type != ondisk.FTDir:
		return fmt.Errorf("%q in directory %d of tree %v: %w", e.Name, dir, t.id, fserr.ErrNotDir)
	case e.IsSubvol():
		return t.checkPlaceholder(ctx, dir, e)
	}
	if err := t.checkEmpty(ctx, e.Ino()); err != nil {
		return err
	}
	it, err := t.Inode(ctx, e.Ino())
	if err != nil {
		return err
	}
	return t.checkSettable(e.Ino(), &it)
}

// checkPlaceholder refuses an entry whose subvolume is there, which counts as a directory that is not empty.
func (t *FileTree) checkPlaceholder(ctx context.Context, dir ondisk.ObjectID, e *Entry) error {
	if t.cfg.Leads != nil {
		if leads, err := t.cfg.Leads(ctx, t.id, dir, e.Name, e.Subvol()); err != nil || !leads {
			return err
		}
	}
	return fmt.Errorf("%q in directory %d of tree %v is subvolume %d: %w", e.Name, dir, t.id, e.Subvol(), fserr.ErrNotEmpty)
}

// RemoveDirTx removes an empty directory, or the empty place of a subvolume that is not there, which CheckReplaceDir has
// accepted, on the caller's handle. The caller has locked both (see Change).
func (t *FileTree) RemoveDirTx(ctx context.Context, tx Txn, dir ondisk.ObjectID, e *Entry) error {
	_, err := t.with(tx).remove(ctx, dir, e)
	return err
}

// CheckNewEntry finds out whether AddSubvolEntry would succeed, so that a caller who must not fail later can ask first.
// That holds as long as the caller has the directory's lock (see Change); without it the answer is about now.
// Errors: fserr.ErrExist, ErrNotFound or ErrNotDir for the directory, ErrPerm for an immutable one, ErrReadOnly,
// ErrNameTooLong, ErrInvalid, and ErrOverflow when names of equal hash fill their item.
func (t *FileTree) CheckNewEntry(ctx context.Context, dir ondisk.ObjectID, name string) error {
	if t.readOnly.Load() {
		return fmt.Errorf("subvolume %v is read-only: %w", t.id, fserr.ErrReadOnly)
	}
	if err := checkName(name); err != nil {
		return err
	}
	s, err := t.peekDir(ctx, dir)
	if err != nil {
		return err
	}
	if err := t.checkDirChange(dir, s, false); err != nil {
		return err
	}
	if _, err := t.Lookup(ctx, dir, name); err == nil {
		return fmt.Errorf("%q: %w", name, fserr.ErrExist)
	} else if !isNotFound(err) {
		return err
	}
	return (&op{t: t}).checkRoom(ctx, dir, name)
}
