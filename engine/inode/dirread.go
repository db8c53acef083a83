package inode

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Entry is one name in a directory.
type Entry struct {
	Name     string
	Location ondisk.Key // an INODE_ITEM of this tree, or the ROOT_ITEM of a subvolume
	Type     uint8      // ondisk.FTReg, ...
	Index    uint64     // place in the directory's order; only listings fill it
	TransID  ondisk.Generation
}

// Ino is the inode number that the entry leads to within its tree; for a subvolume it is the top directory's.
func (e *Entry) Ino() ondisk.ObjectID {
	if e.IsSubvol() {
		return RootDir
	}
	return e.Location.ObjectID
}

// IsSubvol reports whether the entry leads into another tree, the one of Subvol.
func (e *Entry) IsSubvol() bool { return e.Location.Type == ondisk.RootItemKey }

// Subvol is the tree that a subvolume's entry leads to.
func (e *Entry) Subvol() ondisk.TreeID { return ondisk.TreeID(e.Location.ObjectID) }

func entryOf(d ondisk.DirEntry, name string, index uint64) Entry {
	return Entry{Name: name, Location: d.Location(), Type: d.Type(), Index: index, TransID: d.TransID()}
}

func dirItemKey(dir ondisk.ObjectID, name []byte) ondisk.Key {
	return typeKey(dir, ondisk.DirItemKey, ondisk.NameHash(name))
}

// Lookup finds a name in a directory by its hash. fserr.ErrNotFound if it is not there; whether dir is a directory at
// all is not asked.
func (r *Reader) Lookup(ctx context.Context, dir ondisk.ObjectID, name string) (Entry, error) {
	e, found, err := r.find(ctx, dir, name)
	if err == nil && !found {
		err = fmt.Errorf("%q in directory %d of tree %v: %w", name, dir, r.id, fserr.ErrNotFound)
	}
	return e, err
}

// Has reports whether a directory has a name, for callers to whom its absence is no error.
func (r *Reader) Has(ctx context.Context, dir ondisk.ObjectID, name string) (bool, error) {
	_, found, err := r.find(ctx, dir, name)
	return found, err
}

func (r *Reader) find(ctx context.Context, dir ondisk.ObjectID, name string) (e Entry, found bool, err error) {
	raw := []byte(name)
	err = r.src.View(ctx, dirItemKey(dir, raw), func(item []byte) error {
		return ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
			if bytes.Equal(d.Name, raw) {
				e, found = entryOf(d, name, 0), true
			}
			return !found
		})
	})
	switch {
	case err == nil || errors.Is(err, fserr.ErrNotFound):
		return e, found, nil
	case errors.Is(err, ondisk.ErrShort):
		return e, false, r.corrupt(dir, "directory item of %q: %v", name, err)
	}
	return e, false, r.at(dir, err)
}

// dirBatch is how many entries one search of a listing gathers before it calls back.
const dirBatch = 256

// ReadDir calls fn for each entry of a directory whose index is greater than after, in the order of creation, until
// fn says no more. fn runs without locks and may change the directory: an entry is seen once if it is there
// throughout.
func (r *Reader) ReadDir(ctx context.Context, dir ondisk.ObjectID, after uint64, fn func(Entry) (more bool, err error)) error {
	batch := make([]Entry, 0, 32)
	for after < ^uint64(0) {
		batch = batch[:0]
		err := r.src.Scan(ctx, typeKey(dir, ondisk.DirIndexKey, after+1), typeKey(dir, ondisk.DirIndexKey, ^uint64(0)),
			func(k ondisk.Key, item []byte) (bool, error) {
				err := ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
					batch = append(batch, entryOf(d, string(d.Name), k.Offset))
					return true
				})
				if err != nil {
					return false, r.corrupt(dir, "directory index %d: %v", k.Offset, err)
				}
				return len(batch) < dirBatch, nil
			})
		if err != nil {
			return r.at(dir, err)
		}
		for _, e := range batch {
			if more, err := fn(e); err != nil || !more {
				return err
			}
		}
		if len(batch) < dirBatch {
			return nil
		}
		after = batch[len(batch)-1].Index
	}
	return nil
}

// Entries returns all entries of a directory in its order.
func (r *Reader) Entries(ctx context.Context, dir ondisk.ObjectID) ([]Entry, error) {
	var all []Entry
	err := r.ReadDir(ctx, dir, 0, func(e Entry) (bool, error) {
		all = append(all, e)
		return true, nil
	})
	return all, err
}
