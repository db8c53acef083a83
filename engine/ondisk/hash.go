package ondisk

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/crypto/blake2b"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rawCRC32C is crc32c as btrfs' name hashes and send streams use it: the seed goes in as it is and the result comes
// out as it is. Go's crc32 inverts both, so both inversions are undone here.
func rawCRC32C(seed uint32, b []byte) uint32 { return ^crc32.Update(^seed, castagnoli, b) }

// NameHash is the offset of a name's DIR_ITEM or XATTR_ITEM key: crc32c with seed ~1 and no final inversion.
func NameHash(name []byte) uint64 { return uint64(rawCRC32C(^uint32(1), name)) }

// ExtrefHash is the offset of a name's INODE_EXTREF key: crc32c with the parent's number as seed.
func ExtrefHash(parent ObjectID, name []byte) uint64 { return uint64(rawCRC32C(uint32(parent), name)) }

// StreamCRC continues the checksum of a send stream's command; a new one starts from 0.
func StreamCRC(crc uint32, b []byte) uint32 { return rawCRC32C(crc, b) }

// ExtentDataRefHash is the offset of an EXTENT_DATA_REF key (fs/btrfs/extent-tree.c, hash_extent_data_ref).
func ExtentDataRefHash(root TreeID, ino ObjectID, offset uint64) uint64 {
	high := rawCRC32CWord(^uint32(0), uint64(root))
	low := rawCRC32CWord(rawCRC32CWord(^uint32(0), uint64(ino)), offset)
	return uint64(high)<<31 ^ uint64(low)
}

// rawCRC32CWord is rawCRC32C of a little-endian number. It goes through the table byte by byte because a buffer
// handed to crc32.Update is moved to the heap, and treecheck hashes every data backref of a block.
func rawCRC32CWord(seed uint32, v uint64) uint32 {
	for range 8 {
		seed = castagnoli[byte(seed)^byte(v)] ^ seed>>8
		v >>= 8
	}
	return seed
}

// CsumType numbers the checksum algorithm of a file system.
type CsumType uint16

// The algorithms (include/uapi/linux/btrfs_tree.h).
const (
	CRC32C   CsumType = 0
	XXHash64 CsumType = 1
	SHA256   CsumType = 2
	Blake2b  CsumType = 3
)

var csumNames = [...]string{"crc32c", "xxhash64", "sha256", "blake2"}
var csumSizes = [...]int{4, 8, 32, 32}

// Valid reports whether the number is one of the four algorithms.
func (t CsumType) Valid() bool { return int(t) < len(csumNames) }

// Size returns the length of one checksum in bytes, 0 for an unknown algorithm.
func (t CsumType) Size() int {
	if !t.Valid() {
		return 0
	}
	return csumSizes[t]
}

// String returns the name that mkfs.btrfs --csum takes.
func (t CsumType) String() string {
	if !t.Valid() {
		return fmt.Sprintf("unknown-csum-%d", uint16(t))
	}
	return csumNames[t]
}

// ParseCsum turns a name of mkfs.btrfs --csum into the algorithm.
func ParseCsum(s string) (CsumType, error) {
	switch s {
	case "xxhash":
		return XXHash64, nil
	case "blake2b":
		return Blake2b, nil
	}
	for i, n := range csumNames {
		if n == s {
			return CsumType(i), nil
		}
	}
	return 0, fmt.Errorf("unknown checksum %q: use crc32c, xxhash, sha256 or blake2", s)
}

// Sum writes the checksum of data into the first Size bytes of dst, which must be that long. The algorithm must be
// valid.
func (t CsumType) Sum(dst, data []byte) {
	switch t {
	case CRC32C:
		put32(dst, crc32.Checksum(data, castagnoli))
	case XXHash64:
		put64(dst, xxhash.Sum64(data))
	case SHA256:
		s := sha256.Sum256(data)
		copy(dst[:32], s[:])
	case Blake2b:
		s := blake2b.Sum256(data)
		copy(dst[:32], s[:])
	default:
		panic("ondisk: checksum with " + t.String())
	}
}

// BlockCsumOK reports whether the block's stored checksum fits its content.
func (t CsumType) BlockCsumOK(b []byte) bool {
	var sum [CsumSize]byte
	t.Sum(sum[:], b[CsumSize:])
	return string(sum[:t.Size()]) == string(b[:t.Size()])
}

// SetBlockCsum stores the checksum of everything behind the checksum field and zeroes the field's rest.
func (t CsumType) SetBlockCsum(b []byte) {
	clear(b[:CsumSize])
	t.Sum(b, b[CsumSize:])
}
