package treecheck

import (
	"testing"

	"imgtool/engine/ondisk"
)

// FuzzBlock feeds Block with bytes and, when it finds nothing, uses everything that a reader may then trust.
func FuzzBlock(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(buildLeaf(s())), true)
	}
	f.Add([]byte(buildNode()), false)
	f.Fuzz(func(t *testing.T, data []byte, write bool) {
		c := testContext()
		c.Write = write
		b := make(ondisk.Block, testNode)
		copy(b, data)
		if Block(b, c) == nil {
			trust(t, b)
		}
	})
}

// trust reads a block that has passed as its users do.
func trust(t *testing.T, b ondisk.Block) {
	for i := range b.NrItems() {
		k := b.Key(i)
		if slot, found := b.Search(k); !found || slot != i {
			t.Fatalf("search finds key %d at %d, %t", i, slot, found)
		}
		if !b.IsLeaf() {
			continue
		}
		if err := iterate(k, b.Item(i)); err != nil {
			t.Fatalf("item %d %s: %v", i, k, err)
		}
	}
	if b.IsLeaf() && b.LeafFree() < 0 {
		t.Fatalf("free space %d", b.LeafFree())
	}
}

// iterate walks the packed entries of an item; what passed must not end early.
func iterate(k ondisk.Key, item []byte) error {
	switch k.Type {
	case ondisk.DirItemKey, ondisk.DirIndexKey, ondisk.XattrItemKey:
		return ondisk.DirEntries(item, func(ondisk.DirEntry) bool { return true })
	case ondisk.InodeRefKey:
		return ondisk.InodeRefs(item, 0, func(ondisk.NameRef) bool { return true })
	case ondisk.InodeExtrefKey:
		return ondisk.InodeExtrefs(item, func(ondisk.NameRef) bool { return true })
	case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
		return ondisk.InlineRefs(item, k.Type, func(ondisk.InlineRef) bool { return true })
	case ondisk.InodeItemKey:
		ondisk.AsInodeItem(item).OTime()
	case ondisk.ChunkItemKey:
		for i := range int(ondisk.AsChunk(item).NumStripes()) {
			ondisk.ChunkStripe(item, i).DevUUID()
		}
	case ondisk.DevItemKey:
		ondisk.AsDevItem(item).FSID()
	case ondisk.DevExtentKey:
		ondisk.AsDevExtent(item).ChunkTreeUUID()
	case ondisk.BlockGroupItemKey:
		ondisk.AsBlockGroupItem(item).Flags()
	}
	return nil
}

func FuzzSuper(f *testing.F) {
	f.Add(testSuper()[:])
	f.Fuzz(func(t *testing.T, data []byte) {
		sb := new(ondisk.SuperBlock)
		copy(sb[:], data)
		if Super(sb) == nil && (sb.NodeSize() > 65536 || sb.RootLevel() >= ondisk.MaxLevel) {
			t.Fatal("nonsense accepted")
		}
		left := ondisk.SysChunkArrayMax
		_ = SysChunkArray(sb, func(start ondisk.Logical, item []byte) error {
			if left -= ondisk.KeySize + len(item); left < 0 {
				t.Fatal("more entries than the array holds")
			}
			return iterate(ondisk.Key{Type: ondisk.ChunkItemKey}, item)
		})
	})
}

func FuzzChunk(f *testing.F) {
	f.Add(uint64(8*mib), chunk(ondisk.BGMetadata|ondisk.BGDup, 8*mib, 1, 16*mib, 24*mib), uint64(0))
	f.Add(uint64(8*mib), chunk(ondisk.BGData|ondisk.BGRaid10, 8*mib, 2, 0, 0, 0, 0), uint64(4))
	f.Fuzz(func(t *testing.T, start uint64, item []byte, incompat uint64) {
		sb := testSuper()
		sb.SetIncompatFlags(incompat)
		if Chunk(ondisk.Logical(start), item, sb) != nil {
			return
		}
		if c := ondisk.AsChunk(item); c.Length() == 0 || start+c.Length() < start || len(item) != ondisk.ChunkItemSize(int(c.NumStripes())) {
			t.Fatal("nonsense accepted")
		}
	})
}

// TestNoAllocation: the checks run on every read and write.
func TestNoAllocation(t *testing.T) {
	c := testContext()
	for name, s := range samples {
		b := buildLeaf(s())
		if n := testing.AllocsPerRun(20, func() { _ = Block(b, c) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
