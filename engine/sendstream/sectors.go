package sendstream

import (
	"encoding/binary"
	"sync"
)

// sectorSize is what the checksums of SealSectors are of, bytes.
const sectorSize = 4096

// skipSector are tables by which a checksum is continued over a sector of zeros: the function is linear over the bits of
// the checksum, so that it is the exclusive or of what each of its four bytes makes.
var skipSector = sync.OnceValue(func() *[4][256]uint32 {
	var zeros [sectorSize]byte
	var t [4][256]uint32
	for k := range t {
		for bit := range 8 {
			t[k][1<<bit] = checksum(1<<(8*k+bit), zeros[:])
		}
		for b := range 256 {
			low := b & -b
			t[k][b] = t[k][low] ^ t[k][b&^low]
		}
	}
	return &t
})

// SealSectors is [Seal] for a command that ends with n bytes of data of whose whole sectors the CRC-32Cs are known, as a
// file system with that checksum stores them: four bytes each, little-endian, the first n/4096 of sums. The data is not
// gone through again, and a receiver that verifies the command verifies it from where those sums were made.
func SealSectors(command []byte, n int, sums []byte) {
	t := skipSector()
	skip := func(c uint32) uint32 { return t[0][c&255] ^ t[1][c>>8&255] ^ t[2][c>>16&255] ^ t[3][c>>24] }
	inverted := skip(^uint32(0)) // what the initial value of a CRC-32C has become at the end of a sector
	binary.LittleEndian.PutUint32(command[6:], 0)
	at := len(command) - n
	sum := checksum(0, command[:at])
	for ; n >= sectorSize; n -= sectorSize {
		sum = skip(sum) ^ ^binary.LittleEndian.Uint32(sums) ^ inverted
		sums, at = sums[4:], at+sectorSize
	}
	binary.LittleEndian.PutUint32(command[6:], checksum(sum, command[at:]))
}
