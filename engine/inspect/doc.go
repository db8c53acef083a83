// Package inspect prints superblocks and trees as text, close to what `btrfs inspect-internal dump-super` and
// `dump-tree` of btrfs-progs 6.x print, so that who can read those needs no manual.
//
// It knows the format (package ondisk) and nothing of the engine: trees come through the small interface Reader. The
// output is streamed, and memory stays at one block a level. Blocks need not have passed treecheck: whatever the
// bytes are, printing neither panics nor loops. A child is followed only if it is where its parent says it is (level,
// first key, keys below the next sibling's), so that no block is descended into twice.
//
// Files: dump.go (which trees, in which order), walk.go (the blocks of one tree), block.go (headers and items), key.go
// (keys, names, flags), files.go, extents.go, system.go (item bodies), super.go.
package inspect
