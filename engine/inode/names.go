package inode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// NameRef is one name of an inode, as the inode itself records it.
type NameRef struct {
	Parent ondisk.ObjectID
	Index  uint64 // the name's DIR_INDEX in the parent
	Name   string
}

// Refs returns every name of the inode, from INODE_REF and INODE_EXTREF items.
func (r *Reader) Refs(ctx context.Context, ino ondisk.ObjectID) ([]NameRef, error) {
	var all []NameRef
	add := func(n ondisk.NameRef) bool {
		all = append(all, NameRef{n.Parent, n.Index, string(n.Name)})
		return true
	}
	err := r.src.Scan(ctx, typeKey(ino, ondisk.InodeRefKey, 0), typeKey(ino, ondisk.InodeExtrefKey, ^uint64(0)),
		func(k ondisk.Key, item []byte) (bool, error) {
			var err error
			if k.Type == ondisk.InodeRefKey {
				err = ondisk.InodeRefs(item, ondisk.ObjectID(k.Offset), add)
			} else {
				err = ondisk.InodeExtrefs(item, add)
			}
			if err != nil {
				return false, r.corrupt(ino, "%v: %v", k, err)
			}
			return true, nil
		})
	return all, r.at(ino, err)
}

// maxDepth bounds the way up from a directory, so that a loop on disk ends.
const maxDepth = 1 << 16

// PathOf returns a path of the inode from the tree's top directory, without a slash in front: the first name that it
// records. The top directory's own is "".
func (r *Reader) PathOf(ctx context.Context, ino ondisk.ObjectID) (string, error) {
	var parts []string
	for at := ino; at != RootDir; {
		refs, err := r.Refs(ctx, at)
		if err != nil {
			return "", err
		}
		if len(refs) == 0 {
			return "", fmt.Errorf("inode %d of tree %v has no name: %w", at, r.id, fserr.ErrNotFound)
		}
		if parts = append(parts, refs[0].Name); len(parts) > maxDepth {
			return "", r.corrupt(ino, "its directories form a loop")
		}
		at = refs[0].Parent
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, "/"), nil
}

// Parent returns the directory that a directory lies in. The top directory's is itself.
func (r *Reader) Parent(ctx context.Context, dir ondisk.ObjectID) (ondisk.ObjectID, error) {
	refs, err := r.Refs(ctx, dir)
	if err != nil {
		return 0, err
	}
	if len(refs) != 1 {
		return 0, r.corrupt(dir, "directory with %d names", len(refs))
	}
	return refs[0].Parent, nil
}

// addRef records a name of the inode: in the INODE_REF of its parent, or, when that is full and the file system has
// extended refs, in the INODE_EXTREF of the name's hash. Without the feature a full item is EMLINK.
func (o *op) addRef(ctx context.Context, ino, parent ondisk.ObjectID, index uint64, name []byte) error {
	limit := ondisk.MaxItemSize(o.t.cfg.NodeSize)
	full := false
	err := o.t.tree.Modify(ctx, o.tx, typeKey(ino, ondisk.InodeRefKey, uint64(parent)), func(old []byte) ([]byte, error) {
		if len(old)+ondisk.InodeRefSize+len(name) > limit {
			full = true
			return old, errNoChange
		}
		return appendRef(clip(old), index, name), nil
	})
	if err == nil || !full {
		return err
	}
	if !o.t.cfg.ExtendedIref {
		return fmt.Errorf("another name for inode %d in directory %d, whose INODE_REF is full, needs the feature extref: %w",
			ino, parent, fserr.ErrTooMany)
	}
	return o.t.tree.Modify(ctx, o.tx, extrefKey(ino, parent, name), func(old []byte) ([]byte, error) {
		if len(old)+ondisk.InodeExtrefSize+len(name) > limit {
			return nil, fmt.Errorf("names of equal hash for inode %d in directory %d fill an item: %w", ino, parent, fserr.ErrTooMany)
		}
		b := append(clip(old), make([]byte, ondisk.InodeExtrefSize)...)
		x := ondisk.AsInodeExtref(b[len(old):])
		x.SetParent(parent)
		x.SetIndex(index)
		x.SetNameLen(uint16(len(name)))
		return append(b, name...), nil
	})
}

// errNoChange ends a Modify that found out that it has nothing to do.
var errNoChange = errors.New("no change")

// clip makes appending to an item's bytes copy them.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

func appendRef(b []byte, index uint64, name []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, ondisk.InodeRefSize)...)
	f := ondisk.AsInodeRef(b[at:])
	f.SetIndex(index)
	f.SetNameLen(uint16(len(name)))
	return append(b, name...)
}

func extrefKey(ino, parent ondisk.ObjectID, name []byte) ondisk.Key {
	return typeKey(ino, ondisk.InodeExtrefKey, ondisk.ExtrefHash(parent, name))
}

// dropRef removes a name of the inode and returns its index in the parent.
func (o *op) dropRef(ctx context.Context, ino, parent ondisk.ObjectID, name []byte) (index uint64, err error) {
	for _, key := range []ondisk.Key{typeKey(ino, ondisk.InodeRefKey, uint64(parent)), extrefKey(ino, parent, name)} {
		found := false
		err = o.t.tree.Modify(ctx, o.tx, key, func(old []byte) ([]byte, error) {
			var at ondisk.NameRef
			at, found = findRef(key, old, parent, name)
			if !found {
				return nil, errNoChange
			}
			index = at.Index
			return cut(old, at.Off, at.Len), nil
		})
		if !isNoChange(err) {
			return index, err
		}
	}
	return 0, o.t.corrupt(ino, "has no reference for its name %q in directory %d", name, parent)
}

// findRef finds a name in an INODE_REF or INODE_EXTREF item.
func findRef(key ondisk.Key, item []byte, parent ondisk.ObjectID, name []byte) (at ondisk.NameRef, found bool) {
	match := func(n ondisk.NameRef) bool {
		if n.Parent == parent && bytes.Equal(n.Name, name) {
			at, found = n, true
		}
		return !found
	}
	// An entry that runs over the end of its item is treecheck's to report; here the name is not found.
	if key.Type == ondisk.InodeRefKey {
		_ = ondisk.InodeRefs(item, ondisk.ObjectID(key.Offset), match)
	} else {
		_ = ondisk.InodeExtrefs(item, match)
	}
	return at, found
}

// cut returns a copy of an item without n bytes at off, nil when nothing is left.
func cut(item []byte, off, n int) []byte {
	if len(item) == n {
		return nil
	}
	return append(append(make([]byte, 0, len(item)-n), item[:off]...), item[off+n:]...)
}

// checkName refuses what cannot be a directory entry.
func checkName(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("name %q: %w", name, fserr.ErrInvalid)
	case len(name) > ondisk.MaxNameLen:
		return fmt.Errorf("name of %d bytes, at most %d are possible: %w", len(name), ondisk.MaxNameLen, fserr.ErrNameTooLong)
	case strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("name %q holds a slash or a NUL: %w", name, fserr.ErrInvalid)
	}
	return nil
}
