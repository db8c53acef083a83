package inode

import (
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// DirSet is the directories that a walk has entered. In a sound file system each has one name. A damaged or hostile one
// may lead to a directory again: in a loop, or by a lattice of a few dozen directories with two names each, which has
// more paths than anybody could walk. The zero value is an empty set; it is for one goroutine.
type DirSet struct {
	seen map[dirID]struct{}
}

type dirID struct {
	tree ondisk.TreeID
	ino  ondisk.ObjectID
}

// Enter adds a directory. A second time it is a *fserr.Corrupt.
func (s *DirSet) Enter(n Node) error {
	if n.IsPlaceholder() {
		return nil // has nothing in it
	}
	id := dirID{n.Tree.ID(), n.Ino}
	if _, ok := s.seen[id]; ok {
		return &fserr.Corrupt{What: "inode", Root: uint64(id.tree), Slot: fserr.NoSlot, Ino: uint64(id.ino), Msg: "the directory has a second name, or contains itself"}
	}
	if s.seen == nil {
		s.seen = map[dirID]struct{}{}
	}
	s.seen[id] = struct{}{}
	return nil
}
