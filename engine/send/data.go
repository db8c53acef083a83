package send

import (
	"context"
	"errors"
	"fmt"

	"imgtool/disk"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode/compress"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// readSize is the largest single read of data, bytes.
const readSize = 512 << 10

// fill is file data that a segment waits for. What it names cannot go away while the subvolume is being sent, whatever
// its tickets do: see the package comment.
type fill struct {
	pos, n int            // in the segment's buffer
	addr   ondisk.Logical // of the first byte; of a compressed extent its beginning
	packed uint64         // bytes on disk of a compressed extent
	ram    uint64         // and unpacked
	off    uint64         // where in the unpacked extent the bytes begin
	comp   uint8
	raw    bool // the extent as it is on disk, for an encoded write
	verify bool
	ino    ondisk.ObjectID
	file   uint64 // offset in the file, for messages
}

// span is the range of whole sectors that a fill reads.
func (f *fill) span() (from, to uint64) {
	from, to = uint64(f.addr), uint64(f.addr)+uint64(f.n)
	if f.comp != 0 {
		to = from + f.packed
	}
	return from &^ (sectorSize - 1), (to + sectorSize - 1) &^ (sectorSize - 1)
}

// dataReader reads the data of one subvolume. It is safe for concurrent use.
type dataReader struct {
	db   *txn.DB
	tree ondisk.TreeID
	view *commitview.View // for checksums
	pool *disk.Pool
	csum ondisk.CsumType
}

// fill brings in the data of a segment: neighbours on the disk in one read.
func (d *dataReader) fill(ctx context.Context, s *segment) error {
	for i := 0; i < len(s.fills); {
		from, to := s.fills[i].span()
		j := i + 1
		for ; j < len(s.fills) && s.fills[j].verify == s.fills[i].verify; j++ {
			a, b := s.fills[j].span()
			// A fill may begin in the sector in which the one before ends, or be of the same compressed extent.
			if a > to || a < from || max(b, to)-from > readSize {
				break
			}
			to = max(to, b)
		}
		if err := d.run(ctx, s, s.fills[i:j], from, to); err != nil {
			return err
		}
		i = j
	}
	return nil
}

// run reads [from, to) and copies what the fills want of it.
func (d *dataReader) run(ctx context.Context, s *segment, fills []fill, from, to uint64) error {
	if to-from > disk.MaxPooled {
		return d.bad(&fills[0], "extent of %d bytes on disk", to-from)
	}
	buf := d.pool.Get(int(to - from))
	defer d.pool.Put(buf)
	if err := d.sectors(ctx, &fills[0], from, buf); err != nil {
		return err
	}
	var whole []byte
	var of ondisk.Logical
	for i := range fills {
		f := &fills[i]
		dst, src := s.buf[f.pos:f.pos+f.n], buf[uint64(f.addr)-from:]
		if f.comp == 0 || f.raw {
			copy(dst, src)
			continue
		}
		if of != f.addr { // several pieces of one extent follow one another
			whole, of = make([]byte, f.ram), f.addr
			if err := compress.Decompress(f.comp, whole, src[:f.packed], sectorSize); err != nil {
				return d.bad(f, "extent at %d: %v", f.addr, err)
			}
		}
		copy(dst, whole[f.off:])
	}
	return nil
}

func (d *dataReader) bad(f *fill, format string, args ...any) error {
	c := fserr.Corruptf("data", uint64(d.tree), 0, "file offset %d: %s", f.file, fmt.Sprintf(format, args...))
	c.Ino = uint64(f.ino)
	return c
}

// sectors fills p with the whole sectors at addr, verified; f is for messages.
func (d *dataReader) sectors(ctx context.Context, f *fill, addr uint64, p []byte) error {
	vol := d.db.Volume()
	copies := max(vol.Copies(ondisk.Logical(addr)), 1)
	got := 0
	var err error
	for ; got < copies; got++ {
		if err = vol.ReadCopy(ctx, ondisk.Logical(addr), p, got); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("data of inode %d of tree %v at offset %d: %w", f.ino, d.tree, f.file, err)
	}
	if !f.verify {
		return nil
	}
	sums, have, err := d.view.LookupCsums(ctx, ondisk.Logical(addr), uint64(len(p)))
	if errors.Is(err, fserr.ErrViewExpired) { // the sender is leaving; the data stays where it is
		sums, have, err = d.db.Extents().LookupCsums(ctx, ondisk.Logical(addr), uint64(len(p)))
	}
	if err != nil {
		return err
	}
	size := d.csum.Size()
	var sum [ondisk.CsumSize]byte
	for i := range have {
		at := i * sectorSize
		if !have[i] {
			return d.bad(f, "no checksum for the data at %d", addr+uint64(at))
		}
		d.csum.Sum(sum[:], p[at:at+sectorSize])
		if want := sums[i*size : (i+1)*size]; string(sum[:size]) != string(want) {
			if err := d.repair(ctx, f, addr+uint64(at), p[at:at+sectorSize], want, got, copies); err != nil {
				return err
			}
		}
	}
	return nil
}

// repair fills one sector from a copy whose checksum is right; bad is the copy known to be wrong.
func (d *dataReader) repair(ctx context.Context, f *fill, addr uint64, sector, want []byte, bad, copies int) error {
	var sum [ondisk.CsumSize]byte
	for c := range copies {
		if c == bad || d.db.Volume().ReadCopy(ctx, ondisk.Logical(addr), sector, c) != nil {
			continue
		}
		if d.csum.Sum(sum[:], sector); string(sum[:len(want)]) == string(want) {
			return nil
		}
	}
	return d.bad(f, "%v of the data at %d is wrong in %d of %d copies, expect %x", d.csum, addr, copies, copies, want)
}
