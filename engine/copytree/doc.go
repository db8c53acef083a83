// Package copytree copies directories between the host and a file system image: Import for mkfs --rootdir and put -r,
// Export for get -r. ImportFile and ExportFile do the same for one file, for put and get.
//
// # Import
//
// A tree goes through a pipeline of bounded length, so that memory does not depend on the size of the tree:
//
//	scan (1)             walks the host's directories, in byte order of the names, numbers the new inodes and packs
//	                     them into batches: a few directories, up to 2 MiB of data
//	load (several)       reads and checksums what the batches hold: file content, link targets, xattrs
//	place (1)            takes batches in order: one handle each; their data goes to the device as one write
//	insert (1)           puts their inodes and names into the tree while the next batch is placed
//
// Files that are large or have holes are made empty in their batch and filled right behind it; further names of a file
// become hard links there, too. Everything is ordinary transactions, and the same host tree always gives the same
// inode numbers, directory order and items.
//
// # Export
//
// Names in an image are not to be trusted: Export resolves no symbolic link inside the destination. Everything is made
// relative to descriptors of directories that Export itself made, or, when it comes back to one, opened with
// RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS (openat2(2)).
package copytree
