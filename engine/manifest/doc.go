// Package manifest describes the files of a subvolume, and of the subvolumes inside it, as text that can be compared:
// one JSON object a line for each path.
//
//	{"path":"a/b","type":"file","mode":"0644","uid":0,"gid":0,"size":1,"mtime":1700000000123456789,"nlink":1,"ino":257,"sha256":"…"}
//
// Lines are sorted by the raw bytes of the path; the top directory is ".", sorted like any other. A hard link has as
// many lines as names. Names and targets that are not UTF-8 stand in base64, as path_b64 and target_b64. mode is the low
// 12 bits in octal, mtime counts nanoseconds, xattr values are in base64. A file of more than 256 MiB has, in place of
// sha256, sparse_sha256: the hash over each 1 MiB-aligned block that is not all zero, of its index in decimal, a colon
// and the block padded with zeros to 1 MiB; so holes cost nothing.
//
// A snapshot has an empty directory where its source has a subvolume; it is shown as the kernel shows it, as inode 2,
// but for its time, which in the kernel is the moment of looking and here 0.
//
// Memory is bounded by the largest directory, the depth of the tree and some 40 bytes for each directory: lines are written
// as they come.
package manifest
