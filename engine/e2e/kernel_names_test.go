package e2e

import (
	"hash/crc32"
	"testing"
)

// collidingLen is the length of the names of equalHashNames.
const collidingLen = 24

// equalHashNames returns n different printable names of collidingLen bytes whose crc32c is the same whatever the seed:
// they have one name hash as names of a directory (DIR_ITEM), as extended references (INODE_EXTREF), and, behind one
// prefix, as xattrs.
//
// A CRC is affine: flipping a set of bits changes it by the XOR of what each bit alone changes, whatever the rest. Of
// the low 4 bits of 24 bytes, 96 bits, at least 64 combinations are independent and change nothing.
func equalHashNames(n int) []string {
	table := crc32.MakeTable(crc32.Castagnoli)
	zero := make([]byte, collidingLen)
	base := crc32.Update(0, table, zero)
	type row struct {
		crc  uint32
		mask [collidingLen]byte
	}
	var pivots [32]*row
	var kernel []row
	for bit := range collidingLen * 4 {
		var r row
		r.mask[bit/4] = 1 << (bit % 4)
		r.crc = crc32.Update(0, table, r.mask[:]) ^ base
		for i := 31; i >= 0 && r.crc != 0; i-- {
			if r.crc>>i&1 == 0 {
				continue
			}
			if pivots[i] == nil {
				pivots[i] = &r
				break
			}
			r.crc ^= pivots[i].crc
			for j := range r.mask {
				r.mask[j] ^= pivots[i].mask[j]
			}
		}
		if r.crc == 0 {
			kernel = append(kernel, r)
		}
	}
	names := make([]string, n)
	for i := range names {
		var name [collidingLen]byte
		for j := range name {
			name[j] = 'P' // 0x50: its low four bits are free, whatever they are it is a byte that names may have
		}
		for b, r := range kernel[:16] {
			if i>>b&1 == 1 {
				for j := range name {
					name[j] ^= r.mask[j]
				}
			}
		}
		names[i] = string(name[:])
	}
	return names
}

// TestEqualHashNames holds the helper to its promise.
func TestEqualHashNames(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, seed := range []uint32{0, ^uint32(1), 257} {
		seen := map[string]bool{}
		sums := map[uint32]bool{}
		for _, n := range equalHashNames(200) {
			seen[n] = true
			sums[crc32.Update(seed, table, []byte(n))] = true
		}
		if len(seen) != 200 || len(sums) != 1 {
			t.Errorf("seed %d: %d different names of %d hashes, want 200 of 1", seed, len(seen), len(sums))
		}
	}
}
