package volume

import (
	"context"
	"errors"
	"fmt"
	"math/bits"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Open reads the superblocks of all devices of one file system, in any order, and maps the SYSTEM chunks.
//
// Of each device the newest copy is taken that has the right magic, checksum, address and sizes; the newest of all
// devices speaks for the file system. A mirror counts beside a valid primary only if it is of the same file system: an
// older one may have left its mirrors behind. Fewer devices than the file system has are no error here, see Missing;
// devices of another file system, the same one twice, or more than it has, are.
func Open(ctx context.Context, devs []disk.Device, o Options) (*Volume, error) {
	if len(devs) == 0 {
		return nil, fmt.Errorf("no device given: %w", fserr.ErrInvalid)
	}
	if o.Copy < 0 || o.Copy >= len(ondisk.SuperOffsets) {
		return nil, fmt.Errorf("superblock copy %d: %w, there are 0, 1 and 2", o.Copy, fserr.ErrInvalid)
	}
	var newest *ondisk.SuperBlock
	var devices []*device
	for i, dev := range devs {
		sb, err := readSuper(ctx, dev, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dev.Name(), err)
		}
		it := *sb.DevItem()
		d := &device{dev: dev, id: it.DevID(), uuid: it.UUID(), item: it}
		if newest != nil && sb.FSID() != newest.FSID() {
			return nil, fmt.Errorf("%s holds file system %s, %s holds %s: give the devices of one file system: %w",
				dev.Name(), sb.FSID(), devs[0].Name(), newest.FSID(), fserr.ErrInvalid)
		}
		for j, other := range devices {
			if other.id == d.id {
				return nil, fmt.Errorf("%s and %s are both device %d of file system %s: give each once: %w",
					devs[j].Name(), devs[i].Name(), d.id, sb.FSID(), fserr.ErrInvalid)
			}
		}
		devices = append(devices, d)
		if newest == nil || sb.Generation() > newest.Generation() {
			newest = sb
		}
	}
	if n := newest.NumDevices(); uint64(len(devs)) > n {
		return nil, fmt.Errorf("%d devices given, file system %s has %d: %w", len(devs), newest.FSID(), n, fserr.ErrInvalid)
	}
	v := newVolume(newest, devices, o)
	if err := v.addSysChunks(newest); err != nil {
		return nil, fmt.Errorf("%s: %w", devs[0].Name(), err)
	}
	return v, nil
}

// readSuper returns the copy of dev's superblock to use.
func readSuper(ctx context.Context, dev disk.Device, o Options) (*ondisk.SuperBlock, error) {
	var best *ondisk.SuperBlock
	var first error // of the primary, or of the copy asked for: what the user wants to hear
	for i, off := range ondisk.SuperOffsets {
		if o.Copy != 0 && i != o.Copy {
			continue
		}
		if o.Copy != 0 && int64(off)+ondisk.SuperSize > dev.Size() { // no damage: it has never been there
			return nil, fmt.Errorf("a device of %d bytes has no superblock copy %d, which would lie at %d: %w", dev.Size(), i, off, fserr.ErrInvalid)
		}
		sb, err := readSuperCopy(ctx, dev, off, o.CheckSuper)
		if err != nil {
			if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
				return nil, err
			}
			if first == nil {
				first = err
			}
			continue
		}
		if best == nil || (sb.FSID() == best.FSID() && sb.Generation() > best.Generation()) {
			best = sb
		}
	}
	if best == nil {
		return nil, first
	}
	return best, nil
}

func readSuperCopy(ctx context.Context, dev disk.Device, off ondisk.Physical, check func(*ondisk.SuperBlock) error) (*ondisk.SuperBlock, error) {
	bad := func(format string, args ...any) error {
		return fserr.Corruptf("super", 0, uint64(off), format, args...)
	}
	if int64(off)+ondisk.SuperSize > dev.Size() {
		return nil, bad("not a btrfs file system: the device has only %d bytes", dev.Size())
	}
	sb := new(ondisk.SuperBlock)
	if _, err := dev.ReadAt(ctx, sb[:], int64(off)); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	switch {
	case sb.Magic() != ondisk.Magic:
		return nil, bad("not a btrfs file system: bad magic, have %#016x expect %#016x", sb.Magic(), ondisk.Magic)
	case !sb.Checksum().Valid():
		return nil, bad("unknown checksum type %d", sb.CsumType())
	case !sb.CsumOK():
		return nil, bad("checksum verify failed")
	case sb.Bytenr() != off:
		return nil, bad("bad bytenr, have %d expect %d", uint64(sb.Bytenr()), uint64(off))
	}
	if err := checkSizes(sb); err != nil {
		return nil, err
	}
	if id := sb.DevItem().FSID(); id != sb.MetadataFSID() && id != sb.FSID() {
		return nil, bad("dev_item has fsid %s, expect %s", id, sb.MetadataFSID())
	}
	if check != nil {
		if err := check(sb); err != nil {
			return nil, err
		}
	}
	return sb, nil
}

// checkSizes checks what the mapping and the cache compute with.
func checkSizes(sb *ondisk.SuperBlock) error {
	bad := func(format string, args ...any) error {
		return fserr.Corruptf("super", 0, uint64(sb.Bytenr()), format, args...)
	}
	sector, node := sb.SectorSize(), sb.NodeSize()
	switch {
	case bits.OnesCount32(sector) != 1 || sector < 4096 || sector > 65536:
		return bad("sectorsize %d, expect a power of two from 4096 to 65536", sector)
	case bits.OnesCount32(node) != 1 || node < sector || node > 65536:
		return bad("nodesize %d, expect a power of two from %d to 65536", node, sector)
	case sb.NumDevices() == 0:
		return bad("no devices")
	case sb.SysChunkArraySize() > ondisk.SysChunkArrayMax:
		return bad("sys_chunk_array of %d bytes, room is for %d", sb.SysChunkArraySize(), ondisk.SysChunkArrayMax)
	}
	return nil
}

// addSysChunks maps the chunks of sys_chunk_array: a key, a CHUNK_ITEM, and so on (fs/btrfs/volumes.c,
// btrfs_read_sys_array).
func (v *Volume) addSysChunks(sb *ondisk.SuperBlock) error {
	arr := sb.SysChunkArray()[:sb.SysChunkArraySize()]
	bad := func(format string, args ...any) error {
		at := len(sb.SysChunkArray()[:sb.SysChunkArraySize()]) - len(arr)
		return fserr.Corruptf("super", 0, uint64(sb.Bytenr()), "sys_chunk_array at %d: %s", at, fmt.Sprintf(format, args...))
	}
	for len(arr) > 0 {
		if len(arr) < ondisk.KeySize+ondisk.ChunkItemSize(1) {
			return bad("%d bytes left, an entry takes at least %d", len(arr), ondisk.KeySize+ondisk.ChunkItemSize(1))
		}
		key, item := ondisk.GetKey(arr), arr[ondisk.KeySize:]
		if key.ObjectID != ondisk.FirstChunkObjectID || key.Type != ondisk.ChunkItemKey {
			return bad("unexpected key %v", key)
		}
		n := int(ondisk.AsChunk(item).NumStripes())
		if n == 0 || ondisk.ChunkItemSize(n) > len(item) {
			return bad("%d stripes do not fit into %d bytes", n, len(item))
		}
		item = item[:ondisk.ChunkItemSize(n)]
		if t := ondisk.AsChunk(item).Type(); t&ondisk.BGSystem == 0 {
			return bad("chunk %d has type %#x, which is not SYSTEM", key.Offset, t)
		}
		if err := v.AddChunk(ondisk.Logical(key.Offset), item); err != nil {
			return err
		}
		arr = arr[ondisk.KeySize+len(item):]
	}
	return nil
}

// SetDevItem sets what the superblocks of a device carry as its DEV_ITEM from the next WriteSuper on. The one that the
// superblock given to WriteSuper itself carries wins for its device.
func (v *Volume) SetDevItem(it *ondisk.DevItem) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	d := v.byID[it.DevID()]
	if d == nil {
		return fmt.Errorf("device %d is missing: name it with --device", it.DevID())
	}
	d.item = *it
	return nil
}

// WriteSuper writes the superblock to all devices, every copy that fits, each with its own address, DEV_ITEM and
// checksum. sb is not changed. When it returns nil the primaries are durable.
//
// The order keeps one good copy at every instant, even if a power cut tears the one being written: the primaries first,
// then a flush, then the mirrors. The mirrors become durable with the next flush, which every commit makes before its
// primaries (I1). Whoever closes the file system flushes once more, and whoever opens one to write to it calls SettleSupers.
func (v *Volume) WriteSuper(ctx context.Context, sb *ondisk.SuperBlock) error {
	v.writeSuper.Lock()
	defer v.writeSuper.Unlock()
	own := *sb
	v.mu.Lock()
	if d := v.byID[own.DevItem().DevID()]; d != nil {
		d.item = *own.DevItem()
	}
	v.mu.Unlock()
	if err := v.writeSuperCopies(ctx, &own, 0, 1); err != nil {
		return err
	}
	if err := v.Flush(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	v.super = &own
	v.mu.Unlock()
	return v.writeSuperCopies(ctx, &own, 1, len(ondisk.SuperOffsets))
}

// SettleSupers brings mirrors up to date that the last session has left behind: a crash, or a device that failed, may have
// come between the primaries and them. WriteSuper counts on the mirrors while it writes the primaries, so this comes before
// anything is written in a session: what an older mirror leads to may be overwritten from then on.
func (v *Volume) SettleSupers(ctx context.Context) error {
	v.writeSuper.Lock()
	defer v.writeSuper.Unlock()
	sb := v.Super()
	for _, d := range v.devices {
		item := v.devItem(d)
		for _, off := range ondisk.SuperOffsets[1:] {
			if !d.holdsSuper(&item, off) {
				continue
			}
			c, err := readSuperCopy(ctx, d.dev, off, nil)
			if err == nil && c.FSID() == sb.FSID() && c.Generation() == sb.Generation() {
				continue
			}
			if err := v.writeSuperCopies(ctx, &sb, 1, len(ondisk.SuperOffsets)); err != nil {
				return err
			}
			return v.Flush(ctx)
		}
	}
	return nil
}

// writeSuperCopies writes the copies from to to-1 on every device.
func (v *Volume) writeSuperCopies(ctx context.Context, sb *ondisk.SuperBlock, from, to int) error {
	var reqs []disk.Request
	for _, d := range v.devices {
		item := v.devItem(d)
		for _, off := range ondisk.SuperOffsets[from:to] {
			if !d.holdsSuper(&item, off) {
				continue
			}
			buf := v.get(ondisk.SuperSize)
			defer v.put(buf)
			c := ondisk.AsSuperBlock(buf)
			*c = *sb
			*c.DevItem() = item
			c.SetBytenr(off)
			c.UpdateCsum()
			reqs = append(reqs, disk.Request{Dev: d.dev, Op: disk.OpWrite, Buf: buf, Off: int64(off)})
		}
	}
	if from == 0 && len(reqs) < len(v.devices) {
		return fmt.Errorf("a device is too small for a superblock: %w", fserr.ErrNoSpace)
	}
	return disk.Do(ctx, v.depth, reqs)
}

func (v *Volume) devItem(d *device) ondisk.DevItem {
	v.mu.Lock()
	defer v.mu.Unlock()
	return d.item
}

// holdsSuper reports whether the device has a copy of the superblock there: as the kernel (write_dev_supers), below the end
// of the file system on this device.
func (d *device) holdsSuper(item *ondisk.DevItem, off ondisk.Physical) bool {
	return uint64(off)+ondisk.SuperSize < item.TotalBytes() && int64(off)+ondisk.SuperSize <= d.dev.Size()
}
