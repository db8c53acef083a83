// Package receive makes subvolumes from send streams, the kernel's or our own, full or incremental.
//
// A stream names its subvolume first, and for an incremental one the parent, which is found by received UUID or by UUID.
// From then on every command changes the new subvolume: a subvol.Incoming, which nobody sees and which a crash makes a
// deleted one. When the stream says that it is complete, one transaction gives it its name, its received UUID and its
// read-only flag, and is committed; a stream that breaks off leaves nothing, or, with KeepPartial, an ordinary subvolume.
//
// # Safety
//
// A stream is untrusted input. It chooses one name in the destination directory and else only paths within its own
// subvolume, which are walked here name by name (see paths): no "..", no symbolic link, no other subvolume on the way.
// It may read other subvolumes by cloning from those whose UUIDs it knows, as with the kernel.
//
// # Batches
//
// A sender spends five commands and more on a new inode: it is made under a temporary name, renamed, filled, and gets its
// owner, mode and times. Here those commands change an entry of a batch (inode.Batch) until the sender goes on to
// something that is no new inode; then, or when it is full, the batch is made as one operation, data in one piece. A
// pipeline does that while the stream is read on. Names that are coming are known to the paths, so the stream's view is
// always that of a receiver that does one thing at a time.
//
// Commands that change names or attributes of what is there already wait until everything before them is in the tree, or
// take their turn behind it. An error therefore may come up some commands later; it names the command that it belongs to.
// A batch that fails is made entry by entry, to find out which one it was.
//
// # Data
//
// The kernel sends data in pieces of 48 KiB; pieces that follow one another are gathered and written as one, which gives
// large extents. Compressed pieces become extents as they are where the format allows it (inode.FileTree.WriteEncoded,
// inode.BulkPart) and are unpacked where not.
//
// # What is not carried over
//
// As in btrfs receive: change times are those of receiving, inode flags (command fileattr) are ignored, and so is
// update_extent, with which a stream without data tells where data has changed. fs-verity is refused.
package receive
