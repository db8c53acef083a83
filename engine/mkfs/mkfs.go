// Package mkfs makes an empty file system.
//
// Only the trees without which no transaction can run are laid out by hand, as one leaf each in generation 1: chunk,
// root, extent, device, file and checksum tree, and the free-space and block-group tree where their features are set.
// The rest (the directory of the root tree with its "default" entry, the UUID tree, the data-reloc tree) and whatever
// the caller puts in is made by ordinary transactions; there is no second writer of trees.
package mkfs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"imgtool/disk"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// Seed writes the file system of generation 1 to dev, whose first size bytes it takes, and returns the volume to go on
// with. The super is written last, behind a flush, so a device that held another file system holds one or the other.
// The caller opens the volume and calls Complete.
func Seed(ctx context.Context, dev disk.Device, size uint64, o Options) (*volume.Volume, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	size = size / ondisk.SectorSize * ondisk.SectorSize
	if err := o.CheckSize(size); err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	s := newSeed(o, size)
	s.fill()
	sb, err := s.superBlock()
	if err != nil {
		return nil, err
	}
	v, err := volume.Create(ctx, []disk.Device{dev}, sb)
	if err != nil {
		return nil, err
	}
	for _, c := range s.chunks() {
		if err := v.AddChunk(c.start, s.chunkItem(c)); err != nil {
			return nil, err
		}
	}
	if err := s.write(ctx, v); err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	if err := v.WriteSuper(ctx, sb); err != nil {
		return nil, fmt.Errorf("%s: %w", dev.Name(), err)
	}
	return v, nil
}

// write builds every leaf and writes it to all its copies.
func (s *seed) write(ctx context.Context, v *volume.Volume) error {
	slices.SortFunc(s.leaves, byKey)
	var ws []volume.Write
	for _, l := range s.leaves {
		b, err := s.block(l)
		if err != nil {
			return err
		}
		ws = append(ws, volume.Write{Addr: l.addr, Buf: b})
	}
	if err := v.WriteBatch(ctx, ws); err != nil {
		return err
	}
	return v.Flush(ctx)
}

// block packs a leaf: item headers from the front, data from the back.
func (s *seed) block(l *leaf) (ondisk.Block, error) {
	b := make(ondisk.Block, s.o.NodeSize)
	b.Init(l.addr, seedGen, l.owner, 0, s.o.FSID, s.chunkUUID)
	end := ondisk.LeafDataSize(s.o.NodeSize)
	for i, it := range l.items {
		end -= len(it.data)
		if end < (i+1)*ondisk.ItemSize {
			return nil, fmt.Errorf("internal: the first leaf of tree %v does not hold its items", l.owner)
		}
		b.SetNrItems(i + 1)
		b.SetItem(i, it.key, end, len(it.data))
		copy(b.Item(i), it.data)
	}
	b.SetFlags(ondisk.HeaderFlagWritten)
	s.o.Csum.SetBlockCsum(b)
	return b, nil
}

func (s *seed) superBlock() (*ondisk.SuperBlock, error) {
	var sb ondisk.SuperBlock
	sb.SetFSID(s.o.FSID)
	sb.SetMagic(ondisk.Magic)
	sb.SetFlags(ondisk.HeaderFlagWritten)
	sb.SetGeneration(seedGen)
	sb.SetRoot(s.leaf(ondisk.RootTree).addr)
	sb.SetChunkRoot(s.leaf(ondisk.ChunkTree).addr)
	sb.SetChunkRootGeneration(seedGen)
	sb.SetTotalBytes(s.size)
	sb.SetBytesUsed(s.bytesUsed())
	sb.SetRootDirObjectID(ondisk.RootTreeDirObjectID)
	sb.SetNumDevices(1)
	sb.SetSectorSize(ondisk.SectorSize)
	sb.SetNodeSize(uint32(s.o.NodeSize))
	sb.SetLeafSize(uint32(s.o.NodeSize))
	sb.SetStripeSize(ondisk.SectorSize)
	sb.SetCsumType(uint16(s.o.Csum))
	sb.SetIncompatFlags(s.o.Features.incompat(s.o.NodeSize))
	sb.SetCompatROFlags(s.o.Features.compatRO())
	copy(sb.DevItem()[:], s.devItem()[:])
	if err := sb.SetLabel(s.o.Label); err != nil {
		return nil, err
	}
	array := sb.SysChunkArray()
	ondisk.PutKey(array, chunkKey(&s.system))
	n := copy(array[ondisk.KeySize:], s.chunkItem(&s.system))
	sb.SetSysChunkArraySize(uint32(ondisk.KeySize + n))
	if !s.o.Features.FreeSpaceTree {
		sb.SetCacheGeneration(^uint64(0)) // no v1 cache either
	}
	return &sb, nil
}

func (f Features) incompat(nodesize int) uint64 {
	bits := ondisk.IncompatMixedBackref
	for _, x := range []struct {
		on  bool
		bit uint64
	}{{nodesize > ondisk.SectorSize, ondisk.IncompatBigMetadata}, {f.ExtendedIref, ondisk.IncompatExtendedIref},
		{f.SkinnyMetadata, ondisk.IncompatSkinnyMetadata}, {f.NoHoles, ondisk.IncompatNoHoles}} {
		if x.on {
			bits |= x.bit
		}
	}
	return bits
}

func (f Features) compatRO() uint64 {
	bits := uint64(0)
	if f.FreeSpaceTree {
		bits |= ondisk.CompatROFreeSpaceTree | ondisk.CompatROFreeSpaceTreeValid
	}
	if f.BlockGroupTree {
		bits |= ondisk.CompatROBlockGroupTree
	}
	return bits
}

// RootDir returns the INODE_ITEM and the INODE_REF of a tree's root directory, inode 256, which is its own parent.
func RootDir(now func() time.Time, gen ondisk.Generation) (inode, ref []byte) {
	var i ondisk.InodeItem
	i.SetGeneration(gen)
	i.SetTransID(gen)
	i.SetNLink(1)
	i.SetMode(ondisk.ModeDir | 0o755)
	t := ondisk.TimeOf(now())
	i.SetATime(t)
	i.SetCTime(t)
	i.SetMTime(t)
	i.SetOTime(t)
	ref = make([]byte, ondisk.InodeRefSize+2)
	ondisk.AsInodeRef(ref).SetNameLen(2)
	copy(ref[ondisk.InodeRefSize:], "..")
	return i[:], ref
}
