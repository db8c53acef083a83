package ondisk

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

type named struct {
	name, data []byte
	num        uint64
}

func drawNamed(t *rapid.T) named {
	return named{rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "name"), rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data"), rapid.Uint64().Draw(t, "number")}
}

// walker is one kind of packed entries: how to encode one, and how to walk an item of them.
type walker struct {
	name   string
	encode func(e named) []byte
	walk   func(item []byte, f func(e named, off, n int) bool) error
}

var walkers = []walker{
	{"DirEntries", func(e named) []byte {
		b := make([]byte, DirItemSize+len(e.name)+len(e.data))
		PutDirEntry(b, Key{ObjectID(e.num), InodeItemKey, 0}, 9, FTReg, e.name, e.data)
		return b
	}, func(item []byte, f func(named, int, int) bool) error {
		return DirEntries(item, func(d DirEntry) bool {
			return f(named{d.Name, d.Data, uint64(d.Location().ObjectID)}, d.Off, d.Len)
		})
	}},
	{"InodeRefs", func(e named) []byte {
		b := make([]byte, InodeRefSize+len(e.name))
		AsInodeRef(b).SetIndex(e.num)
		AsInodeRef(b).SetNameLen(uint16(len(e.name)))
		copy(b[InodeRefSize:], e.name)
		return b
	}, func(item []byte, f func(named, int, int) bool) error {
		return InodeRefs(item, 300, func(r NameRef) bool { return r.Parent == 300 && f(named{r.Name, nil, r.Index}, r.Off, r.Len) })
	}},
	{"InodeExtrefs", func(e named) []byte {
		b := make([]byte, InodeExtrefSize+len(e.name))
		AsInodeExtref(b).SetIndex(e.num)
		AsInodeExtref(b).SetParent(300)
		AsInodeExtref(b).SetNameLen(uint16(len(e.name)))
		copy(b[InodeExtrefSize:], e.name)
		return b
	}, func(item []byte, f func(named, int, int) bool) error {
		return InodeExtrefs(item, func(r NameRef) bool { return f(named{r.Name, nil, r.Index + uint64(r.Parent-300)}, r.Off, r.Len) })
	}},
}

// TestPackedEntries encodes lists of entries, walks them, stops early, and cuts the item short.
func TestPackedEntries(t *testing.T) {
	for _, w := range walkers {
		t.Run(w.name, rapid.MakeCheck(func(t *rapid.T) {
			list := rapid.SliceOfN(rapid.Custom(drawNamed), 1, 5).Draw(t, "entries")
			var item []byte
			starts := map[int]bool{0: true}
			for _, e := range list {
				item = append(item, w.encode(e)...)
				starts[len(item)] = true
			}
			stop, i := rapid.IntRange(0, len(list)-1).Draw(t, "stop"), 0
			err := w.walk(item, func(e named, off, n int) bool {
				if !bytes.Equal(e.name, list[i].name) || e.num != list[i].num || !bytes.Equal(w.encode(list[i]), item[off:off+n]) ||
					(e.data != nil && !bytes.Equal(e.data, list[i].data)) {
					t.Fatalf("entry %d", i)
				}
				i++
				return i <= stop
			})
			if err != nil || i != stop+1 {
				t.Fatalf("%d entries of %d, %v", i, stop+1, err)
			}
			cut := rapid.IntRange(0, len(item)).Draw(t, "cut")
			err = w.walk(item[:cut], func(named, int, int) bool { return true })
			if (err == nil) != starts[cut] || (err != nil && !errors.Is(err, ErrShort)) {
				t.Fatalf("cut at %d of %d: %v", cut, len(item), err)
			}
		}))
	}
}

// walkAny walks arbitrary bytes with every walker: entries follow each other without gaps, within the item.
func walkAny(t *testing.T, item []byte) {
	for _, w := range walkers {
		end := 0
		err := w.walk(item, func(e named, off, n int) bool {
			if off != end || n <= 0 || len(e.name) > n {
				t.Fatalf("%s: entry at %d of %d bytes, expect it at %d", w.name, off, n, end)
			}
			end = off + n
			return true
		})
		if end > len(item) || (err == nil && end != len(item)) {
			t.Fatalf("%s: %d of %d bytes, %v", w.name, end, len(item), err)
		}
	}
}

func FuzzDirEntries(f *testing.F) {
	f.Add(walkers[0].encode(named{[]byte("user.x"), []byte("value"), 0}))
	f.Add(append(walkers[0].encode(named{[]byte("a"), nil, 257}), walkers[0].encode(named{[]byte("b"), nil, 258})...))
	f.Add(walkers[1].encode(named{[]byte(".."), nil, 0}))
	f.Add(walkers[2].encode(named{[]byte("c"), nil, 5}))
	f.Fuzz(walkAny)
}

// refItem is an extent item with one inline backref of each type.
func refItem(flags uint64) []byte {
	b := make([]byte, ExtentItemSize)
	AsExtentItem(b).SetFlags(flags)
	for i, t := range []ItemType{ExtentOwnerRefKey, TreeBlockRefKey, ExtentDataRefKey, SharedBlockRefKey, SharedDataRefKey} {
		r := make([]byte, InlineRefSize(t))
		r[0] = byte(t)
		if t == ExtentDataRefKey {
			d := AsExtentDataRef(r[1:])
			d.SetRoot(5)
			d.SetObjectID(257)
			d.SetOffset(4096)
			d.SetCount(3)
		} else {
			AsExtentInlineRef(r).SetOffset(uint64(i))
		}
		if t == SharedDataRefKey {
			AsSharedDataRef(r[ExtentInlineRefSize:]).SetCount(4)
		}
		b = append(b, r...)
	}
	return b
}

func TestInlineRefs(t *testing.T) {
	item := refItem(ExtentFlagData)
	var got []InlineRef
	if err := InlineRefs(item, ExtentItemKey, func(r InlineRef) bool { got = append(got, r); return true }); err != nil {
		t.Fatal(err)
	}
	want := []InlineRef{
		{Type: ExtentOwnerRefKey, Offset: 0, Count: 1, Off: 24, Len: 9}, {Type: TreeBlockRefKey, Offset: 1, Count: 1, Off: 33, Len: 9},
		{Type: ExtentDataRefKey, Offset: ExtentDataRefHash(5, 257, 4096), Count: 3, Off: 42, Len: 29},
		{Type: SharedBlockRefKey, Offset: 3, Count: 1, Off: 71, Len: 9}, {Type: SharedDataRefKey, Offset: 4, Count: 4, Off: 80, Len: 13},
	}
	if len(got) != len(want) {
		t.Fatalf("%d refs", len(got))
	}
	for i, g := range got {
		if (g.Data != nil) != (g.Type == ExtentDataRefKey) || (g.Data != nil && g.Data.ObjectID() != 257) {
			t.Errorf("ref %d: data %v", i, g.Data)
		}
		if g.Data = nil; g != want[i] {
			t.Errorf("ref %d is %+v expect %+v", i, g, want[i])
		}
	}
	// A tree block's EXTENT_ITEM has the block's first key before its refs, a METADATA_ITEM has not.
	tree := refItem(ExtentFlagTreeBlock)
	if err := InlineRefs(tree, MetadataItemKey, func(InlineRef) bool { return true }); err != nil {
		t.Error(err)
	}
	n := 0
	info := append(append(bytes.Clone(tree[:ExtentItemSize]), make([]byte, TreeBlockInfoSize)...), tree[ExtentItemSize:]...)
	if err := InlineRefs(info, ExtentItemKey, func(InlineRef) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Error(n, err)
	}
	for _, cut := range []int{0, 23, 25, 32, 34, 70, len(item) - 1} {
		if err := InlineRefs(item[:cut], ExtentItemKey, func(InlineRef) bool { return true }); !errors.Is(err, ErrShort) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func FuzzInlineRefs(f *testing.F) {
	f.Add(refItem(ExtentFlagData), byte(ExtentItemKey))
	f.Add(refItem(ExtentFlagTreeBlock), byte(MetadataItemKey))
	f.Add(append(refItem(ExtentFlagTreeBlock), make([]byte, TreeBlockInfoSize)...), byte(ExtentItemKey))
	f.Fuzz(func(t *testing.T, item []byte, keyType byte) {
		end := -1
		err := InlineRefs(item, ItemType(keyType), func(r InlineRef) bool {
			if (end >= 0 && r.Off != end) || r.Len != InlineRefSize(r.Type) || r.Len == 0 {
				t.Fatalf("ref at %d of %d bytes, expect it at %d", r.Off, r.Len, end)
			}
			end = r.Off + r.Len
			return true
		})
		if end > len(item) || (err == nil && end >= 0 && end != len(item)) {
			t.Fatalf("%d of %d bytes, %v", end, len(item), err)
		}
	})
}
