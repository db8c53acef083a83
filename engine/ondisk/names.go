package ondisk

import "fmt"

var itemTypeNames = map[ItemType]string{
	UntypedKey: "UNTYPED", InodeItemKey: "INODE_ITEM", InodeRefKey: "INODE_REF", InodeExtrefKey: "INODE_EXTREF",
	XattrItemKey: "XATTR_ITEM", VerityDescItemKey: "VERITY_DESC_ITEM", VerityMerkleItemKey: "VERITY_MERKLE_ITEM",
	OrphanItemKey: "ORPHAN_ITEM", DirLogItemKey: "DIR_LOG_ITEM", DirLogIndexKey: "DIR_LOG_INDEX",
	DirItemKey: "DIR_ITEM", DirIndexKey: "DIR_INDEX", ExtentDataKey: "EXTENT_DATA", ExtentCsumKey: "EXTENT_CSUM",
	RootItemKey: "ROOT_ITEM", RootBackrefKey: "ROOT_BACKREF", RootRefKey: "ROOT_REF", ExtentItemKey: "EXTENT_ITEM",
	MetadataItemKey: "METADATA_ITEM", ExtentOwnerRefKey: "EXTENT_OWNER_REF", TreeBlockRefKey: "TREE_BLOCK_REF",
	ExtentDataRefKey: "EXTENT_DATA_REF", SharedBlockRefKey: "SHARED_BLOCK_REF", SharedDataRefKey: "SHARED_DATA_REF",
	BlockGroupItemKey: "BLOCK_GROUP_ITEM", FreeSpaceInfoKey: "FREE_SPACE_INFO", FreeSpaceExtentKey: "FREE_SPACE_EXTENT",
	FreeSpaceBitmapKey: "FREE_SPACE_BITMAP", DevExtentKey: "DEV_EXTENT", DevItemKey: "DEV_ITEM", ChunkItemKey: "CHUNK_ITEM",
	RaidStripeKey: "RAID_STRIPE", QgroupStatusKey: "QGROUP_STATUS", QgroupInfoKey: "QGROUP_INFO",
	QgroupLimitKey: "QGROUP_LIMIT", QgroupRelationKey: "QGROUP_RELATION", TemporaryItemKey: "TEMPORARY_ITEM",
	PersistentItemKey: "PERSISTENT_ITEM", DevReplaceKey: "DEV_REPLACE", UUIDKeySubvol: "UUID_KEY_SUBVOL",
	UUIDKeyReceived: "UUID_KEY_RECEIVED_SUBVOL", StringItemKey: "STRING_ITEM",
}

// String returns the name that btrfs-progs prints for the type, UNKNOWN.n for one it does not know.
func (t ItemType) String() string {
	if n, ok := itemTypeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("UNKNOWN.%d", uint8(t))
}

var treeNames = map[TreeID]string{
	RootTree: "ROOT_TREE", ExtentTree: "EXTENT_TREE", ChunkTree: "CHUNK_TREE", DevTree: "DEV_TREE", FSTree: "FS_TREE",
	CsumTree: "CSUM_TREE", QuotaTree: "QUOTA_TREE", UUIDTree: "UUID_TREE", FreeSpaceTree: "FREE_SPACE_TREE",
	BlockGroupTree: "BLOCK_GROUP_TREE", RaidStripeTree: "RAID_STRIPE_TREE", TreeLogTree: "TREE_LOG",
	TreeLogFixup: "TREE_LOG_FIXUP", TreeRelocTree: "TREE_RELOC", DataRelocTree: "DATA_RELOC_TREE",
}

// String returns btrfs-progs' name of a well-known tree, the number of any other.
func (t TreeID) String() string {
	if n, ok := treeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("%d", int64(t))
}
