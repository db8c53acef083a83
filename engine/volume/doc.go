// Package volume turns logical addresses into places on devices.
//
// A btrfs file system has one address space of its own. Chunks map ranges of it onto stripes of devices; a chunk's
// profile says how: one copy (single), several copies (DUP, RAID1, RAID1C3, RAID1C4), stripes of 64 KiB in turn (RAID0),
// or both (RAID10). All profiles but RAID5 and RAID6 can be read; single and DUP can be written.
//
// A [Volume] owns the chunk map, knows the devices, and reads and writes the superblock copies. It begins with the
// SYSTEM chunks that the superblock itself lists, enough to read the chunk tree; whoever reads that tree adds the rest
// with AddChunk. Nothing here interprets tree blocks.
//
// # Concurrency
//
// All methods are safe for concurrent use. The chunk map is an immutable sorted slice behind an atomic pointer: a lookup
// is a binary search without a lock, a change replaces the slice under mu.
//
// # Hostile input
//
// A superblock or chunk item may hold anything. What is out of range is a *fserr.Corrupt when it is added, so mapping an
// address cannot overflow or divide by zero later. A stripe on a device that was not given is no error by itself: only
// using it is, and the error names the device.
package volume
