// Package ondisk is the btrfs on-disk format and nothing else: numbers, keys, views of the fixed structures, blocks,
// names and their hashes, checksums. It does no I/O and checks no content beyond what memory safety needs.
//
// A fixed structure is a view: an array type such as InodeItem ([160]byte) whose methods read and write the members
// in place. AsInodeItem turns a slice into a *InodeItem by Go's checked conversion and panics when the slice is too
// short; the length checks that keep disk content from getting there belong to package treecheck. All members are
// little-endian and unaligned. The accessors are generated from one table, Layouts, and a test holds the table against
// the C header of the kernel.
//
// A tree block is a Block: a header of 101 bytes, and then in a leaf the item headers from the front and the item data
// from the back, in a node an array of key pointers.
//
// Names: every objectid, type and structure has the kernel's name without its prefix.
package ondisk

//go:generate go run ./internal/gen
