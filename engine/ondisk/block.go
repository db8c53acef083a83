package ondisk

import "sort"

// Block is the content of one tree block, nodesize bytes long. Its methods trust the header's item count and the item
// offsets, so a block that came from a disk goes through treecheck first; a Block whose numbers lie can make a method
// panic with a bounds error, never touch memory outside the slice.
//
// A leaf holds NrItems item headers (key, data offset counted from byte HeaderSize, data size) growing from the front
// and the data growing from the back; the first item's data ends at the end of the block. A node holds key pointers.
type Block []byte

// Header flags (fs/btrfs/ctree.h); the top byte of the header's flags is the backref revision.
const (
	HeaderFlagWritten uint64 = 1 << 0
	HeaderFlagReloc   uint64 = 1 << 1

	BackrefRevMixed   = 1 // in the top byte
	backrefRevShift   = 56
	headerFlagsMask   = 1<<backrefRevShift - 1
	leafItemsStart    = HeaderSize
	nodePtrsStart     = HeaderSize
	ItemDataOffsetPos = KeySize     // in an item header
	itemSizePos       = KeySize + 4 // in an item header
)

// Header returns the view of the block's header.
func (b Block) Header() *Header { return AsHeader(b) }

// Level returns 0 for a leaf.
func (b Block) Level() uint8 { return b[100] }

// IsLeaf reports whether the block is a leaf.
func (b Block) IsLeaf() bool { return b[100] == 0 }

// NrItems returns the number of items of a leaf or of key pointers of a node.
func (b Block) NrItems() int { return int(le32(b[96:])) }

// SetNrItems sets it.
func (b Block) SetNrItems(n int) { put32(b[96:], uint32(n)) }

// Flags returns the header flags without the backref revision.
func (b Block) Flags() uint64 { return b.Header().RawFlags() & headerFlagsMask }

// SetFlags replaces the header flags and keeps the backref revision.
func (b Block) SetFlags(f uint64) {
	h := b.Header()
	h.SetRawFlags(h.RawFlags()&^uint64(headerFlagsMask) | f&headerFlagsMask)
}

// BackrefRev returns the backref revision, BackrefRevMixed in every file system since 2009.
func (b Block) BackrefRev() uint8 { return uint8(b.Header().RawFlags() >> backrefRevShift) }

// Init makes b an empty block: every byte zero but for the header's own fields.
func (b Block) Init(addr Logical, gen Generation, owner TreeID, level uint8, fsid, chunkTreeUUID UUID) {
	clear(b)
	h := b.Header()
	h.SetBytenr(addr)
	h.SetGeneration(gen)
	h.SetOwner(owner)
	h.SetLevel(level)
	h.SetFSID(fsid)
	h.SetChunkTreeUUID(chunkTreeUUID)
	h.SetRawFlags(BackrefRevMixed << backrefRevShift)
}

// LeafDataSize returns how many bytes item headers and data of one leaf may take together.
func LeafDataSize(nodesize int) int { return nodesize - HeaderSize }

// MaxItemSize returns the largest data size of one item.
func MaxItemSize(nodesize int) int { return LeafDataSize(nodesize) - ItemSize }

// MaxPtrs returns how many key pointers a node holds.
func MaxPtrs(nodesize int) int { return (nodesize - HeaderSize) / KeyPtrSize }

// Key returns the key of item or pointer i.
func (b Block) Key(i int) Key {
	if b.IsLeaf() {
		return GetKey(b[leafItemsStart+i*ItemSize:])
	}
	return GetKey(b[nodePtrsStart+i*KeyPtrSize:])
}

// SetKey overwrites the key of item or pointer i.
func (b Block) SetKey(i int, k Key) {
	if b.IsLeaf() {
		PutKey(b[leafItemsStart+i*ItemSize:], k)
	} else {
		PutKey(b[nodePtrsStart+i*KeyPtrSize:], k)
	}
}

// Search returns the first slot whose key is not less than k, and whether it is k.
func (b Block) Search(k Key) (slot int, found bool) {
	n := b.NrItems()
	base, step := leafItemsStart, ItemSize
	if !b.IsLeaf() {
		step = KeyPtrSize
	}
	slot = sort.Search(n, func(i int) bool { return GetKey(b[base+i*step:]).Compare(k) >= 0 })
	return slot, slot < n && GetKey(b[base+slot*step:]) == k
}

// BlockPtr returns the address that pointer i of a node holds.
func (b Block) BlockPtr(i int) Logical {
	return Logical(le64(b[nodePtrsStart+i*KeyPtrSize+KeySize:]))
}

// PtrGeneration returns the generation that pointer i promises of its block.
func (b Block) PtrGeneration(i int) Generation {
	return Generation(le64(b[nodePtrsStart+i*KeyPtrSize+KeySize+8:]))
}

// SetPtr overwrites pointer i of a node.
func (b Block) SetPtr(i int, k Key, addr Logical, gen Generation) {
	p := b[nodePtrsStart+i*KeyPtrSize:]
	PutKey(p, k)
	put64(p[KeySize:], uint64(addr))
	put64(p[KeySize+8:], uint64(gen))
}

// ItemOffset returns where the data of item i begins, counted from HeaderSize.
func (b Block) ItemOffset(i int) int {
	return int(le32(b[leafItemsStart+i*ItemSize+ItemDataOffsetPos:]))
}

// ItemSize returns the size of the data of item i.
func (b Block) ItemSize(i int) int { return int(le32(b[leafItemsStart+i*ItemSize+itemSizePos:])) }

// SetItem overwrites the header of item i.
func (b Block) SetItem(i int, k Key, offset, size int) {
	p := b[leafItemsStart+i*ItemSize:]
	PutKey(p, k)
	put32(p[ItemDataOffsetPos:], uint32(offset))
	put32(p[itemSizePos:], uint32(size))
}

// Item returns the data of item i, aliasing the block.
func (b Block) Item(i int) []byte {
	off := HeaderSize + b.ItemOffset(i)
	end := off + b.ItemSize(i)
	return b[off:end:end]
}

// LeafFree returns how many bytes item headers and data may still take.
func (b Block) LeafFree() int {
	n := b.NrItems()
	return b.dataStart(n) - n*ItemSize
}

// dataStart returns the offset (from HeaderSize) of the lowest item data.
func (b Block) dataStart(n int) int {
	if n == 0 {
		return LeafDataSize(len(b))
	}
	return b.ItemOffset(n - 1)
}
