package volume

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"

	"pgregory.net/rapid"
)

// place is where one copy of a sector lies.
type place struct {
	dev  uint64
	phys uint64
}

// naive lays a chunk out the slow way: it walks over its 64 KiB stripes and deals them out, like cards, to the columns,
// each of which has a cursor on its devices. The result lists, by sector, the places of all copies.
func naive(typ, length uint64, stripes [][2]uint64) [][]place {
	copies := map[uint64]int{0: 1, ondisk.BGRaid0: 1, ondisk.BGDup: 2, ondisk.BGRaid1: 2, ondisk.BGRaid10: 2,
		ondisk.BGRaid1C3: 3, ondisk.BGRaid1C4: 4}[typ&ondisk.BGProfileMask]
	cursor := make([]uint64, len(stripes)) // bytes dealt to each stripe
	var out [][]place
	column := 0
	for at := uint64(0); at < length; at += 4096 {
		if at != 0 && at%ondisk.StripeLen == 0 {
			column = (column + 1) % (len(stripes) / copies)
		}
		var ps []place
		for i := range copies {
			s := column*copies + i
			ps = append(ps, place{stripes[s][0], stripes[s][1] + cursor[s]})
			cursor[s] += 4096
		}
		out = append(out, ps)
	}
	return out
}

// shape is a profile with the number of stripes it takes, 0 for any.
type shape struct {
	profile       uint64
	stripes, unit int
	sub           int
}

var shapes = []shape{
	{0, 1, 1, 0}, {ondisk.BGDup, 2, 1, 0}, {ondisk.BGRaid1, 2, 1, 0}, {ondisk.BGRaid1C3, 3, 1, 0},
	{ondisk.BGRaid1C4, 4, 1, 0}, {ondisk.BGRaid0, 0, 1, 0}, {ondisk.BGRaid10, 0, 2, 2},
}

// drawChunk draws a chunk of any readable profile.
func drawChunk(t *rapid.T) (item []byte, typ, length uint64, stripes [][2]uint64) {
	s := rapid.SampledFrom(shapes).Draw(t, "profile")
	n := s.stripes
	if n == 0 {
		n = s.unit * rapid.IntRange(1, 5).Draw(t, "columns")
	}
	typ = ondisk.BGData | s.profile
	length = 4096 * rapid.Uint64Range(1, 200).Draw(t, "sectors")
	for i := range n {
		dev := uint64(i%4 + 1)
		if s.profile == ondisk.BGDup {
			dev = 1
		}
		// Disjoint places: a slot of 1 MiB for each stripe.
		stripes = append(stripes, [2]uint64{dev, uint64(100+i)<<20 + 4096*rapid.Uint64Range(0, 15).Draw(t, "offset")})
	}
	return chunkItem(typ, length, s.sub, stripes...), typ, length, stripes
}

// What is written to the places that the naive layout names is what ReadCopy reads, whatever range it is asked for.
func TestMappingAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		item, typ, length, stripes := drawChunk(rt)
		v, mems := testVolume(t, 4)
		start := ondisk.Logical(64 << 20)
		if err := v.AddChunk(start, item); err != nil {
			rt.Fatal(err)
		}
		layout := naive(typ, length, stripes)
		copies := len(layout[0])
		if got := v.Copies(start); got != copies {
			rt.Fatalf("%d copies, want %d", got, copies)
		}
		for sector, ps := range layout {
			for i, p := range ps {
				if _, err := mems[p.dev].WriteAt(t.Context(), pattern(sector, i), int64(p.phys)); err != nil {
					rt.Fatal(err)
				}
			}
		}
		for range 5 {
			from := rapid.IntRange(0, len(layout)-1).Draw(rt, "from")
			to := rapid.IntRange(from+1, len(layout)).Draw(rt, "to")
			i := rapid.IntRange(0, copies-1).Draw(rt, "copy")
			p := make([]byte, (to-from)*4096)
			if err := v.ReadCopy(t.Context(), start+ondisk.Logical(from*4096), p, i); err != nil {
				rt.Fatal(err)
			}
			for s := from; s < to; s++ {
				if got, want := string(p[(s-from)*4096:][:4096]), string(pattern(s, i)); got != want {
					rt.Fatalf("sector %d copy %d reads %q, want %q", s, i, got[:24], want[:24])
				}
			}
		}
	})
}

func pattern(sector, copy int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("sector %5d copy %3d;", sector, copy), 205))[:4096]
}

// SuperStripes lists exactly the sectors whose naive place is in the 64 KiB from a superblock copy on. The drawn chunks
// lie around the mirror at 64 MiB.
func TestSuperStripesAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := rapid.SampledFrom(shapes).Draw(rt, "profile")
		n := s.stripes
		if n == 0 {
			n = s.unit * rapid.IntRange(1, 5).Draw(rt, "columns")
		}
		cols := n
		if s.profile != ondisk.BGRaid0 && s.profile != 0 {
			cols = n / map[bool]int{true: 2, false: n}[s.profile == ondisk.BGRaid10]
		}
		// Whole rows, stripes aligned to 64 KiB, as the kernel and mkfs make them.
		rows := rapid.Uint64Range(1, 40).Draw(rt, "rows")
		length := rows * uint64(cols) * ondisk.StripeLen
		var stripes [][2]uint64
		for i := range n {
			dev := uint64(i + 1)
			if s.profile == ondisk.BGDup {
				dev = 1
			}
			stripes = append(stripes, [2]uint64{dev, 64<<20 - 32*ondisk.StripeLen + ondisk.StripeLen*rapid.Uint64Range(0, 40).Draw(rt, "offset")})
		}
		v, _ := testVolume(t, 4)
		start := ondisk.Logical(1 << 30)
		typ := ondisk.BGMetadata | s.profile
		if err := v.AddChunk(start, chunkItem(typ, length, s.sub, stripes...)); err != nil {
			rt.Fatal(err)
		}
		excluded := map[int]bool{}
		for _, r := range v.SuperStripes(start) {
			if r.Length == 0 || r.Length%4096 != 0 {
				rt.Fatalf("range %+v", r)
			}
			for l := r.Start; l < r.Start+ondisk.Logical(r.Length); l += 4096 {
				excluded[int(l-start)/4096] = true
			}
		}
		for sector, ps := range naive(typ, length, stripes) {
			want := false
			for _, p := range ps {
				want = want || (p.phys >= 64<<20 && p.phys < 64<<20+ondisk.StripeLen)
			}
			if excluded[sector] != want {
				rt.Fatalf("sector %d: excluded %v, want %v (%v)", sector, excluded[sector], want, ps)
			}
		}
	})
}

func TestSuperStripesTable(t *testing.T) {
	v, _ := testVolume(t, 2)
	mustAdd(t, v, 8<<20, chunkItem(ondisk.BGData, 128<<20, 0, [2]uint64{1, 5 << 20}))
	mustAdd(t, v, 1<<40, chunkItem(ondisk.BGMetadata|ondisk.BGDup, 32<<20, 0, [2]uint64{1, 60 << 20}, [2]uint64{1, 40 << 20}))
	mustAdd(t, v, 2<<40, chunkItem(ondisk.BGMetadata, 4<<20, 0, [2]uint64{1, 60 << 20}))
	mustAdd(t, v, 3<<40, chunkItem(ondisk.BGData, 1<<30, 0, [2]uint64{7, 256<<30 - 4096}))
	mustAdd(t, v, 0, chunkItem(ondisk.BGSystem, 1<<20, 0, [2]uint64{1, 0}))
	for _, tc := range []struct {
		start ondisk.Logical
		want  string
	}{
		{8 << 20, fmt.Sprint([]Range{{67 << 20, 65536}})},
		{1 << 40, fmt.Sprint([]Range{{1<<40 + 4<<20, 65536}, {1<<40 + 24<<20, 65536}})},
		{2 << 40, "[]"},
		{3 << 40, fmt.Sprint([]Range{{3<<40 + 4096, 65536}})}, // a missing device's stripe counts too
		{0, fmt.Sprint([]Range{{0, 131072}})},                 // below 64 KiB, and the primary behind it
		{5, "[]"},
	} {
		if got := fmt.Sprint(v.SuperStripes(tc.start)); got != tc.want {
			t.Errorf("chunk %d: %s, want %s", tc.start, got, tc.want)
		}
	}
}

func TestAddChunkRefuses(t *testing.T) {
	good := func() []byte { return chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 16 << 20}) }
	for _, tc := range []struct {
		name  string
		start ondisk.Logical
		item  []byte
		is    error
	}{
		{"empty item", 64 << 20, nil, fserr.ErrCorrupt},
		{"short item", 64 << 20, good()[:79], fserr.ErrCorrupt},
		{"long item", 64 << 20, append(good(), 0), fserr.ErrCorrupt},
		{"no stripes", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetNumStripes(0) }), fserr.ErrCorrupt},
		{"too many stripes", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetNumStripes(65535) }), fserr.ErrCorrupt},
		{"unaligned start", 64<<20 + 1, good(), fserr.ErrCorrupt},
		{"no length", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetLength(0) }), fserr.ErrCorrupt},
		{"odd length", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetLength(4095) }), fserr.ErrCorrupt},
		{"length wraps", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetLength(1<<64 - 4096) }), fserr.ErrCorrupt},
		{"start at the end", 1<<64 - 4096, good(), fserr.ErrCorrupt},
		{"stripe length", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetStripeLen(0) }), fserr.ErrCorrupt},
		{"no type", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetType(0) }), fserr.ErrCorrupt},
		{"two profiles", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetType(ondisk.BGData | ondisk.BGDup | ondisk.BGRaid1) }), fserr.ErrCorrupt},
		{"raid1 of one", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetType(ondisk.BGData | ondisk.BGRaid1) }), fserr.ErrCorrupt},
		{"raid10 of one", 64 << 20, change(good(), func(c *ondisk.Chunk) { c.SetType(ondisk.BGData | ondisk.BGRaid10); c.SetSubStripes(2) }), fserr.ErrCorrupt},
		{"raid10 without sub-stripes", 64 << 20, chunkItem(ondisk.BGData|ondisk.BGRaid10, 8<<20, 0, [2]uint64{1, 0}, [2]uint64{2, 0}), fserr.ErrCorrupt},
		{"single of two", 64 << 20, chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 0}, [2]uint64{2, 0}), fserr.ErrCorrupt},
		{"dup on two devices", 64 << 20, chunkItem(ondisk.BGData|ondisk.BGDup, 8<<20, 0, [2]uint64{1, 0}, [2]uint64{2, 0}), fserr.ErrCorrupt},
		{"stripe wraps", 64 << 20, chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 1<<64 - 4096}), fserr.ErrCorrupt},
		{"odd stripe", 64 << 20, chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 4095}), fserr.ErrCorrupt},
		{"raid5", 64 << 20, chunkItem(ondisk.BGData|ondisk.BGRaid5, 8<<20, 0, [2]uint64{1, 0}, [2]uint64{2, 0}), fserr.ErrUnsupported},
		{"overlap in front", 1<<20 - 4<<10, good(), fserr.ErrCorrupt},
		{"overlap behind", 5<<20 - 4<<10, good(), fserr.ErrCorrupt},
		{"inside", 2 << 20, chunkItem(ondisk.BGData, 4096, 0, [2]uint64{1, 16 << 20}), fserr.ErrCorrupt},
		{"same place, other stripes", 1 << 20, chunkItem(ondisk.BGSystem, 4<<20, 0, [2]uint64{1, 8 << 20}), fserr.ErrCorrupt},
	} {
		v, _ := testVolume(t, 2)
		if err := v.AddChunk(tc.start, tc.item); !errors.Is(err, tc.is) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.is)
		}
		if n := len(v.Chunks()); n != 1 {
			t.Errorf("%s: %d chunks afterwards", tc.name, n)
		}
	}
}

func change(item []byte, f func(*ondisk.Chunk)) []byte {
	f(ondisk.AsChunk(item))
	return item
}

func TestChunkMap(t *testing.T) {
	v, _ := testVolume(t, 1)
	a := chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 16 << 20})
	b := chunkItem(ondisk.BGData, 4<<20, 0, [2]uint64{1, 32 << 20})
	mustAdd(t, v, 64<<20, a)
	mustAdd(t, v, 16<<20, b)
	mustAdd(t, v, 64<<20, a) // again: nothing changes
	mustAdd(t, v, 72<<20, b) // touches, does not overlap
	for _, tc := range []struct{ l, start ondisk.Logical }{
		{0, 0}, {1<<20 - 1, 0}, {1 << 20, 1 << 20}, {5<<20 - 1, 1 << 20}, {5 << 20, 0}, {16 << 20, 16 << 20}, {20<<20 - 1, 16 << 20},
		{20 << 20, 0}, {64 << 20, 64 << 20}, {72<<20 - 1, 64 << 20}, {72 << 20, 72 << 20}, {76 << 20, 0}, {^ondisk.Logical(0), 0},
	} {
		c, ok := v.Chunk(tc.l)
		if ok != (tc.start != 0) || c.Start != tc.start {
			t.Errorf("address %d: chunk %d, %v, want %d", tc.l, c.Start, ok, tc.start)
		}
	}
	var starts []ondisk.Logical
	for _, c := range v.Chunks() {
		starts = append(starts, c.Start)
	}
	if got := fmt.Sprint(starts); got != "[1048576 16777216 67108864 75497472]" {
		t.Errorf("chunks %s", got)
	}
	if !v.RemoveChunk(64<<20) || v.RemoveChunk(64<<20) || v.RemoveChunk(16<<20+4096) {
		t.Error("RemoveChunk")
	}
	if v.Copies(64<<20) != 0 || v.Copies(72<<20) != 1 {
		t.Error("the wrong chunk was removed")
	}
}

// Any bytes as a chunk item: an error or a chunk whose whole range maps without a panic.
func FuzzAddChunk(f *testing.F) {
	f.Add(uint64(64<<20), chunkItem(ondisk.BGData, 8<<20, 0, [2]uint64{1, 16 << 20}))
	f.Add(uint64(0), chunkItem(ondisk.BGData|ondisk.BGRaid10, 8<<20, 2, [2]uint64{1, 0}, [2]uint64{2, 0}, [2]uint64{3, 0}, [2]uint64{4, 0}))
	f.Add(uint64(1<<63), chunkItem(ondisk.BGData|ondisk.BGRaid0, 1<<62, 2, [2]uint64{1, 1 << 62}))
	f.Fuzz(func(t *testing.T, start uint64, item []byte) {
		info, err := parseChunk(ondisk.Logical(start), item, 4096)
		if err != nil {
			return
		}
		v := newVolume(testSuper(1, 1, 1), nil, Options{})
		if err := v.AddChunk(info.Start, item); err != nil {
			t.Fatal(err)
		}
		v.SuperStripes(info.Start)
		for _, l := range []ondisk.Logical{info.Start, info.End() - 1, info.Start + ondisk.Logical(info.Length/2)} {
			for i := range info.NumCopies {
				if pc := info.locate(l, 1<<20, i); pc.n <= 0 || int64(pc.phys) < 0 || int64(pc.phys)+int64(pc.n) < 0 {
					t.Fatalf("address %d copy %d at %+v", l, i, pc)
				}
			}
		}
		for _, l := range []ondisk.Logical{info.Start - 1, info.End(), 1<<64 - 1} {
			if l < info.Start || l >= info.End() {
				if v.Copies(l) != 0 {
					t.Fatalf("address %d is in chunk %d of %d bytes", l, info.Start, info.Length)
				}
			}
		}
	})
}
