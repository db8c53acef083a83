package ondisk

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

type modelItem struct {
	key  Key
	data []byte
	addr Logical
	gen  Generation
}

// drawItems draws items or pointers of ascending keys, as many as fit in a block of the given size.
func drawItems(t *rapid.T, size int, leaf bool) (items []modelItem) {
	room := MaxPtrs(size) * KeyPtrSize
	if leaf {
		room = LeafDataSize(size)
	}
	for range rapid.IntRange(0, 60).Draw(t, "count") {
		m := modelItem{key: drawKey(t, "key"), addr: Logical(rapid.Uint64().Draw(t, "addr")), gen: Generation(rapid.Uint64().Draw(t, "gen"))}
		need := KeyPtrSize
		if leaf {
			m.data = rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data")
			need = ItemSize + len(m.data)
		}
		if room -= need; room < 0 {
			break
		}
		items = append(items, m)
	}
	slices.SortFunc(items, func(a, b modelItem) int { return a.key.Compare(b.key) })
	return slices.CompactFunc(items, func(a, b modelItem) bool { return a.key == b.key })
}

// TestBlockModel compares leaves and nodes with the lists that they were made from.
func TestBlockModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4096, 16384}).Draw(t, "size")
		level := uint8(rapid.IntRange(0, MaxLevel-1).Draw(t, "level"))
		items := drawItems(t, size, level == 0)
		b := make(Block, size)
		for i := range b {
			b[i] = 0xee // what a re-used buffer holds
		}
		b.Init(1<<20, 7, FSTree, level, UUID{1}, UUID{2})
		b.SetNrItems(len(items))
		off := LeafDataSize(size)
		for i, m := range items {
			if level == 0 {
				off -= len(m.data)
				b.SetItem(i, m.key, off, len(m.data))
				copy(b.Item(i), m.data)
			} else {
				b.SetPtr(i, m.key, m.addr, m.gen)
			}
		}
		compare(t, b, items, level)
		search(t, b, items)
		if level == 0 && b.LeafFree() != off-len(items)*ItemSize {
			t.Fatalf("free space %d expect %d", b.LeafFree(), off-len(items)*ItemSize)
		}
	})
}

func compare(t *rapid.T, b Block, items []modelItem, level uint8) {
	h := b.Header()
	if h.Bytenr() != 1<<20 || h.Generation() != 7 || h.Owner() != FSTree || h.FSID() != (UUID{1}) || h.ChunkTreeUUID() != (UUID{2}) ||
		b.Level() != level || b.IsLeaf() != (level == 0) || b.NrItems() != len(items) || b.BackrefRev() != BackrefRevMixed || b.Flags() != 0 {
		t.Fatalf("header %x", b[:HeaderSize])
	}
	for i, m := range items {
		if b.Key(i) != m.key {
			t.Fatalf("key %d is %s expect %s", i, b.Key(i), m.key)
		}
		if level == 0 && (!bytes.Equal(b.Item(i), m.data) || b.ItemSize(i) != len(m.data) || cap(b.Item(i)) != len(m.data)) {
			t.Fatalf("item %d", i)
		}
		if level > 0 && (b.BlockPtr(i) != m.addr || b.PtrGeneration(i) != m.gen) {
			t.Fatalf("pointer %d", i)
		}
	}
}

func search(t *rapid.T, b Block, items []modelItem) {
	want := drawKey(t, "wanted")
	if len(items) > 0 && rapid.Bool().Draw(t, "present") {
		want = rapid.SampledFrom(items).Draw(t, "which").key
	}
	slot, found := slices.BinarySearchFunc(items, want, func(m modelItem, k Key) int { return m.key.Compare(k) })
	if s, f := b.Search(want); s != slot || f != found {
		t.Fatalf("%s found at %d, %t expect %d, %t", want, s, f, slot, found)
	}
}

func TestBlockFlags(t *testing.T) {
	b := make(Block, 4096)
	b.Init(4096, 1, 5, 0, UUID{}, UUID{})
	b.SetFlags(HeaderFlagWritten | HeaderFlagReloc)
	if b.Flags() != HeaderFlagWritten|HeaderFlagReloc || b.BackrefRev() != BackrefRevMixed {
		t.Errorf("flags 0x%x revision %d", b.Flags(), b.BackrefRev())
	}
	b.SetFlags(0)
	if b.Flags() != 0 || b.BackrefRev() != BackrefRevMixed {
		t.Errorf("flags 0x%x revision %d", b.Flags(), b.BackrefRev())
	}
	b.SetNrItems(2)
	b.SetKey(1, Key{7, 8, 9})
	if b.Key(1) != (Key{7, 8, 9}) || b.Key(0) != (Key{}) {
		t.Error(b.Key(0), b.Key(1))
	}
}

// TestSizes holds the figures that kernel developers know by heart.
func TestSizes(t *testing.T) {
	for _, d := range [][3]int{{MaxPtrs(4096), 121, 4096}, {MaxPtrs(16384), 493, 16384}, {LeafDataSize(16384), 16283, 16384}, {MaxItemSize(4096), 3970, 4096}} {
		if d[0] != d[1] {
			t.Errorf("node size %d: %d expect %d", d[2], d[0], d[1])
		}
	}
}
