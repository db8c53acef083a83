package scrub

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"golang.org/x/sync/errgroup"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// pieceSize is how much data is read at a time, in bytes.
const pieceSize = 256 << 10

// piece is some adjacent sectors within one chunk, with their checksums.
type piece struct {
	addr ondisk.Logical
	n    int // sectors
	sums []byte
}

// csumLeaf is a leaf of the checksum tree with its first key.
type csumLeaf struct {
	first ondisk.Key
	*want
}

// data verifies what has checksums, by ascending address: within a chunk that is the order on the device.
func (s *scrubber) data(ctx context.Context) error {
	slices.SortFunc(s.csums, func(a, b csumLeaf) int { return a.first.Compare(b.first) })
	work := make(chan piece, s.o.Depth)
	g, ctx := errgroup.WithContext(ctx)
	for range s.o.Depth {
		g.Go(func() error {
			for p := range work {
				if err := s.piece(ctx, &p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var covered uint64
	g.Go(func() error {
		defer close(work)
		for _, l := range s.csums {
			n, err := s.cutLeaf(ctx, l.want, work)
			if covered += n; err != nil {
				return err
			}
		}
		return nil
	})
	err := g.Wait()
	s.report.Unverified = s.dataUsed - min(covered, s.dataUsed)
	return err
}

// cutLeaf sends the pieces of a leaf, which was good a moment ago, and returns the bytes it speaks of.
func (s *scrubber) cutLeaf(ctx context.Context, w *want, work chan<- piece) (covered uint64, err error) {
	b, err := s.good(ctx, w, false)
	if err != nil {
		return 0, err
	}
	if b == nil {
		return 0, fserr.Corruptf("block", uint64(w.tree), uint64(w.addr), "it has become unreadable while it was scrubbed")
	}
	defer s.pool.Put(b)
	size, sector := s.sb.Checksum().Size(), uint64(s.sb.SectorSize())
	for i := range b.NrItems() {
		key := b.Key(i)
		if key.ObjectID != ondisk.ExtentCsumObjectID || key.Type != ondisk.ExtentCsumKey {
			continue
		}
		sums := bytes.Clone(b.Item(i))
		covered += uint64(len(sums)/size) * sector
		for addr := ondisk.Logical(key.Offset); len(sums) >= size; {
			p := s.cut(addr, sums, size)
			select {
			case work <- p:
			case <-ctx.Done():
				return covered, context.Cause(ctx)
			}
			addr, sums = addr+ondisk.Logical(uint64(p.n)*sector), sums[p.n*size:]
		}
	}
	return covered, nil
}

// cut takes the first piece: no longer than a read, and within one chunk, whose copies count for all of it. Checksum
// items may go over the border of a chunk.
func (s *scrubber) cut(addr ondisk.Logical, sums []byte, size int) piece {
	sector := uint64(s.sb.SectorSize())
	n := min(uint64(len(sums)/size), pieceSize/sector)
	if c, ok := s.vol.Chunk(addr); ok {
		n = min(n, uint64(c.End()-addr)/sector)
	} else {
		n = 1 // where the next chunk begins is nobody's concern
	}
	n = max(n, 1)
	return piece{addr, int(n), sums[:int(n)*size]}
}

// piece verifies all copies of a piece.
func (s *scrubber) piece(ctx context.Context, p *piece) error {
	sector := int(s.sb.SectorSize())
	n, length := s.vol.Copies(p.addr), p.n*sector
	if n == 0 {
		s.found(Finding{Kind: Data, Addr: p.addr, Len: uint64(length), Copy: -1,
			Err: fserr.Corruptf("csum", uint64(ondisk.CsumTree), 0, "checksum of %d, which no chunk covers", uint64(p.addr))}, uint64(p.n))
		return nil
	}
	bufs, bad := make([][]byte, n), make([][]error, n)
	for i := range n {
		bufs[i] = s.pool.Get(length)[:length]
		defer s.pool.Put(bufs[i])
		bad[i] = s.sectors(ctx, p, bufs[i], i)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	s.verified(Data, uint64(length), uint64(n))
	for i := range n {
		for at := 0; at < p.n; {
			if bad[i] == nil || bad[i][at] == nil {
				at++
				continue
			}
			at += s.badRun(ctx, p, bufs, bad, i, at)
		}
	}
	return nil
}

// sectors reads one copy and says what is wrong with each sector, nil if nothing is.
func (s *scrubber) sectors(ctx context.Context, p *piece, buf []byte, copy int) (bad []error) {
	sector := int(s.sb.SectorSize())
	set := func(i int, err error) {
		if bad == nil {
			bad = make([]error, p.n)
		}
		bad[i] = err
	}
	whole := s.vol.ReadCopy(ctx, p.addr, buf, copy)
	csum := s.sb.Checksum()
	have := make([]byte, csum.Size())
	for i := range p.n {
		b := buf[i*sector : (i+1)*sector]
		if whole != nil { // which of them cannot be read?
			if err := s.vol.ReadCopy(ctx, p.addr+ondisk.Logical(i*sector), b, copy); err != nil {
				set(i, err)
				continue
			}
		}
		if csum.Sum(have, b); !bytes.Equal(have, p.sums[i*len(have):(i+1)*len(have)]) {
			set(i, errCsum)
		}
	}
	return bad
}

var errCsum = errors.New("checksum verify failed")

// badRun reports the sectors from at on that are bad in copy i in the same way, repairs them if another copy has all of
// them, and returns how many they are.
func (s *scrubber) badRun(ctx context.Context, p *piece, bufs [][]byte, bad [][]error, i, at int) int {
	sector := int(s.sb.SectorSize())
	source := func(k int) int { return slices.IndexFunc(bad, func(b []error) bool { return b == nil || b[k] == nil }) }
	end, from := at+1, source(at)
	for end < p.n && bad[i][end] != nil && (bad[i][end] == errCsum) == (bad[i][at] == errCsum) && source(end) == from {
		end++
	}
	addr := p.addr + ondisk.Logical(at*sector)
	f := Finding{Kind: Data, Addr: addr, Len: uint64((end - at) * sector), Copy: i, Place: s.place(addr, i), Err: bad[i][at]}
	if s.o.Repair {
		if f.NoRepair = errNoGood; from >= 0 {
			f.NoRepair = s.repair(ctx, addr, bufs[from][at*sector:end*sector], i)
		}
		f.Repaired = f.NoRepair == nil
	}
	s.found(f, uint64(end-at))
	return end - at
}
