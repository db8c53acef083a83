// Package check reads a file system that nobody writes to and says what is wrong with it.
//
// It is a second reading of the format: it shares nothing with the engine's trees, caches and transactions, so a mistake
// there is not repeated here (a test of the import graph holds it to that). It writes nothing.
//
// # How it works
//
//  1. The superblock copies, then the chunk tree, then the root tree (super.go, chunks.go, roots.go).
//  2. All other trees but those of files: the tables of extents, checksummed ranges and free space (extents.go, csum.go,
//     free.go).
//  3. All file trees at once (files.go), then the log (log.go).
//  4. Comparisons of the tables with each other (refs.go, space.go).
//
// Trees are walked level by level, all trees of a step together, the blocks of one level in the order of their
// addresses, by several goroutines (walk.go). Levels only go down, and a block that many snapshots share is read once,
// so neither loops nor sharing can make the walk long: it reads each tree block once.
//
// What relates two places is compared by sums (hash.go): each side adds a keyed hash of what it claims, so both sides
// are equal exactly if the sums are, but for one chance in 2^64. An extent costs one number for all its backrefs, a tree
// four numbers for all its names. Only where sums differ are the blocks read again, and only the claims of what differs
// are collected and listed one by one (explain.go, names.go).
//
// An inode may lie in several leaves, and a leaf in a hundred snapshots. So each block of a file tree is summed up once:
// the sums, and the unfinished inodes at its two ends (fragment.go). The summary of a node is that of its children put
// together; where two ends meet, an inode is finished and judged.
//
// # Bounds
//
// Memory grows with the number of tree blocks and extents (about 600 bytes a block, 60 an extent), which the size of
// the image bounds, not with what blocks claim. Findings are kept up to Options.MaxPerID each and counted beyond. The
// second readings stop after a number of blocks in proportion to the first. A block that cannot be read or that treecheck refuses is one
// finding; what lies below it is then not known, and comparisons that its loss would spoil are left out.
//
// # Concurrency
//
// Image may be called many times at once; each call has its own state. Within one, workers share the tables read-only
// during a step, add to sums atomically, and merge their own lists between the steps.
package check
