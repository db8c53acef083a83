package commitview

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Copies returns how many copies there are of the data at addr, 0 if no chunk holds it.
func (v *View) Copies(addr ondisk.Logical) int { return v.db.Volume().Copies(addr) }

// ReadCopy reads file data that the view's tree refers to. Under Epoch it first looks whether the reader is asked to
// go, and the ticket lives until the data is there. Of a read-only subvolume nothing is ever freed, so the other
// policies need nothing.
func (v *View) ReadCopy(ctx context.Context, addr ondisk.Logical, p []byte, copy int) error {
	if v.Policy() != Epoch {
		return v.db.Volume().ReadCopy(ctx, addr, p, copy)
	}
	c, err := v.use()
	if err != nil {
		return err
	}
	defer v.unuse(c)
	return v.db.Volume().ReadCopy(ctx, addr, p, copy)
}

// LookupCsums returns the checksums of the n bytes at addr, both multiples of the sector size, one after the other, and
// which of them exist. Under Epoch they come from the checksum tree of the same generation as the view's tree.
func (v *View) LookupCsums(ctx context.Context, addr ondisk.Logical, n uint64) (sums []byte, have []bool, err error) {
	if v.Policy() != Epoch {
		return v.db.Extents().LookupCsums(ctx, addr, n)
	}
	c, err := v.use()
	if err != nil {
		return nil, nil, err
	}
	defer v.unuse(c)
	root, err := c.csums(ctx)
	if err == nil {
		l := csumLookup{addr: uint64(addr), size: v.csumSize()}
		l.sums, l.have = make([]byte, n/ondisk.SectorSize*uint64(l.size)), make([]bool, n/ondisk.SectorSize)
		if err = l.read(ctx, c.walk(ondisk.CsumTree, root)); err == nil {
			return l.sums, l.have, nil
		}
	}
	if errors.Is(err, fserr.ErrViewExpired) {
		v.expire(c)
		return nil, nil, err
	}
	return nil, nil, fmt.Errorf("checksums of %d bytes at %d: %w", n, addr, err)
}

func (v *View) csumSize() int {
	sb := v.db.Volume().Super()
	return sb.Checksum().Size()
}

// csumLookup gathers the checksums of the sectors from addr on. An EXTENT_CSUM item holds those of consecutive sectors
// from its key's offset on; items do not overlap.
type csumLookup struct {
	addr uint64 // of the first sector, bytes
	size int    // of a checksum, bytes
	sums []byte
	have []bool
}

func (l *csumLookup) end() uint64 { return l.addr + uint64(len(l.have))*ondisk.SectorSize }

// read walks the items that may cover the range; it releases the walk.
func (l *csumLookup) read(ctx context.Context, w *walk) error {
	defer w.release()
	key := ondisk.Key{ObjectID: ondisk.ExtentCsumObjectID, Type: ondisk.ExtentCsumKey, Offset: l.addr}
	if err := w.descend(ctx, &key); err != nil {
		return err
	}
	if k, _, ok := w.item(); (!ok || k != key) && w.leaf().slot > 0 {
		w.leaf().slot-- // the item before may reach into the range
	}
	for {
		if ok, err := w.atOrAfter(ctx); !ok || err != nil {
			return err
		}
		k, item, _ := w.item()
		if k.ObjectID > key.ObjectID || k.ObjectID == key.ObjectID && (k.Type > key.Type || k.Type == key.Type && k.Offset >= l.end()) {
			return nil
		}
		if k.ObjectID == key.ObjectID && k.Type == key.Type {
			l.take(k.Offset, item)
		}
		w.leaf().slot++
	}
}

// take copies what an item that begins at start has of the range.
func (l *csumLookup) take(start uint64, item []byte) {
	for i := 0; (i+1)*l.size <= len(item); i++ {
		at := start + uint64(i)*ondisk.SectorSize
		if at < l.addr {
			continue
		}
		n := int((at - l.addr) / ondisk.SectorSize)
		if n >= len(l.have) {
			return
		}
		copy(l.sums[n*l.size:], item[i*l.size:(i+1)*l.size])
		l.have[n] = true
	}
}
