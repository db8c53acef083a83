package send

import (
	"bytes"

	"imgtool/engine/ondisk"
)

// current is the inode that the walk is at. mode, size and so on are those of the sent tree, of a deleted inode those of
// the parent.
type current struct {
	inodeInfo
	isNew   bool
	newGen  bool // the number belongs to another inode in the parent
	deleted bool
	ignore  bool // without links: it is not there
	done    bool // finish has said all about it

	path    string // see sender.path
	lastEnd uint64 // end of the last extent looked at, noExtent if none was
	written uint64 // up to where the file has been written
	endDone bool   // the parent's end has been looked at, see sendOldEnd
	cut     uint64 // if not 0, up to where an extent has that is shorter than its range
	caps    []byte // the capabilities of a new inode, if it has any
}

func (c *current) id() inoGen  { return inoGen{c.ino, c.gen} }
func (c *current) isReg() bool { return c.mode&ondisk.ModeFmt == ondisk.ModeReg }

// change is what became of an item from the parent to the sent tree.
type change uint8

const (
	added change = iota
	removed
	changed
	same
)

// visitsSame reports whether items of a type are visited also if both trees have the same: names, for a directory may
// be another one under the same number, and extents, for the hole before one may be new.
func visitsSame(t ondisk.ItemType) bool {
	return t == ondisk.InodeRefKey || t == ondisk.InodeExtrefKey || t == ondisk.ExtentDataKey
}

// visit takes the next item that differs, or, of two equal ones, those of visitsSame. left is the sent
// tree's, right the parent's, nil where there is none. They are in private copies of leaves.
func (s *sender) visit(c change, left, right *item) error {
	it := left
	if it == nil {
		it = right
	}
	k := it.key
	if c == same {
		if k.Type == ondisk.ExtentDataKey {
			if k.ObjectID != s.cur.ino || !s.holesCount() {
				return nil
			}
			e, err := s.send.extentOf(left)
			if err != nil {
				return err
			}
			return s.holeBefore(&e)
		}
		other, err := s.dirsDiffer(left)
		if err != nil || !other {
			return err
		}
		c = changed
	}
	if k.ObjectID != s.cur.ino {
		if err := s.finish(); err != nil {
			return err
		}
	} else if k.Type > ondisk.InodeExtrefKey {
		if err := s.settleRefs(); err != nil {
			return err
		}
	}
	if k.ObjectID < topDir || k.ObjectID > ondisk.LastFreeObjectID {
		return nil // the free-ino cache of old kernels, and orphan items
	}
	if k.Type == ondisk.InodeItemKey {
		return s.enter(c, left, right)
	}
	switch {
	case s.cur.ignore:
		return nil
	case k.ObjectID == s.cur.ino:
		return s.visitItem(c, left, right)
	case k.Type == ondisk.InodeRefKey || k.Type == ondisk.InodeExtrefKey || k.Type == ondisk.XattrItemKey:
		return s.send.corrupt(k.ObjectID, "item %v has changed and the inode has not", k)
	}
	return nil // an extent has moved on the disk
}

// visitItem takes an item of the current inode.
func (s *sender) visitItem(c change, left, right *item) error {
	if s.cur.newGen {
		return nil // enter has dealt with all items
	}
	k := left
	if k == nil {
		k = right
	}
	switch k.key.Type {
	case ondisk.InodeRefKey, ondisk.InodeExtrefKey:
		if s.cur.ino == topDir {
			return nil
		}
		if c != removed {
			if err := s.recordRefs(s.send, left.key, left.data); err != nil {
				return err
			}
		}
		if c != added {
			return s.recordRefs(s.parent, right.key, right.data)
		}
	case ondisk.XattrItemKey:
		if !s.cur.deleted {
			return s.visitXattrs(left, right)
		}
	case ondisk.ExtentDataKey:
		if !s.cur.deleted && c != removed {
			e, err := s.send.extentOf(left)
			if err != nil {
				return err
			}
			return s.processExtent(&e)
		}
	}
	return nil
}

// dirsDiffer reports whether a directory that a name item names is another one in the parent, under the same number.
func (s *sender) dirsDiffer(it *item) (differ bool, err error) {
	bad := s.send.eachName(it.key, it.data, func(dir ondisk.ObjectID, _ []byte) bool {
		if dir == s.sameDir {
			return true
		}
		var l, r inodeInfo
		if l, err = s.send.inode(dir); err == nil {
			r, err = s.parent.inode(dir)
		}
		if differ = l.gen != r.gen; err == nil && !differ {
			s.sameDir = dir
		}
		return err == nil && !differ
	})
	if err == nil {
		err = bad
	}
	return differ, err
}

// enter makes an inode the current one.
func (s *sender) enter(c change, left, right *item) error {
	var now, was inodeInfo
	var err error
	if left != nil {
		if now, err = parseInode(s.send, left.key.ObjectID, left.data); err != nil {
			return err
		}
		s.send.at(&now)
	}
	if right != nil {
		if was, err = parseInode(s.parent, right.key.ObjectID, right.data); err != nil {
			return err
		}
		s.parent.at(&was)
	}
	s.cur = current{inodeInfo: now, lastEnd: noExtent}
	if left == nil {
		s.cur.inodeInfo = was
	}
	s.progress = s.cur.ino
	if c != removed {
		s.sent.Inodes++
		s.stats.Inodes.Add(1)
	}
	switch c {
	case added:
		if s.cur.ignore = now.nlink == 0; s.cur.ignore {
			return nil
		}
		s.cur.isNew = true
		return s.create()
	case removed:
		s.cur.deleted = true
		return nil
	}
	s.cur.ignore = now.nlink == 0 && was.nlink == 0
	s.cur.newGen = !s.cur.ignore && ((now.gen != was.gen && s.cur.ino != topDir) || now.nlink == 0 || was.nlink == 0)
	if s.cur.newGen {
		return s.replace(&now, &was)
	}
	return nil
}

// create makes a new inode under its temporary name, unless it is a directory that something in it has needed before.
func (s *sender) create() error {
	if s.cur.ino == topDir {
		return nil
	}
	if s.cur.isDir() && s.made[s.cur.ino] {
		delete(s.made, s.cur.ino)
		return nil
	}
	return s.sendCreate(&s.cur.inodeInfo)
}

// replace deals with a number that belongs to two inodes, one in each tree: the one goes, with all that it has, and the
// other comes.
func (s *sender) replace(now, was *inodeInfo) error {
	if was.nlink > 0 {
		s.cur.inodeInfo, s.cur.deleted = *was, true
		if err := s.allRefs(s.parent); err != nil {
			return err
		}
	}
	if now.nlink == 0 {
		return nil
	}
	s.cur = current{inodeInfo: *now, isNew: true, newGen: true, lastEnd: noExtent}
	if err := s.create(); err != nil {
		return err
	}
	if err := s.allRefs(s.send); err != nil {
		return err
	}
	s.progress = s.cur.ino + 1
	ino := s.cur.ino
	err := s.send.each(keyOf(ino, ondisk.ExtentDataKey, 0), keyOf(ino, ondisk.ExtentDataKey, noExtent), 0, func(it *item) (bool, error) {
		e, err := s.send.extentOf(it)
		if err == nil {
			err = s.processExtent(&e)
		}
		return true, err
	})
	if err != nil {
		return err
	}
	return s.send.each(keyOf(ino, ondisk.XattrItemKey, 0), keyOf(ino, ondisk.XattrItemKey, noExtent), 0, func(it *item) (bool, error) {
		return true, s.visitXattrs(it, nil)
	})
}

// allRefs deals with all names that the current inode has in one tree.
func (s *sender) allRefs(t *tree) error {
	ino := s.cur.ino
	err := t.each(keyOf(ino, ondisk.InodeRefKey, 0), keyOf(ino, ondisk.InodeExtrefKey, noExtent), 0, func(it *item) (bool, error) {
		return true, s.recordRefs(t, it.key, it.data)
	})
	if err != nil {
		return err
	}
	_, err = s.processRefs() // a move that waits: the inode goes to its place when it comes
	return err
}

// settleRefs deals with the names of the current inode if there are any to be dealt with.
func (s *sender) settleRefs() error {
	if s.newRefs.n == 0 && s.oldRefs.n == 0 || s.cur.ignore {
		s.newRefs.reset()
		s.oldRefs.reset()
		return nil
	}
	waits, err := s.processRefs()
	if err != nil {
		return err
	}
	if !waits { // a directory that waits stays where it is
		s.progress = s.cur.ino + 1
	}
	return s.trimTimes()
}

const capsName = "security.capability"

// emptyACL is what an ACL without entries is sent as: receivers refuse an attribute without a value. It is the version of
// the format alone.
var emptyACL = []byte{2, 0, 0, 0}

// visitXattrs sends the attributes that differ between two items of one hash; either may be nil.
func (s *sender) visitXattrs(left, right *item) error {
	if left != nil {
		if err := s.xattrsOf(s.send, left, right, s.setXattr); err != nil {
			return err
		}
	}
	if right != nil {
		return s.xattrsOf(s.parent, right, left, func(e, other *ondisk.DirEntry) error {
			if other != nil || s.inherits(e.Name) {
				return nil
			}
			path, err := s.curPath()
			if err != nil {
				return err
			}
			return s.sendRemoveXattr(path, e.Name)
		})
	}
	return nil
}

// xattrsOf calls fn for each attribute of an item, with that of the same name in the other item or nil.
func (s *sender) xattrsOf(t *tree, it, other *item, fn func(e, other *ondisk.DirEntry) error) error {
	var err error
	bad := ondisk.DirEntries(it.data, func(e ondisk.DirEntry) bool {
		var match *ondisk.DirEntry
		if other != nil {
			_ = ondisk.DirEntries(other.data, func(o ondisk.DirEntry) bool { // its own turn finds the damage
				if bytes.Equal(o.Name, e.Name) {
					match = &o
				}
				return match == nil
			})
		}
		err = fn(&e, match)
		return err == nil
	})
	if err == nil && bad != nil {
		err = t.corrupt(it.key.ObjectID, "attributes %v: %v", it.key, bad)
	}
	return err
}

func (s *sender) setXattr(e, other *ondisk.DirEntry) error {
	if other != nil && bytes.Equal(e.Data, other.Data) || s.inherits(e.Name) {
		return nil
	}
	if string(e.Name) == capsName { // finish sends them, behind the owner that would clear them
		s.cur.caps = bytes.Clone(e.Data)
		return nil
	}
	path, err := s.curPath()
	if err != nil {
		return err
	}
	return s.sendSetXattr(path, e.Name, sentValue(string(e.Name), e.Data))
}

// sentValue is what an attribute's value is sent as.
func sentValue(name string, value []byte) []byte {
	if len(value) == 0 && (name == "system.posix_acl_access" || name == "system.posix_acl_default") {
		return emptyACL
	}
	return value
}
