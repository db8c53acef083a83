package ondisk

import "errors"

// ErrShort is returned by the iterators over packed entries when an entry runs over the end of its item.
var ErrShort = errors.New("entry runs over the end of its item")

// DirEntry is one entry of a DIR_ITEM, DIR_INDEX or XATTR_ITEM, aliasing the item's bytes.
type DirEntry struct {
	*DirItem
	Name, Data []byte
	Off, Len   int // place of the whole entry within its item
}

// DirEntries calls f for each entry of an item; names of equal hash share one DIR_ITEM. It stops when f returns false.
func DirEntries(item []byte, f func(DirEntry) bool) error {
	for off := 0; off < len(item); {
		if len(item)-off < DirItemSize {
			return ErrShort
		}
		d := AsDirItem(item[off:])
		n, m := int(d.NameLen()), int(d.DataLen())
		end := off + DirItemSize + n + m
		if end > len(item) {
			return ErrShort
		}
		nameAt := off + DirItemSize
		e := DirEntry{d, item[nameAt : nameAt+n : nameAt+n], item[nameAt+n : end : end], off, end - off}
		if !f(e) {
			return nil
		}
		off = end
	}
	return nil
}

// PutDirEntry encodes an entry at the start of b, which must hold DirItemSize+len(name)+len(data) bytes.
func PutDirEntry(b []byte, loc Key, gen Generation, typ uint8, name, data []byte) {
	d := AsDirItem(b)
	d.SetLocation(loc)
	d.SetTransID(gen)
	d.SetDataLen(uint16(len(data)))
	d.SetNameLen(uint16(len(name)))
	d.SetType(typ)
	copy(b[DirItemSize:], name)
	copy(b[DirItemSize+len(name):], data)
}

// NameRef is one name of an inode: from an INODE_REF, where the key's offset is the parent, or an INODE_EXTREF.
type NameRef struct {
	Parent   ObjectID
	Index    uint64
	Name     []byte
	Off, Len int // place of the entry within its item
}

// InodeRefs calls f for each name in an INODE_REF item of the given parent. It stops when f returns false.
func InodeRefs(item []byte, parent ObjectID, f func(NameRef) bool) error {
	for off := 0; off < len(item); {
		if len(item)-off < InodeRefSize {
			return ErrShort
		}
		r := AsInodeRef(item[off:])
		at := off + InodeRefSize
		end := at + int(r.NameLen())
		if end > len(item) {
			return ErrShort
		}
		if !f(NameRef{parent, r.Index(), item[at:end:end], off, end - off}) {
			return nil
		}
		off = end
	}
	return nil
}

// InodeExtrefs calls f for each name in an INODE_EXTREF item. It stops when f returns false.
func InodeExtrefs(item []byte, f func(NameRef) bool) error {
	for off := 0; off < len(item); {
		if len(item)-off < InodeExtrefSize {
			return ErrShort
		}
		r := AsInodeExtref(item[off:])
		at := off + InodeExtrefSize
		end := at + int(r.NameLen())
		if end > len(item) {
			return ErrShort
		}
		if !f(NameRef{r.Parent(), r.Index(), item[at:end:end], off, end - off}) {
			return nil
		}
		off = end
	}
	return nil
}

// InlineRef is one backref inside an extent item.
type InlineRef struct {
	Type   ItemType
	Offset uint64         // root of a TREE_BLOCK_REF, parent block of a shared one
	Data   *ExtentDataRef // for EXTENT_DATA_REF
	Count  uint32         // 1 for tree blocks
	Off    int            // place within the item
	Len    int
}

// InlineRefSize returns the length of an inline backref of type t, 0 for a type that cannot be inline.
func InlineRefSize(t ItemType) int {
	switch t {
	case TreeBlockRefKey, SharedBlockRefKey, ExtentOwnerRefKey:
		return ExtentInlineRefSize
	case ExtentDataRefKey:
		return 1 + ExtentDataRefSize
	case SharedDataRefKey:
		return ExtentInlineRefSize + SharedDataRefSize
	}
	return 0
}

// InlineRefs calls f for each inline backref of an EXTENT_ITEM or METADATA_ITEM, of the given key type. It stops when
// f returns false.
func InlineRefs(item []byte, keyType ItemType, f func(InlineRef) bool) error {
	if len(item) < ExtentItemSize {
		return ErrShort
	}
	off := ExtentItemSize
	if keyType == ExtentItemKey && AsExtentItem(item).Flags()&ExtentFlagTreeBlock != 0 {
		off += TreeBlockInfoSize
	}
	for off < len(item) {
		t := ItemType(item[off])
		n := InlineRefSize(t)
		if n == 0 || off+n > len(item) {
			return ErrShort
		}
		r := InlineRef{Type: t, Off: off, Len: n, Count: 1}
		if t == ExtentDataRefKey {
			r.Data = AsExtentDataRef(item[off+1:])
			r.Count = r.Data.Count()
			r.Offset = ExtentDataRefHash(r.Data.Root(), r.Data.ObjectID(), r.Data.Offset())
		} else {
			r.Offset = le64(item[off+1:])
			if t == SharedDataRefKey {
				r.Count = le32(item[off+ExtentInlineRefSize:])
			}
		}
		if !f(r) {
			return nil
		}
		off += n
	}
	if off != len(item) {
		return ErrShort
	}
	return nil
}
