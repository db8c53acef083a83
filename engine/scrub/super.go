package scrub

import (
	"context"
	"errors"
	"fmt"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// Supers verifies, and with Repair repairs, the superblocks alone. Whatever else is on the devices may be anything.
func Supers(ctx context.Context, vol *volume.Volume, o Options) (Report, error) {
	sb := vol.Super()
	s := &scrubber{vol: vol, o: o, sb: &sb, pool: disk.NewPool()}
	err := s.supers(ctx)
	return s.report, errors.Join(err, s.pool.Close())
}

// supers verifies the superblock copies of all devices. They are repaired together, by writing the current one.
func (s *scrubber) supers(ctx context.Context) error {
	var bad []Finding
	current := true // each device has a good copy
	for _, d := range s.vol.Devices() {
		good := false
		for i, off := range ondisk.SuperOffsets {
			// As the kernel writes them (fs/btrfs/disk-io.c, write_dev_supers).
			if uint64(off)+ondisk.SuperSize >= d.TotalBytes {
				continue
			}
			s.report.Counts[Super].Bytes += ondisk.SuperSize
			if err := s.super(ctx, &d, off); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				bad = append(bad, Finding{
					Kind: Super, Len: ondisk.SuperSize, Copy: i, Err: err, Place: volume.Place{DevID: d.DevID, Dev: d.Dev, Offset: off},
				})
				continue
			}
			good = true
		}
		current = current && good
	}
	if len(bad) > 0 && s.o.Repair {
		err := s.writeSupers(ctx, current)
		for i := range bad {
			f := &bad[i]
			if f.NoRepair = err; err == nil {
				f.NoRepair = s.super(ctx, &volume.DeviceInfo{DevID: f.Place.DevID, Dev: f.Place.Dev}, f.Place.Offset)
			}
			f.Repaired = f.NoRepair == nil
		}
	}
	for _, f := range bad {
		s.found(f, 1)
	}
	return nil
}

// writeSupers makes all copies the current one. A device without a single good copy is no better off with one: it has
// missed commits, or belongs elsewhere.
func (s *scrubber) writeSupers(ctx context.Context, current bool) error {
	if !current {
		return fmt.Errorf("a device has no current superblock: was it absent for a while? %w", fserr.ErrUnsupported)
	}
	s.written = true
	if err := s.vol.WriteSuper(ctx, s.sb); err != nil {
		return err
	}
	return s.vol.Flush(ctx)
}

// super says what is wrong with one copy.
func (s *scrubber) super(ctx context.Context, d *volume.DeviceInfo, off ondisk.Physical) error {
	bad := func(format string, args ...any) error {
		return fserr.Corruptf("super", 0, uint64(off), format, args...)
	}
	if int64(off)+ondisk.SuperSize > d.Dev.Size() {
		return bad("the device ends before it, at %d", d.Dev.Size())
	}
	buf := s.pool.Get(ondisk.SuperSize)[:ondisk.SuperSize]
	defer s.pool.Put(buf)
	if _, err := d.Dev.ReadAt(ctx, buf, int64(off)); err != nil {
		return err
	}
	sb := ondisk.AsSuperBlock(buf)
	switch {
	case sb.Magic() != ondisk.Magic:
		return bad("bad magic, have %#016x expect %#016x", sb.Magic(), ondisk.Magic)
	case sb.CsumType() != s.sb.CsumType():
		return bad("checksum type %d expect %d", sb.CsumType(), s.sb.CsumType())
	case !sb.CsumOK():
		return bad("checksum verify failed")
	case sb.Bytenr() != off:
		return bad("bad bytenr, have %d expect %d", uint64(sb.Bytenr()), uint64(off))
	case sb.FSID() != s.sb.FSID():
		return bad("fsid %s expect %s", sb.FSID(), s.sb.FSID())
	case sb.Generation() != s.sb.Generation():
		return bad("generation %d expect %d", uint64(sb.Generation()), uint64(s.sb.Generation()))
	case sb.DevItem().DevID() != d.DevID:
		return bad("device id %d expect %d", sb.DevItem().DevID(), d.DevID)
	}
	return nil
}
