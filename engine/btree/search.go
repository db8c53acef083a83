package btree

import (
	"encoding/binary"

	"imgtool/engine/ondisk"
)

// search returns the first slot of b whose key is not less than k, and whether it is k. It is Block.Search without
// decoding each key into a struct: most comparisons end with the first eight bytes.
func search(b ondisk.Block, k *ondisk.Key) (slot int, found bool) {
	if b.IsLeaf() {
		return searchKeys(b[ondisk.HeaderSize:], b.NrItems(), ondisk.ItemSize, k)
	}
	return searchKeys(b[ondisk.HeaderSize:], b.NrItems(), ondisk.KeyPtrSize, k)
}

// searchKeys is search in n keys that stand stride bytes apart in a.
func searchKeys(a []byte, n, stride int, k *ondisk.Key) (slot int, found bool) {
	want := uint64(k.ObjectID)
	lo, hi := 0, n
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		p := a[mid*stride:]
		_ = p[ondisk.KeySize-1]
		less := false
		if id := binary.LittleEndian.Uint64(p); id != want {
			less = id < want
		} else if t := ondisk.ItemType(p[8]); t != k.Type {
			less = t < k.Type
		} else if off := binary.LittleEndian.Uint64(p[9:]); off != k.Offset {
			less = off < k.Offset
		} else {
			return mid, true // keys are unique
		}
		if less {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, false
}

// childSlot returns the slot of node b to descend into for k: the last one whose key is not above k, or the first.
func childSlot(b ondisk.Block, k *ondisk.Key) int {
	slot, found := searchKeys(b[ondisk.HeaderSize:], b.NrItems(), ondisk.KeyPtrSize, k)
	if !found && slot > 0 {
		slot--
	}
	return slot
}

// prevKey returns the key right before k; ok is false for MinKey.
func prevKey(k ondisk.Key) (prev ondisk.Key, ok bool) {
	switch {
	case k.Offset > 0:
		return ondisk.Key{ObjectID: k.ObjectID, Type: k.Type, Offset: k.Offset - 1}, true
	case k.Type > 0:
		return ondisk.Key{ObjectID: k.ObjectID, Type: k.Type - 1, Offset: ^uint64(0)}, true
	case k.ObjectID > 0:
		return ondisk.Key{ObjectID: k.ObjectID - 1, Type: 255, Offset: ^uint64(0)}, true
	}
	return k, false
}
