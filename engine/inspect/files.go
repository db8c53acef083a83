package inspect

import (
	"encoding/binary"

	"imgtool/engine/ondisk"
)

// legacyRootItemSize is the length of root items before generation_v2 was added.
const legacyRootItemSize = 239

// fileBody prints the items of file trees and of the root tree; false when the type is none of them.
func (p *printer) fileBody(key ondisk.Key, item []byte) bool {
	switch key.Type {
	case ondisk.InodeItemKey:
		p.inode(ondisk.AsInodeItem(item))
	case ondisk.InodeRefKey:
		p.iterate(ondisk.InodeRefs(item, ondisk.ObjectID(key.Offset), func(r ondisk.NameRef) bool {
			p.item("index %d namelen %d name: %s", r.Index, len(r.Name), p.name(r.Name))
			return true
		}))
	case ondisk.InodeExtrefKey:
		p.iterate(ondisk.InodeExtrefs(item, func(r ondisk.NameRef) bool {
			p.item("index %d parent %d namelen %d name: %s", r.Index, uint64(r.Parent), len(r.Name), p.name(r.Name))
			return true
		}))
	case ondisk.DirItemKey, ondisk.DirIndexKey, ondisk.XattrItemKey:
		p.dirEntries(item)
	case ondisk.DirLogItemKey, ondisk.DirLogIndexKey:
		p.item("dir log end %d", binary.LittleEndian.Uint64(item))
	case ondisk.OrphanItemKey:
		p.item("orphan item")
	case ondisk.ExtentDataKey:
		p.fileExtent(item)
	case ondisk.RootItemKey:
		p.rootItem(item)
	case ondisk.RootRefKey:
		p.rootRef("ref", item)
	case ondisk.RootBackrefKey:
		p.rootRef("backref", item)
	default:
		return false
	}
	return true
}

// iterate prints why a walk over packed entries ended early.
func (p *printer) iterate(err error) {
	if err != nil {
		p.item("invalid item: %v", err)
	}
}

func (p *printer) inode(in *ondisk.InodeItem) {
	p.item("generation %d transid %d size %d nbytes %d", uint64(in.Generation()), uint64(in.TransID()), in.Size(), in.NBytes())
	p.item("block group %d mode %o links %d uid %d gid %d rdev %d", in.BlockGroup(), in.Mode(), in.NLink(), in.UID(), in.GID(), in.Rdev())
	p.item("sequence %d flags 0x%x(%s)", in.Sequence(), in.Flags(), flagString(in.Flags(), inodeBits, "none"))
	p.timespec("atime", in.ATime())
	p.timespec("ctime", in.CTime())
	p.timespec("mtime", in.MTime())
	p.timespec("otime", in.OTime())
}

var dirTypes = [...]string{
	ondisk.FTReg: "FILE", ondisk.FTDir: "DIR", ondisk.FTChr: "CHRDEV", ondisk.FTBlk: "BLKDEV", ondisk.FTFifo: "FIFO",
	ondisk.FTSock: "SOCK", ondisk.FTSymlink: "SYMLINK", ondisk.FTXattr: "XATTR",
}

func (p *printer) dirEntries(item []byte) {
	p.iterate(ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
		if t := int(e.Type()); t < len(dirTypes) && dirTypes[t] != "" {
			p.item("location %s type %s", keyString(e.Location()), dirTypes[t])
		} else {
			p.item("location %s type DIR_ITEM.%d", keyString(e.Location()), t)
		}
		p.item("transid %d data_len %d name_len %d", uint64(e.TransID()), len(e.Data), len(e.Name))
		p.item("name: %s", p.name(e.Name))
		if len(e.Data) > 0 {
			p.item("data %s", p.name(e.Data))
		}
		return true
	}))
}

var (
	extentTypes   = [...]string{"inline", "regular", "prealloc"}
	compressNames = [...]string{"none", "zlib", "lzo", "zstd"}
)

// numbered names v, or prints its number behind the prefix.
func numbered(v uint8, names []string, unknown string) string {
	if int(v) < len(names) {
		return names[v]
	}
	return unknown
}

// fileExtent prints an EXTENT_DATA of at least FileExtentInlineStart bytes.
func (p *printer) fileExtent(item []byte) {
	var f ondisk.FileExtentItem
	copy(f[:], item)
	comp := numbered(f.Compression(), compressNames[:], "UNKNOWN")
	p.item("generation %d type %d (%s)", uint64(f.Generation()), f.Type(), numbered(f.Type(), extentTypes[:], "unknown"))
	if f.Type() == ondisk.FileExtentInline {
		p.item("inline extent data size %d ram_bytes %d compression %d (%s)", len(item)-ondisk.FileExtentInlineStart, f.RAMBytes(), f.Compression(), comp)
		return
	}
	if len(item) < ondisk.FileExtentItemSize {
		p.item("invalid item size, have %d expect %d", len(item), ondisk.FileExtentItemSize)
		return
	}
	if f.Type() == ondisk.FileExtentPrealloc {
		p.item("prealloc data disk byte %d nr %d", uint64(f.DiskBytenr()), f.DiskNumBytes())
		p.item("prealloc data offset %d nr %d", f.Offset(), f.NumBytes())
		return
	}
	p.item("extent data disk byte %d nr %d", uint64(f.DiskBytenr()), f.DiskNumBytes())
	p.item("extent data offset %d nr %d ram %d", f.Offset(), f.NumBytes(), f.RAMBytes())
	p.item("extent compression %d (%s)", f.Compression(), comp)
}

func (p *printer) rootItem(item []byte) {
	var full ondisk.RootItem // what an old, shorter item lacks prints as zero
	copy(full[:], item)
	r := &full
	p.item("generation %d root_dirid %d bytenr %d byte_limit %d bytes_used %d", uint64(r.Generation()), uint64(r.RootDirID()), uint64(r.Bytenr()), r.ByteLimit(), r.BytesUsed())
	p.item("last_snapshot %d flags 0x%x(%s) refs %d", uint64(r.LastSnapshot()), r.Flags(), flagString(r.Flags(), rootBits, "none"), r.Refs())
	p.item("drop_progress %s drop_level %d", keyString(r.DropProgress()), r.DropLevel())
	p.item("level %d generation_v2 %d", r.Level(), uint64(r.GenerationV2()))
	p.item("uuid %s", r.UUID())
	p.item("parent_uuid %s", r.ParentUUID())
	p.item("received_uuid %s", r.ReceivedUUID())
	p.item("ctransid %d otransid %d stransid %d rtransid %d", uint64(r.CTransID()), uint64(r.OTransID()), uint64(r.STransID()), uint64(r.RTransID()))
	p.timespec("ctime", r.CTime())
	p.timespec("otime", r.OTime())
	p.timespec("stime", r.STime())
	p.timespec("rtime", r.RTime())
}

func (p *printer) rootRef(tag string, item []byte) {
	r := ondisk.AsRootRef(item)
	name := item[ondisk.RootRefSize:]
	if n := int(r.NameLen()); n < len(name) {
		name = name[:n]
	}
	p.item("root %s key dirid %d sequence %d name %s", tag, uint64(r.DirID()), r.Sequence(), p.name(name))
}
