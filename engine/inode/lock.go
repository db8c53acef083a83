package inode

import (
	"slices"

	"imgtool/engine/ondisk"
)

// lockStripes is the number of inode locks of a tree. Two inodes may share one, which costs waiting and nothing else:
// an operation takes all its locks at once, each stripe once, in ascending order.
const lockStripes = 64

func stripe(ino ondisk.ObjectID) uint8 { return uint8(ino % lockStripes) }

// lockset is the exclusive locks that one operation holds in one tree.
type lockset struct {
	t   *FileTree
	idx [6]uint8 // ascending
	n   int
}

// lock takes the locks of the inodes, exclusively. The caller holds no inode lock of this tree.
func (t *FileTree) lock(inos ...ondisk.ObjectID) lockset {
	l := lockset{t: t}
	for _, ino := range inos {
		s := stripe(ino)
		if !slices.Contains(l.idx[:l.n], s) {
			l.idx[l.n] = s
			l.n++
		}
	}
	slices.Sort(l.idx[:l.n])
	for _, s := range l.idx[:l.n] {
		t.locks[s].Lock()
	}
	return l
}

// also takes one more lock without giving up those held, if that cannot wait out of order; false when it could not.
func (l *lockset) also(ino ondisk.ObjectID) bool {
	s := stripe(ino)
	if slices.Contains(l.idx[:l.n], s) {
		return true
	}
	if s > l.idx[l.n-1] {
		l.t.locks[s].Lock()
	} else if !l.t.locks[s].TryLock() {
		return false
	}
	l.idx[l.n] = s
	l.n++
	slices.Sort(l.idx[:l.n])
	return true
}

func (l *lockset) unlock() {
	for _, s := range l.idx[:l.n] {
		l.t.locks[s].Unlock()
	}
	l.n = 0
}

// LockInodes takes the exclusive locks of up to six inodes, for callers of the Tx methods, and returns what lets them
// go. It is called before the handle is started and without any other inode lock of this tree.
func (t *FileTree) LockInodes(inos ...ondisk.ObjectID) (unlock func()) {
	l := t.lock(inos...)
	return l.unlock
}
