package inode

import (
	"context"
	"errors"
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
	// batch's data; of an empty one it is neither. Where some of it is compressed it is Parts.
	Size    uint64
	Inline  []byte
	DataOff int
	Parts   []BulkPart
}

// BulkPart is a range of a file's content, from a multiple of the sector size on: plain, or a compressed frame. The parts
// of a file follow one another from its beginning to its end.
type BulkPart struct {
	Encoded     // Algorithm ondisk.CompressNone: plain, and RAMLen and RAMOff are not used
	DataOff int // of the plain bytes or the frame in the batch's data
	Disk    int // whole sectors that they take there, with zeros behind their end
}

// plain is the content of an entry without Parts.
func (e *BulkEntry) plain() BulkPart {
	return BulkPart{Encoded: Encoded{Len: int64(e.Size)}, DataOff: e.DataOff, Disk: int(alignUp(e.Size))}
}

// Check refuses a frame of n bytes that no compressed extent can hold (fserr.ErrInvalid).
func (e *Encoded) Check(n int) error { return e.check(n) }

// errScattered says that the free space is in pieces and a compressed extent would not lie in one of them.
var errScattered = errors.New("free space lies in pieces too small for a compressed extent")

// Batch is what one Bulk makes: entries of a few directories, those of one directory one after the other.
type Batch struct {
	Entries []BulkEntry
	// Data is the content of the files that do not lie inline, each from a multiple of the sector size on and with
	// zeros up to the next; Sums are the checksums of its sectors. Both stay as they are until Insert has returned.
	Data, Sums []byte
	// Existing is the one directory among those of the entries that others may have put names in: there names are
	// looked up first (fserr.ErrExist), and its times change. The others keep their times.
	Existing ondisk.ObjectID
	// Exclusive says that nobody else changes the tree until Insert has returned but by Insert of the Bulks before this
	// one, as in a subvolume that is being received. No inode is locked and entries may lie in any number of directories;
	// the caller has looked up all names. The entries inherit nothing, and times change as with single operations.
	Exclusive bool
	// Attrs are changes to inodes that are there before the batch or through it, behind everything else. Only an
	// Exclusive batch may have some, for nothing locks those inodes.
	Attrs []AttrChange
}

// AttrChange is a SetAttrs that is part of a Batch.
type AttrChange struct {
	Ino ondisk.ObjectID
	Set SetAttr
}

// MaxBulkDirs is how many directories the entries of one Batch may lie in, if it is not Exclusive.
const MaxBulkDirs = len(lockset{}.idx)

// Bulk makes many inodes as one operation, which costs a small part of what as many operations would: neighbouring
// items go into the tree together, and the data goes to the device in one piece. StartBulk begins to write the data,
// Insert waits for that and makes the trees tell of it, or Abandon does not; between the two the next Bulks of other
// directories may start. It belongs to one goroutine at a time.
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

// StartBulk locks the directories, starts the operation and begins to write the data. Insert or Abandon must follow. Errors:
// those of Create and WriteAt; nothing has changed then.
func (t *FileTree) StartBulk(ctx context.Context, b *Batch) (*Bulk, error) {
	dirs, err := t.checkBatch(b)
	if err != nil {
		return nil, err
	}
	k := &Bulk{b: b}
	if !b.Exclusive {
		k.locks = t.lock(dirs...)
	}
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

// CheckXattrs refuses attributes that no new inode can have together.
func (t *FileTree) CheckXattrs(xs []Xattr) error { return t.checkXattrs(xs) }

// Now is the time that an operation would take for the present.
func (t *FileTree) Now() ondisk.Timespec { return t.cfg.now() }

// checkBatch finds the caller's mistakes, and the directories.
func (t *FileTree) checkBatch(b *Batch) ([]ondisk.ObjectID, error) {
	dirs := make([]ondisk.ObjectID, 0, MaxBulkDirs)
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
		if i > 0 && e.Dir == b.Entries[i-1].Dir {
			continue
		}
		if b.Exclusive || !slices.Contains(dirs, e.Dir) {
			dirs = append(dirs, e.Dir)
		}
	}
	if !b.Exclusive && (len(dirs) > MaxBulkDirs || len(b.Attrs) > 0) || len(b.Data)%sectorSize != 0 || len(b.Sums) != len(b.Data)/sectorSize*t.csum.Size() {
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
	}
	return nil
}

// bulkItems is the reservation: the paths to the places where items go (for each directory its inode, names and
// indexes; the new inodes; checksums), a leaf for each name, since its hash may lead to one where no other goes, with as
// many nodes and splits as come of that, and blocks for the items themselves, which may be left half full.
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
	names := len(b.Entries) * 5 / 4
	return 3*dirs + 4 + (names+2*n/t.cfg.NodeSize)/pathBlocks + len(b.Attrs)
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
	if err := k.checkPlaced(); err != nil {
		k.unalloc()
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

// checkPlaced finds out whether each compressed extent lies in one piece.
func (k *Bulk) checkPlaced() error {
	if len(k.pieces) == 1 {
		return nil
	}
	for i := range k.b.Entries {
		for _, part := range k.b.Entries[i].Parts {
			if part.Algorithm != ondisk.CompressNone && !k.inOnePiece(&part) {
				return fmt.Errorf("%q: %w", k.b.Entries[i].Name, errScattered)
			}
		}
	}
	return nil
}

func (k *Bulk) inOnePiece(part *BulkPart) bool {
	from, to := uint64(part.DataOff), uint64(part.DataOff+part.Disk)
	return slices.ContainsFunc(k.pieces, func(p Extent) bool { return from >= p.Start && to <= p.Start+p.DiskLen })
}

// unalloc gives the space of the data back, of which nobody has been told.
func (k *Bulk) unalloc() {
	for _, p := range k.pieces {
		k.o.t.cfg.Store.UnallocData(p.Addr, p.DiskLen)
	}
}

// wait returns when the device has the data.
func (k *Bulk) wait() error {
	if k.written == nil {
		return nil
	}
	return <-k.written
}
