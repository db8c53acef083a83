// Package scrub verifies every copy of everything in a file system that has a checksum: superblocks, tree blocks, and
// data. It can repair a bad copy from a good one.
//
// A checksum alone does not make a copy good: a write that was lost leaves an old block whose checksum is right. So the
// trees are walked, and each copy of a block is compared with the pointer that leads to it: address, generation, level,
// first key and owner, beside file system id and checksum. Only a copy that matches in all of these, and passes
// treecheck, is read on and repaired from. Data is compared with the checksum tree, sector by sector.
//
//	super.go   the superblock copies
//	walk.go    the trees, one wave of blocks after the other: first the chunk tree, which maps addresses; then all
//	           trees that are named in the root tree; last the subvolumes whose deletion was interrupted
//	block.go   the copies of one tree block
//	data.go    the checksum tree's leaves once more, in the order of their keys, and the data that they speak of
//
// A wave is sorted by device and offset, and several blocks are in flight at once. Memory grows by some 100 bytes for
// each tree block, and not with the data.
//
// What scrub does not see: whether the trees make sense together (that is the checker's business), data without
// checksums (its bytes are counted), and the data of files that only the log tree knows.
//
// Package volume is all of the engine that is needed: a file system that the engine would not open for writing can be
// scrubbed and repaired, since a repair only puts back bytes that were there.
package scrub
