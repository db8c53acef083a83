package send

import (
	"container/list"

	"imgtool/engine/ondisk"
)

// finish says what is left about the current inode when the walk leaves it: names, size, owner, mode, capabilities,
// directories that have waited for it, times.
func (s *sender) finish() error {
	if s.cur.ignore || s.cur.ino == 0 || s.cur.done {
		return nil
	}
	if err := s.settleRefs(); err != nil {
		return err
	}
	s.cur.done = true
	if s.cur.deleted || s.cur.newGen && !s.cur.isNew {
		return s.trimTimes()
	}
	if err := s.finishAttrs(); err != nil {
		return err
	}
	if s.waiting[s.cur.ino] == nil {
		if err := s.moveThoseBehind(); err != nil {
			return err
		}
		s.progress = s.cur.ino + 1
		// The times of a directory with something in it wait until what comes later has been put there.
		if s.cur.isDir() && s.cur.size > 0 {
			s.times.add(s.cur.id())
		} else if err := s.timesOf(s.cur.id()); err != nil {
			return err
		}
	}
	return s.trimTimes()
}

// setIDs are the bits of a mode that a new owner clears, but of directories.
const setIDs = 0o6000

// finishAttrs sends size, owner, mode, flags and capabilities, as far as they differ from what the receiver has.
func (s *sender) finishAttrs() error {
	now := &s.cur.inodeInfo
	isLink := now.mode&ondisk.ModeFmt == ondisk.ModeLnk
	chown, chmod, fileattr, resize := true, !isLink, false, s.cur.written != now.size
	if s.parent != nil && !s.cur.isNew {
		was, err := s.parent.inode(now.ino)
		if err != nil {
			return err
		}
		if !was.exists() {
			return s.parent.corrupt(now.ino, "it has no inode item")
		}
		chown = now.uid != was.uid || now.gid != was.gid
		chmod = !isLink && (now.mode != was.mode || chown && !now.isDir() && now.mode&setIDs != 0)
		fileattr = !isLink && now.flags != was.flags && s.enc.Version() >= 2
		resize = was.size != now.size && (now.size < was.size || resize)
	}
	if s.cur.isReg() {
		if err := s.sendOldEnd(); err != nil {
			return err
		}
		if err := s.lastHole(); err != nil {
			return err
		}
		// The hole at the end may have been written as zeros up to it; what resize says is of before.
		if resize {
			if err := s.truncate(now.size); err != nil {
				return err
			}
		}
	}
	if !chown && !chmod && !fileattr && s.cur.isNew {
		return nil
	}
	path, err := s.curPath()
	if err != nil {
		return err
	}
	if chown {
		if err := s.sendChown(path, now.uid, now.gid); err != nil {
			return err
		}
	}
	if chmod {
		if err := s.sendChmod(path, now.mode); err != nil {
			return err
		}
	}
	if fileattr {
		if err := s.sendFileattr(path, now.flags); err != nil {
			return err
		}
	}
	return s.finishCaps(path)
}

// finishCaps sends the capabilities whether they have changed or not: a new owner clears them. Those of a new inode have
// been met on the way.
func (s *sender) finishCaps(path string) error {
	caps := s.cur.caps
	if caps == nil && !s.cur.isNew {
		var err error
		if caps, err = s.send.xattr(s.cur.ino, capsName); err != nil {
			return err
		}
	}
	if caps == nil {
		return nil
	}
	return s.sendSetXattr(path, []byte(capsName), caps)
}

// lastHole sends the hole between the last extent and the file's end.
func (s *sender) lastHole() error {
	if !s.holesCount() {
		return nil
	}
	if s.cur.lastEnd == noExtent || s.cur.lastEnd < s.cur.size {
		if err := s.findLastEnd(noExtent); err != nil {
			return err
		}
	}
	return s.holeUpTo(s.cur.size)
}

// timesOf sends an inode's times.
func (s *sender) timesOf(id inoGen) error {
	in, err := s.send.inode(id.ino)
	if err != nil {
		return err
	}
	if !in.exists() {
		return s.send.corrupt(id.ino, "it has no inode item")
	}
	path, err := s.path(id.ino, id.gen)
	if err != nil {
		return err
	}
	return s.sendTimes(path, &in)
}

// maxTimes is how many directories may wait for their times to be sent.
const maxTimes = 64

// timesDue is the directories whose times are to be sent, the longest unused first: each is worth one command however
// many names it gains or loses. They are sent when there are too many, and at the end.
type timesDue struct {
	order list.List
	by    map[inoGen]*list.Element
}

func (t *timesDue) add(id inoGen) {
	if e := t.by[id]; e != nil {
		t.order.MoveToBack(e)
		return
	}
	if t.by == nil {
		t.by = map[inoGen]*list.Element{}
	}
	t.by[id] = t.order.PushBack(id)
}

// trimTimes sends the times of those that have waited longest, if there are too many. A rename may be under way where they
// are noted, so this comes when the work on an inode is done.
func (s *sender) trimTimes() error {
	for s.times.order.Len() > maxTimes {
		if err := s.sendTimesOf(s.times.order.Front()); err != nil {
			return err
		}
	}
	return nil
}

// sendAllTimes sends what is left, the last used first, at the end.
func (s *sender) sendAllTimes() error {
	for s.times.order.Len() > 0 {
		if err := s.sendTimesOf(s.times.order.Back()); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) sendTimesOf(e *list.Element) error {
	id := s.times.order.Remove(e).(inoGen)
	delete(s.times.by, id)
	return s.timesOf(id)
}
