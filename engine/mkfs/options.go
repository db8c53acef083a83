package mkfs

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Options describe the file system to make. The zero value is made valid by Default.
type Options struct {
	Label      string
	FSID       ondisk.UUID // zero: random
	NodeSize   int         // bytes: 4 KiB to 64 KiB, a power of two
	SectorSize int         // bytes: 4096
	Csum       ondisk.CsumType
	Meta, Data uint64 // profile bits: 0 for single, ondisk.BGDup
	Features   Features
	Now        func() time.Time
}

// Features are the format features of mkfs.btrfs -O that this engine writes.
type Features struct {
	ExtendedIref, SkinnyMetadata, NoHoles, FreeSpaceTree, BlockGroupTree bool
}

// Feature describes one name of -O.
type Feature struct {
	Name, Doc string
	Default   bool
	field     func(*Features) *bool
}

// FeatureList lists the names of -O in the order in which list-all prints them.
var FeatureList = []Feature{
	{"extref", "increased hardlink limit per file to 65536", true, func(f *Features) *bool { return &f.ExtendedIref }},
	{"skinny-metadata", "reduced-size metadata extent refs", true, func(f *Features) *bool { return &f.SkinnyMetadata }},
	{"no-holes", "no explicit hole extents for files", true, func(f *Features) *bool { return &f.NoHoles }},
	{"free-space-tree", "free space tree, improved space tracking (space_cache=v2)", true, func(f *Features) *bool { return &f.FreeSpaceTree }},
	{"block-group-tree", "block group tree, more efficient block group tracking to reduce mount time", true, func(f *Features) *bool { return &f.BlockGroupTree }},
}

// Default returns the defaults of mkfs.btrfs 6.19.
func Default() Options {
	o := Options{NodeSize: 16 << 10, SectorSize: ondisk.SectorSize, Csum: ondisk.CRC32C, Meta: ondisk.BGDup}
	for _, f := range FeatureList {
		*f.field(&o.Features) = f.Default
	}
	return o
}

// Parse applies a list such as "no-holes,^extref" to the features.
func (f *Features) Parse(list string) error {
	for _, w := range strings.Split(list, ",") {
		name, off := strings.CutPrefix(strings.TrimSpace(w), "^")
		if name == "" {
			continue
		}
		found := false
		for _, k := range FeatureList {
			if k.Name == name {
				*k.field(f) = !off
				found = true
			}
		}
		if !found {
			return fmt.Errorf("unknown or unsupported feature %q: -O list-all prints the names", name)
		}
	}
	return nil
}

// String lists the features that are on, as mkfs.btrfs prints them.
func (f Features) String() string {
	var on []string
	for _, k := range FeatureList {
		if *k.field(&f) {
			on = append(on, k.Name)
		}
	}
	return strings.Join(on, ", ")
}

// Chunk sizes of a new file system in bytes, of one copy.
const (
	systemSize      = 8 << 20
	minMetaSingle   = 8 << 20
	minMetaDup      = 32 << 20
	maxMeta         = 256 << 20
	dataSingle      = 8 << 20
	dataDup         = 64 << 20
	firstLogical    = 13631488 // where mkfs.btrfs begins too; any multiple of 64 KiB would do
	reservedMinimum = 21 << 20 // 1 MiB reserved, and mkfs.btrfs' temporary groups of 4, 8 and 8 MiB
)

func copies(profile uint64) uint64 {
	if profile&ondisk.BGDup != 0 {
		return 2
	}
	return 1
}

// MinSize returns the smallest device in bytes for the profiles, the same as mkfs.btrfs demands.
func (o Options) MinSize() uint64 {
	size := uint64(reservedMinimum)
	if o.Meta&ondisk.BGDup != 0 {
		size += 2 * (systemSize + minMetaDup)
	} else {
		size += systemSize + minMetaSingle
	}
	if o.Data&ondisk.BGDup != 0 {
		return size + 2*dataDup
	}
	return size + dataSingle
}

// Validate checks everything but the size, filling in a random FSID and the clock where they are missing.
func (o *Options) Validate() error {
	if o.NodeSize < 4096 || o.NodeSize > 65536 || o.NodeSize&(o.NodeSize-1) != 0 {
		return fmt.Errorf("node size %d: use 4096, 8192, 16384, 32768 or 65536: %w", o.NodeSize, fserr.ErrInvalid)
	}
	if o.SectorSize != ondisk.SectorSize {
		return fmt.Errorf("sector size %d: only %d is supported: %w", o.SectorSize, ondisk.SectorSize, fserr.ErrInvalid)
	}
	if !o.Csum.Valid() {
		return fmt.Errorf("%v: use crc32c, xxhash, sha256 or blake2: %w", o.Csum, fserr.ErrInvalid)
	}
	for _, p := range []uint64{o.Meta, o.Data} {
		if p != 0 && p != ondisk.BGDup {
			return fmt.Errorf("profile %s: only single and dup can be written: %w", ondisk.BGProfileName(p), fserr.ErrUnsupported)
		}
	}
	if o.Features.BlockGroupTree && (!o.Features.FreeSpaceTree || !o.Features.NoHoles) {
		return fmt.Errorf("feature block-group-tree needs free-space-tree and no-holes: add -O ^block-group-tree, or keep those: %w", fserr.ErrInvalid)
	}
	var probe ondisk.SuperBlock
	if err := probe.SetLabel(o.Label); err != nil {
		return fmt.Errorf("%w: %w", err, fserr.ErrInvalid)
	}
	if o.FSID.IsZero() {
		o.FSID = ondisk.NewUUID()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return nil
}

// CheckSize returns an error that names the minimum when size bytes are too small.
func (o Options) CheckSize(size uint64) error {
	if least := o.MinSize(); size < least {
		return fmt.Errorf("%s is too small for a usable file system: with these profiles the minimum is %d bytes (%s): %w",
			humanize.IBytes(size), least, humanize.IBytes(least), fserr.ErrInvalid)
	}
	return nil
}
