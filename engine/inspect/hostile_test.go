package inspect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// blocks is a Reader of hand-made blocks.
type blocks struct {
	sb    ondisk.SuperBlock
	m     map[ondisk.Logical]ondisk.Block
	reads int
}

func (r *blocks) Super() ondisk.SuperBlock { return r.sb }

func (r *blocks) ReadTreeBlock(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error) {
	if r.reads++; r.reads > 100_000 {
		panic("endless walk")
	}
	if b, ok := r.m[addr]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("no block %d: %w", addr, io.ErrUnexpectedEOF)
}

func newBlocks() *blocks {
	r := &blocks{m: map[ondisk.Logical]ondisk.Block{}}
	r.sb.SetSectorSize(4096)
	r.sb.SetNodeSize(4096)
	r.sb.SetRoot(4096)
	r.sb.SetChunkRoot(8192)
	return r
}

func (r *blocks) node(addr ondisk.Logical, level uint8, ptrs ...ondisk.Logical) ondisk.Block {
	b := make(ondisk.Block, 4096)
	b.Init(addr, 1, ondisk.RootTree, level, ondisk.UUID{}, ondisk.UUID{})
	b.SetNrItems(len(ptrs))
	for i, p := range ptrs {
		b.SetPtr(i, ondisk.Key{ObjectID: ondisk.ObjectID(i + 1), Type: ondisk.InodeItemKey}, p, 1)
	}
	r.m[addr] = b
	return b
}

func (r *blocks) leaf(addr ondisk.Logical, keys ...ondisk.Key) ondisk.Block {
	b := r.node(addr, 0)
	b.SetNrItems(len(keys))
	for i, k := range keys {
		b.SetItem(i, k, ondisk.LeafDataSize(4096), 0)
	}
	return b
}

func first(o ondisk.ObjectID) ondisk.Key { return ondisk.Key{ObjectID: o, Type: ondisk.InodeItemKey} }

// TestHostileTrees: each tree would loop, explode or crash if pointers were believed. Every pointer that does not fit
// is reported, and what fits is printed all the same.
func TestHostileTrees(t *testing.T) {
	for _, d := range []struct {
		name  string
		build func(r *blocks)
		want  []string // findings
		lines string   // in the output
	}{
		{"own parent", func(r *blocks) { r.node(4096, 1, 4096) }, []string{"block 4096 has level 1 expect 0"}, "node 4096 level 1 items 1"},
		{"two nodes", func(r *blocks) { r.node(4096, 2, 12288); r.node(12288, 1, 4096) }, []string{"node: root=1 block=12288 slot=0, block 4096 has level 2 expect 0"}, "node 12288"},
		{"every pointer to one child", func(r *blocks) {
			for l := uint8(7); l > 0; l-- {
				at := ondisk.Logical(4096 * (8 - int(l)) * 3)
				if l == 7 {
					at = 4096
				}
				p := make([]ondisk.Logical, 100)
				for i := range p {
					p[i] = ondisk.Logical(4096 * (9 - int(l)) * 3)
				}
				r.node(at, l, p...)
			}
			r.leaf(4096*8*3, first(1))
		}, []string{"more"}, "leaf 98304 items 1"},
		{"missing child", func(r *blocks) { r.node(4096, 1, 12288, 16384); r.leaf(16384, first(2)) }, []string{"node 4096 slot 0: block 12288: no block"}, "leaf 16384"},
		{"keys beyond the sibling", func(r *blocks) {
			r.node(4096, 2, 12288, 16384)
			r.node(12288, 1, 20480, 24576)
			r.node(16384, 1, 20480).SetPtr(0, first(2), 24576, 1)
			r.leaf(20480, first(1))
			r.leaf(24576, first(2))
		}, []string{"bad key order at (2 INODE_ITEM 0), block 24576 left out"}, "leaf 24576"},
		{"level 9", func(r *blocks) { r.node(4096, 9, 4096) }, []string{"invalid level, have 9"}, "chunk tree"},
		{"too many items", func(r *blocks) { r.leaf(4096, first(1)).SetNrItems(1 << 31) }, nil, "items 2147483648"},
		{"item out of the block", func(r *blocks) { r.leaf(4096, first(1)).SetItem(0, first(1), 1<<31, 1<<31) }, nil, "ERROR: leaf 4096 slot 0 pointer invalid"},
		{"short block", func(r *blocks) { r.m[4096] = make(ondisk.Block, 100) }, []string{"100 bytes are no tree block"}, "chunk tree"},
	} {
		for _, dfs := range []bool{false, true} {
			r := newBlocks()
			r.leaf(8192)
			d.build(r)
			var out bytes.Buffer
			err := DumpTree(t.Context(), &out, r, Options{DFS: dfs})
			skipped := strings.Count("\n"+out.String(), "\nERROR: skipped: ")
			if (err == nil) != (len(d.want) == 0) || (err == nil) != (skipped == 0) {
				t.Errorf("%s: %v, %d blocks skipped", d.name, err, skipped)
			}
			for _, w := range d.want {
				if err != nil && !strings.Contains(err.Error(), w) || w != "more" && !strings.Contains(out.String(), w) {
					t.Errorf("%s, dfs %t: have %v expect %q", d.name, dfs, err, w)
				}
			}
			if !strings.Contains(out.String(), d.lines) {
				t.Errorf("%s, dfs %t: no %q in\n%s", d.name, dfs, d.lines, out.String())
			}
		}
	}
}

type failing struct{ left int }

var errFull = errors.New("disk full")

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestDumpEnds(t *testing.T) {
	r := newBlocks()
	r.leaf(8192)
	p := make([]ondisk.Logical, 100)
	for i := range p {
		p[i] = ondisk.Logical(4096 * (i + 3))
		r.leaf(p[i], first(ondisk.ObjectID(i+1)))
	}
	r.node(4096, 1, p...)
	for _, room := range []int{0, 10, 5000} {
		if err := DumpTree(t.Context(), &failing{room}, r, Options{}); !errors.Is(err, errFull) {
			t.Errorf("room for %d bytes: %v", room, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := DumpTree(ctx, io.Discard, r, Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, o := range []Options{{Tree: 300}, {Tree: ondisk.TreeLogTree}} {
		if err := DumpTree(t.Context(), io.Discard, r, o); !errors.Is(err, fserr.ErrNotFound) {
			t.Errorf("tree %s: %v", o.Tree, err)
		}
	}
	for _, addr := range []ondisk.Logical{4097, 1 << 40} {
		if err := DumpTree(t.Context(), io.Discard, r, Options{Blocks: []ondisk.Logical{addr}}); err == nil {
			t.Errorf("block %d is printed", addr)
		}
	}
}

// types are all that have a printer of their own.
var types = []ondisk.ItemType{0, 1, 12, 13, 24, 48, 60, 72, 84, 96, 108, 128, 132, 144, 156, 168, 169, 172, 176, 178, 182, 184,
	192, 198, 199, 200, 204, 216, 228, 230, 240, 242, 244, 246, 248, 249, 250, 251, 252, 253, 255}

// TestRandomItems prints items of every type, size and random content.
func TestRandomItems(t *testing.T) {
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 0))
	sb := newBlocks().sb
	for range 5_000 {
		b := make(ondisk.Block, 4096)
		b.Init(4096, 1, 5, 0, ondisk.UUID{}, ondisk.UUID{})
		b.SetNrItems(1)
		n := rnd.IntN(500)
		k := ondisk.Key{ObjectID: ondisk.ObjectID(int64(rnd.IntN(30)) - 15), Type: types[rnd.IntN(len(types))], Offset: rnd.Uint64()}
		b.SetItem(0, k, ondisk.LeafDataSize(4096)-n, n)
		item := b.Item(0)
		for i := range item {
			if item[i] = byte(rnd.IntN(256)); rnd.IntN(2) == 0 {
				item[i] = byte(rnd.IntN(3)) // small numbers get further
			}
		}
		var out bytes.Buffer
		if err := Block(&out, b, &sb, Options{}); err != nil {
			t.Fatal(err)
		}
		if strings.Count(out.String(), "\n") < 5 {
			t.Fatalf("item %s of %d bytes:\n%s", k, n, out.String())
		}
	}
}

// TestBalanceItem: a paused balance is hard to catch, so this body is made by hand, every field with its byte offset in
// struct btrfs_balance_item.
func TestBalanceItem(t *testing.T) {
	b := make(ondisk.Block, 4096)
	b.Init(4096, 1, ondisk.RootTree, 0, ondisk.UUID{}, ondisk.UUID{})
	b.SetNrItems(1)
	b.SetItem(0, ondisk.Key{ObjectID: ondisk.BalanceObjectID, Type: ondisk.TemporaryItemKey}, ondisk.LeafDataSize(4096)-448, 448)
	for off := 0; off < 448; off += 4 {
		binary.LittleEndian.PutUint32(b.Item(0)[off:], uint32(off))
		if field := (off - 8) % 136; off < 8 || off < 416 && (field < 8 || field >= 16 && field < 72 || field >= 88) && off%8 == 4 {
			binary.LittleEndian.PutUint32(b.Item(0)[off:], 0) // the upper half of a 64-bit field
		}
	}
	var out bytes.Buffer
	sb := newBlocks().sb
	if err := Block(&out, b, &sb, Options{}); err != nil {
		t.Fatal(err)
	}
	want := "\tbalance status flags 0\n\t\tDATA\n" +
		"\t\tprofiles 8 devid 24 target 64 flags 72\n\t\tusage_min 16 usage_max 20 pstart 32 pend 40\n" +
		"\t\tvstart 48 vend 56 limit_min 80 limit_max 84\n\t\tstripes_min 88 stripes_max 92\n\t\tMETADATA\n" +
		"\t\tprofiles 144 devid 160 target 200 flags 208\n"
	if !strings.Contains(out.String(), want) {
		t.Errorf("have\n%s\nexpect\n%s", out.String(), want)
	}
}

func FuzzDump(f *testing.F) {
	r := newBlocks()
	r.leaf(4096, first(1))
	f.Add([]byte(r.m[4096]))
	f.Add([]byte(r.node(4096, 1, 4096, 8192)))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newBlocks()
		b := make(ondisk.Block, 4096)
		copy(b, data)
		r.m[4096], r.m[8192] = b, b
		copy(r.sb[2000:], data)
		for _, dfs := range []bool{false, true} {
			_ = DumpTree(t.Context(), io.Discard, r, Options{DFS: dfs})
		}
		if err := Super(io.Discard, ondisk.AsSuperBlock(b), true); err != nil {
			t.Fatal(err)
		}
	})
}

func TestParseTree(t *testing.T) {
	for s, want := range map[string]ondisk.TreeID{
		"5": 5, "256": 256, "0x100": 256, "-9": ondisk.DataRelocTree, "fs": 5, "FS_TREE": 5, "BTRFS_FS_TREE_OBJECTID": 5, "Extent": 2,
		"device": 4, "checksum": 7, "free-space": 10, "FREE_SPACE_TREE": 10, "block-group": 11, "data-reloc": ondisk.DataRelocTree,
		"tree-log": ondisk.TreeLogTree, "18446744073709551607": ondisk.DataRelocTree,
	} {
		if got, err := ParseTree(s); err != nil || got != want {
			t.Errorf("%q: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0", "nothing", "fs tree", "5x"} {
		if got, err := ParseTree(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
}

func TestSuperWithoutMagic(t *testing.T) {
	sb := new(ondisk.SuperBlock)
	c := []SuperCopy{{ondisk.SuperOffsets[0], sb}}
	if err := Supers(io.Discard, "dev", c, SuperOptions{}); !errors.Is(err, fserr.ErrCorrupt) || !strings.Contains(err.Error(), "--force") {
		t.Error(err)
	}
	var out bytes.Buffer
	sb.SetCsumType(9)
	sb.SetSysChunkArraySize(5000)
	if err := Supers(&out, "dev", c, SuperOptions{Full: true, Force: true}); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"9 (INVALID)", "[UNKNOWN CSUM TYPE OR SIZE]", "........ [DON'T MATCH]", "shouldn't exceed 2048"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q", want)
		}
	}
}
