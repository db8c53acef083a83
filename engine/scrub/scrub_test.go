package scrub

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// image is a small file system of 4 KiB nodes with two subvolumes that share blocks, on a device that outlives it.
func image(t testing.TB, data uint64) *disk.Mem {
	t.Helper()
	ctx := t.Context()
	dev := disk.NewMem("mem", 256<<20)
	o := engine.FormatOptions{Options: mkfs.Default()}
	o.NodeSize, o.Data, o.Csum = 4096, data, ondisk.XXHash64
	fs, err := engine.FormatDevice(ctx, keep{dev}, o)
	must(t, err)
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("a file with a long name %d", i), inode.Attr{Mode: 0o644})
		must(t, err)
		buf := make([]byte, random.IntN(50000))
		for j := range buf {
			buf[j] = byte(random.Uint32())
		}
		_, err = tree.WriteAt(ctx, ino, buf, 0)
		must(t, err)
	}
	must(t, fs.Commit(ctx))
	_, err = fs.Snapshot(ctx, "/", "/snap", true)
	must(t, err)
	_, err = tree.Create(ctx, inode.RootDir, "afterwards", inode.Attr{Mode: 0o600})
	must(t, err)
	must(t, fs.Commit(ctx))
	must(t, fs.Close())
	return dev
}

// keep is a device that does not close.
type keep struct{ *disk.Mem }

func (keep) Close() error { return nil }

// run scrubs a device.
func run(t testing.TB, dev disk.Device, repair bool) (Report, []Finding) {
	t.Helper()
	r, fs, _, err := try(t.Context(), dev, repair)
	must(t, err)
	return r, fs
}

func try(ctx context.Context, dev disk.Device, repair bool) (Report, []Finding, *scrubber, error) {
	vol, err := volume.Open(ctx, []disk.Device{dev}, volume.Options{CheckSuper: treecheck.Super})
	if err != nil {
		return Report{}, nil, nil, err
	}
	var all []Finding
	sb := vol.Super()
	s := &scrubber{
		vol: vol, sb: &sb, check: treecheck.FromSuper(&sb), pool: disk.NewPool(), seen: map[ondisk.Logical]*want{},
		o: Options{Repair: repair, Depth: 4, Found: func(f Finding) { all = append(all, f) }},
	}
	err = s.run(ctx)
	if e := s.pool.Close(); err == nil {
		err = e
	}
	return s.report, all, s, err
}

// blocks lists the tree blocks of a good image, by address.
func blocks(t testing.TB, dev disk.Device) ([]*want, *volume.Volume) {
	t.Helper()
	r, fs, s, err := try(t.Context(), dev, false)
	must(t, err)
	if bad, _ := r.Errors(); bad != 0 || len(fs) != 0 {
		t.Fatalf("a good image: %+v", fs)
	}
	var list []*want
	for _, w := range s.seen {
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b *want) int { return int(a.addr) - int(b.addr) })
	return list, s.vol
}

func content(t testing.TB, dev disk.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	_, err := dev.ReadAt(t.Context(), b, 0)
	must(t, err)
	return b
}

// damages are ways in which a copy of a tree block may be bad. All but the first have the right checksum. The last two are
// none of a root, whose first key nobody knows, and which may be empty.
var damages = []struct {
	name string
	do   func(b ondisk.Block)
}{
	{"flipped bit", func(b ondisk.Block) { b[len(b)-1] ^= 4 }},
	{"old generation", func(b ondisk.Block) { b.Header().SetGeneration(b.Header().Generation() - 1) }},
	{"other address", func(b ondisk.Block) { b.Header().SetBytenr(b.Header().Bytenr() + 4096) }},
	{"other file system", func(b ondisk.Block) { b.Header().SetFSID(ondisk.UUID{1}) }},
	{"other chunk tree", func(b ondisk.Block) { b.Header().SetChunkTreeUUID(ondisk.UUID{1}) }},
	{"other level", func(b ondisk.Block) { b.Header().SetLevel(b.Level() + 1) }},
	{"other owner", func(b ondisk.Block) { b.Header().SetOwner(ondisk.RaidStripeTree) }},
	{"too many items", func(b ondisk.Block) { b.SetNrItems(10_000) }},
	{"no items", func(b ondisk.Block) { b.SetNrItems(0) }},
	{"other first key", func(b ondisk.Block) { // of most leaves, and of all nodes, only the pointer tells that it is wrong
		k := b.Key(0)
		if k.Offset >= 4096 {
			k.Offset -= 4096
		} else {
			k.ObjectID--
		}
		ondisk.PutKey(b[ondisk.HeaderSize:], k)
	}},
}

// TestOneCopy damages one copy of every tree block in every way: each is found in its place, nothing else is, and the
// repair gives back the image to the byte.
func TestOneCopy(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	if len(list) < 25 {
		t.Fatalf("only %d tree blocks", len(list))
	}
	sb := vol.Super()
	for i, w := range list {
		for d, damage := range damages {
			if (i+d)%3 != 0 && !oracle.Soak() { // each block in some ways, each way in many blocks
				continue
			}
			copy := (i + d) % 2
			b := make(ondisk.Block, 4096)
			must(t, vol.ReadCopy(t.Context(), w.addr, b, copy))
			if d >= len(damages)-2 && !w.keyed {
				continue
			}
			whole := bytes.Clone(b)
			damage.do(b)
			if d > 0 {
				sb.Checksum().SetBlockCsum(b)
			}
			p, err := vol.Place(w.addr, copy)
			must(t, err)
			dev := good.Clone()
			_, err = dev.WriteAt(t.Context(), b, int64(p.Offset))
			must(t, err)
			for _, repair := range []bool{false, true} {
				r, fs := run(t, dev, repair)
				n, repaired := r.Errors()
				if n != 1 || len(fs) != 1 || fs[0].Kind != Metadata || fs[0].Addr != w.addr || fs[0].Copy != copy || fs[0].Place.Offset != p.Offset {
					t.Fatalf("%s in copy %d of block %d of tree %d: %+v", damage.name, copy, w.addr, w.tree, fs)
				}
				if fs[0].Repaired != repair || repaired == 1 != repair {
					t.Fatalf("%s in copy %d of block %d: repaired %v, asked for %v: %v", damage.name, copy, w.addr, fs[0].Repaired, repair, fs[0].NoRepair)
				}
			}
			_, err = dev.ReadAt(t.Context(), b, int64(p.Offset))
			must(t, err)
			if writes := dev.Stats().Writes; !bytes.Equal(b, whole) || writes != 2 {
				t.Fatalf("%s in copy %d of block %d: the repaired block differs, or more was written: %d", damage.name, copy, w.addr, writes)
			}
		}
	}
}

// TestBothCopies damages a block in both copies: it is not repaired, least of all from a copy whose checksum is right.
func TestBothCopies(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	sb := vol.Super()
	for i, w := range list {
		if w.tree == ondisk.ChunkTree || i%4 != 0 {
			continue // without the chunk tree little else is found
		}
		dev := good.Clone()
		for copy := range 2 {
			b := make(ondisk.Block, 4096)
			must(t, vol.ReadCopy(t.Context(), w.addr, b, copy))
			damages[copy].do(b)
			if copy == 1 {
				sb.Checksum().SetBlockCsum(b)
			}
			p, err := vol.Place(w.addr, copy)
			must(t, err)
			_, err = dev.WriteAt(t.Context(), b, int64(p.Offset))
			must(t, err)
		}
		before := dev.Stats().Writes
		r, fs := run(t, dev, true)
		if n, repaired := r.Errors(); n != 2 || repaired != 0 || fs[0].Addr != w.addr || fs[0].NoRepair == nil || fs[1].NoRepair == nil {
			t.Errorf("block %d of tree %d: %+v", w.addr, w.tree, fs)
		}
		if dev.Stats().Writes != before {
			t.Errorf("block %d of tree %d: the image has been changed", w.addr, w.tree)
		}
	}
}

// TestData damages sectors of data.
func TestData(t *testing.T) {
	for _, c := range []struct {
		name   string
		data   uint64
		bad    [][2]int // sector from the start of the first extent, copy
		counts Count    // errors and repairs
		finds  int
	}{
		{"single", 0, [][2]int{{1, 0}}, Count{Errors: 1}, 1},
		{"single, neighbours", 0, [][2]int{{1, 0}, {2, 0}, {4, 0}}, Count{Errors: 3}, 2},
		{"one copy", ondisk.BGDup, [][2]int{{1, 1}}, Count{Errors: 1, Repaired: 1}, 1},
		{"each copy elsewhere", ondisk.BGDup, [][2]int{{1, 1}, {2, 0}, {3, 1}}, Count{Errors: 3, Repaired: 3}, 3},
		{"both copies", ondisk.BGDup, [][2]int{{1, 1}, {1, 0}, {2, 0}}, Count{Errors: 3, Repaired: 1}, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			dev := image(t, c.data)
			_, vol := blocks(t, dev)
			before := content(t, dev)
			addr := firstData(t, dev)
			for _, b := range c.bad {
				p, err := vol.Place(addr+ondisk.Logical(b[0]*4096), b[1])
				must(t, err)
				sector := make([]byte, 4096)
				_, err = dev.ReadAt(t.Context(), sector, int64(p.Offset))
				must(t, err)
				sector[b[0]] ^= 1
				_, err = dev.WriteAt(t.Context(), sector, int64(p.Offset))
				must(t, err)
			}
			r, fs := run(t, dev, true)
			got := r.Counts[Data]
			if got.Errors != c.counts.Errors || got.Repaired != c.counts.Repaired || len(fs) != c.finds {
				t.Errorf("%+v\n%+v", got, fs)
			}
			if r.Counts[Metadata].Errors != 0 || r.Unverified != 0 {
				t.Errorf("%+v", r)
			}
			if got.Errors == got.Repaired && !bytes.Equal(content(t, dev), before) {
				t.Error("the repaired image differs")
			}
			r, _ = run(t, dev, false)
			if left := r.Counts[Data].Errors; left != c.counts.Errors-c.counts.Repaired {
				t.Errorf("%d errors are left", left)
			}
		})
	}
}

// firstData is the lowest address with a checksum.
func firstData(t testing.TB, dev disk.Device) ondisk.Logical {
	t.Helper()
	_, _, s, err := try(t.Context(), dev, false)
	must(t, err)
	return ondisk.Logical(s.csums[0].first.Offset)
}

// TestSuper damages superblocks: the primary, the mirror, and both.
func TestSuper(t *testing.T) {
	good := image(t, 0)
	before := content(t, good)
	for _, which := range [][]int{{0}, {1}} {
		dev := good.Clone()
		for _, i := range which {
			_, err := dev.WriteAt(t.Context(), make([]byte, 512), int64(ondisk.SuperOffsets[i])+512)
			must(t, err)
		}
		r, fs := run(t, dev, false)
		if r.Counts[Super].Errors != uint64(len(which)) || fs[0].Copy != which[0] {
			t.Errorf("%v: %+v", which, fs)
		}
		if r, fs = run(t, dev, true); r.Counts[Super].Repaired != uint64(len(which)) {
			t.Errorf("%v: %+v", which, fs)
		}
		if !bytes.Equal(content(t, dev), before) {
			t.Errorf("%v: the repaired image differs", which)
		}
	}
}

// TestFaults scrubs a device that cannot read a block, which is repaired, and one that cannot write, which is told.
func TestFaults(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	w := list[len(list)/2]
	p, err := vol.Place(w.addr, 1)
	must(t, err)
	for _, op := range []disk.Op{disk.OpRead, disk.OpWrite} {
		dev := good.Clone()
		must(t, flip(t.Context(), dev, int64(p.Offset)+100))
		f := disk.NewFaults(dev, 1)
		f.SetRules(disk.Rule{Ops: []disk.Op{op}, Off: int64(p.Offset), Len: 4096, Err: errFault})
		r, fs := run(t, f, true)
		if n, repaired := r.Errors(); n != 1 || repaired != 0 || fs[0].NoRepair == nil {
			t.Errorf("%v fails: %+v", op, fs)
		}
	}
}

var errFault = fmt.Errorf("no luck")

// TestRepairLasts: what is repaired is flushed before the scrub ends, and read back: a device that tears a write and does
// not say so is found out. Superblocks, tree blocks and data alike.
func TestRepairLasts(t *testing.T) {
	good := image(t, ondisk.BGDup)
	list, vol := blocks(t, good)
	tree, err := vol.Place(list[len(list)/2].addr, 1)
	must(t, err)
	data, err := vol.Place(firstData(t, good), 1)
	must(t, err)
	for what, at := range map[string]int64{"tree block": int64(tree.Offset), "data": int64(data.Offset), "superblock": int64(ondisk.SuperOffsets[1])} {
		damaged := good.Clone()
		_, err := damaged.WriteAt(t.Context(), bytes.Repeat([]byte("spoilt "), 4096/7), at)
		must(t, err)

		rec := disk.NewRecorder(damaged.Clone())
		r, fs := run(t, rec, true)
		if n, repaired := r.Errors(); n != 1 || repaired != 1 {
			t.Errorf("%s: %+v", what, fs)
		}
		if log := rec.Entries(); len(log) < 2 || log[len(log)-1].Op != disk.OpFlush {
			t.Errorf("%s: the last of %d operations is no flush", what, len(log))
		}

		f := disk.NewFaults(damaged.Clone(), 1)
		f.SetRules(disk.Rule{Ops: []disk.Op{disk.OpWrite}, Off: at, Len: 4096, Torn: true})
		r, fs = run(t, f, true)
		if n, repaired := r.Errors(); len(f.Injections()) != 1 || n != 1 || repaired != 0 || fs[0].NoRepair == nil {
			t.Errorf("%s, and a torn write: %+v", what, fs)
		}
	}
}

func flip(ctx context.Context, dev disk.Device, at int64) error {
	b := make([]byte, 1)
	if _, err := dev.ReadAt(ctx, b, at); err != nil {
		return err
	}
	b[0] ^= 0x10
	_, err := dev.WriteAt(ctx, b, at)
	return err
}

// TestHostile changes bytes in both copies of tree blocks and mends the checksums: whatever comes of it, the scrub ends
// without a panic, and with the same findings again.
func TestHostile(t *testing.T) {
	good := image(t, 0)
	list, vol := blocks(t, good)
	sb := vol.Super()
	random := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 0))
	for range 150 {
		dev := good.Clone()
		for range 1 + random.IntN(3) {
			w := list[random.IntN(len(list))]
			b := make(ondisk.Block, 4096)
			must(t, vol.ReadCopy(t.Context(), w.addr, b, 0))
			for range 1 + random.IntN(8) {
				b[ondisk.HeaderSize+random.IntN(300)] = byte(random.Uint32())
			}
			sb.Checksum().SetBlockCsum(b)
			for copy := range 2 {
				p, err := vol.Place(w.addr, copy)
				must(t, err)
				_, err = dev.WriteAt(t.Context(), b, int64(p.Offset))
				must(t, err)
			}
		}
		r1, _, _, err1 := try(t.Context(), dev, false)
		r2, _, _, err2 := try(t.Context(), dev, false)
		if (err1 == nil) != (err2 == nil) || err1 == nil && r1.Counts[Metadata].Errors != r2.Counts[Metadata].Errors {
			t.Errorf("%+v %v, then %+v %v", r1, err1, r2, err2)
		}
	}
}
