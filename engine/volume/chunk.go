package volume

import (
	"bytes"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// StripeInfo is one stripe of a chunk.
type StripeInfo struct {
	DevID  uint64
	Offset ondisk.Physical // where the stripe begins on the device
	UUID   ondisk.UUID     // of the device
}

// ChunkInfo is one chunk. Its slices are shared and must not be changed.
type ChunkInfo struct {
	Start      ondisk.Logical
	Length     uint64 // bytes of logical address space
	Type       uint64 // ondisk.BG* bits
	NumCopies  int    // of each byte
	SubStripes int    // 2 for RAID10, otherwise 1
	Stripes    []StripeInfo
	Item       []byte // the CHUNK_ITEM
}

// End returns the first address behind the chunk.
func (c *ChunkInfo) End() ondisk.Logical { return c.Start + ondisk.Logical(c.Length) }

// StripeLength returns how many bytes of each stripe's device the chunk takes (fs/btrfs/volumes.c,
// btrfs_calc_stripe_length): the length of its device extents.
func (c *ChunkInfo) StripeLength() uint64 { return c.Length / uint64(c.columns()) }

// same reports whether both map the same addresses in the same way.
func (c *ChunkInfo) same(o *ChunkInfo) bool {
	return c.Start == o.Start && c.Length == o.Length && c.Type == o.Type && slices.Equal(c.Stripes, o.Stripes)
}

// columns returns over how many devices the chunk's data is spread, copies not counted.
func (c *ChunkInfo) columns() int { return len(c.Stripes) / c.NumCopies }

// striped reports whether consecutive 64 KiB lie on different devices.
func (c *ChunkInfo) striped() bool { return c.Type&(ondisk.BGRaid0|ondisk.BGRaid10) != 0 }

// piece is a range that lies in one place on one device, for one copy.
type piece struct {
	stripe int             // index of Stripes
	phys   ondisk.Physical // where on its device
	n      int             // bytes, at most what was asked for
}

// locate returns where copy i of the first bytes of [l, l+n) lies (fs/btrfs/volumes.c, btrfs_map_block). l is in the
// chunk, n > 0 and 0 <= i < NumCopies. The piece ends at n, at the chunk's end or at the end of a 64 KiB stripe.
func (c *ChunkInfo) locate(l ondisk.Logical, n, i int) piece {
	off := uint64(l - c.Start)
	n = int(min(uint64(n), c.Length-off))
	if !c.striped() {
		return piece{i, c.Stripes[i].Offset + ondisk.Physical(off), n}
	}
	// Stripe number nr goes to column nr mod columns. RAID10 has the copies of a column side by side.
	nr, in := off/ondisk.StripeLen, off%ondisk.StripeLen
	cols := uint64(c.columns())
	s := int(nr%cols)*c.NumCopies + i
	return piece{s, c.Stripes[s].Offset + ondisk.Physical(nr/cols*ondisk.StripeLen+in), int(min(uint64(n), ondisk.StripeLen-in))}
}

// parseChunk checks a CHUNK_ITEM, as fs/btrfs/tree-checker.c (btrfs_check_chunk_valid) does where the mapping depends
// on it, and copies it.
func parseChunk(start ondisk.Logical, item []byte, sectorSize uint32) (*ChunkInfo, error) {
	bad := func(format string, args ...any) error {
		return fserr.Corruptf("chunk", uint64(ondisk.ChunkTree), 0, "chunk_start=%d, %s", uint64(start), fmt.Sprintf(format, args...))
	}
	if len(item) < ondisk.ChunkItemSize(1) {
		return nil, bad("item of %d bytes, expect at least %d", len(item), ondisk.ChunkItemSize(1))
	}
	k := ondisk.AsChunk(item)
	n := int(k.NumStripes())
	mask := uint64(sectorSize) - 1
	switch {
	case n == 0 || len(item) != ondisk.ChunkItemSize(n):
		return nil, bad("item of %d bytes for %d stripes", len(item), n)
	case uint64(start)&mask != 0 || k.Length() == 0 || k.Length()&mask != 0:
		return nil, bad("length %d, must be aligned to %d and not empty", k.Length(), sectorSize)
	case uint64(start) > math.MaxInt64 || k.Length() > math.MaxInt64-uint64(start):
		return nil, bad("length %d leaves the address space", k.Length())
	case k.StripeLen() != ondisk.StripeLen:
		return nil, bad("stripe length %d, expect %d", k.StripeLen(), ondisk.StripeLen)
	case k.Type()&ondisk.BGTypeMask == 0 || bits.OnesCount64(k.Type()&ondisk.BGProfileMask) > 1:
		return nil, bad("type %#x", k.Type())
	}
	c := &ChunkInfo{Start: start, Length: k.Length(), Type: k.Type(), SubStripes: 1, Item: bytes.Clone(item)}
	if err := c.setProfile(n, int(k.SubStripes())); err != nil {
		if err == errStripes {
			return nil, bad("%d stripes, %d sub-stripes for profile %s", n, k.SubStripes(), ondisk.BGProfileName(c.Type))
		}
		return nil, fmt.Errorf("chunk %d: %w", start, err)
	}
	for i := range n {
		s := ondisk.ChunkStripe(c.Item, i)
		c.Stripes = append(c.Stripes, StripeInfo{s.DevID(), s.Offset(), s.DevUUID()})
	}
	for i, s := range c.Stripes {
		// Rounded up by one stripe: the last row of a striped chunk may be partly filled.
		if uint64(s.Offset)&mask != 0 || uint64(s.Offset) > math.MaxInt64-c.StripeLength()-ondisk.StripeLen {
			return nil, bad("stripe %d at offset %d of device %d", i, s.Offset, s.DevID)
		}
		if c.Type&ondisk.BGDup != 0 && s.DevID != c.Stripes[0].DevID {
			return nil, bad("DUP stripes on devices %d and %d", c.Stripes[0].DevID, s.DevID)
		}
	}
	return c, nil
}

var errStripes = fmt.Errorf("number of stripes does not fit the profile")

// setProfile sets the members that follow from the profile and the number of stripes.
func (c *ChunkInfo) setProfile(n, sub int) error {
	want := n // number of stripes
	switch c.Type & ondisk.BGProfileMask {
	case 0:
		want, c.NumCopies = 1, 1
	case ondisk.BGDup, ondisk.BGRaid1:
		want, c.NumCopies = 2, 2
	case ondisk.BGRaid1C3:
		want, c.NumCopies = 3, 3
	case ondisk.BGRaid1C4:
		want, c.NumCopies = 4, 4
	case ondisk.BGRaid0:
		c.NumCopies = 1
	case ondisk.BGRaid10:
		c.NumCopies, c.SubStripes = 2, sub
		if n < 2 || n%2 != 0 || sub != 2 {
			return errStripes
		}
	default:
		return fmt.Errorf("profile %s: %w; convert it with the kernel: btrfs balance start -dconvert=raid1 -mconvert=raid1",
			ondisk.BGProfileName(c.Type), fserr.ErrUnsupported)
	}
	if n != want {
		return errStripes
	}
	return nil
}

// mapped is a chunk with the devices its stripes lie on.
type mapped struct {
	ChunkInfo
	devs []*device // by stripe, nil when missing
}

// find returns the chunk that covers l, nil when there is none.
func find(chunks []*mapped, l ondisk.Logical) *mapped {
	// The last chunk that does not begin behind l.
	lo, hi := 0, len(chunks)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if chunks[mid].Start <= l {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 || l >= chunks[lo-1].End() {
		return nil
	}
	return chunks[lo-1]
}

// chunkMap returns the current map, sorted by address. It never changes; a new one replaces it.
func (v *Volume) chunkMap() []*mapped { return *v.chunks.Load() }

// AddChunk adds the chunk that a CHUNK_ITEM of key offset start describes. Adding the same chunk again changes nothing:
// SYSTEM chunks are listed in the superblock and in the chunk tree. An item that makes no sense or that overlaps another
// chunk is a *fserr.Corrupt; RAID5 and RAID6 match fserr.ErrUnsupported. item is copied.
func (v *Volume) AddChunk(start ondisk.Logical, item []byte) error {
	info, err := parseChunk(start, item, v.sectorSize)
	if err != nil {
		return err
	}
	m := &mapped{ChunkInfo: *info, devs: make([]*device, len(info.Stripes))}
	for i, s := range info.Stripes {
		m.devs[i] = v.byID[s.DevID]
		if m.devs[i] != nil && m.devs[i].uuid != s.UUID {
			m.devs[i] = nil // another device took the number over; the one that the chunk means is missing
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.chunkMap()
	at, _ := slices.BinarySearchFunc(old, start, func(c *mapped, l ondisk.Logical) int {
		if c.Start < l {
			return -1
		}
		return 1
	})
	if at < len(old) && old[at].same(&m.ChunkInfo) {
		return nil
	}
	for _, i := range []int{at - 1, at} {
		if i >= 0 && i < len(old) && old[i].Start < m.End() && start < old[i].End() {
			return fserr.Corruptf("chunk", uint64(ondisk.ChunkTree), 0, "chunk_start=%d, length %d overlaps chunk %d of length %d",
				uint64(start), m.Length, uint64(old[i].Start), old[i].Length)
		}
	}
	chunks := slices.Insert(slices.Clone(old), at, m)
	v.chunks.Store(&chunks)
	return nil
}

// RemoveChunk takes the chunk that begins at start out of the map. Nobody may use its addresses any more; readers of older
// states included, so it is called only when pin has released the chunk (design, section 5). It reports whether there
// was one.
func (v *Volume) RemoveChunk(start ondisk.Logical) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.chunkMap()
	at := slices.IndexFunc(old, func(c *mapped) bool { return c.Start == start })
	if at < 0 {
		return false
	}
	chunks := slices.Delete(slices.Clone(old), at, at+1)
	v.chunks.Store(&chunks)
	return true
}

// Chunks returns all chunks by ascending address.
func (v *Volume) Chunks() []ChunkInfo {
	m := v.chunkMap()
	list := make([]ChunkInfo, len(m))
	for i := range m {
		list[i] = m[i].ChunkInfo
	}
	return list
}

// Chunk returns the chunk that covers l.
func (v *Volume) Chunk(l ondisk.Logical) (ChunkInfo, bool) {
	if c := find(v.chunkMap(), l); c != nil {
		return c.ChunkInfo, true
	}
	return ChunkInfo{}, false
}

// Copies returns how many copies of the bytes at l there are, missing devices included; 0 when no chunk covers l.
func (v *Volume) Copies(l ondisk.Logical) int {
	if c := find(v.chunkMap(), l); c != nil {
		return c.NumCopies
	}
	return 0
}
