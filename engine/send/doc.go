// Package send makes send streams of read-only subvolumes, full or against a parent, from commit roots, while other
// transactions run.
//
// # How a send goes
//
// The tree is walked in the order of its keys, and so inode by inode: a full send sees every item as new (walkAll), an
// incremental one the differences between two trees, shared subtrees skipped (walkDiff). Each item goes to
// sender.visit, which keeps the state of one current inode; when the walk leaves it, what is left to say about it is
// said (finish).
//
// Names are the hard part. The receiver applies commands one after the other, so every path must be what it is at the
// receiver at that moment: of inodes that the walk has passed (below sender.progress) the names of the sent tree, of the
// others those of the parent. A new inode is made under a temporary name, o<ino>-<generation>-<n> in the top
// directory, until its real names are due. Whoever stands in the way of a new name is renamed to its temporary name
// first (orphaned). A directory that moves below one that is itself going to move waits for it (moves.go). A directory
// is removed when the last of its old entries has gone. The algorithm is that of fs/btrfs/send.c.
//
// # The stream's way out
//
// Commands are encoded into segments. File data is not read by the walk: a segment carries a list of what is to be filled
// in, which is sorted by place and read in large pieces by a few goroutines, verified, and copied to where it is due;
// another goroutine writes the segments in order (output.go, data.go). The number of segments is the bound on memory.
//
// # Quiescent points
//
// The walk takes copies of leaves and small copied facts, and each search lets its path go before anything is encoded.
// The leaves used last are kept, for most of what is looked up lies in them (leaf.go).
// So it is at a quiescent point whenever it encodes. At each new leaf it refreshes its tickets if commits have gone by, all
// views to one generation; when no segment is free it leaves them, waits, and takes new ones: a sender blocked on its
// output holds nothing back. What stays valid in between is what a read-only subvolume cannot lose: subvol.Manager
// counts the send, and while it does the subvolume can neither be deleted nor made writable, so that its items and
// its data stay where they are.
//
// One Send is one goroutine's call; any number run beside one another.
package send
