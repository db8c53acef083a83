package mkfs

import (
	"errors"
	"slices"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// TestLayout lays out file systems of all profiles, node sizes and many sizes, from the smallest on: the chunks lie on the
// device, behind what is reserved, apart from each other, in whole stripes, the copies too; every tree has a block of its
// own, in a chunk of its kind and on no copy of the superblock.
func TestLayout(t *testing.T) {
	for _, meta := range []uint64{0, ondisk.BGDup} {
		for _, data := range []uint64{0, ondisk.BGDup} {
			for nodesize := 4096; nodesize <= 65536; nodesize *= 2 {
				o := Default()
				o.Meta, o.Data, o.NodeSize = meta, data, nodesize
				least := o.MinSize()
				if o.CheckSize(least) != nil || !errors.Is(o.CheckSize(least-1), fserr.ErrInvalid) {
					t.Errorf("the smallest size, %d, is not the smallest", least)
				}
				for _, size := range []uint64{least, least + 4096, least + 1<<20 - 4096, 256 << 20, 1 << 30, 10 << 30, 1 << 40} {
					if size >= least {
						checkLayout(t, newSeed(o, size))
					}
				}
			}
		}
	}
}

type span struct{ start, end uint64 }

func overlap(t *testing.T, what string, spans []span) {
	t.Helper()
	slices.SortFunc(spans, func(a, b span) int { return int(int64(a.start) - int64(b.start)) })
	for i := 1; i < len(spans); i++ {
		if spans[i].start < spans[i-1].end {
			t.Errorf("%s overlap: %v and %v", what, spans[i-1], spans[i])
		}
	}
}

func checkLayout(t *testing.T, s *seed) {
	t.Helper()
	var physical, logical, blocks []span
	for _, c := range s.chunks() {
		if uint64(c.start)%ondisk.StripeLen != 0 || c.size%ondisk.StripeLen != 0 || c.size == 0 {
			t.Errorf("chunk of %s at %d, %d bytes: not in whole stripes", ondisk.BGTypeName(c.typ), c.start, c.size)
		}
		if uint64(len(c.stripes)) != copies(c.typ) {
			t.Errorf("chunk of %s has %d stripes", ondisk.BGTypeName(c.typ), len(c.stripes))
		}
		logical = append(logical, span{uint64(c.start), uint64(c.start) + c.size})
		for _, p := range c.stripes {
			at := span{uint64(p), uint64(p) + c.size}
			if at.start < ondisk.ReservedEnd || at.end > s.size || at.start%ondisk.StripeLen != 0 {
				t.Errorf("a device of %d bytes has a stripe at %d to %d", s.size, at.start, at.end)
			}
			physical = append(physical, at)
		}
	}
	overlap(t, "chunks", logical)
	overlap(t, "stripes", physical)
	for _, l := range s.leaves {
		c := &s.meta
		if l.owner == ondisk.ChunkTree {
			c = &s.system
		}
		at := span{uint64(l.addr), uint64(l.addr) + uint64(s.o.NodeSize)}
		if l.addr < c.start || at.end > uint64(c.start)+c.used || at.end > uint64(c.start)+c.size {
			t.Errorf("block of tree %d at %d is not in the used part of its chunk", l.owner, l.addr)
		}
		blocks = append(blocks, at)
		for _, p := range c.stripes {
			from := uint64(p) + at.start - uint64(c.start)
			for _, sb := range ondisk.SuperOffsets {
				if from < uint64(sb)+ondisk.StripeLen && uint64(sb) < from+uint64(s.o.NodeSize) {
					t.Errorf("block of tree %d lies at %d, on the superblock copy at %d", l.owner, from, sb)
				}
			}
		}
	}
	overlap(t, "tree blocks", blocks)
	if s.deviceUsed() > s.size {
		t.Errorf("%d of %d bytes used", s.deviceUsed(), s.size)
	}
	if want := uint64(len(s.leaves) * s.o.NodeSize); s.bytesUsed() != want {
		t.Errorf("%d bytes of tree blocks, want %d", s.bytesUsed(), want)
	}
}

// TestFeatures parses lists of features: each alone, off, and what is wrong.
func TestFeatures(t *testing.T) {
	for _, k := range FeatureList {
		var f Features
		if err := f.Parse(k.Name); err != nil || !*k.field(&f) || f.String() != k.Name {
			t.Errorf("%s: %v, %q", k.Name, err, f)
		}
		if err := f.Parse("^" + k.Name + ","); err != nil || *k.field(&f) || f.String() != "" {
			t.Errorf("^%s: %v, %q", k.Name, err, f)
		}
	}
	var f Features
	for _, bad := range []string{"nonsense", "^nonsense", "extref,nonsense", "^^extref"} {
		if err := f.Parse(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestValidate refuses options that no file system can have, and accepts all others.
func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Options)
		want error
	}{
		"default":           {func(*Options) {}, nil},
		"node of 2 KiB":     {func(o *Options) { o.NodeSize = 2048 }, fserr.ErrInvalid},
		"node of 128 KiB":   {func(o *Options) { o.NodeSize = 128 << 10 }, fserr.ErrInvalid},
		"node of 12 KiB":    {func(o *Options) { o.NodeSize = 12 << 10 }, fserr.ErrInvalid},
		"sector of 16 KiB":  {func(o *Options) { o.SectorSize = 16 << 10 }, fserr.ErrInvalid},
		"checksum 9":        {func(o *Options) { o.Csum = 9 }, fserr.ErrInvalid},
		"raid1 metadata":    {func(o *Options) { o.Meta = ondisk.BGRaid1 }, fserr.ErrUnsupported},
		"raid0 data":        {func(o *Options) { o.Data = ondisk.BGRaid0 }, fserr.ErrUnsupported},
		"bgt without fst":   {func(o *Options) { o.Features.FreeSpaceTree = false }, fserr.ErrInvalid},
		"bgt with holes":    {func(o *Options) { o.Features.NoHoles = false }, fserr.ErrInvalid},
		"neither":           {func(o *Options) { o.Features.FreeSpaceTree, o.Features.BlockGroupTree = false, false }, nil},
		"label of a byte 0": {func(o *Options) { o.Label = "a\x00b" }, fserr.ErrInvalid},
		"label too long":    {func(o *Options) { o.Label = string(make([]byte, 256)) }, fserr.ErrInvalid},
	} {
		o := Default()
		c.set(&o)
		err := o.Validate()
		if (c.want == nil) != (err == nil) || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err == nil && (o.FSID.IsZero() || o.Now == nil) {
			t.Errorf("%s: no id or no clock was filled in", name)
		}
	}
}
