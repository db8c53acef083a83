// Package engine is a btrfs file system in user space: format an image, open it, change it, commit.
//
//	fs, err := engine.Open(ctx, "disk.img", engine.OpenOptions{})
//	...
//	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
//	ino, err := tree.Create(ctx, inode.RootDir, "hello", inode.Attr{Mode: 0o644})
//	...
//	err = fs.Commit(ctx)   // now it is durable
//	err = fs.Close()       // what was not committed is gone
//
// The package is wiring: it decides in which order the layers beneath are put together, and which images are refused.
// Files and directories are package inode, transactions package txn, subvolumes package subvol.
//
// # Life of an FS
//
// Open reads the superblocks and checks that this engine may read the image, and write it if that was asked for (see
// refuse.go for all that it refuses and what it advises). A file system opened for writing first goes on with what a
// crash interrupted: subvolumes whose deletion was not finished, and files without a name (FS_TREE's at once, those of
// another subvolume when it is first opened).
//
// An FS is safe for concurrent use. Close comes last: no handle, open file or reader may be left.
package engine
