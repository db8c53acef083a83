package volume

import (
	"context"
	"fmt"

	"imgtool/disk"
	"imgtool/engine/ondisk"
)

// Place is where one copy of a byte lies.
type Place struct {
	DevID  uint64
	Dev    disk.Device
	Offset ondisk.Physical
}

// String names the device's file and the offset in bytes.
func (p Place) String() string { return fmt.Sprintf("%s at %d", p.Dev.Name(), uint64(p.Offset)) }

// Place returns where one copy, counted from 0, of the byte at l lies. Errors as ReadCopy's, but for the device's.
func (v *Volume) Place(l ondisk.Logical, copy int) (Place, error) {
	d, pc, err := v.locate(l, 1, copy)
	if err != nil {
		return Place{}, err
	}
	return Place{d.id, d.dev, pc.phys}, nil
}

// WriteCopy writes p to one copy of the bytes at l and leaves the others alone: it is there to repair a copy from
// another, in any profile that can be read. Nothing is flushed. Errors as ReadCopy's.
func (v *Volume) WriteCopy(ctx context.Context, l ondisk.Logical, p []byte, copy int) error {
	for len(p) > 0 {
		d, pc, err := v.locate(l, len(p), copy)
		if err != nil {
			return err
		}
		if _, err := d.dev.WriteAt(ctx, p[:pc.n], int64(pc.phys)); err != nil {
			return err
		}
		l, p = l+ondisk.Logical(pc.n), p[pc.n:]
	}
	return nil
}
