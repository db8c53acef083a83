package inode

import (
	"context"

	"imgtool/engine/ondisk"
)

// AddEntryForTest adds the entry of a subvolume that need not exist, as an operation of its own.
func (t *FileTree) AddEntryForTest(ctx context.Context, dir ondisk.ObjectID, name string, id ondisk.TreeID) (uint64, error) {
	defer t.LockInodes(dir)()
	o, err := t.begin(ctx, itemsCreate, false)
	if err != nil {
		return 0, err
	}
	index, err := t.AddSubvolEntry(ctx, o.tx, dir, name, id)
	return index, o.end(ctx, err)
}

// RemembersForTest reports whether the next name of a directory will be made from what is remembered of it.
func (t *FileTree) RemembersForTest(dir ondisk.ObjectID) bool {
	_, ok := t.dirs.get(dir)
	return ok
}
