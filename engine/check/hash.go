package check

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
)

// hasher gives the keyed hashes whose sums are compared. The keys are drawn anew for each check, so that no image can be
// made for which two different claims hash alike.
type hasher struct {
	key  [4]uint64
	seed maphash.Seed
}

func newHasher() hasher {
	return hasher{key: [4]uint64{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}, seed: maphash.MakeSeed()}
}

func fold(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

// mix hashes four numbers, by the 128-bit product of wyhash.
func (h *hasher) mix(a, b, c, d uint64) uint64 {
	return fold(fold(a^h.key[0], b^h.key[1])^h.key[2], fold(c^h.key[2], d^h.key[3])^h.key[1])
}

func (h *hasher) bytes(b []byte) uint64 { return maphash.Bytes(h.seed, b) }

// addrIndex finds the position of an address in a table: open addressing, at most half full.
type addrIndex struct {
	keys []uint64
	vals []uint32 // position + 1; 0 is an empty place
	n    int
}

// indexKey keeps an image from choosing addresses that all fall into one place.
var indexKey = rand.Uint64() | 1

func slotOf(addr uint64, size int) int { return int(addr * indexKey >> 24 & uint64(size-1)) }

// get returns the position of addr.
func (x *addrIndex) get(addr uint64) (uint32, bool) {
	if len(x.keys) == 0 {
		return 0, false
	}
	for i := slotOf(addr, len(x.keys)); ; i = (i + 1) & (len(x.keys) - 1) {
		switch {
		case x.vals[i] == 0:
			return 0, false
		case x.keys[i] == addr:
			return x.vals[i] - 1, true
		}
	}
}

// put adds an address that is not there yet.
func (x *addrIndex) put(addr uint64, pos uint32) {
	if 2*(x.n+1) > len(x.keys) {
		old := *x
		size := max(1024, 2*len(x.keys))
		*x = addrIndex{keys: make([]uint64, size), vals: make([]uint32, size)}
		for i, v := range old.vals {
			if v != 0 {
				x.place(old.keys[i], v)
			}
		}
	}
	x.place(addr, pos+1)
}

func (x *addrIndex) place(addr uint64, val uint32) {
	i := slotOf(addr, len(x.keys))
	for x.vals[i] != 0 {
		i = (i + 1) & (len(x.keys) - 1)
	}
	x.keys[i], x.vals[i] = addr, val
	x.n++
}
