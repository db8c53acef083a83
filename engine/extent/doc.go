// Package extent decides where things lie: block groups and the chunks below them, the extent tree with its back
// references, the free-space tree, data checksums, and how much space is promised to whom.
//
// # One allocation, one free
//
// Allocation touches memory only. [Manager.AllocTreeBlock] takes a node's worth of bytes from a block group's
// freespace.Index and queues a delayed ref; [Manager.RunDelayedRefs] writes the extent item later:
//
//	free --Alloc--> reserved --delayed ref runs--> used --last ref gone--> pinned --pin releases--> free
//	                    |                           ^ extent item, block group's used, free-space tree
//	                    +--CancelNew (tree block born and dropped in T, never written): free at once
//	                    +--dropped before its item was written, but written to disk: pinned
//
// Each byte of a block group is in exactly one of these states, or in a stripe that a superblock copy occupies; the
// group asserts the sum at every change (invariant I5). "Pinned" here includes what package pin holds for readers.
//
// # What is written when
//
// A head of delayed refs is applied in one descent of the extent tree for the extent item (inline refs), and one for
// each keyed ref. The free-space tree is not touched then: the range is noted in the block group, and the notes of one
// group are coalesced and applied together when the queue is empty. Blocks that this changes queue delayed refs again,
// until nothing is left: the commit's fixpoint. Block-group items follow in [Manager.WriteDirtyBlockGroups].
//
// A chunk is made in memory at the moment it is needed, which may be under tree-block locks; its items are inserted by
// [Manager.CreatePendingChunks], never under such a lock.
//
// # Locks
//
// Outermost first. The three above the line are held across tree operations, so nobody takes them while holding a tree
// block; those below are leaves that only touch memory.
//
//	createMu             one goroutine inserts the items of chunks, or removes a block group
//	csumMu               one goroutine changes checksum items (two writers might merge with one neighbour) and no reader looks meanwhile
//	group.fstMu          one goroutine changes a group's part of the free-space tree
//	-------------------- tree blocks -- delayed-ref head -- delayed-ref set --
//	group.loadMu         one goroutine loads a group; reads blocks of commit roots, which takes no tree-block lock
//	chunkMu              device extents, pending chunks
//	space.mu             reservations
//	group.mu             the counters of I5
//	dirtyMu              which groups have something to write
//	groupsMu             the map of groups
//
// # Loading
//
// A block group is loaded whole before the first allocation or free in it, from the commit root of the free-space tree
// (of the extent tree when there is none). That is exact whenever it happens, since nothing in a group changes in this
// session before it is loaded; and safe without locks, since commit roots do not move while a handle lives and blocks
// dropped meanwhile are pinned.
package extent
