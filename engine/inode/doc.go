// Package inode is what is inside one file tree: inodes, directories, names, xattrs, file extents and data checksums.
//
// Reading and writing are two types. A [Reader] answers questions about one tree through a [Source], which is the
// current tree or a commit root seen through a view; the code above the Source is the same. A [FileTree] is a Reader of
// the current tree of a subvolume that can also change it. [Namespace] walks paths over several trees and [FSView]
// shows a Namespace as an io/fs file system.
//
// # One operation
//
// Every changing method of FileTree is one operation: it takes the locks of the inodes concerned, starts one handle of
// the running transaction with as many items reserved as it may touch, changes the tree, and ends the handle. An error
// that is the caller's (a name that exists, a directory that is not empty) is found before anything is changed. An error
// after the first change aborts the transaction, because half an operation must never be committed; for the same
// reason the caller's context is not looked at any more from the first change on.
//
// Callers with a handle of their own (subvolume creation, pending operations of the commit) use the methods whose names
// end in Tx. Those take no locks and end no handle: the caller holds the locks from [FileTree.LockInodes], taken before
// the handle was started, or is alone in COMMIT_DOING.
//
// # Locks
//
// Inode locks are the outermost of the engine but for the file system's lifecycle: inode locks, then a handle, then
// tree blocks. They are striped: a fixed array of RW mutexes per tree, an inode number chooses one, several are taken
// in ascending order of the stripes, and the trees of one operation in ascending order of their ids. Writers hold them
// exclusively for the length of one operation, readers of file data shared for the length of one read, so that the
// extents a reader found are not freed and reused beneath it. Directory listings and look-ups hold none: each is one
// search of the tree, and the tree's own locks are enough. Inside its inode locks and around its handle each operation
// holds the tree's gate shared; whoever makes the subvolume read-only, or deletes it, takes the gate exclusively and so
// waits for the operations under way.
//
// # Where data goes
//
// File data of up to 2,048 bytes that is the whole file lies inline in its EXTENT_DATA item. Everything else is
// copied on write to freshly allocated extents of at most 128 MiB, checksummed by sector; the EXTENT_DATA items,
// references and checksums are inserted once the Store has taken the data. The Store may still be writing it then; a
// commit waits for it before the items can become durable.
//
// Preallocated space that is the file's alone is written in place, which needs no other: what fallocate has promised is
// there in a full file system, too. No crash shows, because the space reads as zeros until the commit that makes it
// written. It is copied on write when a clone or a snapshot may share it (an extent not younger than the tree's last
// snapshot counts as shared, as in the kernel), or when its block group is read-only.
//
// Files flagged NODATACOW get no checksums. What they have written is copied on write all the same, unlike in the kernel:
// the format allows it, and a file that a failed or killed command was changing stays as it was at the last commit, which
// holds for every other file.
package inode
