package send

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/inode/compress"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// piece is what one read brings: whole sectors, with their checksums.
type piece struct {
	d      *dataReader
	from   uint64 // address of the first sector
	data   []byte
	copy   int    // of the data that was read
	copies int    // how many there are
	sums   []byte // of all sectors; nil if they have none
	have   []bool
	done   uint64 // up to here the sectors have been verified

	whole []byte // the compressed extent unpacked last
	of    ondisk.Logical
}

// load reads the data, from the first copy that can be read, and looks its checksums up; f is for messages.
func (p *piece) load(ctx context.Context, f *fill) (err error) {
	d, addr := p.d, ondisk.Logical(p.from)
	vol := d.db.Volume()
	p.copies = max(vol.Copies(addr), 1)
	for ; p.copy < p.copies; p.copy++ {
		if err = vol.ReadCopy(ctx, addr, p.data, p.copy); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("data of inode %d of tree %v at offset %d: %w", f.ino, d.tree, f.file, err)
	}
	if !f.verify {
		return nil
	}
	p.sums, p.have, err = d.view.LookupCsums(ctx, addr, uint64(len(p.data)))
	if errors.Is(err, fserr.ErrViewExpired) { // the sender is leaving; the data stays where it is
		p.sums, p.have, err = d.db.Extents().LookupCsums(ctx, addr, uint64(len(p.data)))
	}
	return err
}

// verify compares the sectors of a fill with their checksums, and mends those that are wrong from another copy.
func (p *piece) verify(ctx context.Context, f *fill) error {
	if !f.verify {
		return nil
	}
	size := p.d.csum.Size()
	var sum [ondisk.CsumSize]byte
	from, to := f.span()
	for from = max(from, p.done); from < to; from += sectorSize {
		n := int(from-p.from) / sectorSize
		if !p.have[n] {
			return p.d.bad(f, "no checksum for the data at %d", from)
		}
		sector, want := p.data[n*sectorSize:(n+1)*sectorSize], p.sums[n*size:(n+1)*size]
		if p.d.csum.Sum(sum[:], sector); string(sum[:size]) == string(want) {
			continue
		}
		if err := p.d.repair(ctx, f, from, sector, want, p.copy, p.copies); err != nil {
			return err
		}
	}
	p.done = max(p.done, to)
	return nil
}

// deliver copies a fill's data to its command in the buffer of the segment, and completes the command.
func (p *piece) deliver(f *fill, buf []byte) error {
	command, dst, src := buf[f.cmd:f.pos+f.n], buf[f.pos:f.pos+f.n], p.data[uint64(f.addr)-p.from:]
	if f.comp == 0 || f.raw {
		copy(dst, src)
		p.seal(f, command)
		return nil
	}
	if p.of != f.addr { // several pieces of one extent follow one another
		p.whole, p.of = make([]byte, f.ram), f.addr
		if err := compress.Decompress(f.comp, p.whole, src[:f.packed], sectorSize); err != nil {
			return p.d.bad(f, "extent at %d: %v", f.addr, err)
		}
	}
	copy(dst, p.whole[f.off:])
	sendstream.Seal(command)
	return nil
}

// seal puts the checksum of a command whose data is as it is on the disk, by that of the sectors if it is of the kind that
// streams have.
func (p *piece) seal(f *fill, command []byte) {
	if p.sums == nil || p.d.csum != ondisk.CRC32C || uint64(f.addr)%sectorSize != 0 {
		sendstream.Seal(command)
		return
	}
	n := int(uint64(f.addr)-p.from) / sectorSize
	sendstream.SealSectors(command, f.n, p.sums[n*p.d.csum.Size():])
}
