// Package treecheck answers one question: is this block valid by itself?
//
// Block runs after every read of a tree block and before every write (invariant I10). It is given bytes that may hold
// anything and checks header, key order, item offsets and sizes, and the content of every item whose type it knows, so
// that what reads the block afterwards may trust the accessors of package ondisk: no item is shorter than the
// structure that its type promises, no name runs over its item's end. What it cannot know is whether the block is the
// one that was asked for (the reader compares address, level, generation and first key with the pointer that led
// there) and whether items of different blocks agree (that is the checker's work).
//
// The rules are those of the kernel's tree-checker (fs/btrfs/tree-checker.c), of btrfs_validate_super
// (fs/btrfs/disk-io.c) for Super, and of btrfs_check_chunk_valid for Chunk, and a few more that the kernel's own
// writers never break. Every finding is a *fserr.Corrupt in the kernel's words:
//
//	corrupt leaf: root=5 block=30408704 slot=3 ino=257, invalid item end, have 16300 expect 16283
//
// Files: block.go (header, nodes, leaves), file.go (inodes and names), data.go (file extents and data checksums),
// extent.go (extent tree), space.go (block groups, free space, devices), root.go (root tree, uuid tree, quotas),
// chunk.go and super.go.
//
// Nothing here does I/O, takes locks, or allocates while it finds nothing wrong.
package treecheck
