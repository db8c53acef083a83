package ondisk

import (
	"cmp"
	"fmt"
)

// Distinct integer types, so that an address of one space cannot be passed where the other is meant.
type (
	Logical    uint64 // address in the file system's own address space, bytes
	Physical   uint64 // address on one device, bytes
	Generation uint64 // transaction id
	ObjectID   uint64 // first part of a key: inode number, tree id, address, ...
	TreeID     uint64 // objectid of a tree: 1 root tree, 5 FS_TREE, 256.. subvolumes
	ItemType   uint8  // second part of a key
)

// Well-known trees (include/uapi/linux/btrfs_tree.h).
const (
	RootTree       TreeID = 1
	ExtentTree     TreeID = 2
	ChunkTree      TreeID = 3
	DevTree        TreeID = 4
	FSTree         TreeID = 5
	CsumTree       TreeID = 7
	QuotaTree      TreeID = 8
	UUIDTree       TreeID = 9
	FreeSpaceTree  TreeID = 10
	BlockGroupTree TreeID = 11
	RaidStripeTree TreeID = 12

	TreeLogTree   TreeID = ^TreeID(0) - 5 // -6
	TreeLogFixup  TreeID = ^TreeID(0) - 6 // -7
	TreeRelocTree TreeID = ^TreeID(0) - 7 // -8
	DataRelocTree TreeID = ^TreeID(0) - 8 // -9
)

// Well-known object ids.
const (
	DevItemsObjectID    ObjectID = 1   // in the chunk tree
	RootTreeDirObjectID ObjectID = 6   // directory in the root tree that holds "default"
	FirstFreeObjectID   ObjectID = 256 // first inode, first subvolume
	FirstChunkObjectID  ObjectID = 256
	LastFreeObjectID    ObjectID = ^ObjectID(0) - 255
	DevStatsObjectID    ObjectID = 0
	BalanceObjectID     ObjectID = ^ObjectID(0) - 3  // -4
	OrphanObjectID      ObjectID = ^ObjectID(0) - 4  // -5
	ExtentCsumObjectID  ObjectID = ^ObjectID(0) - 9  // -10
	FreeSpaceObjectID   ObjectID = ^ObjectID(0) - 10 // -11
	FreeInoObjectID     ObjectID = ^ObjectID(0) - 11 // -12
)

// FirstSubvolID and LastSubvolID bound the ids of user subvolumes other than FSTree.
const (
	FirstSubvolID = TreeID(FirstFreeObjectID)
	LastSubvolID  = TreeID(LastFreeObjectID)
)

// IsFileTree reports whether the tree holds files: FS_TREE, a subvolume, or the data relocation tree. These are the
// trees whose blocks snapshots and relocation may share.
func (t TreeID) IsFileTree() bool {
	return t == FSTree || (t >= FirstSubvolID && t <= LastSubvolID) || t == DataRelocTree || t == TreeRelocTree
}

// IsSubvolume reports whether the tree is FS_TREE or a user's subvolume.
func (t TreeID) IsSubvolume() bool { return t == FSTree || (t >= FirstSubvolID && t <= LastSubvolID) }

// Item types (include/uapi/linux/btrfs_tree.h).
const (
	InodeItemKey        ItemType = 1
	InodeRefKey         ItemType = 12
	InodeExtrefKey      ItemType = 13
	XattrItemKey        ItemType = 24
	VerityDescItemKey   ItemType = 36
	VerityMerkleItemKey ItemType = 37
	OrphanItemKey       ItemType = 48
	DirLogItemKey       ItemType = 60
	DirLogIndexKey      ItemType = 72
	DirItemKey          ItemType = 84
	DirIndexKey         ItemType = 96
	ExtentDataKey       ItemType = 108
	ExtentCsumKey       ItemType = 128
	RootItemKey         ItemType = 132
	RootBackrefKey      ItemType = 144
	RootRefKey          ItemType = 156
	ExtentItemKey       ItemType = 168
	MetadataItemKey     ItemType = 169
	ExtentOwnerRefKey   ItemType = 172
	TreeBlockRefKey     ItemType = 176
	ExtentDataRefKey    ItemType = 178
	SharedBlockRefKey   ItemType = 182
	SharedDataRefKey    ItemType = 184
	BlockGroupItemKey   ItemType = 192
	FreeSpaceInfoKey    ItemType = 198
	FreeSpaceExtentKey  ItemType = 199
	FreeSpaceBitmapKey  ItemType = 200
	DevExtentKey        ItemType = 204
	DevItemKey          ItemType = 216
	ChunkItemKey        ItemType = 228
	RaidStripeKey       ItemType = 230
	QgroupStatusKey     ItemType = 240
	QgroupInfoKey       ItemType = 242
	QgroupLimitKey      ItemType = 244
	QgroupRelationKey   ItemType = 246
	TemporaryItemKey    ItemType = 248 // also BALANCE_ITEM
	PersistentItemKey   ItemType = 249 // also DEV_STATS
	DevReplaceKey       ItemType = 250
	UUIDKeySubvol       ItemType = 251
	UUIDKeyReceived     ItemType = 252
	StringItemKey       ItemType = 253
	UntypedKey          ItemType = 0
)

// Key orders every item of every tree: by ObjectID, then Type, then Offset. On disk it takes KeySize bytes.
type Key struct {
	ObjectID ObjectID
	Type     ItemType
	Offset   uint64
}

// Sizes of the fixed structures that are not in Layouts.
const (
	KeySize     = 17
	HeaderSize  = 101
	ItemSize    = 25 // an item header in a leaf: key, offset, size
	KeyPtrSize  = 33 // a slot of a node: key, block address, generation
	CsumSize    = 32
	FSIDSize    = 16
	UUIDSize    = 16
	MaxLevel    = 8
	SuperSize   = 4096
	SectorSize  = 4096 // the only sector size this engine writes
	MaxNameLen  = 255
	MaxLinks    = 65535
	StripeLen   = 65536
	ReservedEnd = 1 << 20 // the first 1 MiB of each device holds no chunk
)

// MinKey and MaxKey bound all keys.
var (
	MinKey = Key{}
	MaxKey = Key{ObjectID: ^ObjectID(0), Type: 255, Offset: ^uint64(0)}
)

// Compare orders keys as the trees do.
func (k Key) Compare(o Key) int {
	if c := cmp.Compare(k.ObjectID, o.ObjectID); c != 0 {
		return c
	}
	if c := cmp.Compare(k.Type, o.Type); c != 0 {
		return c
	}
	return cmp.Compare(k.Offset, o.Offset)
}

// Less reports whether k comes before o.
func (k Key) Less(o Key) bool { return k.Compare(o) < 0 }

// Next returns the key right behind k in key order; MaxKey is its own next.
func (k Key) Next() Key {
	if k.Offset < ^uint64(0) {
		return Key{k.ObjectID, k.Type, k.Offset + 1}
	}
	if k.Type < 255 {
		return Key{k.ObjectID, k.Type + 1, 0}
	}
	if k.ObjectID < ^ObjectID(0) {
		return Key{k.ObjectID + 1, 0, 0}
	}
	return k
}

// String prints the key as the kernel's messages do: (257 INODE_ITEM 0).
func (k Key) String() string {
	return fmt.Sprintf("(%d %s %d)", int64(k.ObjectID), k.Type, k.Offset)
}

// GetKey decodes the key at the start of b.
func GetKey(b []byte) Key {
	_ = b[KeySize-1]
	return Key{ObjectID(le64(b)), ItemType(b[8]), le64(b[9:])}
}

// PutKey encodes k at the start of b.
func PutKey(b []byte, k Key) {
	_ = b[KeySize-1]
	put64(b, uint64(k.ObjectID))
	b[8] = byte(k.Type)
	put64(b[9:], k.Offset)
}
