package btree

import "imgtool/engine/ondisk"

// Changes to one node. The caller holds its write lock, and has made sure of the room.

// ptrsAt returns the bytes of key pointers [from, to).
func ptrsAt(b ondisk.Block, from, to int) []byte {
	return b[ondisk.HeaderSize+from*ondisk.KeyPtrSize : ondisk.HeaderSize+to*ondisk.KeyPtrSize]
}

// nodeInsert makes a new key pointer at slot.
func nodeInsert(b ondisk.Block, slot int, k ondisk.Key, addr ondisk.Logical, gen ondisk.Generation) {
	n := b.NrItems()
	copy(ptrsAt(b, slot+1, n+1), ptrsAt(b, slot, n))
	b.SetPtr(slot, k, addr, gen)
	b.SetNrItems(n + 1)
}

// nodeDelete removes the key pointer at slot.
func nodeDelete(b ondisk.Block, slot int) {
	n := b.NrItems()
	copy(ptrsAt(b, slot, n-1), ptrsAt(b, slot+1, n))
	b.SetNrItems(n - 1)
}

// nodeAppend copies the pointers of src from slot from on behind those of dst.
func nodeAppend(dst, src ondisk.Block, from int) {
	n, m := dst.NrItems(), src.NrItems()
	copy(ptrsAt(dst, n, n+m-from), ptrsAt(src, from, m))
	dst.SetNrItems(n + m - from)
}
