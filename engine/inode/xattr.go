package inode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Xattr is one extended attribute with its full name, such as "user.mime_type".
type Xattr struct {
	Name  string
	Value []byte
}

func xattrKey(ino ondisk.ObjectID, name string) ondisk.Key {
	return typeKey(ino, ondisk.XattrItemKey, ondisk.NameHash([]byte(name)))
}

// Xattrs returns all extended attributes of the inode, in the order of their hashes.
func (r *Reader) Xattrs(ctx context.Context, ino ondisk.ObjectID) ([]Xattr, error) {
	var all []Xattr
	err := r.src.Scan(ctx, typeKey(ino, ondisk.XattrItemKey, 0), typeKey(ino, ondisk.XattrItemKey, ^uint64(0)),
		func(k ondisk.Key, item []byte) (bool, error) {
			err := ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
				all = append(all, Xattr{string(d.Name), append([]byte{}, d.Data...)})
				return true
			})
			if err != nil {
				return false, r.corrupt(ino, "%v: %v", k, err)
			}
			return true, nil
		})
	return all, r.at(ino, err)
}

// Xattr returns the value of one extended attribute, fserr.ErrNoData if the inode has none of that name.
func (r *Reader) Xattr(ctx context.Context, ino ondisk.ObjectID, name string) ([]byte, error) {
	var value []byte
	found := false
	err := r.src.View(ctx, xattrKey(ino, name), func(item []byte) error {
		var d ondisk.DirEntry
		if d, found = findName(item, []byte(name)); found {
			value = append([]byte{}, d.Data...)
		}
		return nil
	})
	switch {
	case found:
		return value, nil
	case err == nil || isNotFound(err):
		return nil, fmt.Errorf("xattr %q of inode %d of tree %v: %w", name, ino, r.id, fserr.ErrNoData)
	}
	return nil, r.at(ino, err)
}

// Modes of SetXattr.
const (
	XattrAny     = 0 // create or replace
	XattrCreate  = 1 // fserr.ErrExist if there is one
	XattrReplace = 2 // fserr.ErrNoData if there is none
)

// checkXattr refuses names and sizes that no item can hold.
func (t *FileTree) checkXattr(name string, value []byte) error {
	if name == "" || len(name) > ondisk.MaxNameLen {
		return fmt.Errorf("xattr name of %d bytes, 1 to %d are possible: %w", len(name), ondisk.MaxNameLen, fserr.ErrRange)
	}
	if limit := ondisk.MaxItemSize(t.cfg.NodeSize) - ondisk.DirItemSize - len(name); len(value) > limit {
		return fmt.Errorf("xattr %q of %d bytes, at most %d are possible: %w", name, len(value), limit, fserr.ErrItemFull)
	}
	return nil
}

// checkXattrs checks the attributes of a new inode; those of one hash share an item.
func (t *FileTree) checkXattrs(xs []Xattr) error {
	if len(xs) == 0 {
		return nil
	}
	sizes := make(map[uint64]int, len(xs))
	names := make(map[string]bool, len(xs))
	for _, x := range xs {
		if err := t.checkXattr(x.Name, x.Value); err != nil {
			return err
		}
		if names[x.Name] {
			return fmt.Errorf("xattr %q twice: %w", x.Name, fserr.ErrInvalid)
		}
		names[x.Name] = true
		h := ondisk.NameHash([]byte(x.Name))
		if sizes[h] += ondisk.DirItemSize + len(x.Name) + len(x.Value); sizes[h] > ondisk.MaxItemSize(t.cfg.NodeSize) {
			return fmt.Errorf("xattr %q and others of its hash are too big for one item: %w", x.Name, fserr.ErrItemFull)
		}
	}
	return nil
}

// xattrEntry encodes one attribute.
func (o *op) xattrEntry(name string, value []byte) []byte {
	b := make([]byte, ondisk.DirItemSize+len(name)+len(value))
	ondisk.PutDirEntry(b, ondisk.Key{}, o.tx.Generation(), ondisk.FTXattr, []byte(name), value)
	return b
}

// xattrItems encodes the attributes of a new inode, which checkXattrs has seen, in key order.
func (o *op) xattrItems(ino ondisk.ObjectID, xs []Xattr) []Item {
	items := make([]Item, 0, len(xs))
	for _, x := range xs {
		items = append(items, Item{Key: xattrKey(ino, x.Name), Data: o.xattrEntry(x.Name, x.Value)})
	}
	slices.SortStableFunc(items, func(a, b Item) int { return cmp.Compare(a.Key.Offset, b.Key.Offset) })
	out := items[:1]
	for _, it := range items[1:] {
		if last := &out[len(out)-1]; last.Key == it.Key {
			last.Data = append(last.Data, it.Data...)
		} else {
			out = append(out, it)
		}
	}
	return out
}

// SetXattr sets an extended attribute; mode is XattrAny, XattrCreate or XattrReplace. fserr.ErrNoSpace if the value, or
// the values of equal hash together, do not fit an item.
func (t *FileTree) SetXattr(ctx context.Context, ino ondisk.ObjectID, name string, value []byte, mode int) error {
	if err := t.checkXattr(name, value); err != nil {
		return err
	}
	return t.changeXattr(ctx, ino, name, func(o *op, old []byte) ([]byte, error) {
		d, found := findName(old, []byte(name))
		switch {
		case found && mode == XattrCreate:
			return nil, fserr.ErrExist
		case !found && mode == XattrReplace:
			return nil, fserr.ErrNoData
		case found:
			old = cut(old, d.Off, d.Len)
		}
		item := append(clip(old), o.xattrEntry(name, value)...)
		if len(item) > ondisk.MaxItemSize(t.cfg.NodeSize) {
			return nil, fserr.ErrItemFull
		}
		return item, nil
	})
}

// RemoveXattr removes an extended attribute, fserr.ErrNoData if there is none of that name.
func (t *FileTree) RemoveXattr(ctx context.Context, ino ondisk.ObjectID, name string) error {
	return t.changeXattr(ctx, ino, name, func(_ *op, old []byte) ([]byte, error) {
		d, found := findName(old, []byte(name))
		if !found {
			return nil, fserr.ErrNoData
		}
		return cut(old, d.Off, d.Len), nil
	})
}

// changeXattr runs change on the item that holds the name's hash. Errors of change leave everything as it was.
func (t *FileTree) changeXattr(ctx context.Context, ino ondisk.ObjectID, name string,
	change func(o *op, old []byte) ([]byte, error)) error {
	return t.withInode(ctx, ino, itemsAttr+1, func(ctx context.Context, o *op, it *ondisk.InodeItem) error {
		if err := t.checkSettable(ino, it); err != nil {
			return err
		}
		var refused error
		err := t.tree.Modify(ctx, o.tx, xattrKey(ino, name), func(old []byte) ([]byte, error) {
			b, err := change(o, old)
			if err != nil {
				refused = err
				return nil, errNoChange
			}
			return b, nil
		})
		if refused != nil {
			return fmt.Errorf("xattr %q of inode %d of tree %v: %w", name, ino, t.id, refused)
		}
		if err != nil {
			return t.at(ino, err)
		}
		return o.touch(o.start(ctx), ino)
	})
}

// withInode runs fn as an operation on one inode, whose item it gets.
func (t *FileTree) withInode(ctx context.Context, ino ondisk.ObjectID, items int,
	fn func(ctx context.Context, o *op, it *ondisk.InodeItem) error) error {
	l := t.lock(ino)
	defer l.unlock()
	it, err := t.Inode(ctx, ino)
	if err != nil {
		return err
	}
	o, err := t.begin(ctx, items, false)
	if err != nil {
		return err
	}
	return o.end(ctx, fn(ctx, &o, &it))
}

// checkSettable refuses changes of an inode's attributes that its flags forbid.
func (t *FileTree) checkSettable(ino ondisk.ObjectID, it *ondisk.InodeItem) error {
	if it.Flags()&(ondisk.InodeImmutable|ondisk.InodeAppend) != 0 {
		return fmt.Errorf("inode %d of tree %v is immutable or append-only: %w", ino, t.id, fserr.ErrPerm)
	}
	return nil
}

// isNoChange reports whether a Modify ended because there was nothing to do.
func isNoChange(err error) bool { return errors.Is(err, errNoChange) }
