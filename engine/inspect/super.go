package inspect

import (
	"fmt"
	"io"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// SuperCopy is one superblock copy as it was read, at its byte offset on the device.
type SuperCopy struct {
	Offset ondisk.Physical
	Super  *ondisk.SuperBlock
}

// SuperOptions says how much Supers prints.
type SuperOptions struct {
	Full  bool // also sys_chunk_array and the root backups
	Force bool // also copies without the magic number
}

// Supers prints superblock copies of a device, each under a line that says where it was found. A copy without btrfs'
// magic number ends it with an error, unless forced.
func Supers(w io.Writer, device string, copies []SuperCopy, o SuperOptions) error {
	for _, c := range copies {
		if c.Super.Magic() != ondisk.Magic && !o.Force {
			return fmt.Errorf("%s: bad magic on superblock at %d (use --force to dump it anyway): %w", device, uint64(c.Offset),
				fserr.Corruptf("super", 0, uint64(c.Offset), "invalid magic, have 0x%x expect 0x%x", c.Super.Magic(), ondisk.Magic))
		}
		if _, err := fmt.Fprintf(w, "superblock: bytenr=%d, device=%s\n%s\n", uint64(c.Offset), device, strings.Repeat("-", 57)); err != nil {
			return err
		}
		if err := Super(w, c.Super, o.Full); err != nil {
			return err
		}
		if _, err := io.WriteString(w, "\n"); err != nil {
			return err
		}
	}
	return nil
}

// Super prints one superblock, whatever it holds; full adds sys_chunk_array and the root backups.
func Super(w io.Writer, sb *ondisk.SuperBlock, full bool) error {
	p := newPrinter(w, sb, &Options{})
	p.superIdentity(sb)
	p.superRoots(sb)
	p.superFeatures(sb)
	p.superDevice(sb)
	if full {
		p.sysChunkArray(sb)
		p.backups(sb)
	}
	return p.w.Flush()
}

func match(ok bool) string {
	if ok {
		return "[match]"
	}
	return "[DON'T MATCH]"
}

// printable replaces what is not printable ASCII by dots.
func printable(b []byte) string {
	out := make([]byte, len(b))
	for i, c := range b {
		if out[i] = c; c < 0x20 || c > 0x7e {
			out[i] = '.'
		}
	}
	return string(out)
}

// field prints a name and its value, the value at column 24 as tabs make it.
func (p *printer) field(name, format string, args ...any) {
	tabs := "\t\t\t"[min(len(name)/8, 2):]
	p.line(name+tabs+format, args...)
}

func (p *printer) superIdentity(sb *ondisk.SuperBlock) {
	t := sb.Checksum()
	size, name, verdict := ondisk.CsumSize, "INVALID", "[UNKNOWN CSUM TYPE OR SIZE]"
	if t.Valid() {
		size, name, verdict = t.Size(), t.String(), match(sb.CsumOK())
		if t == ondisk.Blake2b {
			name = "blake2b" // mkfs.btrfs calls it blake2
		}
	}
	p.field("csum_type", "%d (%s)", sb.CsumType(), name)
	p.field("csum_size", "%d", size)
	p.field("csum", "0x%x %s", sb.Csum()[:size], verdict)
	p.field("bytenr", "%d", uint64(sb.Bytenr()))
	p.field("flags", "0x%x", sb.Flags())
	p.flagList(sb.Flags(), superBits)
	p.field("magic", "%s %s", printable(sb[64:72]), match(sb.Magic() == ondisk.Magic))
	p.field("fsid", "%s", sb.FSID())
	p.field("metadata_uuid", "%s", sb.MetadataUUID())
	p.field("label", "%s", printable([]byte(sb.Label())))
}

func (p *printer) superRoots(sb *ondisk.SuperBlock) {
	p.field("generation", "%d", uint64(sb.Generation()))
	p.field("root", "%d", uint64(sb.Root()))
	p.field("sys_array_size", "%d", sb.SysChunkArraySize())
	p.field("chunk_root_generation", "%d", uint64(sb.ChunkRootGeneration()))
	p.field("root_level", "%d", sb.RootLevel())
	p.field("chunk_root", "%d", uint64(sb.ChunkRoot()))
	p.field("chunk_root_level", "%d", sb.ChunkRootLevel())
	p.field("log_root", "%d", uint64(sb.LogRoot()))
	p.field("log_root_transid (deprecated)", "%d", uint64(sb.LogRootTransID()))
	p.field("log_root_level", "%d", sb.LogRootLevel())
	p.field("total_bytes", "%d", sb.TotalBytes())
	p.field("bytes_used", "%d", sb.BytesUsed())
	p.field("sectorsize", "%d", sb.SectorSize())
	p.field("nodesize", "%d", sb.NodeSize())
	p.field("leafsize (deprecated)", "%d", sb.LeafSize())
	p.field("stripesize", "%d", sb.StripeSize())
	p.field("root_dir", "%d", uint64(sb.RootDirObjectID()))
	p.field("num_devices", "%d", sb.NumDevices())
}

var superBits = []ondisk.FeatureName{
	{Bit: ondisk.HeaderFlagWritten, Name: "WRITTEN"}, {Bit: ondisk.HeaderFlagReloc, Name: "RELOC"},
	{Bit: ondisk.SuperFlagChangingFSID, Name: "CHANGING_FSID"}, {Bit: 1 << 36, Name: "CHANGING_FSID_V2"},
	{Bit: ondisk.SuperFlagSeeding, Name: "SEEDING"}, {Bit: ondisk.SuperFlagMetadump, Name: "METADUMP"},
	{Bit: ondisk.SuperFlagMetadumpV2, Name: "METADUMP_V2"}, {Bit: 1 << 38, Name: "CHANGING_BG_TREE"},
	{Bit: 1 << 39, Name: "CHANGING_DATA_CSUM"}, {Bit: 1 << 40, Name: "CHANGING_META_CSUM"},
}

// flagList prints the names of the set bits in parentheses, one a line.
func (p *printer) flagList(flags uint64, names []ondisk.FeatureName) {
	if flags == 0 {
		return
	}
	var set []string
	for _, n := range names {
		if flags&n.Bit != 0 {
			set = append(set, n.Name)
			flags &^= n.Bit
		}
	}
	if flags != 0 {
		set = append(set, fmt.Sprintf("unknown flag: 0x%x", flags))
	}
	p.line("\t\t\t( %s )", strings.Join(set, " |\n\t\t\t  "))
}

func (p *printer) superFeatures(sb *ondisk.SuperBlock) {
	p.field("compat_flags", "0x%x", sb.CompatFlags())
	p.field("compat_ro_flags", "0x%x", sb.CompatROFlags())
	p.flagList(sb.CompatROFlags(), ondisk.CompatRONames)
	p.field("incompat_flags", "0x%x", sb.IncompatFlags())
	p.flagList(sb.IncompatFlags(), ondisk.IncompatNames)
	p.field("cache_generation", "%d", sb.CacheGeneration())
	p.field("uuid_tree_generation", "%d", sb.UUIDTreeGeneration())
}

func (p *printer) superDevice(sb *ondisk.SuperBlock) {
	d := sb.DevItem()
	p.field("dev_item.uuid", "%s", d.UUID())
	p.field("dev_item.fsid", "%s %s", d.FSID(), match(d.FSID() == sb.MetadataFSID()))
	p.field("dev_item.type", "%d", d.Type())
	p.field("dev_item.total_bytes", "%d", d.TotalBytes())
	p.field("dev_item.bytes_used", "%d", d.BytesUsed())
	p.field("dev_item.io_align", "%d", d.IOAlign())
	p.field("dev_item.io_width", "%d", d.IOWidth())
	p.field("dev_item.sector_size", "%d", d.SectorSize())
	p.field("dev_item.devid", "%d", d.DevID())
	p.field("dev_item.dev_group", "%d", d.DevGroup())
	p.field("dev_item.seek_speed", "%d", d.SeekSpeed())
	p.field("dev_item.bandwidth", "%d", d.Bandwidth())
	p.field("dev_item.generation", "%d", uint64(d.Generation()))
}

// sysChunkArray prints the SYSTEM chunks up to the first entry that makes no sense.
func (p *printer) sysChunkArray(sb *ondisk.SuperBlock) {
	p.line("sys_chunk_array[%d]:", ondisk.SysChunkArrayMax)
	size := int(sb.SysChunkArraySize())
	if size > ondisk.SysChunkArrayMax {
		p.line("ERROR: sys_array_size %d shouldn't exceed %d bytes", size, ondisk.SysChunkArrayMax)
		return
	}
	arr := sb.SysChunkArray()[:size]
	for i := 0; len(arr) > 0; i++ {
		if len(arr) < ondisk.KeySize+ondisk.ChunkItemSize(1) {
			p.line("ERROR: sys_array too short to read an entry at offset %d", size-len(arr))
			return
		}
		key := ondisk.GetKey(arr)
		p.line("\titem %d %s", i, keyString(key))
		n := ondisk.ChunkItemSize(int(ondisk.AsChunk(arr[ondisk.KeySize:]).NumStripes()))
		if key.Type != ondisk.ChunkItemKey || n > len(arr)-ondisk.KeySize {
			p.line("ERROR: invalid entry in sys_array at offset %d", size-len(arr))
			return
		}
		p.chunk(arr[ondisk.KeySize : ondisk.KeySize+n])
		arr = arr[ondisk.KeySize+n:]
	}
}

func (p *printer) backups(sb *ondisk.SuperBlock) {
	p.line("backup_roots[%d]:", ondisk.NumBackupRoots)
	for i := range ondisk.NumBackupRoots {
		b := sb.Backup(i)
		if b.TreeRoot() == 0 && b.TreeRootGen() == 0 {
			continue
		}
		p.line("\tbackup %d:", i)
		root := func(name string, addr ondisk.Logical, gen ondisk.Generation, level uint8) {
			p.item("%s%d\tgen: %d\tlevel: %d", name, uint64(addr), uint64(gen), level)
		}
		root("backup_tree_root:\t", b.TreeRoot(), b.TreeRootGen(), b.TreeRootLevel())
		root("backup_chunk_root:\t", b.ChunkRoot(), b.ChunkRootGen(), b.ChunkRootLevel())
		root("backup_extent_root:\t", b.ExtentRoot(), b.ExtentRootGen(), b.ExtentRootLevel())
		root("backup_fs_root:\t\t", b.FSRoot(), b.FSRootGen(), b.FSRootLevel())
		root("backup_dev_root:\t", b.DevRoot(), b.DevRootGen(), b.DevRootLevel())
		root("backup_csum_root:\t", b.CsumRoot(), b.CsumRootGen(), b.CsumRootLevel())
		p.item("backup_total_bytes:\t%d", b.TotalBytes())
		p.item("backup_bytes_used:\t%d", b.BytesUsed())
		p.item("backup_num_devices:\t%d", b.NumDevices())
		p.line("")
	}
}

// rootBackups prints the root backups as dump-tree --backups does.
func (p *printer) rootBackups(sb *ondisk.SuperBlock) {
	for i := range ondisk.NumBackupRoots {
		b := sb.Backup(i)
		p.line("btrfs root backup slot %d", i)
		p.line("\ttree root gen %d block %d", uint64(b.TreeRootGen()), uint64(b.TreeRoot()))
		p.item("extent root gen %d block %d", uint64(b.ExtentRootGen()), uint64(b.ExtentRoot()))
		p.item("chunk root gen %d block %d", uint64(b.ChunkRootGen()), uint64(b.ChunkRoot()))
		p.item("device root gen %d block %d", uint64(b.DevRootGen()), uint64(b.DevRoot()))
		p.item("csum root gen %d block %d", uint64(b.CsumRootGen()), uint64(b.CsumRoot()))
		p.item("fs root gen %d block %d", uint64(b.FSRootGen()), uint64(b.FSRoot()))
		p.item("%d used %d total %d devices", b.BytesUsed(), b.TotalBytes(), b.NumDevices())
	}
}
