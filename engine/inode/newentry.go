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

// CheckNewEntry finds out whether AddSubvolEntry would succeed, so that a caller who must not fail later can ask first.
// Errors: fserr.ErrExist, ErrNotFound or ErrNotDir for the directory, ErrPerm for an immutable one, ErrReadOnly,
// ErrNameTooLong, ErrInvalid, and ErrOverflow when names of equal hash fill their item.
func (t *FileTree) CheckNewEntry(ctx context.Context, dir ondisk.ObjectID, name string) error {
	if t.readOnly.Load() {
		return fmt.Errorf("subvolume %v is read-only: %w", t.id, fserr.ErrReadOnly)
	}
	if err := checkName(name); err != nil {
		return err
	}
	s, err := t.dir(ctx, dir)
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
