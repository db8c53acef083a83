package oracle

import (
	"encoding/binary"
	"os"
)

// Places within a superblock (struct btrfs_super_block of linux/btrfs_tree.h), and of the first two on a device.
const (
	superGeneration = 72
	superLogRoot    = 96
	superPrimary    = 64 << 10
	superMirror     = 64 << 20
)

// Fsynced copies the mounted image to a file as a power cut would leave it behind an fsync: with a log tree, in which
// there is what fsync, a function of the test, has made durable.
//
// The next commit takes the log away, and whoever calls sync(2) on this machine makes the kernel commit. So what came out
// is looked at: if there was a commit before the copy, or in the middle of it, all is done once more.
func (m *Mounted) Fsynced(to string, fsync func()) {
	m.t.Helper()
	for range 200 {
		fsync()
		Run(m.t, "cp", "--sparse=always", "--reflink=never", m.Devices[0].Image, to)
		if m.hasLog(to) {
			return
		}
	}
	m.t.Fatal("oracle: an fsync leaves no log tree")
}

// hasLog reports whether an image has a log tree that belongs to its last commit. A commit writes all superblocks, an
// fsync the primary alone; the primary is copied first.
func (m *Mounted) hasLog(img string) bool {
	m.t.Helper()
	f, err := os.Open(img)
	if err != nil {
		m.t.Fatalf("oracle: %v", err)
	}
	defer f.Close()
	number := func(at int64) uint64 {
		var b [8]byte
		if _, err := f.ReadAt(b[:], at); err != nil {
			m.t.Fatalf("oracle: %v", err)
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	return number(superPrimary+superLogRoot) != 0 && number(superPrimary+superGeneration) == number(superMirror+superGeneration)
}
