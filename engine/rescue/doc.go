// Package rescue changes superblocks of file systems that cannot be opened as they are: it puts a good copy in place of
// bad ones, and drops a log tree.
//
// A rescue may lose what was on the disk, so it is made on a copy of the image, see CopyImage, unless the user wants
// otherwise. Only superblocks are written; trees are neither read nor checked.
package rescue
