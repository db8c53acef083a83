package btree

import (
	"encoding/binary"

	"imgtool/engine/ondisk"
)

// Changes to one leaf. All of them keep the data packed: item i's data ends where item i-1's begins, and the first
// item's data ends at the end of the block. The caller holds the block's write lock, and has made sure of the room.

// leafCap returns how many bytes of item headers and data a leaf like b can hold.
func leafCap(b ondisk.Block) int { return ondisk.LeafDataSize(len(b)) }

// leafUsed returns how many of them are in use.
func leafUsed(b ondisk.Block) int { return leafCap(b) - b.LeafFree() }

// dataLow returns the offset, from HeaderSize, of the lowest data among the first n items.
func dataLow(b ondisk.Block, n int) int {
	if n == 0 {
		return leafCap(b)
	}
	return b.ItemOffset(n - 1)
}

// itemsAt returns the bytes of item headers [from, to).
func itemsAt(b ondisk.Block, from, to int) []byte {
	return b[ondisk.HeaderSize+from*ondisk.ItemSize : ondisk.HeaderSize+to*ondisk.ItemSize]
}

// dataAt returns the data bytes between two offsets from HeaderSize.
func dataAt(b ondisk.Block, from, to int) []byte {
	return b[ondisk.HeaderSize+from : ondisk.HeaderSize+to]
}

// shiftOffsets adds delta to the data offset of items [from, to). The keys are not touched: a reader may look at the
// first one without the lock (extbuf compares it when a block is found in memory).
func shiftOffsets(b ondisk.Block, from, to, delta int) {
	for i := from; i < to; i++ {
		p := b[ondisk.HeaderSize+i*ondisk.ItemSize+ondisk.ItemDataOffsetPos:]
		binary.LittleEndian.PutUint32(p, uint32(int(binary.LittleEndian.Uint32(p))+delta))
	}
}

// setItemSize overwrites the data size of an item.
func setItemSize(b ondisk.Block, slot, size int) {
	binary.LittleEndian.PutUint32(b[ondisk.HeaderSize+slot*ondisk.ItemSize+ondisk.ItemDataOffsetPos+4:], uint32(size))
}

// leafInsert makes a new item at slot and returns its data, for the caller to fill.
func leafInsert(b ondisk.Block, slot int, k ondisk.Key, size int) []byte {
	n := b.NrItems()
	end := dataLow(b, slot) // the new data ends here
	if slot < n {
		low := dataLow(b, n)
		copy(dataAt(b, low-size, end-size), dataAt(b, low, end))
		shiftOffsets(b, slot, n, -size)
		copy(itemsAt(b, slot+1, n+1), itemsAt(b, slot, n))
	}
	b.SetItem(slot, k, end-size, size)
	b.SetNrItems(n + 1)
	return dataAt(b, end-size, end)
}

// leafDelete removes items [from, to).
func leafDelete(b ondisk.Block, from, to int) {
	n := b.NrItems()
	if from == to {
		return
	}
	if to < n {
		low, gapLow, gapEnd := dataLow(b, n), dataLow(b, to), dataLow(b, from)
		gone := gapEnd - gapLow
		copy(dataAt(b, low+gone, gapEnd), dataAt(b, low, gapLow))
		shiftOffsets(b, to, n, gone)
		copy(itemsAt(b, from, n), itemsAt(b, to, n))
	}
	b.SetNrItems(n - (to - from))
}

// leafResize changes the size of an item's data and returns it. What was at its start stays; the rest is undefined.
func leafResize(b ondisk.Block, slot, size int) []byte {
	n := b.NrItems()
	old := b.ItemSize(slot)
	end := b.ItemOffset(slot) + old
	if delta := size - old; delta != 0 {
		low := dataLow(b, n)
		at := b.ItemOffset(slot)
		keep := min(old, size)
		// The item's head moves with all the data below it.
		copy(dataAt(b, low-delta, at-delta+keep), dataAt(b, low, at+keep))
		shiftOffsets(b, slot, n, -delta)
		setItemSize(b, slot, size)
	}
	return dataAt(b, end-size, end)
}

// leafAppend copies items [from, to) of src behind the items of dst.
func leafAppend(dst, src ondisk.Block, from, to int) {
	n := dst.NrItems()
	size := dataLow(src, from) - dataLow(src, to)
	end := dataLow(dst, n)
	copy(dataAt(dst, end-size, end), dataAt(src, dataLow(src, to), dataLow(src, from)))
	copy(itemsAt(dst, n, n+to-from), itemsAt(src, from, to))
	if delta := end - dataLow(src, from); delta != 0 {
		shiftOffsets(dst, n, n+to-from, delta)
	}
	dst.SetNrItems(n + to - from)
}

// leafPrepend copies items [from, to) of src before the items of dst.
func leafPrepend(dst, src ondisk.Block, from, to int) {
	n, m := dst.NrItems(), to-from
	size := dataLow(src, from) - dataLow(src, to)
	low, end := dataLow(dst, n), leafCap(dst)
	copy(dataAt(dst, low-size, end-size), dataAt(dst, low, end))
	shiftOffsets(dst, 0, n, -size)
	copy(itemsAt(dst, m, n+m), itemsAt(dst, 0, n))
	copy(dataAt(dst, end-size, end), dataAt(src, dataLow(src, to), dataLow(src, from)))
	copy(itemsAt(dst, 0, m), itemsAt(src, from, to))
	shiftOffsets(dst, 0, m, end-dataLow(src, from))
	dst.SetNrItems(n + m)
}
