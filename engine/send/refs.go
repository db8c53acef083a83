package send

import (
	"slices"

	"imgtool/engine/ondisk"
)

// ref is one name of the current inode, with the whole path as it was when the name was met.
type ref struct {
	dir  ondisk.ObjectID
	gen  ondisk.Generation // of dir
	name string
	path string
}

func (r *ref) is(o *ref) bool { return r.dir == o.dir && r.gen == o.gen && r.name == o.name }

// refKey is what two names are compared by.
type refKey struct {
	dir  ondisk.ObjectID
	gen  ondisk.Generation
	name string
}

func (r *ref) key() refKey { return refKey{r.dir, r.gen, r.name} }

// manyRefs is from how many names on they are found through a map.
const manyRefs = 16

// refList is names in the order in which they were met; one that turns out to be in both trees is taken out again.
type refList struct {
	list  []*ref // with nils
	index map[refKey]int
	n     int // without nils
}

func (l *refList) add(r *ref) {
	l.list = append(l.list, r)
	l.n++
	switch {
	case len(l.list) > manyRefs:
		l.index[r.key()] = len(l.list) - 1
	case len(l.list) == manyRefs:
		l.index = map[refKey]int{}
		for i, r := range l.list {
			if r != nil {
				l.index[r.key()] = i
			}
		}
	}
}

// take takes a name out and reports whether it was there.
func (l *refList) take(r *ref) bool {
	i, ok := -1, false
	if l.index != nil {
		if i, ok = l.index[r.key()]; ok {
			delete(l.index, r.key())
		}
	} else {
		i = slices.IndexFunc(l.list, func(o *ref) bool { return o != nil && o.is(r) })
		ok = i >= 0
	}
	if ok {
		l.list[i] = nil
		l.n--
	}
	return ok
}

// all returns the names; the list is not added to any more before reset.
func (l *refList) all() []*ref {
	if l.n == len(l.list) {
		return l.list
	}
	return slices.DeleteFunc(slices.Clone(l.list), func(r *ref) bool { return r == nil })
}

func (l *refList) reset() {
	clear(l.list)
	l.list, l.n, l.index = l.list[:0], 0, nil
}

// recordRefs notes the names in an item of one of the trees, unless the other list has them: then nothing has changed.
func (s *sender) recordRefs(t *tree, k ondisk.Key, data []byte) error {
	mine, other := &s.newRefs, &s.oldRefs
	if t == s.parent {
		mine, other = other, mine
	}
	var err error
	bad := t.eachName(k, data, func(dir ondisk.ObjectID, name []byte) bool {
		r := &ref{dir: dir, name: string(name)}
		if r.gen, err = t.gen(dir); err != nil {
			return false
		}
		if other.take(r) {
			return true
		}
		if r.path, err = s.pathIn(r); err != nil {
			return false
		}
		mine.add(r)
		return true
	})
	if err != nil {
		return err
	}
	return bad
}

// pathIn is the whole path of a name as its directory is called now.
func (s *sender) pathIn(r *ref) (string, error) {
	dir, err := s.path(r.dir, r.gen)
	return join(dir, r.name), err
}

// refsDue is the work on the names of the current inode, once they are all known.
type refsDue struct {
	s          *sender
	new, old   []*ref
	at         string // where the inode is at the receiver
	orphan     bool   // it has its temporary name
	mayMove    bool
	waits      bool // a directory that moves later
	movedDir   bool // some directory has got its temporary name: paths met before may be wrong
	movedAbove bool // one above the current inode has
	dirs       []inoGen
}

// processRefs does what the changed names of the current inode ask for; waits tells that a directory's move has been put
// off.
func (s *sender) processRefs() (waits bool, err error) {
	d := &s.due
	*d = refsDue{s: s, new: s.newRefs.all(), old: s.oldRefs.all(), mayMove: true, dirs: d.dirs[:0]}
	if err = d.start(); err == nil {
		err = d.clearTheWay()
	}
	if err == nil {
		err = d.placeNew()
	}
	if err == nil {
		err = d.dropOld()
	}
	if err == nil {
		err = d.visitDirs()
	}
	s.newRefs.reset()
	s.oldRefs.reset()
	return d.waits, err
}

func (d *refsDue) start() error {
	s := d.s
	if s.cur.ino <= topDir {
		return s.send.corrupt(s.cur.ino, "the top directory has a name")
	}
	id := s.cur.id()
	d.orphan = s.cur.isNew
	if !d.orphan {
		var err error
		if d.orphan, err = s.firstOverwritten(id); err != nil {
			return err
		}
	}
	var err error
	if d.orphan {
		d.at, err = s.spareName(id.ino, id.gen)
	} else {
		d.at, err = s.path(id.ino, id.gen)
	}
	return err
}

// clearTheWay gives those who stand where the new names are due their temporary names. It comes first for all names: a
// path to one of them may lead through a directory that stands in the way of another.
func (d *refsDue) clearTheWay() error {
	s := d.s
	if s.parent == nil {
		return nil
	}
	for _, r := range d.new {
		st, _, _, err := s.stateOf(inoGen{r.dir, r.gen})
		if err != nil {
			return err
		}
		if st == willCreate {
			continue
		}
		who, yes, err := s.inTheWay(r)
		if err != nil {
			return err
		}
		if yes {
			if err := d.evict(r, &who); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *refsDue) evict(r *ref, who *inodeInfo) error {
	s := d.s
	first, err := s.parent.first(who.ino)
	if err != nil {
		return err
	}
	if d.movedDir {
		if r.path, err = s.pathIn(r); err != nil {
			return err
		}
	}
	if first.dir != r.dir || first.name != r.name {
		return s.sendUnlink(r.path) // it has other names; it is met again
	}
	if err := s.orphan(inoGen{who.ino, who.gen}, r.path); err != nil {
		return err
	}
	if who.isDir() {
		d.movedDir = true
	}
	if w := s.waiting[who.ino]; w != nil {
		w.orphaned = true
	}
	above, err := s.parent.isAbove(inoGen{who.ino, who.gen}, s.cur.ino)
	if err != nil || !above {
		return err
	}
	d.movedAbove = true
	s.cur.path = ""
	d.at, err = s.path(s.cur.ino, s.cur.gen)
	return err
}

// orphan renames an inode to its temporary name.
func (s *sender) orphan(id inoGen, path string) error {
	name, err := s.spareName(id.ino, id.gen)
	if err != nil {
		return err
	}
	s.epoch++
	if err := s.sendRename(path, name); err != nil {
		return err
	}
	if id == s.cur.id() {
		s.cur.path = name
	}
	return nil
}

// placeNew gives the inode its new names: the first by renaming if it has its temporary name or is a directory, the
// others as links.
func (d *refsDue) placeNew() error {
	s := d.s
	for i, r := range d.new {
		if err := d.makeDir(i); err != nil {
			return err
		}
		if s.cur.isDir() && s.parent != nil {
			if err := d.putOff(r); err != nil {
				return err
			}
		}
		var err error
		switch {
		case !d.mayMove:
		case d.orphan || s.cur.isDir():
			err = d.rename(r)
		default:
			if d.movedDir {
				if r.path, err = s.pathIn(r); err != nil {
					return err
				}
			}
			err = s.sendLink(r.path, d.at)
		}
		if err != nil {
			return err
		}
		d.check(r)
	}
	return nil
}

// makeDir makes the directory of the i-th new name, if it comes later in the walk and nobody has made it yet.
func (d *refsDue) makeDir(i int) error {
	s, r := d.s, d.new[i]
	st, _, _, err := s.stateOf(inoGen{r.dir, r.gen})
	if err != nil || st != willCreate || s.made[r.dir] {
		return err
	}
	in, err := s.send.inode(r.dir)
	if err != nil {
		return err
	}
	if err := s.sendCreate(&in); err != nil {
		return err
	}
	s.made[r.dir] = true
	return nil
}

// putOff looks whether a directory has to wait until another one has moved.
func (d *refsDue) putOff(r *ref) error {
	wait, err := d.s.waitForName(r, d.orphan)
	if err == nil && !wait && d.mayMove {
		wait, err = d.s.waitForParent(r, d.orphan)
	}
	if wait {
		d.mayMove, d.waits = false, true
	}
	return err
}

func (d *refsDue) rename(r *ref) error {
	s := d.s
	if s.cur.isDir() && !s.cur.isNew {
		s.epoch++
	}
	if err := s.sendRename(d.at, r.path); err != nil {
		return err
	}
	d.orphan = false
	d.at, s.cur.path = r.path, r.path
	return nil
}

func (d *refsDue) check(r *ref) {
	id := inoGen{r.dir, r.gen}
	if !slices.Contains(d.dirs, id) {
		d.dirs = append(d.dirs, id)
	}
}

// dropOld removes the names that the inode has lost.
func (d *refsDue) dropOld() error {
	s := d.s
	switch {
	case s.cur.isDir() && s.cur.deleted:
		if err := d.dropDir(); err != nil {
			return err
		}
		for _, r := range d.old {
			d.check(r)
		}
	case s.cur.isDir():
		if len(d.old) > 0 {
			d.check(d.old[0]) // it has moved from there
		}
	default:
		return d.unlinkOld()
	}
	return nil
}

// dropDir removes a directory, or puts it aside until it is empty.
func (d *refsDue) dropDir() error {
	s := d.s
	empty, err := s.mayRemove(s.cur.id())
	switch {
	case err != nil:
		return err
	case empty:
		return s.sendRmdir(d.at)
	case d.orphan:
		return nil
	}
	d.orphan = true
	return s.orphan(s.cur.id(), d.at)
}

func (d *refsDue) unlinkOld() error {
	s := d.s
	for _, r := range d.old {
		gone, err := s.overwritten(r.dir, r.gen, s.cur.id(), r.name)
		if err != nil {
			return err
		}
		if !gone {
			if d.movedAbove {
				if r.path, err = s.pathIn(r); err != nil {
					return err
				}
			}
			if err := s.sendUnlink(r.path); err != nil {
				return err
			}
			if len(r.path) >= len(s.cur.path) && r.path[:len(s.cur.path)] == s.cur.path {
				s.cur.path = ""
			}
		}
		d.check(r)
	}
	if d.orphan { // no new name has taken it from there
		return s.sendUnlink(d.at)
	}
	return nil
}

// visitDirs looks after the directories that have gained or lost a name: their times are to be set again, and those that
// are due for removal may be empty now. One that the walk has not passed comes by itself.
func (d *refsDue) visitDirs() error {
	s := d.s
	for _, id := range d.dirs {
		if id.ino > s.cur.ino {
			continue
		}
		st, _, _, err := s.stateOf(id)
		if err != nil {
			return err
		}
		switch st {
		case unchanged, didCreate:
			s.times.add(id)
		case didDelete:
			if err := s.removeIfEmpty(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sender) removeIfEmpty(id inoGen) error {
	empty, err := s.mayRemove(id)
	if err != nil || !empty {
		return err
	}
	path, err := s.path(id.ino, id.gen)
	if err != nil {
		return err
	}
	return s.sendRmdir(path)
}
