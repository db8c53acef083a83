package send

import (
	"context"
	"errors"

	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

const (
	topDir     = ondisk.FirstFreeObjectID
	sectorSize = ondisk.SectorSize
)

// Bounds of the caches of one tree, in entries: some 200 bytes each with their names.
const (
	cachedInodes = 8192
	cachedRefs   = 8192
)

// extentsAhead is how many leaves of the extent tree a full send reads at once: the data of files made one after the
// other lies mostly so on the disk. What an incremental one asks for may be anywhere.
const extentsAhead = 8

// tree is one subvolume that the sender reads. What it returns are copies; it is for the sender's goroutine.
type tree struct {
	s    *sender
	id   ondisk.TreeID
	view *commitview.View
	item ondisk.RootItem

	source int       // index in sender.sources, if it is one of them
	last   inodeInfo // of the inode that the walk is at

	inodes cache[ondisk.ObjectID, inodeInfo]
	refs   cache[ondisk.ObjectID, firstRef]
	leaves []*leaf        // copied last, the last used first
	spare  []ondisk.Block // buffers for blocks that are not in use
}

// inodeInfo is what a send wants to know of an inode; ino 0 stands for one that is not there.
type inodeInfo struct {
	ino        ondisk.ObjectID
	gen        ondisk.Generation
	size, rdev uint64
	flags      uint64
	mode       uint32
	uid, gid   uint32
	nlink      uint32
	times      [48]byte // access, change, modification, birth, as on disk
}

// Where the time stamps are in inodeInfo.times, and how long each is.
const (
	timeSize = 12
	aTime    = 0 * timeSize
	cTime    = 1 * timeSize
	mTime    = 2 * timeSize
	oTime    = 3 * timeSize
	timesAt  = 112 // in the inode item
)

func (i *inodeInfo) exists() bool { return i.ino != 0 }
func (i *inodeInfo) linked() bool { return i.ino != 0 && i.nlink != 0 }
func (i *inodeInfo) isDir() bool  { return i.mode&ondisk.ModeFmt == ondisk.ModeDir }

// firstRef is the name by which an inode is addressed: the first that its items tell. dir 0: it has none.
type firstRef struct {
	dir  ondisk.ObjectID
	name string
}

func openTree(ctx context.Context, s *sender, id ondisk.TreeID) (*tree, error) {
	root, err := s.subvols.Readable(ctx, id)
	if err != nil {
		return nil, err
	}
	ahead := 0
	if id == ondisk.ExtentTree && s.o.Parent == 0 {
		ahead = extentsAhead
	}
	view, err := commitview.Open(ctx, s.db, id, commitview.Options{Policy: s.o.Policy, AllowUnsafe: s.o.AllowUnsafe,
		Counters: s.o.Counters, Name: s.label, Ahead: ahead, Hidden: s.subvols.IsHidden(id)})
	if err != nil {
		return nil, err
	}
	s.views = append(s.views, view)
	return &tree{s: s, id: id, view: view, item: root.Snapshot(),
		inodes: newCache[ondisk.ObjectID, inodeInfo](cachedInodes), refs: newCache[ondisk.ObjectID, firstRef](cachedRefs)}, nil
}

func keyOf(ino ondisk.ObjectID, t ondisk.ItemType, off uint64) ondisk.Key {
	return ondisk.Key{ObjectID: ino, Type: t, Offset: off}
}

func (t *tree) corrupt(ino ondisk.ObjectID, format string, args ...any) *fserr.Corrupt {
	c := fserr.Corruptf("inode", uint64(t.id), 0, format, args...)
	c.Ino = uint64(ino)
	return c
}

// search runs one search of the view, again with a new ticket if the old one had to go. The sender holds nothing of
// the tree but copies.
func (t *tree) search(fn func() error) error {
	t.s.stats.Searches.Add(1)
	for {
		err := fn()
		if !errors.Is(err, fserr.ErrViewExpired) {
			return err
		}
		if err := t.s.quiesce(); err != nil {
			return err
		}
	}
}

// named is the UUID by which a receiver knows the subvolume: its original's, if it was itself received.
func (t *tree) named() ondisk.UUID {
	if u := t.item.ReceivedUUID(); !u.IsZero() {
		return u
	}
	return t.item.UUID()
}

func parseInode(t *tree, ino ondisk.ObjectID, item []byte) (inodeInfo, error) {
	if len(item) < ondisk.InodeItemSize {
		return inodeInfo{}, t.corrupt(ino, "inode item of %d bytes", len(item))
	}
	it := ondisk.AsInodeItem(item)
	in := inodeInfo{ino: ino, gen: it.Generation(), size: it.Size(), rdev: it.Rdev(), flags: it.Flags(), mode: it.Mode(),
		uid: it.UID(), gid: it.GID(), nlink: it.NLink()}
	copy(in.times[:], item[timesAt:])
	return in, nil
}

// inode returns an inode; see inodeInfo.exists.
func (t *tree) inode(ino ondisk.ObjectID) (in inodeInfo, err error) {
	if ino == t.last.ino && ino != 0 {
		t.s.stats.CacheHits.Add(1)
		return t.last, nil
	}
	if in, ok := t.inodes.get(ino); ok {
		t.s.stats.CacheHits.Add(1)
		return in, nil
	}
	_, err = t.find(keyOf(ino, ondisk.InodeItemKey, 0), func(item []byte) error {
		var err error
		in, err = parseInode(t, ino, item)
		return err
	})
	if err == nil {
		t.inodes.put(ino, in)
	}
	return in, err
}

// at notes the inode that the walk has come to. Of those that it has passed, directories are asked for again.
func (t *tree) at(in *inodeInfo) {
	t.last = *in
	if in.isDir() {
		t.inodes.put(in.ino, *in)
	}
}

// gen returns the generation of an inode that must be there.
func (t *tree) gen(ino ondisk.ObjectID) (ondisk.Generation, error) {
	in, err := t.inode(ino)
	if err == nil && !in.exists() {
		err = t.corrupt(ino, "a name refers to it but it is not there")
	}
	return in.gen, err
}

// eachName calls fn for the names of an INODE_REF or INODE_EXTREF item, until it says no more.
func (t *tree) eachName(k ondisk.Key, item []byte, fn func(dir ondisk.ObjectID, name []byte) bool) error {
	visit := func(r ondisk.NameRef) bool { return fn(r.Parent, r.Name) }
	var err error
	if k.Type == ondisk.InodeRefKey {
		err = ondisk.InodeRefs(item, ondisk.ObjectID(k.Offset), visit)
	} else {
		err = ondisk.InodeExtrefs(item, visit)
	}
	if err != nil {
		return t.corrupt(k.ObjectID, "name item %v: %v", k, err)
	}
	return nil
}

// first returns the first name of an inode.
func (t *tree) first(ino ondisk.ObjectID) (r firstRef, err error) {
	if r, ok := t.refs.get(ino); ok {
		t.s.stats.CacheHits.Add(1)
		return r, nil
	}
	err = t.each(keyOf(ino, ondisk.InodeRefKey, 0), keyOf(ino, ondisk.InodeExtrefKey, ^uint64(0)), 0, func(it *item) (bool, error) {
		return false, t.eachName(it.key, it.data, func(dir ondisk.ObjectID, name []byte) bool {
			r = firstRef{dir, string(name)}
			return false
		})
	})
	if err == nil {
		t.refs.put(ino, r)
	}
	return r, err
}

// mustFirst is first for an inode that must have a name, with the directory's generation.
func (t *tree) mustFirst(ino ondisk.ObjectID) (r firstRef, gen ondisk.Generation, err error) {
	if r, err = t.first(ino); err != nil {
		return r, 0, err
	}
	if r.dir == 0 {
		return r, 0, t.corrupt(ino, "it has no name")
	}
	gen, err = t.gen(r.dir)
	return r, gen, err
}

// lookup finds which inode a name in a directory leads to, 0 if none; an entry of a subvolume leads to none.
func (t *tree) lookup(dir ondisk.ObjectID, name string) (ino ondisk.ObjectID, err error) {
	_, err = t.find(keyOf(dir, ondisk.DirItemKey, ondisk.NameHash([]byte(name))), func(item []byte) error {
		err := ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
			if string(d.Name) != name {
				return true
			}
			if loc := d.Location(); loc.Type == ondisk.InodeItemKey {
				ino = loc.ObjectID
			}
			return false
		})
		if err != nil {
			return t.corrupt(dir, "directory item of %q: %v", name, err)
		}
		return nil
	})
	return ino, err
}

// has reports whether a directory has a name, be it of an inode or of a subvolume.
func (t *tree) has(dir ondisk.ObjectID, name string) (yes bool, err error) {
	_, err = t.find(keyOf(dir, ondisk.DirItemKey, ondisk.NameHash([]byte(name))), func(item []byte) error {
		return ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
			yes = yes || string(d.Name) == name
			return !yes
		})
	})
	return yes, err
}

// symlink returns the target of a symbolic link, which is one inline extent.
func (t *tree) symlink(ino ondisk.ObjectID) (target []byte, err error) {
	key := keyOf(ino, ondisk.ExtentDataKey, 0)
	found, err := t.find(key, func(item []byte) error {
		e, err := t.parseExtent(key, item)
		if err != nil {
			return err
		}
		if e.typ != ondisk.FileExtentInline || e.comp != ondisk.CompressNone {
			return t.corrupt(ino, "symbolic link with an extent of type %d, compression %d", e.typ, e.comp)
		}
		target = append([]byte{}, e.inline...)
		return nil
	})
	if err == nil && !found {
		err = t.corrupt(ino, "symbolic link without a target")
	}
	return target, err
}

// isAbove reports whether a directory lies above an inode on any of its paths in this tree.
func (t *tree) isAbove(dir inoGen, ino ondisk.ObjectID) (bool, error) {
	var ups []ondisk.ObjectID
	err := t.each(keyOf(ino, ondisk.InodeRefKey, 0), keyOf(ino, ondisk.InodeExtrefKey, ^uint64(0)), 0, func(it *item) (bool, error) {
		return true, t.eachName(it.key, it.data, func(up ondisk.ObjectID, _ []byte) bool {
			if len(ups) == 0 || ups[len(ups)-1] != up {
				ups = append(ups, up)
			}
			return true
		})
	})
	if err != nil {
		return false, err
	}
	for _, up := range ups {
		gen, err := t.gen(up)
		if err != nil {
			return false, err
		}
		above, err := t.isOrIsAbove(dir, inoGen{up, gen})
		if err != nil || above {
			return above, err
		}
	}
	return false, nil
}

func (t *tree) isOrIsAbove(dir, id inoGen) (bool, error) {
	if dir.ino == id.ino {
		return dir.gen == id.gen, nil
	}
	ino := id.ino
	for depth := 0; ino > topDir; depth++ {
		r, gen, err := t.mustFirst(ino)
		if err != nil {
			return false, err
		}
		if r.dir == dir.ino {
			return gen == dir.gen, nil
		}
		if depth > maxDepth {
			return false, t.corrupt(ino, "its directories lead round in a circle")
		}
		ino = r.dir
	}
	return false, nil
}

// xattr returns a copy of the value of an extended attribute, nil if there is none.
func (t *tree) xattr(ino ondisk.ObjectID, name string) (value []byte, err error) {
	_, err = t.find(keyOf(ino, ondisk.XattrItemKey, ondisk.NameHash([]byte(name))), func(item []byte) error {
		err := ondisk.DirEntries(item, func(d ondisk.DirEntry) bool {
			if string(d.Name) == name {
				value = append([]byte{}, d.Data...)
			}
			return true
		})
		if err != nil {
			return t.corrupt(ino, "attribute %q: %v", name, err)
		}
		return nil
	})
	return value, err
}

// item is one item in a private copy of its leaf.
type item struct {
	key   ondisk.Key
	data  []byte
	owner ondisk.TreeID // of the leaf
	leaf  ondisk.Logical
	gen   ondisk.Generation // of the leaf
	slot  int
}

// each calls fn for the items from one key to another until it says no more. Between leaves and while fn runs nothing of
// the tree is held; fn may search and encode. Leaves of which none is read ahead are for look-ups and are kept.
func (t *tree) each(from, to ondisk.Key, ahead int, fn func(it *item) (more bool, err error)) error {
	for {
		l, slot, err := t.leafAt(from, ahead)
		if err != nil || l == nil {
			return err
		}
		last := l.last
		more, err := l.each(slot, to, fn)
		t.release(l)
		if err != nil || !more || !last.Less(to) {
			return err
		}
		from = last.Next()
	}
}
