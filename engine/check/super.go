package check

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// superblocks looks at every copy on every device. The one in use has been chosen by package volume.
func (c *checker) superblocks() error {
	if err := treecheck.Super(&c.sb); err != nil {
		if err := supported(err); err != nil {
			return err
		}
		c.found(Finding{ID: SuperInvalid, Block: ondisk.Logical(c.sb.Bytenr())}, "%v", err)
	}
	if err := treecheck.SysChunkArray(&c.sb, func(ondisk.Logical, []byte) error { return nil }); err != nil {
		c.found(Finding{ID: SuperSysArray, Block: ondisk.Logical(c.sb.Bytenr())}, "%v", err)
	}
	for _, d := range c.vol.Devices() {
		for i, off := range ondisk.SuperOffsets {
			if uint64(off)+ondisk.SuperSize <= d.TotalBytes && int64(off)+ondisk.SuperSize <= d.Dev.Size() {
				c.superCopy(d.Dev, d.DevID, i)
			}
		}
		if uint64(d.Dev.Size()) < d.TotalBytes {
			c.found(Finding{ID: DeviceShort, Device: d.DevID}, "%s has %d bytes, the file system says %d", d.Dev.Name(), d.Dev.Size(), d.TotalBytes)
		}
	}
	if n := uint64(len(c.devs)); n < c.sb.NumDevices() {
		c.found(Finding{ID: DeviceMissing}, "%d of %d devices were given", n, c.sb.NumDevices())
	}
	c.currentBackup()
	return nil
}

func (c *checker) superCopy(dev disk.Device, id uint64, i int) {
	at := Finding{Block: ondisk.Logical(ondisk.SuperOffsets[i]), Device: id}
	var sb ondisk.SuperBlock
	if _, err := dev.ReadAt(c.ctx, sb[:], int64(ondisk.SuperOffsets[i])); err != nil {
		at.ID = SuperUnreadable
		c.found(at, "copy %d: %v", i, err)
		return
	}
	switch {
	case sb.Magic() != ondisk.Magic:
		at.ID = SuperMagic
		c.found(at, "copy %d has magic %#x, expect %#x", i, sb.Magic(), ondisk.Magic)
	case !sb.CsumOK():
		at.ID = SuperCsum
		c.found(at, "the checksum of copy %d is wrong", i)
	case sb.FSID() != c.sb.FSID():
		at.ID = SuperForeign
		c.found(at, "copy %d is of file system %s, expect %s", i, sb.FSID(), c.sb.FSID())
	case sb.Bytenr() != ondisk.SuperOffsets[i]:
		at.ID = SuperBytenr
		c.found(at, "copy %d says that it lies at %d", i, uint64(sb.Bytenr()))
	case sb.Generation() != c.sb.Generation():
		at.ID = SuperOld
		c.found(at, "copy %d has generation %d, the newest has %d", i, uint64(sb.Generation()), uint64(c.sb.Generation()))
	default:
		// Beside checksum and address only the device's own item differs from copy to copy, and the log: fsync writes
		// the primary alone (fs/btrfs/tree-log.c, btrfs_sync_log).
		a, b := sb, c.sb
		for _, s := range []*ondisk.SuperBlock{&a, &b} {
			clear(s.Csum())
			s.SetBytenr(0)
			s.SetLogRoot(0)
			s.SetLogRootTransID(0)
			s.SetLogRootLevel(0)
			*s.DevItem() = ondisk.DevItem{}
		}
		if a != b {
			at.ID = SuperDiffers
			c.found(at, "copy %d differs from the one in use, first at byte %d", i, firstDifference(a[:], b[:]))
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

// currentBackup looks at the root backup of the last commit: it must name the superblock's own roots.
func (c *checker) currentBackup() {
	at := Finding{ID: SuperBackup, Block: ondisk.Logical(c.sb.Bytenr())}
	for i := range ondisk.NumBackupRoots {
		b := c.sb.Backup(i)
		if b.TreeRootGen() != c.sb.Generation() {
			continue
		}
		if b.TreeRoot() != c.sb.Root() || b.ChunkRoot() != c.sb.ChunkRoot() {
			c.found(at, "backup %d of this generation names root tree %d and chunk tree %d, the superblock %d and %d", i,
				uint64(b.TreeRoot()), uint64(b.ChunkRoot()), uint64(c.sb.Root()), uint64(c.sb.ChunkRoot()))
		}
	}
}

// useBackup replaces the superblock's roots, if asked to.
func (c *checker) useBackup() error {
	if !c.o.Backup {
		return nil
	}
	order := []int{0, 1, 2, 3}
	slices.SortStableFunc(order, func(a, b int) int {
		return int(int64(c.sb.Backup(b).TreeRootGen()) - int64(c.sb.Backup(a).TreeRootGen()))
	})
	var errs []error
	for _, i := range order {
		b := *c.sb.Backup(i)
		if b.TreeRoot() == 0 {
			continue
		}
		if err := c.probe(b.TreeRoot(), b.TreeRootGen()); err != nil {
			errs = append(errs, fmt.Errorf("backup %d: %w", i, err))
			continue
		}
		c.sb.SetRoot(b.TreeRoot())
		c.sb.SetRootLevel(b.TreeRootLevel())
		c.sb.SetGeneration(b.TreeRootGen())
		c.sb.SetChunkRoot(b.ChunkRoot())
		c.sb.SetChunkRootLevel(b.ChunkRootLevel())
		c.sb.SetChunkRootGeneration(b.ChunkRootGen())
		c.sb.SetBytesUsed(b.BytesUsed())
		c.sb.SetLogRoot(0)
		c.tc.MaxGeneration = b.TreeRootGen() + 1
		return nil
	}
	return fserr.Corruptf("super", 0, uint64(c.sb.Bytenr()), "no root backup can be used: %v", errors.Join(errs...))
}

// probe reads one root block past all tables. Chunks other than those of the superblock are not known yet, so only what
// is mapped can be refused.
func (c *checker) probe(addr ondisk.Logical, gen ondisk.Generation) error {
	if err := c.mapAll(); err != nil {
		return err
	}
	b := make(ondisk.Block, c.nodeSize)
	err := fmt.Errorf("no chunk covers %d", uint64(addr))
	for i := range c.vol.Copies(addr) {
		if err = c.vol.ReadCopy(c.ctx, addr, b, i); err != nil {
			continue
		}
		if h := b.Header(); c.sb.Checksum().BlockCsumOK(b) && h.Bytenr() == addr && h.Generation() == gen {
			return nil
		}
		err = fmt.Errorf("block %d is not the one of generation %d any more", uint64(addr), uint64(gen))
	}
	return err
}

// mapAll maps the chunks of the current chunk tree in a checker of its own, so that nothing is reported twice.
func (c *checker) mapAll() error {
	own := &checker{ctx: c.ctx, o: c.o, vol: c.vol, devs: c.devs, sb: c.sb, tc: c.tc, pool: c.pool, nodeSize: c.nodeSize,
		sector: c.sector, h: c.h, rep: newCollector(1)}
	return own.chunkTree()
}

// devItem compares the superblock's copy of its device's item with the chunk tree.
func (c *checker) superDevItem(item *ondisk.DevItem) {
	s := c.sb.DevItem()
	if s.DevID() == item.DevID() && (s.UUID() != item.UUID() || s.TotalBytes() != item.TotalBytes() || !bytes.Equal(s[66:], item[66:])) {
		c.found(Finding{ID: SuperDevItem, Device: s.DevID()}, "superblock: uuid %s, %d bytes; chunk tree: uuid %s, %d bytes",
			s.UUID(), s.TotalBytes(), item.UUID(), item.TotalBytes())
	}
}
