package send

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgtool/disk"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// readSize is the largest single read of data, and readGap the largest gap between two pieces of data that is read
// rather than left out, bytes: a read costs as much as so many bytes more.
const (
	readSize = 512 << 10
	readGap  = 32 << 10
)

// fill is file data that a segment waits for. What it names cannot go away while the subvolume is being sent, whatever
// its tickets do: see the package comment.
type fill struct {
	cmd    int            // in the segment's buffer, where the command begins
	pos, n int            // and its data, with which it ends
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

// run is fills of one segment that one read brings in: they lie next to one another on the disk, with gaps that are
// cheaper to read than to leave out.
type run struct {
	seg      *segment
	fills    []fill // ascending by place, all with verify or all without
	from, to uint64 // whole sectors
	gaps     bool
}

// plan sorts the fills of a segment by their place on the disk and cuts them into runs.
func (s *segment) plan() {
	slices.SortFunc(s.fills, func(a, b fill) int {
		if a.verify != b.verify {
			if a.verify {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.off, b.off))
	})
	s.runs = split(s.runs[:0], run{seg: s, fills: s.fills}, readGap)
}

// split appends the runs that fills which are sorted already make, if gaps of so many bytes are read.
func split(runs []run, r run, gap uint64) []run {
	for i := 0; i < len(r.fills); {
		next := run{seg: r.seg}
		next.from, next.to = r.fills[i].span()
		j := i + 1
		for ; j < len(r.fills) && r.fills[j].verify == r.fills[i].verify; j++ {
			// A fill may begin in the sector in which the one before ends, or be of the same compressed extent.
			a, b := r.fills[j].span()
			if a > next.to && a-next.to > gap || max(b, next.to)-next.from > readSize {
				break
			}
			next.gaps = next.gaps || a > next.to
			next.to = max(next.to, b)
		}
		next.fills = r.fills[i:j]
		runs = append(runs, next)
		i = j
	}
	return runs
}

// dataReader reads the data of one subvolume. It is safe for concurrent use.
type dataReader struct {
	db   *txn.DB
	tree ondisk.TreeID
	view *commitview.View // for checksums
	pool *disk.Pool
	csum ondisk.CsumType
}

// run brings in the data of a run. What lies in a gap is nobody's business: if the whole cannot be had, the parts are
// tried. The error is that of the fill that comes first in the stream, at.
func (d *dataReader) run(ctx context.Context, r *run) (at int, err error) {
	if at, err = d.read(ctx, r); err == nil || !r.gaps || ctx.Err() != nil {
		return at, err
	}
	err = nil
	for _, part := range split(nil, *r, 0) {
		if n, bad := d.read(ctx, &part); bad != nil && (err == nil || n < at) {
			at, err = n, bad
		}
	}
	return at, err
}

// read reads [from, to) and gives the fills their data. It goes through all of them also if one is bad, so that it does
// not depend on the order of the disk whose error is returned.
func (d *dataReader) read(ctx context.Context, r *run) (at int, err error) {
	if f := &r.fills[0]; r.to-r.from > disk.MaxPooled {
		return f.pos, d.bad(f, "extent of %d bytes on disk", r.to-r.from)
	}
	p := piece{d: d, from: r.from, done: r.from, data: d.pool.Get(int(r.to - r.from))}
	defer d.pool.Put(p.data)
	if err := p.load(ctx, first(r.fills)); err != nil {
		return first(r.fills).pos, err
	}
	for i := range r.fills {
		f := &r.fills[i]
		bad := p.verify(ctx, f)
		if bad == nil {
			bad = p.deliver(f, r.seg.buf)
		}
		if bad != nil && (err == nil || f.pos < at) {
			at, err = f.pos, bad
		}
	}
	return at, err
}

func (d *dataReader) bad(f *fill, format string, args ...any) error {
	c := fserr.Corruptf("data", uint64(d.tree), 0, "file offset %d: %s", f.file, fmt.Sprintf(format, args...))
	c.Ino = uint64(f.ino)
	return c
}

// first is the fill that comes first in the stream.
func first(fills []fill) *fill {
	f := &fills[0]
	for i := range fills {
		if fills[i].pos < f.pos {
			f = &fills[i]
		}
	}
	return f
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
