package copytree

import (
	"context"

	"golang.org/x/sys/unix"

	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// Needs is what a host tree takes in an image.
type Needs struct {
	Inodes   uint64
	Data     uint64 // bytes of data extents
	Metadata uint64 // bytes of tree blocks, estimated
}

// What ImageSize adds: a quarter of the data, the metadata twice over (for copies on write until the commit), and
// 256 MiB. The image is sparse: what stays free costs nothing.
const (
	slackFixed    = 256 << 20
	slackData     = 4 // one in four
	slackMetadata = 2
)

// SizeNeeded walks a host directory and adds up what Import would write to a file system of the given options.
func SizeNeeded(ctx context.Context, hostDir string, o mkfs.Options) (Needs, error) {
	top, err := openHostDir(unix.AT_FDCWD, hostDir, hostDir)
	if err != nil {
		return Needs{}, err
	}
	defer top.release()
	m := &measure{ctx: ctx, o: o, links: map[fileKey]*linked{}, dents: make([]byte, 64<<10), load: newLoader(o.Csum)}
	if err := m.dir(top); err != nil {
		return Needs{}, err
	}
	m.n.Metadata = m.bytes * 3 / 2 // leaves are rarely full, and nodes come on top
	return m.n, nil
}

// ImageSize is the size in bytes of an image that holds so much, with the slack, and at least the smallest possible.
func ImageSize(n Needs, o mkfs.Options) uint64 {
	copies := func(profile uint64) uint64 {
		if profile&ondisk.BGDup != 0 {
			return 2
		}
		return 1
	}
	size := o.MinSize() + slackFixed + (n.Data+n.Data/slackData)*copies(o.Data) + n.Metadata*(1+slackMetadata)*copies(o.Meta)
	const mib = 1 << 20
	return (size + mib - 1) / mib * mib
}

// measure is one SizeNeeded.
type measure struct {
	ctx   context.Context
	o     mkfs.Options
	n     Needs
	bytes uint64 // of items
	links map[fileKey]*linked
	dents []byte
	load  *loader
}

func (m *measure) dir(d *hostDir) error {
	names, err := d.names(m.dents)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(d.fd, n.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return pathError("stat", d.join(n.name), err)
		}
		if err := m.entry(d, n.name, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := openHostDir(d.fd, n.name, d.join(n.name))
		if err != nil {
			return err
		}
		err = m.dir(sub)
		sub.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// Bytes of items with their headers, beside the names.
const (
	nameItems   = 2*(ondisk.ItemSize+ondisk.DirItemSize) + ondisk.ItemSize + ondisk.InodeRefSize
	inodeItems  = ondisk.ItemSize + ondisk.InodeItemSize
	extentItems = 2*ondisk.ItemSize + ondisk.FileExtentItemSize + ondisk.ExtentItemSize + 1 + ondisk.ExtentDataRefSize
)

func (m *measure) entry(d *hostDir, name string, st *unix.Stat_t) error {
	m.n.Inodes++
	m.bytes += nameItems + 3*uint64(len(name))
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := fileKey{uint64(st.Dev), st.Ino}
		if l := m.links[key]; l != nil {
			if l.left--; l.left == 0 {
				delete(m.links, key)
			}
			return nil
		}
		m.links[key] = &linked{left: uint64(st.Nlink) - 1}
	}
	m.bytes += inodeItems
	xs, err := m.load.xattrs(d.join(name), -1, d.procPath(name))
	if err != nil {
		return err
	}
	for _, x := range xs {
		m.bytes += uint64(ondisk.ItemSize + ondisk.DirItemSize + len(x.Name) + len(x.Value))
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		m.bytes += ondisk.ItemSize + ondisk.FileExtentInlineStart + uint64(st.Size)
	case unix.S_IFREG:
		m.file(st)
	}
	return nil
}

func (m *measure) file(st *unix.Stat_t) {
	if st.Size <= int64(inode.DefaultMaxInline) {
		m.bytes += ondisk.ItemSize + ondisk.FileExtentInlineStart + uint64(st.Size)
		return
	}
	n := uint64(align(st.Size))
	if isSparse(st) {
		// What the host has allocated; every piece may have its own extent.
		n = uint64(align(min(st.Blocks*512, st.Size)))
		m.bytes += n / (64 << 10) * extentItems
	}
	m.n.Data += n
	m.bytes += extentItems*(1+n/(8<<20)) + n/ondisk.SectorSize*uint64(m.o.Csum.Size())
}
