package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// signature is what tells a file system, or whatever a device may hold, by some bytes at a fixed place.
type signature struct {
	name   string
	offset int64 // from the start; below 0 from the end
	magic  []byte
}

func le(width int, v uint64) []byte {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return b[:width]
}

// signatures are the ones of magic(5) and libblkid that are likely on a disk or in an image. Names are blkid's.
var signatures = []signature{
	{"btrfs", 64<<10 + 64, le(8, ondisk.Magic)},
	{"btrfs", 64<<20 + 64, le(8, ondisk.Magic)},
	{"ext2, ext3 or ext4", 1024 + 56, le(2, 0xEF53)},
	{"xfs", 0, []byte("XFSB")},
	{"f2fs", 1024, le(4, 0xF2F52010)},
	{"squashfs", 0, []byte("hsqs")},
	{"erofs", 1024, le(4, 0xE0F5E1E2)},
	{"bcachefs", 4096 + 24, []byte{0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9}},
	{"bcache", 4096 + 24, []byte{0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca}},
	{"jfs", 32 << 10, []byte("JFS1")},
	{"reiserfs", 64<<10 + 52, []byte("ReIsEr")},
	{"nilfs2", 1024 + 6, le(2, 0x3434)},
	{"ntfs", 3, []byte("NTFS    ")},
	{"exfat", 3, []byte("EXFAT   ")},
	{"vfat", 82, []byte("FAT32   ")},
	{"vfat", 54, []byte("FAT16   ")},
	{"vfat", 54, []byte("FAT12   ")},
	{"iso9660", 32<<10 + 1, []byte("CD001")},
	{"swap", 4096 - 10, []byte("SWAPSPACE2")},
	{"swap", 64<<10 - 10, []byte("SWAPSPACE2")},
	{"LVM2 member", 512 + 24, []byte("LVM2 001")},
	{"LUKS", 0, []byte("LUKS\xba\xbe")},
	{"Linux RAID member", 4096, le(4, 0xa92b4efc)},
	{"Linux RAID member", 0, le(4, 0xa92b4efc)},
	{"GPT partition table", 512, []byte("EFI PART")},
	{"GPT partition table (backup)", -512, []byte("EFI PART")},
	{"DOS partition table", 510, []byte{0x55, 0xaa}},
}

// checkForeign refuses a device that holds something. The error matches fserr.ErrExist and names what and where.
func checkForeign(ctx context.Context, dev disk.Device) error {
	// Most lie in the front, which is read at once.
	front := make([]byte, min(128<<10, dev.Size()))
	if _, err := dev.ReadAt(ctx, front, 0); err != nil {
		return fmt.Errorf("looking for an older file system: %w", err)
	}
	for _, s := range signatures {
		at := s.offset
		if at < 0 {
			at += dev.Size()
		}
		if at < 0 || at+int64(len(s.magic)) > dev.Size() {
			continue
		}
		buf := make([]byte, len(s.magic))
		if at+int64(len(buf)) <= int64(len(front)) {
			copy(buf, front[at:])
		} else if _, err := dev.ReadAt(ctx, buf, at); err != nil {
			return fmt.Errorf("looking for an older file system: %w", err)
		}
		if bytes.Equal(buf, s.magic) {
			return fmt.Errorf("%s: %w, and holds something already: %s (at byte %d); use --force to overwrite it", dev.Name(), fserr.ErrExist, s.name, at)
		}
	}
	return nil
}

// byteRange is n bytes at off.
type byteRange struct{ off, n int64 }

// wipeRanges are the places of a device that may tell of what it held before: its reserved front with all signatures
// but btrfs' own second mirror, the places of the superblock's copies (a new, smaller file system may not write them
// all), and the end, where some keep a backup.
func wipeRanges(size int64) []byteRange {
	const front, tail = int64(ondisk.ReservedEnd), int64(64 << 10)
	rs := []byteRange{{0, min(front, size)}}
	for _, at := range ondisk.SuperOffsets[1:] {
		if at <= math.MaxInt64 && int64(at)+ondisk.SuperSize <= size {
			rs = append(rs, byteRange{int64(at), ondisk.SuperSize})
		}
	}
	if size > front+tail {
		rs = append(rs, byteRange{size - tail, tail})
	}
	return rs
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
