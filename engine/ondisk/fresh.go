package ondisk

import "crypto/rand"

// NewUUID returns a random (version 4) UUID.
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails (crypto/rand)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// NewRootItem returns what the root items of all new trees have in common (fs/btrfs/ioctl.c, create_subvol; the inode in
// it is a relic that every tool still fills in).
func NewRootItem(nodesize int) *RootItem {
	var it RootItem
	ino := it.Inode()
	ino.SetGeneration(1)
	ino.SetSize(3)
	ino.SetNLink(1)
	ino.SetNBytes(uint64(nodesize))
	ino.SetMode(ModeDir | 0o755)
	it.SetRefs(1)
	return &it
}
