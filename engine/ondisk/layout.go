package ondisk

// Field is one member of an on-disk structure: its Go and C names, its byte offset, and its Go type. The types that
// the generator knows are uint8..uint64, the named integers of this package, Key, Timespec, UUID, "[n]byte" for an
// array handed out as a slice of the structure, and the name of another layout.
type Field struct {
	Name, C string
	Off     int
	Type    string
}

// Layout is one packed structure. The accessors in layout_gen.go are made from Layouts, and a test compares every
// offset and size with offsetof and sizeof of linux/btrfs_tree.h.
type Layout struct {
	Name, C string // C is empty where the kernel's header has no such structure of its own
	Size    int
	Doc     string
	Fields  []Field
}

// Layouts is the table of every fixed-size structure of the format, little-endian and packed throughout
// (include/uapi/linux/btrfs_tree.h).
var Layouts = []Layout{
	{"Header", "", HeaderSize, "is the start of every tree block.", []Field{
		{"Csum", "csum", 0, "[32]byte"}, {"FSID", "fsid", 32, "UUID"}, {"Bytenr", "bytenr", 48, "Logical"},
		{"RawFlags", "flags", 56, "uint64"}, {"ChunkTreeUUID", "chunk_tree_uuid", 64, "UUID"},
		{"Generation", "generation", 80, "Generation"}, {"Owner", "owner", 88, "TreeID"},
		{"NrItems", "nritems", 96, "uint32"}, {"Level", "level", 100, "uint8"},
	}},
	{"InodeItem", "btrfs_inode_item", 160, "is the body of an INODE_ITEM.", []Field{
		{"Generation", "generation", 0, "Generation"}, {"TransID", "transid", 8, "Generation"}, {"Size", "size", 16, "uint64"},
		{"NBytes", "nbytes", 24, "uint64"}, {"BlockGroup", "block_group", 32, "uint64"}, {"NLink", "nlink", 40, "uint32"},
		{"UID", "uid", 44, "uint32"}, {"GID", "gid", 48, "uint32"}, {"Mode", "mode", 52, "uint32"}, {"Rdev", "rdev", 56, "uint64"},
		{"Flags", "flags", 64, "uint64"}, {"Sequence", "sequence", 72, "uint64"}, {"ATime", "atime", 112, "Timespec"},
		{"CTime", "ctime", 124, "Timespec"}, {"MTime", "mtime", 136, "Timespec"}, {"OTime", "otime", 148, "Timespec"},
	}},
	{"RootItem", "btrfs_root_item", 439, "is the body of a ROOT_ITEM; old kernels wrote only its first 239 bytes.", []Field{
		{"Inode", "inode", 0, "InodeItem"}, {"Generation", "generation", 160, "Generation"}, {"RootDirID", "root_dirid", 168, "ObjectID"},
		{"Bytenr", "bytenr", 176, "Logical"}, {"ByteLimit", "byte_limit", 184, "uint64"}, {"BytesUsed", "bytes_used", 192, "uint64"},
		{"LastSnapshot", "last_snapshot", 200, "Generation"}, {"Flags", "flags", 208, "uint64"}, {"Refs", "refs", 216, "uint32"},
		{"DropProgress", "drop_progress", 220, "Key"}, {"DropLevel", "drop_level", 237, "uint8"}, {"Level", "level", 238, "uint8"},
		{"GenerationV2", "generation_v2", 239, "Generation"}, {"UUID", "uuid", 247, "UUID"}, {"ParentUUID", "parent_uuid", 263, "UUID"},
		{"ReceivedUUID", "received_uuid", 279, "UUID"}, {"CTransID", "ctransid", 295, "Generation"}, {"OTransID", "otransid", 303, "Generation"},
		{"STransID", "stransid", 311, "Generation"}, {"RTransID", "rtransid", 319, "Generation"}, {"CTime", "ctime", 327, "Timespec"},
		{"OTime", "otime", 339, "Timespec"}, {"STime", "stime", 351, "Timespec"}, {"RTime", "rtime", 363, "Timespec"},
	}},
	{"RootRef", "btrfs_root_ref", 18, "is the start of a ROOT_REF or ROOT_BACKREF; the name follows.", []Field{
		{"DirID", "dirid", 0, "ObjectID"}, {"Sequence", "sequence", 8, "uint64"}, {"NameLen", "name_len", 16, "uint16"},
	}},
	{"DirItem", "btrfs_dir_item", 30, "is the start of one entry of a DIR_ITEM, DIR_INDEX or XATTR_ITEM; name, then data, follow.", []Field{
		{"Location", "location", 0, "Key"}, {"TransID", "transid", 17, "Generation"}, {"DataLen", "data_len", 25, "uint16"},
		{"NameLen", "name_len", 27, "uint16"}, {"Type", "type", 29, "uint8"},
	}},
	{"InodeRef", "btrfs_inode_ref", 10, "is the start of one entry of an INODE_REF; the name follows.", []Field{
		{"Index", "index", 0, "uint64"}, {"NameLen", "name_len", 8, "uint16"},
	}},
	{"InodeExtref", "btrfs_inode_extref", 18, "is the start of one entry of an INODE_EXTREF; the name follows.", []Field{
		{"Parent", "parent_objectid", 0, "ObjectID"}, {"Index", "index", 8, "uint64"}, {"NameLen", "name_len", 16, "uint16"},
	}},
	{"FileExtentItem", "btrfs_file_extent_item", 53, "is the body of an EXTENT_DATA; an inline one ends before DiskBytenr and its data follows.", []Field{
		{"Generation", "generation", 0, "Generation"}, {"RAMBytes", "ram_bytes", 8, "uint64"}, {"Compression", "compression", 16, "uint8"},
		{"Encryption", "encryption", 17, "uint8"}, {"OtherEncoding", "other_encoding", 18, "uint16"}, {"Type", "type", 20, "uint8"},
		{"DiskBytenr", "disk_bytenr", 21, "Logical"}, {"DiskNumBytes", "disk_num_bytes", 29, "uint64"},
		{"Offset", "offset", 37, "uint64"}, {"NumBytes", "num_bytes", 45, "uint64"},
	}},
	{"ExtentItem", "btrfs_extent_item", 24, "is the start of an EXTENT_ITEM or METADATA_ITEM.", []Field{
		{"Refs", "refs", 0, "uint64"}, {"Generation", "generation", 8, "Generation"}, {"Flags", "flags", 16, "uint64"},
	}},
	{"TreeBlockInfo", "btrfs_tree_block_info", 18, "follows the ExtentItem of a tree block without skinny metadata.", []Field{
		{"Key", "key", 0, "Key"}, {"Level", "level", 17, "uint8"},
	}},
	{"ExtentInlineRef", "btrfs_extent_inline_ref", 9, "is the start of an inline backref; for ExtentDataRef the structure begins at its offset.", []Field{
		{"Type", "type", 0, "ItemType"}, {"Offset", "offset", 1, "uint64"},
	}},
	{"ExtentDataRef", "btrfs_extent_data_ref", 28, "names the inode and the file offset (less the extent offset) that refer to a data extent.", []Field{
		{"Root", "root", 0, "TreeID"}, {"ObjectID", "objectid", 8, "ObjectID"}, {"Offset", "offset", 16, "uint64"}, {"Count", "count", 24, "uint32"},
	}},
	{"SharedDataRef", "btrfs_shared_data_ref", 4, "counts the references that one leaf holds on a data extent.", []Field{
		{"Count", "count", 0, "uint32"},
	}},
	{"BlockGroupItem", "btrfs_block_group_item", 24, "is the body of a BLOCK_GROUP_ITEM.", []Field{
		{"Used", "used", 0, "uint64"}, {"ChunkObjectID", "chunk_objectid", 8, "ObjectID"}, {"Flags", "flags", 16, "uint64"},
	}},
	{"FreeSpaceInfo", "btrfs_free_space_info", 8, "is the body of a FREE_SPACE_INFO.", []Field{
		{"ExtentCount", "extent_count", 0, "uint32"}, {"Flags", "flags", 4, "uint32"},
	}},
	{"DevExtent", "btrfs_dev_extent", 48, "is the body of a DEV_EXTENT.", []Field{
		{"ChunkTree", "chunk_tree", 0, "TreeID"}, {"ChunkObjectID", "chunk_objectid", 8, "ObjectID"}, {"ChunkOffset", "chunk_offset", 16, "Logical"},
		{"Length", "length", 24, "uint64"}, {"ChunkTreeUUID", "chunk_tree_uuid", 32, "UUID"},
	}},
	{"DevItem", "btrfs_dev_item", 98, "is the body of a DEV_ITEM, also kept in the superblock.", []Field{
		{"DevID", "devid", 0, "uint64"}, {"TotalBytes", "total_bytes", 8, "uint64"}, {"BytesUsed", "bytes_used", 16, "uint64"},
		{"IOAlign", "io_align", 24, "uint32"}, {"IOWidth", "io_width", 28, "uint32"}, {"SectorSize", "sector_size", 32, "uint32"},
		{"Type", "type", 36, "uint64"}, {"Generation", "generation", 44, "Generation"}, {"StartOffset", "start_offset", 52, "uint64"},
		{"DevGroup", "dev_group", 60, "uint32"}, {"SeekSpeed", "seek_speed", 64, "uint8"}, {"Bandwidth", "bandwidth", 65, "uint8"},
		{"UUID", "uuid", 66, "UUID"}, {"FSID", "fsid", 82, "UUID"},
	}},
	{"Stripe", "btrfs_stripe", 32, "is one stripe of a chunk.", []Field{
		{"DevID", "devid", 0, "uint64"}, {"Offset", "offset", 8, "Physical"}, {"DevUUID", "dev_uuid", 16, "UUID"},
	}},
	{"Chunk", "", 48, "is the start of a CHUNK_ITEM; NumStripes stripes follow.", []Field{
		{"Length", "length", 0, "uint64"}, {"Owner", "owner", 8, "TreeID"}, {"StripeLen", "stripe_len", 16, "uint64"},
		{"Type", "type", 24, "uint64"}, {"IOAlign", "io_align", 32, "uint32"}, {"IOWidth", "io_width", 36, "uint32"},
		{"SectorSize", "sector_size", 40, "uint32"}, {"NumStripes", "num_stripes", 44, "uint16"}, {"SubStripes", "sub_stripes", 46, "uint16"},
	}},
	{"RootBackup", "", 168, "is one of the superblock's four copies of older root pointers.", []Field{
		{"TreeRoot", "tree_root", 0, "Logical"}, {"TreeRootGen", "tree_root_gen", 8, "Generation"},
		{"ChunkRoot", "chunk_root", 16, "Logical"}, {"ChunkRootGen", "chunk_root_gen", 24, "Generation"},
		{"ExtentRoot", "extent_root", 32, "Logical"}, {"ExtentRootGen", "extent_root_gen", 40, "Generation"},
		{"FSRoot", "fs_root", 48, "Logical"}, {"FSRootGen", "fs_root_gen", 56, "Generation"},
		{"DevRoot", "dev_root", 64, "Logical"}, {"DevRootGen", "dev_root_gen", 72, "Generation"},
		{"CsumRoot", "csum_root", 80, "Logical"}, {"CsumRootGen", "csum_root_gen", 88, "Generation"},
		{"TotalBytes", "total_bytes", 96, "uint64"}, {"BytesUsed", "bytes_used", 104, "uint64"}, {"NumDevices", "num_devices", 112, "uint64"},
		{"TreeRootLevel", "tree_root_level", 152, "uint8"}, {"ChunkRootLevel", "chunk_root_level", 153, "uint8"},
		{"ExtentRootLevel", "extent_root_level", 154, "uint8"}, {"FSRootLevel", "fs_root_level", 155, "uint8"},
		{"DevRootLevel", "dev_root_level", 156, "uint8"}, {"CsumRootLevel", "csum_root_level", 157, "uint8"},
	}},
	{"SuperBlock", "", SuperSize, "is the superblock, of which each device holds up to three copies.", []Field{
		{"Csum", "csum", 0, "[32]byte"}, {"FSID", "fsid", 32, "UUID"}, {"Bytenr", "bytenr", 48, "Physical"}, {"Flags", "flags", 56, "uint64"},
		{"Magic", "magic", 64, "uint64"}, {"Generation", "generation", 72, "Generation"}, {"Root", "root", 80, "Logical"},
		{"ChunkRoot", "chunk_root", 88, "Logical"}, {"LogRoot", "log_root", 96, "Logical"}, {"LogRootTransID", "log_root_transid", 104, "Generation"},
		{"TotalBytes", "total_bytes", 112, "uint64"}, {"BytesUsed", "bytes_used", 120, "uint64"}, {"RootDirObjectID", "root_dir_objectid", 128, "ObjectID"},
		{"NumDevices", "num_devices", 136, "uint64"}, {"SectorSize", "sectorsize", 144, "uint32"}, {"NodeSize", "nodesize", 148, "uint32"},
		{"LeafSize", "leafsize", 152, "uint32"}, {"StripeSize", "stripesize", 156, "uint32"}, {"SysChunkArraySize", "sys_chunk_array_size", 160, "uint32"},
		{"ChunkRootGeneration", "chunk_root_generation", 164, "Generation"}, {"CompatFlags", "compat_flags", 172, "uint64"},
		{"CompatROFlags", "compat_ro_flags", 180, "uint64"}, {"IncompatFlags", "incompat_flags", 188, "uint64"}, {"CsumType", "csum_type", 196, "uint16"},
		{"RootLevel", "root_level", 198, "uint8"}, {"ChunkRootLevel", "chunk_root_level", 199, "uint8"}, {"LogRootLevel", "log_root_level", 200, "uint8"},
		{"DevItem", "dev_item", 201, "DevItem"}, {"RawLabel", "label", 299, "[256]byte"}, {"CacheGeneration", "cache_generation", 555, "uint64"},
		{"UUIDTreeGeneration", "uuid_tree_generation", 563, "uint64"}, {"MetadataUUID", "metadata_uuid", 571, "UUID"},
		{"NrGlobalRoots", "nr_global_roots", 587, "uint64"}, {"SysChunkArray", "sys_chunk_array", 811, "[2048]byte"},
		{"SuperRoots", "super_roots", 2859, "[672]byte"},
	}},
	{"QgroupStatusItem", "btrfs_qgroup_status_item", 32, "is the body of a QGROUP_STATUS.", []Field{
		{"Version", "version", 0, "uint64"}, {"Generation", "generation", 8, "Generation"}, {"Flags", "flags", 16, "uint64"}, {"Rescan", "rescan", 24, "uint64"},
	}},
}
