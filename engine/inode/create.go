package inode

import (
	"context"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Times are the four time stamps of an inode.
type Times struct {
	Access, Change, Modify, Birth ondisk.Timespec
}

// Attr is what a new inode is born with.
type Attr struct {
	Mode     uint32 // permission bits; the type comes from the operation (from these bits for Mknod)
	UID, GID uint32
	Times    *Times  // nil: all now
	Flags    uint64  // inode flags beside the inherited ones: ondisk.InodeNoDataCow, ...
	Xattrs   []Xattr // full names
}

// inheritedFlags go from a directory to what is created in it (fs/btrfs/inode.c, btrfs_inherit_iflags); NOCOMPRESS
// wins over COMPRESS.
func inheritedFlags(dir uint64, isReg bool) uint64 {
	var f uint64
	if dir&ondisk.InodeNoCompress != 0 {
		f |= ondisk.InodeNoCompress
	} else if dir&ondisk.InodeCompress != 0 {
		f |= ondisk.InodeCompress
	}
	if dir&ondisk.InodeNoDataCow != 0 {
		f |= ondisk.InodeNoDataCow
		if isReg {
			f |= ondisk.InodeNoDataSum
		}
	}
	return f
}

// newInode is an inode to be created.
type newInode struct {
	Attr
	mode uint32 // with type
	rdev uint64
	link string // target of a symbolic link
}

// Create makes an empty regular file and returns its number. Errors: fserr.ErrExist, ErrNotDir, ErrNotFound (dir),
// ErrNameTooLong, ErrInvalid, ErrReadOnly, ErrPerm, ErrNoSpace.
func (t *FileTree) Create(ctx context.Context, dir ondisk.ObjectID, name string, a Attr) (ondisk.ObjectID, error) {
	return t.create(ctx, dir, name, newInode{Attr: a, mode: ondisk.ModeReg | a.Mode&ondisk.ModePerm})
}

// Mkdir makes a directory and returns its number. Errors as Create's.
func (t *FileTree) Mkdir(ctx context.Context, dir ondisk.ObjectID, name string, a Attr) (ondisk.ObjectID, error) {
	return t.create(ctx, dir, name, newInode{Attr: a, mode: ondisk.ModeDir | a.Mode&ondisk.ModePerm})
}

// Symlink makes a symbolic link to target and returns its number. Its permission bits are 0777 whatever a says.
// fserr.ErrNameTooLong if the target is longer than a path may be, or than fits a tree block; otherwise as Create.
func (t *FileTree) Symlink(ctx context.Context, dir ondisk.ObjectID, name, target string, a Attr) (ondisk.ObjectID, error) {
	const pathMax = 4095
	if limit := min(pathMax, ondisk.MaxItemSize(t.cfg.NodeSize)-ondisk.FileExtentInlineStart); len(target) > limit {
		return 0, fmt.Errorf("symbolic link %q: target of %d bytes, at most %d are possible: %w", name, len(target), limit, fserr.ErrNameTooLong)
	}
	if target == "" {
		return 0, fmt.Errorf("symbolic link %q without a target: %w", name, fserr.ErrNotFound)
	}
	return t.create(ctx, dir, name, newInode{Attr: a, mode: ondisk.ModeLnk | 0o777, link: target})
}

// Mknod makes a device, fifo, socket or empty regular file, as the type bits of a.Mode say; rdev is MakeRdev's. Errors
// as Create's.
func (t *FileTree) Mknod(ctx context.Context, dir ondisk.ObjectID, name string, rdev uint64, a Attr) (ondisk.ObjectID, error) {
	mode := a.Mode & (ondisk.ModeFmt | ondisk.ModePerm)
	switch mode & ondisk.ModeFmt {
	case ondisk.ModeBlk, ondisk.ModeChr:
	case ondisk.ModeFifo, ondisk.ModeSock, ondisk.ModeReg:
		rdev = 0
	default:
		return 0, fmt.Errorf("make node %q of mode %o: %w", name, a.Mode, fserr.ErrInvalid)
	}
	return t.create(ctx, dir, name, newInode{Attr: a, mode: mode, rdev: rdev})
}

func (t *FileTree) create(ctx context.Context, dir ondisk.ObjectID, name string, n newInode) (ondisk.ObjectID, error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	if err := t.checkXattrs(n.Xattrs); err != nil {
		return 0, err
	}
	l := t.lock(dir)
	defer l.unlock()
	o, err := t.begin(ctx, itemsCreate+len(n.Xattrs), false)
	if err != nil {
		return 0, err
	}
	ino, err := o.create(ctx, dir, name, &n)
	return ino, o.end(ctx, err)
}

// create adds the name first, which is where the caller's mistakes show, and then the inode.
func (o *op) create(ctx context.Context, dir ondisk.ObjectID, name string, n *newInode) (ondisk.ObjectID, error) {
	s, err := o.t.dir(ctx, dir)
	if err != nil {
		return 0, err
	}
	if err := o.t.checkDirChange(dir, s, false); err != nil {
		return 0, err
	}
	ino, err := o.t.newIno(ctx)
	if err != nil {
		return 0, err
	}
	index, err := o.link(ctx, dir, s, name, inodeKey(ino), ondisk.ModeToFT(n.mode))
	if err != nil {
		return 0, err
	}
	ctx = o.start(ctx)
	if s.mode&0o2000 != 0 { // a set-group-ID directory gives its group, and a directory the bit
		n.GID = s.gid
		if n.mode&ondisk.ModeFmt == ondisk.ModeDir {
			n.mode |= 0o2000
		}
	}
	n.Flags |= inheritedFlags(s.flags, n.mode&ondisk.ModeFmt == ondisk.ModeReg)
	if n.mode&ondisk.ModeFmt == ondisk.ModeReg && n.Flags&ondisk.InodeNoDataCow != 0 {
		n.Flags |= ondisk.InodeNoDataSum
	}
	err = o.insertInode(ctx, ino, dir, index, name, n)
	if err == nil && n.mode&ondisk.ModeFmt == ondisk.ModeDir {
		o.t.dirs.put(ino, dirState{next: 2, mode: n.mode, gid: n.GID, flags: n.Flags})
	}
	return ino, err
}

// insertInode inserts a new inode's items, which are neighbours, in one go.
func (o *op) insertInode(ctx context.Context, ino, parent ondisk.ObjectID, index uint64, name string, n *newInode) error {
	var few [3]Item
	items, _ := o.inodeItems(few[:0], ino, parent, index, name, n)
	if err := o.t.tree.InsertBatch(ctx, o.tx, items); err != nil {
		return fmt.Errorf("new inode %d of tree %v: %w", ino, o.t.id, err)
	}
	return nil
}

// inodeItems appends the items of a new inode but for a file's extents, and returns the view of its INODE_ITEM.
func (o *op) inodeItems(items []Item, ino, parent ondisk.ObjectID, index uint64, name string, n *newInode) ([]Item, *ondisk.InodeItem) {
	buf := make([]byte, 0, ondisk.InodeItemSize+ondisk.InodeRefSize+len(name))
	buf = appendRef(buf[:ondisk.InodeItemSize], index, []byte(name))
	it := ondisk.AsInodeItem(buf)
	o.fillInode(it, n)
	items = append(items, Item{Key: inodeKey(ino), Data: buf[:ondisk.InodeItemSize:ondisk.InodeItemSize]},
		Item{Key: typeKey(ino, ondisk.InodeRefKey, uint64(parent)), Data: buf[ondisk.InodeItemSize:]})
	if len(n.Xattrs) > 0 {
		items = append(items, o.xattrItems(ino, n.Xattrs)...)
	}
	if n.link != "" {
		it.SetSize(uint64(len(n.link)))
		it.SetNBytes(uint64(len(n.link)))
		items = append(items, Item{Key: typeKey(ino, ondisk.ExtentDataKey, 0), Data: o.inlineItem([]byte(n.link))})
	}
	return items, it
}

func (o *op) fillInode(it *ondisk.InodeItem, n *newInode) {
	it.SetGeneration(o.tx.Generation())
	it.SetTransID(o.tx.Generation())
	it.SetNLink(1)
	it.SetUID(n.UID)
	it.SetGID(n.GID)
	it.SetMode(n.mode)
	it.SetRdev(n.rdev)
	it.SetFlags(n.Flags)
	ts := Times{o.now, o.now, o.now, o.now}
	if n.Times != nil {
		ts = *n.Times
	}
	it.SetATime(ts.Access)
	it.SetCTime(ts.Change)
	it.SetMTime(ts.Modify)
	it.SetOTime(ts.Birth)
}

// inlineItem encodes data as an uncompressed inline extent.
func (o *op) inlineItem(data []byte) []byte {
	b := make([]byte, max(ondisk.FileExtentItemSize, ondisk.FileExtentInlineStart+len(data)))
	f := ondisk.AsFileExtentItem(b)
	f.SetGeneration(o.tx.Generation())
	f.SetRAMBytes(uint64(len(data)))
	f.SetType(ondisk.FileExtentInline)
	copy(b[ondisk.FileExtentInlineStart:], data)
	return slices.Clip(b[:ondisk.FileExtentInlineStart+len(data)])
}

// InitRoot inserts the top directory of a new file tree, inode 256, on the caller's handle: one link, and a reference
// to itself of the name "..". The tree is empty and nobody else has it yet. Only mode (0755 if 0), owner, times and
// flags of a are used.
func InitRoot(ctx context.Context, tx Txn, cfg *Config, tree Tree, a Attr) error {
	if a.Mode == 0 {
		a.Mode = 0o755
	}
	a.Xattrs = nil
	o := New(cfg, tree).with(tx)
	return o.insertInode(ctx, RootDir, RootDir, 0, "..", &newInode{Attr: a, mode: ondisk.ModeDir | a.Mode&ondisk.ModePerm})
}
