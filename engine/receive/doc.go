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
// # Data
//
// The kernel sends data in pieces of 48 KiB; pieces that follow one another are gathered and written as one, which gives
// large extents. Compressed pieces become extents as they are where the format allows it (inode.FileTree.WriteEncoded)
// and are unpacked where not.
//
// # What is not carried over
//
// As in btrfs receive: change times are those of receiving, inode flags (command fileattr) are ignored, and so is
// update_extent, with which a stream without data tells where data has changed. fs-verity is refused.
package receive
