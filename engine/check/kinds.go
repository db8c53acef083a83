package check

// The ids of all findings, in the order of the table.
const (
	SuperInvalid         ID = "super-invalid"
	SuperUnreadable      ID = "super-unreadable"
	SuperMagic           ID = "super-magic"
	SuperCsum            ID = "super-csum"
	SuperForeign         ID = "super-foreign"
	SuperBytenr          ID = "super-bytenr"
	SuperOld             ID = "super-old"
	SuperDiffers         ID = "super-differs"
	SuperBackup          ID = "super-backup"
	SuperSysArray        ID = "super-sys-array"
	SuperDevItem         ID = "super-dev-item"
	SuperTotal           ID = "super-total-bytes"
	SuperUsed            ID = "super-bytes-used"
	SuperDevices         ID = "super-num-devices"
	DeviceShort          ID = "device-short"
	DeviceMissing        ID = "device-missing"
	DeviceUsed           ID = "device-used"
	ChunkOverlap         ID = "chunk-overlap"
	ChunkNoDevExtent     ID = "chunk-no-dev-extent"
	ChunkNoDevice        ID = "chunk-no-device"
	ChunkNoGroup         ID = "chunk-no-group"
	DevExtentNoChunk     ID = "dev-extent-no-chunk"
	DevExtentLength      ID = "dev-extent-length"
	DevExtentOverlap     ID = "dev-extent-overlap"
	DevExtentBeyond      ID = "dev-extent-beyond"
	GroupNoChunk         ID = "group-no-chunk"
	GroupType            ID = "group-type"
	GroupUsed            ID = "group-used"
	BlockUnreadable      ID = "block-unreadable"
	BlockUnmapped        ID = "block-unmapped"
	BlockCsum            ID = "block-csum"
	BlockCopy            ID = "block-copy"
	BlockBytenr          ID = "block-bytenr"
	BlockFSID            ID = "block-fsid"
	BlockGeneration      ID = "block-generation"
	BlockLevel           ID = "block-level"
	BlockOwner           ID = "block-owner"
	BlockFirstKey        ID = "block-first-key"
	BlockRange           ID = "block-range"
	BlockReused          ID = "block-reused"
	BlockItems           ID = "block-items"
	BlockLayout          ID = "block-layout"
	BlockKeyOrder        ID = "block-key-order"
	BlockPointer         ID = "block-pointer"
	BlockContent         ID = "block-content"
	ItemInode            ID = "item-inode"
	ItemInodeRef         ID = "item-inode-ref"
	ItemDir              ID = "item-dir"
	ItemXattr            ID = "item-xattr"
	ItemFileExtent       ID = "item-file-extent"
	ItemCsum             ID = "item-csum"
	ItemRoot             ID = "item-root"
	ItemRootRef          ID = "item-root-ref"
	ItemExtent           ID = "item-extent"
	ItemBackref          ID = "item-backref"
	ItemBlockGroup       ID = "item-block-group"
	ItemFreeSpace        ID = "item-free-space"
	ItemChunk            ID = "item-chunk"
	ItemDevice           ID = "item-device"
	ItemOrphan           ID = "item-orphan"
	ItemUUID             ID = "item-uuid"
	ItemOther            ID = "item-other"
	RootMissing          ID = "root-missing"
	RootDir              ID = "root-dir"
	RootRefNoBackref     ID = "root-ref-no-backref"
	RootBackrefNoRef     ID = "root-backref-no-ref"
	RootRefDiffers       ID = "root-ref-differs"
	RootRefNoRoot        ID = "root-ref-no-root"
	RootRefNoEntry       ID = "root-ref-no-entry"
	RootNoPlace          ID = "root-no-place"
	RootRefs             ID = "root-refs"
	RootNoOrphan         ID = "root-no-orphan"
	RootLoop             ID = "root-loop"
	OrphanNoRoot         ID = "orphan-no-root"
	DefaultSubvol        ID = "default-subvol"
	UUIDMissing          ID = "uuid-missing"
	UUIDStale            ID = "uuid-stale"
	ExtentOverlap        ID = "extent-overlap"
	ExtentRefs           ID = "extent-refs"
	ExtentUnused         ID = "extent-unused"
	ExtentType           ID = "extent-type"
	ExtentSize           ID = "extent-size"
	ExtentLevel          ID = "extent-level"
	ExtentGeneration     ID = "extent-generation"
	ExtentNoGroup        ID = "extent-no-group"
	ExtentGroupType      ID = "extent-group-type"
	BlockNoExtent        ID = "block-no-extent"
	DataNoExtent         ID = "data-no-extent"
	BackrefNoExtent      ID = "backref-no-extent"
	TreeRefMissing       ID = "tree-ref-missing"
	TreeRefExtra         ID = "tree-ref-extra"
	TreeRefCount         ID = "tree-ref-count"
	SharedRefMissing     ID = "shared-ref-missing"
	SharedRefExtra       ID = "shared-ref-extra"
	DataRefMissing       ID = "data-ref-missing"
	DataRefExtra         ID = "data-ref-extra"
	DataRefCount         ID = "data-ref-count"
	SharedDataRefMissing ID = "shared-data-ref-missing"
	SharedDataRefExtra   ID = "shared-data-ref-extra"
	SharedDataRefCount   ID = "shared-data-ref-count"
	FreeInUse            ID = "free-space-in-use"
	FreeMissing          ID = "free-space-missing"
	FreeCount            ID = "free-space-count"
	FreeKind             ID = "free-space-kind"
	FreeNoInfo           ID = "free-space-no-info"
	FreeNoGroup          ID = "free-space-no-group"
	CsumMissing          ID = "csum-missing"
	CsumOdd              ID = "csum-odd"
	CsumNoExtent         ID = "csum-no-extent"
	CsumOverlap          ID = "csum-overlap"
	DataCsum             ID = "data-csum"
	DataCopy             ID = "data-copy"
	DataUnreadable       ID = "data-unreadable"
	InodeMissing         ID = "inode-missing"
	InodeNoOrphan        ID = "inode-no-orphan"
	OrphanNoInode        ID = "orphan-no-inode"
	LinkCount            ID = "link-count"
	DirSize              ID = "dir-size"
	FileBytes            ID = "file-bytes"
	FileHole             ID = "file-hole"
	FileOverlap          ID = "file-overlap"
	SymlinkTarget        ID = "symlink-target"
	OddDirItems          ID = "odd-dir-items"
	OddExtents           ID = "odd-extents"
	FeatureFlag          ID = "feature-flag"
	ItemNoIndex          ID = "dir-item-no-index"
	IndexNoItem          ID = "dir-index-no-item"
	EntryNoRef           ID = "dir-entry-no-ref"
	RefNoEntry           ID = "inode-ref-no-entry"
	IndexNumber          ID = "dir-index-number"
	EntryNoInode         ID = "dir-entry-no-inode"
	EntryType            ID = "dir-entry-type"
	NameTwice            ID = "dir-name-twice"
	NamesDiffer          ID = "names-differ"
	LogNoRoot            ID = "log-no-root"
	LogInUse             ID = "log-in-use"
	LogLost              ID = "log-lost"
)

// Kinds is the table of all findings. The page docs/findings.md is made from it.
var Kinds = []Kind{
	{SuperInvalid, Error, "The superblock says something impossible; the kernel refuses to mount the file system."},
	{SuperUnreadable, Error, "A superblock copy cannot be read: the device has a bad place there, and one safeguard is gone."},
	{SuperMagic, Error, "A superblock copy has been overwritten; others are there, but one safeguard is gone."},
	{SuperCsum, Error, "A superblock copy is damaged; `btrfs rescue super-recover` mends it from a good one."},
	{SuperForeign, Error, "A superblock copy belongs to another file system, so a recovery could pick the wrong one."},
	{SuperBytenr, Error, "A superblock copy was written to the wrong place and cannot be used."},
	{SuperOld, Warning, "A superblock copy is older than the newest, as after a crash; the next commit renews it."},
	{SuperDiffers, Error, "Superblock copies of the same commit differ, so at least one of them is wrong."},
	{SuperBackup, Warning, "The superblock's backup of its own roots names others; a recovery by backup roots would find an older state."},
	{SuperSysArray, Error, "The superblock's list of SYSTEM chunks is wrong; the file system may fail to mount."},
	{SuperDevItem, Error, "The superblock describes its device otherwise than the chunk tree does; the device may not be recognised."},
	{SuperTotal, Error, "The superblock's total size is not that of the devices; the kernel may refuse to mount or to resize."},
	{SuperUsed, Error, "The superblock's count of used bytes is wrong; free space is reported wrongly."},
	{SuperDevices, Error, "The superblock's number of devices is wrong; the kernel refuses to mount."},
	{DeviceShort, Error, "The device or image is shorter than the file system on it: it was cut, and what lay behind its end is lost."},
	{DeviceMissing, Warning, "Not all devices of the file system were given (--device), so only what lies on these was checked."},
	{DeviceUsed, Error, "A device's count of allocated bytes is wrong; new chunks may be refused or overcommitted."},
	{ChunkOverlap, Error, "Two chunks claim the same addresses; data of one may overwrite that of the other."},
	{ChunkNoDevExtent, Error, "Space on a device is in use and not marked so; it may be given away and overwritten."},
	{ChunkNoDevice, Error, "A chunk lies on a device that the file system does not know; that copy cannot be read."},
	{ChunkNoGroup, Error, "A chunk has no block group; the kernel refuses to mount the file system."},
	{DevExtentNoChunk, Error, "Space on a device is marked as used by no chunk; it is lost until it is freed."},
	{DevExtentLength, Error, "The space that a chunk has on a device is marked with the wrong length; the kernel refuses to mount."},
	{DevExtentOverlap, Error, "Two chunks share space on a device; writing to one damages the other."},
	{DevExtentBeyond, Error, "A chunk lies past the end of its device; what is there cannot be read, and the kernel refuses to mount."},
	{GroupNoChunk, Error, "A block group has no chunk behind it; the kernel refuses to mount the file system."},
	{GroupType, Error, "A block group and its chunk disagree about what they hold; the kernel refuses to mount."},
	{GroupUsed, Error, "A block group's count of used bytes is wrong; free space is wrong, and the group may be removed while in use."},
	{BlockUnreadable, Error, "A tree block cannot be read from any copy; what it holds is lost."},
	{BlockUnmapped, Error, "A pointer leads to an address that is on no device; what should be there is lost."},
	{BlockCsum, Error, "A tree block is damaged in every copy; what it holds is lost."},
	{BlockCopy, Error, "One copy of a tree block is damaged and another is good; a scrub repairs it."},
	{BlockBytenr, Error, "A tree block was written to the wrong place; what should be here is lost."},
	{BlockFSID, Error, "A tree block belongs to another file system; what should be here is lost."},
	{BlockGeneration, Error, "A tree block is older or newer than the pointer to it, so a write was lost; what it should hold is lost."},
	{BlockLevel, Error, "A tree block has another height in the tree than the pointer to it says; it cannot be used."},
	{BlockOwner, Error, "A tree block belongs to another tree; the kernel refuses to read it."},
	{BlockFirstKey, Error, "A tree block does not begin with the key that leads to it; items in it cannot be found."},
	{BlockRange, Error, "A tree block holds keys that belong into its neighbour; items in it cannot be found."},
	{BlockReused, Error, "One tree block is used in two places that exclude each other: a loop, or a block given away twice."},
	{BlockItems, Error, "A tree block's number of items is impossible; the block cannot be used."},
	{BlockLayout, Error, "Items of a tree block overlap or lie outside it; the block cannot be used."},
	{BlockKeyOrder, Error, "Keys of a tree block are out of order; items in it cannot be found, and the kernel refuses the block."},
	{BlockPointer, Error, "A tree node has an impossible pointer; the kernel refuses the block and all below it."},
	{BlockContent, Error, "A tree block's header is impossible; the block cannot be used."},
	{ItemInode, Error, "An inode item is impossible; the kernel refuses the block that holds it."},
	{ItemInodeRef, Error, "A name of an inode is malformed; the kernel refuses the block that holds it."},
	{ItemDir, Error, "A directory entry is malformed; the kernel refuses the block that holds it."},
	{ItemXattr, Error, "An extended attribute is malformed; the kernel refuses the block that holds it."},
	{ItemFileExtent, Error, "A file extent is impossible; the kernel refuses the block that holds it."},
	{ItemCsum, Error, "A checksum item is malformed; the kernel refuses the block that holds it."},
	{ItemRoot, Error, "A root item is impossible; the kernel refuses the block that holds it, and with it the file system."},
	{ItemRootRef, Error, "A subvolume's place in another is malformed; the kernel refuses the block that holds it."},
	{ItemExtent, Error, "An extent item is impossible; the kernel refuses the block that holds it and cannot allocate."},
	{ItemBackref, Error, "A backref item is malformed; the kernel refuses the block that holds it."},
	{ItemBlockGroup, Error, "A block group item is impossible; the kernel refuses to mount."},
	{ItemFreeSpace, Error, "An item of the free-space tree is malformed; the kernel refuses the block that holds it."},
	{ItemChunk, Error, "A chunk item is impossible; what it maps cannot be read."},
	{ItemDevice, Error, "A device item or device extent is impossible; the kernel refuses to mount."},
	{ItemOrphan, Error, "An orphan item is malformed; what should be deleted is not."},
	{ItemUUID, Error, "An item of the uuid tree is malformed; receiving snapshots may fail."},
	{ItemOther, Error, "An item is malformed; the kernel refuses the block that holds it."},
	{RootMissing, Error, "A tree that every file system has is not there; the kernel refuses to mount."},
	{RootDir, Error, "A subvolume has no top directory; it cannot be entered."},
	{RootRefNoBackref, Error, "A subvolume does not know one of its places; deleting or moving it fails."},
	{RootBackrefNoRef, Error, "A subvolume is not listed where it says that it lies; it may be unreachable."},
	{RootRefDiffers, Error, "The two records of a subvolume's place differ; deleting or moving it fails."},
	{RootRefNoRoot, Error, "A directory leads to a subvolume that does not exist; entering it fails."},
	{RootRefNoEntry, Error, "A subvolume's place has no directory entry; it cannot be reached by its path."},
	{RootNoPlace, Error, "A subvolume lies in no directory; it can only be mounted by its number."},
	{RootRefs, Error, "A subvolume's reference count is wrong; it may be deleted while in use, or never."},
	{RootNoOrphan, Error, "A deleted subvolume is not listed for cleaning; its space is never freed."},
	{RootLoop, Error, "Subvolumes lie inside each other in a circle; none of them can be reached."},
	{OrphanNoRoot, Warning, "A subvolume is listed for cleaning that is gone already; the kernel drops the note."},
	{DefaultSubvol, Error, "The subvolume that is mounted by default does not exist; a mount without subvol= fails."},
	{UUIDMissing, Warning, "The uuid tree lacks a subvolume; `btrfs receive` may not find it as a parent."},
	{UUIDStale, Warning, "The uuid tree names a subvolume that has no such uuid; the kernel drops the entry."},
	{ExtentOverlap, Error, "Two extents share space; a change to one damages the other."},
	{ExtentRefs, Error, "An extent's reference count is not that of its backrefs; it may be freed while in use, or never."},
	{ExtentUnused, Error, "Space is allocated that nothing uses; it is lost until it is freed."},
	{ExtentType, Error, "Data and metadata claim the same space; a change to one damages the other."},
	{ExtentSize, Error, "A file and the extent tree disagree about an extent's length; freeing it damages the accounting or other data."},
	{ExtentLevel, Error, "The extent tree has the wrong level for a tree block; deleting or balancing it fails."},
	{ExtentGeneration, Error, "The extent tree has the wrong generation for a tree block; balancing it may fail."},
	{ExtentNoGroup, Error, "An extent lies outside all block groups; the space accounting is wrong, and the kernel may abort."},
	{ExtentGroupType, Error, "An extent lies in a block group of the wrong type; it may not have the copies that were asked for."},
	{BlockNoExtent, Error, "A tree block is in use and not marked so; it may be given away and overwritten."},
	{DataNoExtent, Error, "Data of a file is in use and not marked so; it may be given away and overwritten."},
	{BackrefNoExtent, Error, "A backref belongs to no extent; the kernel aborts when it comes across it."},
	{TreeRefMissing, Error, "A tree uses a block without being listed as its user; the block may be freed while in use."},
	{TreeRefExtra, Error, "A tree is listed as the user of a block that it does not use; the block is never freed."},
	{TreeRefCount, Error, "A tree's uses of a block are counted wrongly; the block may be freed while in use, or never."},
	{SharedRefMissing, Error, "A shared node uses a block without being listed as its user; the block may be freed while in use."},
	{SharedRefExtra, Error, "A node is listed as the user of a block that it does not use; the block is never freed."},
	{DataRefMissing, Error, "A file uses data without being listed as its user; the data may be freed while in use."},
	{DataRefExtra, Error, "A file is listed as the user of data that it does not use; the space is never freed."},
	{DataRefCount, Error, "A file's uses of data are counted wrongly; the data may be freed while in use, or never."},
	{SharedDataRefMissing, Error, "A shared leaf uses data without being listed as its user; the data may be freed while in use."},
	{SharedDataRefExtra, Error, "A leaf is listed as the user of data that it does not use; the space is never freed."},
	{SharedDataRefCount, Error, "A shared leaf's uses of data are counted wrongly; the data may be freed while in use, or never."},
	{FreeInUse, Error, "Space in use is listed as free; the next writes overwrite it."},
	{FreeMissing, Error, "Free space is not listed; it is lost until the free-space tree is made anew."},
	{FreeCount, Error, "The free-space tree miscounts its ranges; the kernel may abort when it changes them."},
	{FreeKind, Error, "The free-space tree mixes bitmaps and extents in one block group; the kernel fails to read it."},
	{FreeNoInfo, Error, "A block group is not in the free-space tree; the kernel aborts when it allocates there."},
	{FreeNoGroup, Error, "The free-space tree describes space that is in no block group; a later chunk at that address may fail."},
	{CsumMissing, Error, "File data has no checksums although it should; reading it fails."},
	{CsumOdd, Error, "File data has checksums although the file is marked as without; they may be stale."},
	{CsumNoExtent, Error, "There are checksums for space that holds no data; they may spoil later writes there."},
	{CsumOverlap, Error, "There are two checksums for the same data; one of them is wrong sooner or later."},
	{DataCsum, Error, "File data is damaged in every copy; reading it fails."},
	{DataCopy, Error, "One copy of file data is damaged and another is good; a scrub repairs it."},
	{DataUnreadable, Error, "File data cannot be read from any copy; it is lost."},
	{InodeMissing, Error, "Parts of a file are there without the file itself; it cannot be opened."},
	{InodeNoOrphan, Error, "A deleted file is not listed for cleaning; its space is never freed."},
	{OrphanNoInode, Warning, "A file is listed for cleaning that is in use or gone; the kernel drops the note."},
	{LinkCount, Error, "A file's link count is not its number of names; it may vanish while a name is left, or never be freed."},
	{DirSize, Error, "A directory's size does not fit its names; it cannot be removed."},
	{FileBytes, Error, "A file's count of allocated bytes is wrong; quotas and `du` are wrong."},
	{FileHole, Error, "A file has a hole that is not written down, which this file system requires; reading there may fail."},
	{FileOverlap, Error, "Two extents of a file cover the same range; its content is ambiguous."},
	{SymlinkTarget, Error, "A symbolic link's length does not fit its target; following it fails."},
	{OddDirItems, Error, "Something that is no directory has directory entries."},
	{OddExtents, Error, "Something that has no data has file extents; their space is not freed with it."},
	{FeatureFlag, Warning, "Data is compressed by an algorithm that the superblock does not announce, as `btrfs receive` leaves it; a kernel that does not know it cannot read the file."},
	{ItemNoIndex, Error, "A name can be opened and is not listed; its directory cannot be removed."},
	{IndexNoItem, Error, "A name is listed and cannot be opened."},
	{EntryNoRef, Error, "A file does not know one of its names; removing or renaming it by that name fails."},
	{RefNoEntry, Error, "A file claims a name that its directory does not have; it may be unreachable."},
	{IndexNumber, Error, "A file and its directory disagree about a name's index; removing it fails."},
	{EntryNoInode, Error, "A name leads to no file; it can be neither opened nor removed."},
	{EntryType, Error, "A directory has the wrong type for a file; programs that trust it fail."},
	{NameTwice, Error, "A directory has one name twice; only one of both can be reached."},
	{NamesDiffer, Error, "Names and files of a subvolume do not agree; some cannot be reached or removed."},
	{LogNoRoot, Error, "What was synced last belongs to a subvolume that does not exist; the kernel fails to replay it at mount."},
	{LogInUse, Error, "The log of what was synced last lies on top of other data; replaying it would damage the file system."},
	{LogLost, Error, "Part of the log of what was synced last is lost; a mount fails until the log is zeroed, which loses those changes."},
}

var kinds = func() map[ID]Kind {
	m := make(map[ID]Kind, len(Kinds))
	for _, k := range Kinds {
		m[k.ID] = k
	}
	return m
}()

// kindOf returns the row of an id. Every id in the code has one, see the test.
func kindOf(id ID) Kind { return kinds[id] }
