package check_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"imgtool/disk"
	"imgtool/engine/check"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// TestUnreadable lets a device refuse to read: a superblock copy, tree blocks, file data.
func TestUnreadable(t *testing.T) {
	for _, c := range []struct {
		want check.ID
		off  func(s *surgeon, b *base) int64
	}{
		{check.SuperUnreadable, func(*surgeon, *base) int64 { return int64(ondisk.SuperOffsets[1]) }},
		{check.BlockUnreadable, func(s *surgeon, _ *base) int64 { return s.physical(s.someLeaf()) }},
		{check.DataUnreadable, func(s *surgeon, b *base) int64 {
			path := s.find(ondisk.FSTree, is(ondisk.ExtentDataKey, b.big))
			last := path[len(path)-1]
			return s.physical(ondisk.AsFileExtentItem(s.read(last.addr).Item(last.slot)).DiskBytenr())
		}},
	} {
		t.Run(string(c.want), func(t *testing.T) {
			b := baseImage(t, "")
			off := c.off(newSurgeon(t, b.dev), b)
			dev := disk.NewFaults(b.dev, 1)
			dev.SetRules(disk.Rule{Ops: []disk.Op{disk.OpRead}, Off: off, Len: 4096, Err: io.ErrNoProgress})
			rep := run(t, dev, check.Options{DataCsum: true})
			if !rep.Has(c.want) || rep.Clean() {
				t.Errorf("not found; instead:\n%s", lines(rep))
			}
		})
	}
}

// physical is where the first copy of an address lies.
func (s *surgeon) physical(l ondisk.Logical) int64 {
	c, ok := s.vol.Chunk(l)
	if !ok {
		s.t.Fatalf("no chunk at %d", l)
	}
	return int64(c.Stripes[0].Offset) + int64(l-c.Start)
}

// TestNoImage wants an error and no report where there is no file system, or one of another kind.
func TestNoImage(t *testing.T) {
	_, err := check.Image(t.Context(), []disk.Device{disk.NewMem("empty", 1<<20)}, check.Options{})
	if !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("an empty device: %v", err)
	}
	b := baseImage(t, "")
	newSurgeon(t, b.dev).super(-1, func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatZoned) })
	_, err = check.Image(t.Context(), []disk.Device{b.dev}, check.Options{})
	if !errors.Is(err, fserr.ErrUnsupported) {
		t.Errorf("a zoned file system: %v", err)
	}
}

// TestCancelled ends a check early.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := check.Options{Progress: func(check.Progress) { cancel() }}
	if _, err := check.Image(ctx, []disk.Device{baseImage(t, "").dev}, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestOtherRoots reads by the superblock's mirror and by a root backup.
func TestOtherRoots(t *testing.T) {
	b := baseImage(t, "")
	s := newSurgeon(t, b.dev)
	if rep := run(t, b.dev, check.Options{Copy: 1}); !rep.Clean() {
		t.Errorf("mirror:\n%s", lines(rep))
	}
	s.super(-1, func(sb *ondisk.SuperBlock) { sb.SetRoot(s.freeBlock(0)) })
	if rep := run(t, b.dev, check.Options{}); !rep.Has(check.BlockBytenr) && !rep.Has(check.BlockCsum) {
		t.Errorf("a root tree that is not there:\n%s", lines(rep))
	}
	if rep := run(t, b.dev, check.Options{Backup: true}); rep.Stats.Blocks < 60 {
		t.Errorf("backup roots: %+v\n%s", rep.Stats, lines(rep))
	}
}

// TestSharing has a tower of nodes, each of which points to the one below as often as it can: a walk that did not know
// what it has seen would read 121 to the power of six leaves.
func TestSharing(t *testing.T) {
	b := baseImage(t, "")
	s := newSurgeon(t, b.dev)
	leaf := s.someLeaf()
	model := s.read(leaf)
	gen := model.Header().Generation()
	below, key := leaf, model.Key(0)
	for level := uint8(1); level < ondisk.MaxLevel; level++ {
		addr := s.freeBlock(int(level))
		n := append(ondisk.Block(nil), model...)
		h := model.Header()
		n.Init(addr, gen, ondisk.FSTree, level, h.FSID(), h.ChunkTreeUUID())
		n.SetFlags(ondisk.HeaderFlagWritten)
		n.SetNrItems(ondisk.MaxPtrs(len(n)))
		for i := range n.NrItems() {
			n.SetPtr(i, key, below, gen)
			key = key.Next()
		}
		key = n.Key(0)
		s.write(addr, n)
		below = addr
	}
	s.rootItem(ondisk.FSTree, func(r *ondisk.RootItem) {
		r.SetBytenr(below)
		r.SetLevel(ondisk.MaxLevel - 1)
		r.SetGeneration(gen)
	})
	reads := b.dev.Stats().Reads
	rep := run(t, b.dev, check.Options{})
	if n := b.dev.Stats().Reads - reads; !rep.Has(check.BlockFirstKey) || n > 10_000 {
		t.Errorf("%d reads:\n%s", n, lines(rep))
	}
}

// TestFindingsBounded keeps so many findings of a kind, and counts the rest.
func TestFindingsBounded(t *testing.T) {
	b := baseImage(t, "")
	s := newSurgeon(t, b.dev)
	s.remove(ondisk.RootTree, is(ondisk.RootItemKey, ondisk.ObjectID(ondisk.CsumTree)))
	s.each(s.root(ondisk.ExtentTree), func(_ []step, n ondisk.Block) bool {
		for i := range n.NrItems() {
			if k := n.Key(i); n.IsLeaf() && (k.Type == ondisk.MetadataItemKey || k.Type == ondisk.ExtentItemKey) {
				e := ondisk.AsExtentItem(n.Item(i))
				e.SetRefs(e.Refs() + 1)
			}
		}
		if n.IsLeaf() {
			s.write(n.Header().Bytenr(), n)
		}
		return true
	})
	rep := run(t, b.dev, check.Options{MaxPerID: 7})
	kept, counted := 0, uint64(0)
	for _, f := range rep.Findings {
		if f.ID == check.ExtentRefs {
			kept++
		}
	}
	for _, k := range rep.Counts {
		if k.ID == check.ExtentRefs {
			counted = k.N
		}
	}
	if kept != 7 || counted < 200 || counted != rep.Stats.Extents {
		t.Errorf("kept %d of %d findings, there are %d extents", kept, counted, rep.Stats.Extents)
	}
}

// mutant makes hostile images of the base image: bytes of tree blocks and of the superblock change, and checksums are
// mended, so that what is behind them is reached.
type mutant struct {
	base   *base
	blocks []ondisk.Logical
}

func newMutant(t testing.TB) *mutant {
	b := baseImage(t, "")
	s := newSurgeon(t, b.dev)
	m := &mutant{base: b}
	for _, id := range []ondisk.TreeID{ondisk.RootTree, ondisk.ChunkTree, ondisk.ExtentTree, ondisk.DevTree, ondisk.CsumTree,
		ondisk.FreeSpaceTree, ondisk.UUIDTree, ondisk.FSTree, b.snap, s.groupTree()} {
		s.each(s.root(id), func(_ []step, n ondisk.Block) bool { m.blocks = append(m.blocks, n.Header().Bytenr()); return true })
	}
	return m
}

// check makes an image, six bytes of change at a time (block, place, what is xored in), and checks it: that ends with a
// report or an error, in bounded memory and without a panic.
func (m *mutant) check(t testing.TB, change []byte, super uint8) {
	s := newSurgeon(t, m.base.dev.Clone())
	for ; len(change) >= 6; change = change[6:] {
		s.edit(m.blocks[(int(change[0])<<8|int(change[1]))%len(m.blocks)], func(n ondisk.Block) {
			i := (int(change[2])<<8 | int(change[3])) % (len(n) - 1)
			n[i] ^= change[4]
			n[i+1] ^= change[5]
		})
	}
	if super > 0 {
		s.super(-1, func(sb *ondisk.SuperBlock) { sb[48+int(super)*3] ^= super })
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := check.Image(t.Context(), []disk.Device{s.dev}, check.Options{DataCsum: super%2 == 1, Backup: super%7 == 3})
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<30 {
		t.Errorf("%d bytes were allocated (error %v)", n, err)
	}
}

// TestMutants checks random hostile images.
func TestMutants(t *testing.T) {
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 9))
	m := newMutant(t)
	n := 100
	if oracle.Soak() {
		n = 100_000
	}
	for range n {
		change := make([]byte, 6*(1+rnd.IntN(4)))
		for i := range change {
			change[i] = byte(rnd.Uint32())
		}
		for i := 2; i < len(change); i += 6 {
			if rnd.IntN(2) == 0 {
				change[i] = byte(rnd.IntN(3)) // headers and the first items
			}
		}
		m.check(t, change, uint8(max(0, rnd.IntN(400)-200)))
	}
}

// FuzzCheck is TestMutants with a mind.
func FuzzCheck(f *testing.F) {
	f.Add([]byte{0, 0, 0, 101, 0, 5}, uint8(0))
	f.Add([]byte{1, 1, 0, 96, 255, 255, 2, 0, 0, 100, 7, 0}, uint8(1))
	f.Add([]byte{3, 7, 0, 150, 8, 8, 9, 7, 1, 0, 1, 1, 9, 9, 15, 100, 255, 0}, uint8(2))
	m := newMutant(f)
	f.Fuzz(func(t *testing.T, change []byte, super uint8) { m.check(t, change, super) })
}

// TestLoop has nodes that lead to themselves, in the tree of a subvolume's parent: a way down it has no end.
func TestLoop(t *testing.T) {
	b := baseImage(t, "")
	s := newSurgeon(t, b.dev)
	s.each(s.root(ondisk.FSTree), func(_ []step, n ondisk.Block) bool {
		if !n.IsLeaf() {
			for i := range n.NrItems() {
				n.SetPtr(i, n.Key(i), n.Header().Bytenr(), n.Header().Generation())
			}
			s.write(n.Header().Bytenr(), n)
		}
		return n.IsLeaf()
	})
	if rep := run(t, b.dev, check.Options{}); !rep.Has(check.BlockReused) {
		t.Errorf("instead:\n%s", lines(rep))
	}
}
