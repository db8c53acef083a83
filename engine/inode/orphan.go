package inode

import (
	"context"
	"fmt"
	"math"

	"imgtool/engine/ondisk"
)

func orphanKey(ino ondisk.ObjectID) ondisk.Key {
	return ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: uint64(ino)}
}

// addOrphan notes in the tree that work on the inode is unfinished: it is to be removed, or its space behind the end.
func (o *op) addOrphan(ctx context.Context, ino ondisk.ObjectID) error {
	if err := o.t.tree.Insert(ctx, o.tx, orphanKey(ino), nil); err != nil {
		return fmt.Errorf("orphan item of %w", o.t.at(ino, err))
	}
	return nil
}

func (o *op) dropOrphan(ctx context.Context, ino ondisk.ObjectID) error {
	if err := o.t.tree.Delete(ctx, o.tx, orphanKey(ino)); err != nil {
		return fmt.Errorf("orphan item of %w", o.t.at(ino, err))
	}
	return nil
}

// CleanOrphans finishes what was begun before the file system was last closed or lost power: it removes inodes without
// a name and cuts files that were being truncated. It is called when a subvolume is opened for writing, before other
// changes. It returns how many inodes it dealt with.
func (t *FileTree) CleanOrphans(ctx context.Context) (int, error) {
	var inos []ondisk.ObjectID
	err := t.tree.Scan(ctx, orphanKey(0), orphanKey(^ondisk.ObjectID(0)), func(k ondisk.Key, _ []byte) (bool, error) {
		inos = append(inos, ondisk.ObjectID(k.Offset))
		return true, nil
	})
	if err != nil {
		return 0, err
	}
	for i, ino := range inos {
		if err := t.cleanOrphan(ctx, ino); err != nil {
			return i, fmt.Errorf("clean orphan %d of tree %v: %w", ino, t.id, err)
		}
	}
	return len(inos), nil
}

func (t *FileTree) cleanOrphan(ctx context.Context, ino ondisk.ObjectID) error {
	l := t.lock(ino)
	defer l.unlock()
	if t.isOpen(ino) {
		return nil // the last close removes it
	}
	it, err := t.Inode(ctx, ino)
	switch {
	case isNotFound(err): // the item outlived its inode
		o, err := t.begin(ctx, 1, true)
		if err != nil {
			return err
		}
		return o.end(ctx, o.dropOrphan(ctx, ino))
	case err != nil:
		return err
	case it.NLink() > 0:
		return t.dropBehind(ctx, ino, alignUp(it.Size()))
	}
	return t.evict(ctx, ino)
}

// evict removes an inode without names, which has an orphan item, under its lock, in as many operations as it takes.
func (t *FileTree) evict(ctx context.Context, ino ondisk.ObjectID) error {
	for last := false; !last; {
		exts, err := t.extents(ctx, ino, 0, math.MaxInt64, nil, dropBatch)
		if err != nil {
			return err
		}
		last = len(exts) < dropBatch
		o, err := t.begin(ctx, itemsEvict+neighbours(len(exts)), true)
		if err != nil {
			return err
		}
		err = o.removeExtents(ctx, ino, exts)
		if err == nil && last {
			if err = o.removeItems(ctx, ino); err == nil {
				err = o.dropOrphan(ctx, ino)
			}
		} else if err == nil {
			err = o.noteRemoved(ctx, ino, exts)
		}
		if err = o.end(ctx, err); err != nil {
			return err
		}
	}
	t.dirs.forget(ino)
	return nil
}

// removeExtents drops extent items wholly.
func (o *op) removeExtents(ctx context.Context, ino ondisk.ObjectID, exts []Extent) error {
	if len(exts) == 0 {
		return nil
	}
	o.start(ctx)
	p := planDrop(exts, 0, exts[len(exts)-1].span())
	return o.apply(ctx, ino, &p)
}

// noteRemoved keeps nbytes exact between the operations of an eviction.
func (o *op) noteRemoved(ctx context.Context, ino ondisk.ObjectID, exts []Extent) error {
	var n uint64
	for i := range exts {
		n += exts[i].bytes()
	}
	return o.updateInode(ctx, ino, func(it *ondisk.InodeItem) { it.SetNBytes(it.NBytes() - n) })
}

// removeItems deletes everything that is left of an inode without extents: the inode item, references, xattrs, verity
// items.
func (o *op) removeItems(ctx context.Context, ino ondisk.ObjectID) error {
	o.start(ctx)
	err := o.t.tree.DeleteRange(ctx, o.tx, ondisk.Key{ObjectID: ino}, ondisk.Key{ObjectID: ino, Type: 255, Offset: ^uint64(0)},
		func(ondisk.Key, []byte) (del, more bool, err error) { return true, true, nil })
	return o.t.at(ino, err)
}

// isOpen reports whether a File has the inode open. The caller holds the inode's lock.
func (t *FileTree) isOpen(ino ondisk.ObjectID) bool {
	t.openMu.Lock()
	defer t.openMu.Unlock()
	return t.open[ino] > 0
}
