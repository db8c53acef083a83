package send

import (
	"imgtool/engine/ondisk"
)

// Directories that cannot move, or go, when the walk comes to them.
//
// A directory that shall move below one with a higher number, which itself moves or is made later, or that shall take
// the name of a directory that is itself waiting, is noted in waiting and, under the number of the one it waits for, in
// pending. When the walk has finished that one, those that wait for it move, and then those that wait for them.
//
// A directory that is to be removed but is not empty yet is noted in orphans and has its temporary name.

// move is a directory that waits for another.
type move struct {
	id   inoGen
	dirs []inoGen // the directories that gain or lose it
}

// waitingMove is what is to be known of a directory that waits.
type waitingMove struct {
	orphaned bool   // it has its temporary name
	rmdir    inoGen // a directory that can be removed when this one has left it, if ino is not 0
}

// orphanDir remembers how far the entries of a directory that is to be removed have been looked through.
type orphanDir struct {
	index   uint64          // the last index looked at
	highest ondisk.ObjectID // no use looking before the walk is there
}

// putOff notes that the current inode moves when the one called after has.
func (s *sender) wait(id inoGen, after ondisk.ObjectID, dirs []inoGen, orphan bool) error {
	if s.waiting[id.ino] != nil {
		return s.send.corrupt(id.ino, "it waits for two others to move")
	}
	s.epoch++
	s.waiting[id.ino] = &waitingMove{orphaned: orphan}
	s.pending[after] = append(s.pending[after], &move{id: id, dirs: dirs})
	return nil
}

// waitCurrent is wait for the current inode.
func (s *sender) waitCurrent(after ondisk.ObjectID, orphan bool) error {
	var dirs []inoGen
	for _, l := range []*refList{&s.oldRefs, &s.newRefs} {
		for _, r := range l.all() {
			dirs = append(dirs, inoGen{r.dir, r.gen})
		}
	}
	return s.wait(s.cur.id(), after, dirs, orphan)
}

// waitForName puts the move of the current inode off if the name that it shall get is that of a directory, the same in both
// trees, that is itself waiting.
func (s *sender) waitForName(r *ref, orphan bool) (bool, error) {
	if len(s.waiting) == 0 {
		return false, nil
	}
	other, err := s.parent.lookup(r.dir, r.name)
	if err != nil || other == 0 {
		return false, err
	}
	was, err := s.parent.gen(other)
	if err != nil {
		return false, err
	}
	is, err := s.send.inode(other)
	if err != nil || !is.exists() || is.gen != was {
		return false, err
	}
	if w := s.waiting[other]; w == nil || w.orphaned {
		return false, nil
	}
	return true, s.waitCurrent(other, orphan)
}

// waitForParent puts the move of the current inode off if a directory above its new place has to move first: one that is
// waiting and lies below the current inode now, or one that the walk has not passed and that is called otherwise or
// lies elsewhere in the parent.
func (s *sender) waitForParent(r *ref, orphan bool) (bool, error) {
	at := inoGen{r.dir, r.gen}
	for depth := 0; at.ino > topDir; depth++ {
		if depth > maxDepth {
			return false, s.send.corrupt(at.ino, "its directories lead round in a circle")
		}
		if s.waiting[at.ino] != nil {
			below, err := s.parent.isAbove(s.cur.id(), at.ino)
			if err != nil {
				return false, err
			}
			if below {
				return true, s.waitCurrent(at.ino, orphan)
			}
		}
		after, gen, err := s.send.mustFirst(at.ino)
		if err != nil {
			return false, err
		}
		before, err := s.parent.first(at.ino)
		if err != nil {
			return false, err
		}
		if before.dir == 0 {
			return false, nil
		}
		if at.ino > s.cur.ino && before != after {
			was, err := s.parent.gen(at.ino)
			if err != nil {
				return false, err
			}
			if was == at.gen {
				return true, s.waitCurrent(at.ino, orphan)
			}
		}
		at = inoGen{after.dir, gen}
	}
	return false, nil
}

// moveThoseBehind moves the directories that have waited for the current inode, and those that have waited for them.
func (s *sender) moveThoseBehind() error {
	queue := s.takePending(s.cur.ino, nil)
	for len(queue) > 0 {
		m := queue[0]
		if err := s.applyMove(m); err != nil {
			return err
		}
		queue = s.takePending(m.id.ino, queue[1:])
	}
	return nil
}

func (s *sender) takePending(after ondisk.ObjectID, queue []*move) []*move {
	list := s.pending[after]
	if list == nil {
		return queue
	}
	delete(s.pending, after)
	return append(queue, list...)
}

// applyMove moves one directory, unless that would put it below itself: then it waits for the one that is in between.
func (s *sender) applyMove(m *move) error {
	w := s.waiting[m.id.ino]
	delete(s.waiting, m.id.ino)
	s.epoch++
	from, err := s.movesFrom(m, w.orphaned)
	if err != nil {
		return err
	}
	progress := s.progress
	defer func() { s.progress = progress }()
	s.progress = s.cur.ino + 1

	between, loop, err := s.leadsToItself(m.id)
	if err != nil {
		return err
	}
	if loop {
		if err := s.wait(m.id, between, m.dirs, w.orphaned); err != nil {
			return err
		}
		s.waiting[m.id.ino].rmdir = w.rmdir
		return nil
	}
	to, err := s.path(m.id.ino, m.id.gen)
	if err != nil {
		return err
	}
	if err := s.sendRename(from, to); err != nil {
		return err
	}
	if _, due := s.orphans[w.rmdir]; due {
		if err := s.removeIfEmpty(w.rmdir); err != nil {
			return err
		}
	}
	s.times.add(m.id)
	for _, dir := range m.dirs {
		in, err := s.send.inode(dir.ino)
		if err != nil {
			return err
		}
		if in.exists() && in.gen == dir.gen { // not one that is gone, and its number another's: the kernel takes it for that
			s.times.add(dir)
		}
	}
	return nil
}

// movesFrom is where a directory that has waited is.
func (s *sender) movesFrom(m *move, orphaned bool) (string, error) {
	if orphaned {
		return s.spareName(m.id.ino, m.id.gen)
	}
	r, gen, err := s.parent.mustFirst(m.id.ino)
	if err != nil {
		return "", err
	}
	dir, err := s.path(r.dir, gen)
	return join(dir, r.name), err
}

// leadsToItself follows the path that a directory is going to have and reports whether it leads through the directory, and
// which is to move before that is mended.
func (s *sender) leadsToItself(id inoGen) (between ondisk.ObjectID, loop bool, err error) {
	at := id
	for depth := 0; at.ino != topDir; depth++ {
		if depth > maxDepth {
			return 0, false, s.send.corrupt(id.ino, "its directories lead round in a circle")
		}
		if _, gone := s.orphans[at]; gone {
			return 0, false, nil
		}
		var up inoGen
		if s.waiting[at.ino] != nil {
			if between == 0 {
				between = at.ino
			}
			r, gen, err := s.parent.mustFirst(at.ino)
			if err != nil {
				return 0, false, err
			}
			up = inoGen{r.dir, gen}
		} else {
			_, dir, gen, err := s.placed(at)
			if err != nil || dir == 0 {
				return 0, false, err
			}
			up = inoGen{dir, gen}
		}
		if up.ino == id.ino {
			if between == 0 {
				between = at.ino
			}
			return between, true, nil
		}
		at = up
	}
	return 0, false, nil
}

// mayRemove reports whether a directory that is to go is empty at the receiver: all that the parent has in it has been
// dealt with. If not it is noted as one to be looked at again.
func (s *sender) mayRemove(id inoGen) (bool, error) {
	if id.ino == topDir {
		return false, nil
	}
	o := s.orphans[id]
	if o != nil && s.cur.ino < o.highest {
		return false, nil
	}
	seen := orphanDir{}
	if o == nil {
		// The last entry is likely to be that of the highest number: until the walk is there nothing has to be looked at.
		last, err := s.parent.lastEntry(id.ino)
		if err != nil {
			return false, err
		}
		if last == 0 {
			return true, nil
		}
		seen.highest = last
	}
	empty := o != nil || s.cur.ino >= seen.highest
	if empty {
		from := uint64(0)
		if o != nil {
			from = o.index
		}
		var err error
		if empty, err = s.dealtWith(id, from, &seen); err != nil {
			return false, err
		}
	}
	s.epoch++
	if empty {
		delete(s.orphans, id)
		return true, nil
	}
	if o == nil {
		o = &orphanDir{}
		s.orphans[id] = o
	}
	o.index, o.highest = seen.index, max(o.highest, seen.highest)
	return false, nil
}

// dealtWith looks through a directory's entries in the parent, from an index on, for one whose inode is still there.
func (s *sender) dealtWith(id inoGen, from uint64, seen *orphanDir) (bool, error) {
	empty := true
	err := s.parent.each(keyOf(id.ino, ondisk.DirIndexKey, from), keyOf(id.ino, ondisk.DirIndexKey, ^uint64(0)), 0, func(it *item) (bool, error) {
		loc, err := s.parent.entryLocation(it)
		if err != nil {
			return false, err
		}
		seen.index = it.key.Offset
		if loc.Type != ondisk.InodeItemKey {
			return true, nil // a subvolume: the receiver has none of it
		}
		seen.highest = max(seen.highest, loc.ObjectID)
		if w := s.waiting[loc.ObjectID]; w != nil {
			w.rmdir = id
			empty = false
		} else if loc.ObjectID > s.cur.ino {
			empty = false
		}
		return empty, nil
	})
	return empty, err
}

// entryLocation is where a DIR_INDEX item leads.
func (t *tree) entryLocation(it *item) (loc ondisk.Key, err error) {
	bad := ondisk.DirEntries(it.data, func(d ondisk.DirEntry) bool {
		loc = d.Location()
		return false
	})
	if bad != nil || loc == (ondisk.Key{}) {
		return loc, t.corrupt(it.key.ObjectID, "directory index %d: %v", it.key.Offset, bad)
	}
	return loc, nil
}

// lastEntry returns the inode of a directory's last entry, 0 if it has none; that of a subvolume says nothing of the
// others, so the top directory stands for it.
func (t *tree) lastEntry(dir ondisk.ObjectID) (ino ondisk.ObjectID, err error) {
	var k ondisk.Key
	var data []byte
	var ok bool
	err = t.search(func() error {
		var err error
		k, data, ok, err = t.view.SeekLE(t.s.ctx, keyOf(dir, ondisk.DirIndexKey, ^uint64(0)))
		return err
	})
	if err != nil || !ok || k.ObjectID != dir || k.Type != ondisk.DirIndexKey {
		return 0, err
	}
	loc, err := t.entryLocation(&item{key: k, data: data})
	if loc.Type != ondisk.InodeItemKey {
		return topDir, err
	}
	return loc.ObjectID, err
}
