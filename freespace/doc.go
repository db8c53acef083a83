// Package freespace knows which addresses of one block group are free.
//
// An [Index] is the in-memory counterpart of one block group's part of the
// free-space tree. It is filled from a [Source] when the block group is loaded,
// takes ranges out on allocation and gets them back once pin has released them.
// It does no I/O, imports nothing of the engine, and speaks in plain byte
// addresses: the caller decides what they mean.
//
// # Shape
//
// The block group is cut into windows of 4096 sectors (16 MiB of 4 KiB
// sectors). A window is, like an entry of the kernel's free-space cache, either
// a short sorted list of extents or, when it is fragmented, a bitmap of one bit
// a sector; a window that is wholly free or wholly used stores neither. Above
// the windows stands a complete binary tree, each node of which says how many
// sectors are free at its front, at its back, and in its longest run:
//
//	              {front, longest, back}                 Largest reads this one
//	             /                      \
//	    {f, l, b}                        {f, l, b}       first fit descends to the
//	    /       \                        /       \       lowest address that has n
//	extents   bitmap                 (all free)  (none)
//
// The kernel keeps two balanced trees, by offset and by size, and its extents
// and bitmaps do not merge across their borders. Here a run is one run wherever
// it lies, so Largest is exact, and both questions ("first that is large enough
// from here", "how large is the largest") cost O(log n) in the one structure.
//
// # Memory
//
// A bitmap costs 512 bytes for 16 MiB, so a wholly fragmented block group of
// 1 GiB needs about 40 KiB, whatever the order it became fragmented in.
//
// # Rules
//
// Invariant I5 (used + free + pinned + held + reserved + super stripes == size)
// is checked by the owner of the block group; this package keeps its share of
// it by refusing to free what is free and to take what is not: both are errors
// that name the range, and mean that the transaction must abort. Addresses that
// must never be handed out (the stripes of the superblock copies) are kept out
// by never adding them.
package freespace
