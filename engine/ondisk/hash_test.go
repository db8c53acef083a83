package ondisk

import (
	"encoding/hex"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"
)

// The names and hashes of this file were read with btrfs inspect-internal dump-tree from images that mkfs.btrfs 6.14
// and Linux 6.18 wrote.

func TestNameHash(t *testing.T) {
	for name, want := range map[string]uint64{
		"default": 2378154706, "a b": 1187784671, "ü": 3529062695, "x\ny\\z": 1873170578, "user.a": 1640047104, "user.b": 1922159092,
		"user.x": 153960099,
	} {
		if got := NameHash([]byte(name)); got != want {
			t.Errorf("%q: %d expect %d", name, got, want)
		}
	}
}

func TestExtrefHash(t *testing.T) {
	for name, want := range map[string]uint64{
		"a-rather-long-name-to-fill-inode-refs-quickly-398": 36627135,
		"a-rather-long-name-to-fill-inode-refs-quickly-379": 77525814,
	} {
		if got := ExtrefHash(566, []byte(name)); got != want {
			t.Errorf("%q: %d expect %d", name, got, want)
		}
	}
}

func TestExtentDataRefHash(t *testing.T) {
	for _, d := range []struct {
		root        TreeID
		ino         ObjectID
		offset, sum uint64
	}{
		{256, 560, 0, 0xdea30dec8f8e6d6}, {256, 591, 0, 0xdea30def613ded4}, {256, 605, 0, 1002667597113695078},
		{259, 583, 0, 0x6048736afff6f1f3}, {DataRelocTree, 257, 4096, 0x7ad1d871b4566f4c},
	} {
		if got := ExtentDataRefHash(d.root, d.ino, d.offset); got != d.sum {
			t.Errorf("%d %d %d: 0x%x expect 0x%x", d.root, d.ino, d.offset, got, d.sum)
		}
	}
}

// TestRawCRC compares both forms with a checksum made bit by bit.
func TestRawCRC(t *testing.T) {
	slow := func(crc uint32, b []byte) uint32 {
		for _, c := range b {
			crc ^= uint32(c)
			for range 8 {
				if crc&1 != 0 {
					crc = crc>>1 ^ crc32.Castagnoli
				} else {
					crc >>= 1
				}
			}
		}
		return crc
	}
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint32().Draw(t, "seed")
		b := rapid.SliceOf(rapid.Byte()).Draw(t, "data")
		if got, want := StreamCRC(seed, b), slow(seed, b); got != want {
			t.Fatalf("0x%x expect 0x%x", got, want)
		}
		var w [8]byte
		v := rapid.Uint64().Draw(t, "word")
		put64(w[:], v)
		if got, want := rawCRC32CWord(seed, v), slow(seed, w[:]); got != want {
			t.Fatalf("word: 0x%x expect 0x%x", got, want)
		}
	})
}

func TestHashesDoNotAllocate(t *testing.T) {
	name := []byte("a name")
	if n := testing.AllocsPerRun(100, func() { NameHash(name); ExtrefHash(256, name); ExtentDataRefHash(5, 257, 4096) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestChecksums compares with published vectors: RFC 3720 and the check value of the CRC catalogue, xxhash.com's and
// FIPS 180's, and b2sum -l 256.
func TestChecksums(t *testing.T) {
	for _, d := range []struct {
		t        CsumType
		data     string
		want     string // in the order of the disk: numbers little-endian
		size     int
		name     string
		mkfsName string
	}{
		{CRC32C, "123456789", "839206e3", 4, "crc32c", "crc32c"},
		{CRC32C, string(make([]byte, 32)), "aa36918a", 4, "crc32c", "crc32c"},
		{XXHash64, "", "99e9d85137db46ef", 8, "xxhash64", "xxhash"},
		{XXHash64, "abc", "990977adf52cbc44", 8, "xxhash64", "xxhash"},
		{SHA256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 32, "sha256", "sha256"},
		{Blake2b, "abc", "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319", 32, "blake2", "blake2b"},
	} {
		var sum [CsumSize]byte
		d.t.Sum(sum[:], []byte(d.data))
		if got := hex.EncodeToString(sum[:d.size]); got != d.want || d.t.Size() != d.size || d.t.String() != d.name {
			t.Errorf("%s %q: %s expect %s", d.t, d.data, got, d.want)
		}
		for _, n := range []string{d.name, d.mkfsName} {
			if p, err := ParseCsum(n); err != nil || p != d.t {
				t.Errorf("ParseCsum(%q): %d, %v", n, p, err)
			}
		}
	}
	if _, err := ParseCsum("md5"); err == nil {
		t.Error("md5 is a checksum")
	}
	if c := CsumType(4); c.Valid() || c.Size() != 0 {
		t.Error("checksum 4 is valid")
	}
}

func TestBlockCsum(t *testing.T) {
	for c := range CsumType(4) {
		b := make([]byte, 4096)
		for i := range b {
			b[i] = byte(i * 7)
		}
		c.SetBlockCsum(b)
		for i := c.Size(); i < CsumSize; i++ {
			if b[i] != 0 {
				t.Errorf("%s: byte %d behind the checksum is 0x%x", c, i, b[i])
			}
		}
		if !c.BlockCsumOK(b) {
			t.Errorf("%s: own checksum refused", c)
		}
		for _, at := range []int{0, c.Size() - 1, CsumSize, 4095} {
			b[at] ^= 0x10
			if c.BlockCsumOK(b) {
				t.Errorf("%s: flipped bit in byte %d passes", c, at)
			}
			b[at] ^= 0x10
		}
	}
}
