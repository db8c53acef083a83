package treecheck

import (
	"math"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Bits that inode items may have (fs/btrfs/btrfs_inode.h): the low word is incompat, the high word compat_ro.
const (
	inodeFlags = ondisk.InodeNoDataSum | ondisk.InodeNoDataCow | ondisk.InodeReadonly | ondisk.InodeNoCompress |
		ondisk.InodePrealloc | ondisk.InodeSync | ondisk.InodeImmutable | ondisk.InodeAppend | ondisk.InodeNoDump |
		ondisk.InodeNoAtime | ondisk.InodeDirSync | ondisk.InodeCompress | ondisk.InodeRootInit
	inodeROFlags = ondisk.InodeROVerity
)

// isIno reports whether the number may be an inode's.
func isIno(o ondisk.ObjectID) bool {
	return o >= ondisk.FirstFreeObjectID && o <= ondisk.LastFreeObjectID ||
		o == ondisk.RootTreeDirObjectID || o == ondisk.FreeInoObjectID
}

// sameIno finds a missing INODE_ITEM: in a file tree every item of an inode but the first of a leaf follows another
// one of it. Log trees hold loose items.
func (k *checker) sameIno() *fserr.Corrupt {
	if k.slot == 0 || k.prev.ObjectID == k.key.ObjectID || !k.b.Header().Owner().IsSubvolume() {
		return nil
	}
	return k.inof("invalid previous key objectid, have %d expect %d", int64(k.prev.ObjectID), int64(k.key.ObjectID))
}

func (k *checker) inodeItem() *fserr.Corrupt {
	if !isIno(k.key.ObjectID) {
		return k.errorf("invalid key objectid, have %d expect %d or [%d, %d] or %d", int64(k.key.ObjectID), ondisk.RootTreeDirObjectID,
			ondisk.FirstFreeObjectID, signed(ondisk.LastFreeObjectID), signed(ondisk.FreeInoObjectID))
	}
	if k.key.Offset != 0 {
		return k.inof("invalid key offset, have %d expect 0", k.key.Offset)
	}
	if err := k.size(ondisk.InodeItemSize); err != nil {
		return err
	}
	in := ondisk.AsInodeItem(k.item)
	if k.future(in.Generation()) {
		return k.inof("invalid inode generation, have %d expect [0, %d]", uint64(in.Generation()), uint64(k.c.MaxGeneration))
	}
	if k.future(in.TransID()) {
		return k.inof("invalid inode transid, have %d expect [0, %d]", uint64(in.TransID()), uint64(k.c.MaxGeneration))
	}
	if in.Size() > math.MaxInt64 {
		return k.inof("invalid inode size, have %d expect [0, %d]", in.Size(), math.MaxInt64)
	}
	return k.inodeMode(in)
}

func (k *checker) inodeMode(in *ondisk.InodeItem) *fserr.Corrupt {
	mode := in.Mode()
	if bad := mode &^ (ondisk.ModeFmt | ondisk.ModePerm); bad != 0 {
		return k.inof("unknown mode bit detected: 0x%x", bad)
	}
	if ondisk.ModeToFT(mode) == ondisk.FTUnknown {
		return k.inof("invalid mode, have 0%o expect valid S_IF* bit(s)", mode&ondisk.ModeFmt)
	}
	if mode&ondisk.ModeFmt == ondisk.ModeDir && in.NLink() > 1 {
		return k.inof("invalid nlink, have %d expect no more than 1 for dir", in.NLink())
	}
	low, high := in.Flags()&math.MaxUint32, in.Flags()&^uint64(math.MaxUint32)
	if bad := low &^ inodeFlags; bad != 0 {
		return k.inof("unknown incompat flags detected: 0x%x", bad)
	}
	if bad := high &^ inodeROFlags; bad != 0 && k.c.Write {
		return k.inof("unknown ro-compat flags detected in a block to write: 0x%x", bad>>32)
	}
	return nil
}

func (k *checker) inodeRef() *fserr.Corrupt {
	if err := k.sameIno(); err != nil {
		return err
	}
	return k.nameRefs(ondisk.InodeRefSize)
}

func (k *checker) inodeExtref() *fserr.Corrupt {
	if err := k.sameIno(); err != nil {
		return err
	}
	return k.nameRefs(ondisk.InodeExtrefSize)
}

// nameRefs walks the entries of an INODE_REF or INODE_EXTREF: both end in a two-byte name length, then the name.
func (k *checker) nameRefs(head int) *fserr.Corrupt {
	if len(k.item) == 0 {
		return k.inof("invalid item size for %s, have 0", k.key.Type)
	}
	for off := 0; off < len(k.item); {
		if len(k.item)-off < head {
			return k.inof("inode ref overflow, offset %d end %d inode_ref_size %d", off, len(k.item), head)
		}
		var n int
		if head == ondisk.InodeRefSize {
			n = int(ondisk.AsInodeRef(k.item[off:]).NameLen())
		} else {
			n = int(ondisk.AsInodeExtref(k.item[off:]).NameLen())
		}
		if off+head+n > len(k.item) {
			return k.inof("inode ref overflow, offset %d end %d namelen %d", off, len(k.item), n)
		}
		if n == 0 || n > ondisk.MaxNameLen {
			return k.inof("invalid inode ref name len, have %d expect [1, %d]", n, ondisk.MaxNameLen)
		}
		off += head + n
	}
	return nil
}

// dirItem checks the entries of a DIR_ITEM, DIR_INDEX or XATTR_ITEM. Names of equal hash share an item, so each name is
// compared with the key's hash.
func (k *checker) dirItem() *fserr.Corrupt {
	if err := k.sameIno(); err != nil {
		return err
	}
	if len(k.item) == 0 {
		return k.inof("invalid item size for %s, have 0", k.key.Type)
	}
	for off := 0; off < len(k.item); {
		if len(k.item)-off < ondisk.DirItemSize {
			return k.inof("dir item header crosses item boundary, have %d boundary %d", off+ondisk.DirItemSize, len(k.item))
		}
		d := ondisk.AsDirItem(k.item[off:])
		if err := k.dirLocation(d); err != nil {
			return err
		}
		if err := k.dirEntry(d); err != nil {
			return err
		}
		nameAt, n := off+ondisk.DirItemSize, int(d.NameLen())
		end := nameAt + n + int(d.DataLen())
		if end > len(k.item) {
			return k.inof("dir item data crosses item boundary, have %d boundary %d", end, len(k.item))
		}
		if k.key.Type != ondisk.DirIndexKey {
			if h := ondisk.NameHash(k.item[nameAt : nameAt+n]); h != k.key.Offset {
				return k.inof("name hash mismatch with key, have 0x%016x expect 0x%016x", h, k.key.Offset)
			}
		}
		off = end
	}
	return nil
}

// dirEntry checks an entry's type and lengths.
func (k *checker) dirEntry(d *ondisk.DirItem) *fserr.Corrupt {
	typ, isXattr := d.Type(), k.key.Type == ondisk.XattrItemKey
	if typ > ondisk.FTXattr {
		return k.inof("invalid dir item type, have %d expect [0, %d]", typ, ondisk.FTXattr)
	}
	if isXattr && typ != ondisk.FTXattr {
		return k.inof("invalid dir item type for XATTR key, have %d expect %d", typ, ondisk.FTXattr)
	}
	if !isXattr && typ == ondisk.FTXattr {
		return k.inof("xattr dir type found for non-XATTR key")
	}
	n, data := int(d.NameLen()), int(d.DataLen())
	if n == 0 || n > ondisk.MaxNameLen {
		return k.inof("invalid dir item name len, have %d expect [1, %d]", n, ondisk.MaxNameLen)
	}
	if room := ondisk.MaxItemSize(k.c.NodeSize) - ondisk.DirItemSize; n+data > room {
		return k.inof("dir item name and data len too long, have %d max %d", n+data, room)
	}
	if data != 0 && !isXattr {
		return k.inof("dir item with invalid data len, have %d expect 0", data)
	}
	return nil
}

// dirLocation checks where an entry leads: to an inode of the same tree or to the root of a subvolume.
func (k *checker) dirLocation(d *ondisk.DirItem) *fserr.Corrupt {
	l := d.Location()
	if k.key.Type == ondisk.XattrItemKey {
		if l != (ondisk.Key{}) {
			return k.inof("invalid location key of an xattr, have %s expect zeros", l)
		}
		return nil
	}
	switch l.Type {
	case ondisk.RootItemKey:
		if !ondisk.TreeID(l.ObjectID).IsSubvolume() {
			return k.inof("invalid location key objectid, have %d expect %d or [%d, %d]", int64(l.ObjectID), ondisk.FSTree,
				ondisk.FirstFreeObjectID, signed(ondisk.LastFreeObjectID))
		}
	case ondisk.InodeItemKey, ondisk.UntypedKey:
		if !isIno(l.ObjectID) {
			return k.inof("invalid location key objectid, have %d expect %d or [%d, %d] or %d", int64(l.ObjectID),
				ondisk.RootTreeDirObjectID, ondisk.FirstFreeObjectID, signed(ondisk.LastFreeObjectID), signed(ondisk.FreeInoObjectID))
		}
		if l.Offset != 0 {
			return k.inof("invalid location key offset, have %d expect 0", l.Offset)
		}
	default:
		return k.inof("invalid location key type, have %d expect %d or %d", uint8(l.Type), ondisk.RootItemKey, ondisk.InodeItemKey)
	}
	return nil
}

// signed prints the high object ids as the kernel's messages do: -5 for the orphans.
func signed(o ondisk.ObjectID) int64 { return int64(o) }
