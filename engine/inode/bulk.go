package inode

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// BulkEntry is one new inode with its name, to be made by a Bulk together with others.
type BulkEntry struct {
	Dir    ondisk.ObjectID
	Name   string
	Ino    ondisk.ObjectID // from ReserveInos
	Attr   Attr            // Mode with its type bits; nothing but flags is inherited from the directory
	Rdev   uint64          // of a device, MakeRdev's
	Target string          // of a symbolic link
	// Size is a regular file's. Its content is Inline, of at most InlineLimit bytes, or lies from DataOff on in the
	// batch's data; of an empty one it is neither.
	Size    uint64
	Inline  []byte
	DataOff int
}

// Batch is what one Bulk makes: entries of a few directories, those of one directory one after the other.
type Batch struct {
	Entries []BulkEntry
	// Data is the content of the files that do not lie inline, each from a multiple of the sector size on and with
	// zeros up to the next; Sums are the checksums of its sectors. Both stay as they are until Insert has returned.
	Data, Sums []byte
	// Existing is the one directory among those of the entries that others may have put names in: there names are
	// looked up first (fserr.ErrExist), and its times change. The others keep their times.
	Existing ondisk.ObjectID
}

// MaxBulkDirs is how many directories the entries of one Batch may lie in.
const MaxBulkDirs = len(lockset{}.idx)

// Bulk makes many inodes as one operation, which costs a small part of what as many operations would: neighbouring
// items go into the tree together, and the data goes to the device in one piece. StartBulk begins to write the data,
// Insert waits for that and makes the trees tell of it; between the two the next Bulks of other directories may start. It belongs to one goroutine at a
// time.
type Bulk struct {
	o      op
	b      *Batch
	locks  lockset
	pieces []Extent // where the data lies: Start is the offset in Data

	written chan error                            // of the data; nil if there is none
	items   []Item                                // gathered by Insert
	fresh   map[ondisk.ObjectID]*ondisk.InodeItem // directories among them
}

// InlineLimit is the size in bytes up to which a regular file lies inline.
func (t *FileTree) InlineLimit() int { return int(t.cfg.maxInline()) }

// Csum is the checksum algorithm of data.
func (t *FileTree) Csum() ondisk.CsumType { return t.csum }

// ReserveInos takes n free inode numbers, ascending from the returned one.
func (t *FileTree) ReserveInos(ctx context.Context, n int) (first ondisk.ObjectID, err error) {
	if !t.inoKnown.Load() {
		if err := t.findNextIno(ctx); err != nil {
			return 0, err
		}
	}
	end := t.nextIno.Add(uint64(n))
	if ondisk.ObjectID(end) > ondisk.LastFreeObjectID {
		return 0, fmt.Errorf("tree %v has no %d free inode numbers: %w", t.id, n, fserr.ErrNoSpace)
	}
	return ondisk.ObjectID(end - uint64(n)), nil
}

// StartBulk locks the directories, starts the operation and begins to write the data. Insert must follow. Errors: those of
// Create and WriteAt; nothing has changed then.
func (t *FileTree) StartBulk(ctx context.Context, b *Batch) (*Bulk, error) {
	dirs, err := t.checkBatch(b)
	if err != nil {
		return nil, err
	}
	k := &Bulk{b: b, locks: t.lock(dirs...)}
	if b.Existing != 0 {
		if err := t.checkNames(ctx, b); err != nil {
			k.locks.unlock()
			return nil, err
		}
	}
	res, err := t.cfg.Store.ReserveData(ctx, uint64(len(b.Data)))
	if err == nil {
		if k.o, err = t.begin(ctx, t.bulkItems(b, len(dirs)), false); err != nil {
			res.Release()
		}
	}
	if err != nil {
		k.locks.unlock()
		return nil, err
	}
	err = k.place(ctx)
	res.Release() // what it promised has been allocated
	if err != nil {
		err = k.o.end(ctx, fmt.Errorf("%d bytes of data for %d files: %w", len(b.Data), len(b.Entries), err))
		k.locks.unlock()
		return nil, err
	}
	return k, nil
}

// checkBatch finds the caller's mistakes, and the directories.
func (t *FileTree) checkBatch(b *Batch) ([]ondisk.ObjectID, error) {
	var dirs []ondisk.ObjectID
	for i := range b.Entries {
		e := &b.Entries[i]
		if err := checkName(e.Name); err != nil {
			return nil, err
		}
		if err := t.checkXattrs(e.Attr.Xattrs); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Name, err)
		}
		if limit := ondisk.MaxItemSize(t.cfg.NodeSize) - ondisk.FileExtentInlineStart; len(e.Target) > limit {
			return nil, fmt.Errorf("symbolic link %q: target of %d bytes, at most %d are possible: %w", e.Name, len(e.Target), limit, fserr.ErrNameTooLong)
		}
		if !slices.Contains(dirs, e.Dir) {
			dirs = append(dirs, e.Dir)
		}
	}
	if len(dirs) > MaxBulkDirs || len(b.Data)%sectorSize != 0 || len(b.Sums) != len(b.Data)/sectorSize*t.csum.Size() {
		return nil, fmt.Errorf("internal: batch of %d directories, %d bytes of data and %d of checksums: %w", len(dirs), len(b.Data), len(b.Sums), fserr.ErrInvalid)
	}
	return dirs, nil
}

// checkNames looks up the names that go into the existing directory, and whether it may be changed at all.
func (t *FileTree) checkNames(ctx context.Context, b *Batch) error {
	s, err := t.dir(ctx, b.Existing)
	if err != nil {
		return err
	}
	if err := t.checkDirChange(b.Existing, s, false); err != nil {
		return err
	}
	for i := range b.Entries {
		if b.Entries[i].Dir != b.Existing {
			continue
		}
		name := b.Entries[i].Name
		if _, err := t.Lookup(ctx, b.Existing, name); err == nil {
			return fmt.Errorf("%q in directory %d of tree %v: %w", name, b.Existing, t.id, fserr.ErrExist)
		} else if !isNotFound(err) {
			return err
		}
		if err := t.with(nil).checkRoom(ctx, b.Existing, name); err != nil {
			return err
		}
	}
	return nil
}

// bulkItems is the reservation: the paths to the places where items go (for each directory its inode, names and
// indexes; the new inodes; checksums), and blocks for the items themselves, which may be left half full.
func (t *FileTree) bulkItems(b *Batch, dirs int) int {
	const pathBlocks = 8 // that one item of a reservation counts for
	n := len(b.Sums)
	for i := range b.Entries {
		e := &b.Entries[i]
		n += 600 + 3*len(e.Name) + len(e.Inline) + len(e.Target)
		for _, x := range e.Attr.Xattrs {
			n += 100 + len(x.Name) + len(x.Value)
		}
	}
	return 3*dirs + 4 + 2*n/t.cfg.NodeSize/pathBlocks
}

// place takes space for the data and begins to write it.
func (k *Bulk) place(ctx context.Context) error {
	data := k.b.Data
	if len(data) == 0 {
		return nil
	}
	c := change{data: data}
	var err error
	if k.pieces, err = k.o.allocate(ctx, &c, nil); err != nil {
		return err
	}
	ws := make([]volume.Write, 0, len(k.pieces)+len(data)/writePiece)
	for _, p := range k.pieces {
		for at := uint64(0); at < p.DiskLen; at += writePiece {
			end := min(at+writePiece, p.DiskLen)
			ws = append(ws, volume.Write{Addr: p.Addr + ondisk.Logical(at), Buf: data[p.Start+at : p.Start+end]})
		}
	}
	k.written = make(chan error, 1)
	go func() { k.written <- k.o.t.cfg.Store.WriteBatch(context.WithoutCancel(ctx), ws) }()
	return nil
}

// wait returns when the device has the data.
func (k *Bulk) wait() error {
	if k.written == nil {
		return nil
	}
	err := <-k.written
	if err != nil {
		for _, p := range k.pieces {
			k.o.t.cfg.Store.UnallocData(p.Addr, p.DiskLen)
		}
	}
	return err
}

// Insert waits for the data, makes the inodes and names, and ends the operation. After an error that is not one of
// writing the data the transaction has been aborted.
func (k *Bulk) Insert(ctx context.Context) error {
	defer k.locks.unlock()
	err := k.wait()
	if err == nil {
		err = k.insert(k.o.start(ctx))
	}
	if err != nil {
		err = fmt.Errorf("new inodes %d to %d of tree %v: %w", k.b.Entries[0].Ino, k.b.Entries[len(k.b.Entries)-1].Ino, k.o.t.id, err)
	}
	return k.o.end(ctx, err)
}

// insert gathers the items of all directories and inodes, and puts them into the tree in the order of their keys.
func (k *Bulk) insert(ctx context.Context) error {
	k.items = make([]Item, 0, 5*len(k.b.Entries))
	k.fresh = map[ondisk.ObjectID]*ondisk.InodeItem{}
	for rest := k.b.Entries; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Dir == rest[0].Dir {
			n++
		}
		first, flags, err := k.names(ctx, rest[:n])
		if err != nil {
			return err
		}
		for i := range rest[:n] {
			if err := k.inode(&rest[i], first+uint64(i), flags); err != nil {
				return err
			}
		}
		rest = rest[n:]
	}
	slices.SortFunc(k.items, func(a, b Item) int { return a.Key.Compare(b.Key) })
	if err := k.o.t.tree.InsertBatch(ctx, k.o.tx, k.items); err != nil {
		return err
	}
	return k.o.addSums(ctx, k.pieces, k.b.Sums)
}

// names adds the names of one directory and returns the index of the first, and the directory's flags.
func (k *Bulk) names(ctx context.Context, es []BulkEntry) (first, dirFlags uint64, err error) {
	o, dir := &k.o, es[0].Dir
	var s dirState
	if it := k.fresh[dir]; it != nil {
		s = dirState{next: 2, mode: it.Mode(), gid: it.GID(), flags: it.Flags()}
	} else if s, err = o.t.dir(ctx, dir); err != nil {
		return 0, 0, err
	}
	first = s.next
	size, bytes := 0, 0
	for i := range es {
		bytes += ondisk.DirItemSize + len(es[i].Name)
	}
	space := make([]byte, 0, bytes)
	hashed := make([]Item, len(es))
	for i := range es {
		e := &es[i]
		at := len(space)
		space = o.makeEntry(space, inodeKey(e.Ino), ondisk.ModeToFT(e.Attr.Mode), e.Name)
		entry := space[at:len(space):len(space)]
		hashed[i] = Item{Key: dirItemKey(dir, entry[ondisk.DirItemSize:]), Data: entry}
		k.items = append(k.items, Item{Key: typeKey(dir, ondisk.DirIndexKey, first+uint64(i)), Data: entry})
		size += len(e.Name)
	}
	if err := k.hashedNames(ctx, hashed, first == 2); err != nil {
		return 0, 0, err
	}
	s.next += uint64(len(es))
	o.t.dirs.put(dir, s)
	if it := k.fresh[dir]; it != nil { // born in this batch
		it.SetSize(it.Size() + uint64(2*size))
		return first, s.flags, nil
	}
	touch := dir == k.b.Existing
	return first, s.flags, o.updateInode(ctx, dir, func(it *ondisk.InodeItem) {
		it.SetSize(it.Size() + uint64(2*size))
		if touch {
			it.SetCTime(o.now)
			it.SetMTime(o.now)
		}
	})
}

// hashedNames adds DIR_ITEMs. In a directory without names only these can share a hash; elsewhere each may have to go
// to an item that is there.
func (k *Bulk) hashedNames(ctx context.Context, names []Item, empty bool) error {
	if !empty {
		for _, it := range names {
			if err := k.o.addName(ctx, it.Key.ObjectID, it.Data[ondisk.DirItemSize:], it.Data); err != nil {
				return err
			}
		}
		return nil
	}
	slices.SortStableFunc(names, func(a, b Item) int { return cmp.Compare(a.Key.Offset, b.Key.Offset) })
	for i, it := range names {
		last := &k.items[len(k.items)-1]
		if i > 0 && last.Key == it.Key {
			last.Data = append(clip(last.Data), it.Data...)
			if len(last.Data) > ondisk.MaxItemSize(k.o.t.cfg.NodeSize) {
				return fmt.Errorf("%q: names of equal hash fill an item: %w", it.Data[ondisk.DirItemSize:], fserr.ErrOverflow)
			}
			continue
		}
		k.items = append(k.items, it)
	}
	return nil
}

// inode gathers the items of one new inode and queues the references of its data.
func (k *Bulk) inode(e *BulkEntry, index, dirFlags uint64) error {
	o := &k.o
	n := newInode{Attr: e.Attr, mode: e.Attr.Mode, rdev: e.Rdev, link: e.Target}
	isReg := n.mode&ondisk.ModeFmt == ondisk.ModeReg
	n.Flags |= inheritedFlags(dirFlags, isReg)
	if isReg && n.Flags&ondisk.InodeNoDataCow != 0 && e.Size > uint64(len(e.Inline)) {
		// The batch's checksums are of all its data, and a file without checksums must have none at all: it stays one
		// that has them, as if it had been moved here.
		n.Flags &^= ondisk.InodeNoDataCow | ondisk.InodeNoDataSum
	}
	var it *ondisk.InodeItem
	k.items, it = o.inodeItems(k.items, e.Ino, e.Dir, index, e.Name, &n)
	if !isReg {
		if n.mode&ondisk.ModeFmt == ondisk.ModeDir {
			k.fresh[e.Ino] = it
			o.t.dirs.put(e.Ino, dirState{next: 2, mode: n.mode, gid: n.GID, flags: n.Flags})
		}
		return nil
	}
	it.SetSize(e.Size)
	if len(e.Inline) > 0 {
		it.SetNBytes(uint64(len(e.Inline)))
		k.items = append(k.items, Item{Key: typeKey(e.Ino, ondisk.ExtentDataKey, 0), Data: o.inlineItem(e.Inline)})
		return nil
	}
	it.SetNBytes(alignUp(e.Size))
	return k.extents(e)
}

// extents gathers the EXTENT_DATA items of a file whose content was placed: one, or more where free space was in
// pieces.
func (k *Bulk) extents(e *BulkEntry) error {
	at, end := uint64(e.DataOff), uint64(e.DataOff)+alignUp(e.Size)
	for _, p := range k.pieces {
		from, to := max(at, p.Start), min(end, p.Start+p.DiskLen)
		if from >= to {
			continue
		}
		n := to - from
		x := Extent{Start: from - at, Len: n, Type: ondisk.FileExtentReg, Addr: p.Addr + ondisk.Logical(from-p.Start), DiskLen: n, RAMBytes: n}
		r := x.ref()
		if err := k.o.t.cfg.Store.AddDataRef(k.o.tx, r.addr, r.n, k.o.t.id, e.Ino, r.offset, true); err != nil {
			return err
		}
		k.items = append(k.items, Item{Key: typeKey(e.Ino, ondisk.ExtentDataKey, x.Start), Data: x.put(new([ondisk.FileExtentItemSize]byte), k.o.tx.Generation())})
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
