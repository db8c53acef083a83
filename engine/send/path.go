package send

import (
	"fmt"
	"strconv"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// maxDepth bounds how deep directories are followed: a path of a stream has no more names.
const maxDepth = (sendstream.MaxPath + 1) / 2

// tooDeep says why an inode lies deeper than maxDepth: since it does, or since its directories lead round in a circle.
func (s *sender) tooDeep(id inoGen) error {
	seen := map[inoGen]bool{}
	for at := id; at.ino != topDir && at.ino != 0; {
		if seen[at] {
			return s.send.corrupt(id.ino, "its directories lead round in a circle")
		}
		seen[at] = true
		_, dir, gen, err := s.nameNow(at)
		if err != nil {
			return err
		}
		at = inoGen{dir, gen}
	}
	return fmt.Errorf("inode %d lies below %d directories, and its path has more than the %d bytes of a stream: %w", id.ino, len(seen)-1,
		sendstream.MaxPath, fserr.ErrNameTooLong)
}

// inoGen names an inode for good: numbers are used again.
type inoGen struct {
	ino ondisk.ObjectID
	gen ondisk.Generation
}

// knownPath is a directory's path at the receiver as it was worked out. It holds as long as no directory that was there
// before has been renamed (sender.epoch), and until the walk passes the first inode on it that it had not passed yet.
type knownPath struct {
	path   string
	epoch  uint64
	passed ondisk.ObjectID // good while progress <= passed
}

// cachedPaths bounds the paths remembered.
const cachedPaths = 4096

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// path returns where an inode is at the receiver now. That of the current inode stays what it was when it was first
// asked for, until the inode is renamed or loses that name.
func (s *sender) path(ino ondisk.ObjectID, gen ondisk.Generation) (string, error) {
	if ino != s.cur.ino || gen != s.cur.gen {
		k, err := s.resolve(ino, gen, 0)
		return k.path, err
	}
	if s.cur.path == "" {
		k, err := s.resolve(ino, gen, 0)
		if err != nil {
			return "", err
		}
		s.cur.path = k.path
	}
	return s.cur.path, nil
}

func (s *sender) curPath() (string, error) {
	if s.cur.path != "" {
		return s.cur.path, nil
	}
	return s.path(s.cur.ino, s.cur.gen)
}

// resolve works a path out, name by name towards the top.
func (s *sender) resolve(ino ondisk.ObjectID, gen ondisk.Generation, depth int) (knownPath, error) {
	none := knownPath{epoch: s.epoch, passed: ^ondisk.ObjectID(0)}
	if ino == topDir {
		return none, nil
	}
	if depth > maxDepth {
		return none, s.tooDeep(inoGen{ino, gen})
	}
	id := inoGen{ino, gen}
	if k, ok := s.paths.get(id); ok && k.epoch == s.epoch && s.progress <= k.passed {
		s.stats.CacheHits.Add(1)
		return k, nil
	}
	k := none
	name, dir, dirGen, err := s.nameNow(id)
	if err != nil {
		return k, err
	}
	if dir != 0 {
		if k, err = s.resolve(dir, dirGen, depth+1); err != nil {
			return k, err
		}
	}
	k.path = join(k.path, name)
	if ino >= s.progress {
		k.passed = min(k.passed, ino)
	}
	if depth > 0 || ino != s.cur.ino {
		s.paths.put(id, k)
	}
	return k, nil
}

// nameNow returns the name that an inode has at the receiver now and the directory that it is in; dir 0 says that it is
// in the top directory under its temporary name.
func (s *sender) nameNow(id inoGen) (name string, dir ondisk.ObjectID, dirGen ondisk.Generation, err error) {
	if _, ok := s.orphans[id]; ok {
		name, err = s.spareName(id.ino, id.gen)
		return name, 0, 0, err
	}
	if w := s.waiting[id.ino]; w != nil {
		if w.orphaned {
			name, err = s.spareName(id.ino, id.gen)
			return name, 0, 0, err
		}
		r, dirGen, err := s.parent.mustFirst(id.ino)
		return r.name, r.dir, dirGen, err
	}
	return s.placed(id)
}

// placed is nameNow for one that neither waits for a move nor for its removal.
func (s *sender) placed(id inoGen) (name string, dir ondisk.ObjectID, dirGen ondisk.Generation, err error) {
	there, err := s.isThere(id)
	if err != nil {
		return "", 0, 0, err
	}
	if !there {
		name, err = s.spareName(id.ino, id.gen)
		return name, 0, 0, err
	}
	t := s.send
	if id.ino >= s.progress {
		t = s.parent
	}
	if t == nil {
		return "", 0, 0, s.send.corrupt(id.ino, "it is asked for before its time")
	}
	r, dirGen, err := t.mustFirst(id.ino)
	if err != nil {
		return "", 0, 0, err
	}
	gone, err := s.overwritten(r.dir, dirGen, id, r.name)
	if err != nil {
		return "", 0, 0, err
	}
	if gone {
		name, err = s.spareName(id.ino, id.gen)
		return name, 0, 0, err
	}
	return r.name, r.dir, dirGen, nil
}

// spare is the temporary name asked for last: it is asked for twice in a row.
type spare struct {
	id   inoGen
	name string
}

// spareName is the temporary name of an inode: one that is free in the top directory, before and after.
func (s *sender) spareName(ino ondisk.ObjectID, gen ondisk.Generation) (string, error) {
	id := inoGen{ino, gen}
	if s.spare.id == id {
		return s.spare.name, nil
	}
	for n := uint64(0); ; n++ {
		var buf [64]byte
		b := strconv.AppendUint(append(buf[:0], 'o'), uint64(ino), 10)
		b = strconv.AppendUint(append(b, '-'), uint64(gen), 10)
		name := string(strconv.AppendUint(append(b, '-'), n, 10))
		taken, err := s.taken(name)
		if err != nil {
			return "", err
		}
		if !taken {
			s.spare = spare{id, name}
			return name, nil
		}
	}
}

// taken reports whether the top directory of either tree has a name. A full send has looked through it once.
func (s *sender) taken(name string) (bool, error) {
	if s.spares != nil {
		return s.spares[name], nil
	}
	for _, t := range []*tree{s.send, s.parent} {
		if t == nil {
			continue
		}
		in, err := t.has(topDir, name)
		if err != nil || in {
			return in, err
		}
	}
	return false, nil
}

// state is where an inode stands in the course of the send.
type state uint8

const (
	unchanged  state = iota // in both trees
	willCreate              // only in the sent one, not made yet
	didCreate
	willDelete // only in the parent, not removed yet
	didDelete
)

// stateOf returns an inode's state and its generation in both trees, 0 where it is not. An inode without links counts as
// not there. Generation 0 is one like others: mkfs.btrfs --rootdir gives it to all inodes.
func (s *sender) stateOf(id inoGen) (st state, left, right ondisk.Generation, err error) {
	in, err := s.send.inode(id.ino)
	if err != nil {
		return 0, 0, 0, err
	}
	inSent, inParent := in.linked() && in.gen == id.gen, false
	if in.linked() {
		left = in.gen
	}
	if s.parent != nil {
		if in, err = s.parent.inode(id.ino); err != nil {
			return 0, 0, 0, err
		}
		inParent = in.linked() && in.gen == id.gen
		if in.linked() {
			right = in.gen
		}
	}
	passed := id.ino < s.progress
	switch {
	case inSent && inParent:
		return unchanged, left, right, nil
	case inSent && passed:
		return didCreate, left, right, nil
	case inSent:
		return willCreate, left, right, nil
	case inParent && passed:
		return didDelete, left, right, nil
	case inParent:
		return willDelete, left, right, nil
	}
	return 0, left, right, s.send.corrupt(id.ino, "of generation %d it is in neither tree, though a name refers to it", id.gen)
}

// isThere reports whether the receiver has an inode in its place now.
func (s *sender) isThere(id inoGen) (bool, error) {
	if id.ino == topDir {
		return true, nil
	}
	st, _, _, err := s.stateOf(id)
	return st == unchanged || st == didCreate || st == willDelete, err
}

// inTheWay reports whether a name in a directory, which is due now, is that of an inode of the parent that has not been
// dealt with yet, and which.
func (s *sender) inTheWay(r *ref) (who inodeInfo, yes bool, err error) {
	if s.parent == nil {
		return who, false, nil
	}
	if r.dir != topDir {
		st, _, right, err := s.stateOf(inoGen{r.dir, r.gen})
		if err != nil || st != unchanged && st != didCreate && st != willDelete || right != r.gen {
			return who, false, err
		}
	}
	other, err := s.parent.lookup(r.dir, r.name)
	if err != nil || other == 0 {
		return who, false, err
	}
	if other <= s.progress && s.waiting[other] == nil {
		return who, false, nil
	}
	who, err = s.parent.inode(other)
	if err == nil && !who.exists() {
		err = s.parent.corrupt(r.dir, "entry %q leads to inode %d, which is not there", r.name, other)
	}
	return who, err == nil, err
}

// overwritten reports whether a name that an inode had has been taken by one that was dealt with before, so that the
// inode has its temporary name.
func (s *sender) overwritten(dir ondisk.ObjectID, dirGen ondisk.Generation, id inoGen, name string) (bool, error) {
	if s.parent == nil {
		return false, nil
	}
	if dir != topDir {
		st, left, _, err := s.stateOf(inoGen{dir, dirGen})
		if err != nil {
			return false, err
		}
		if st != unchanged && st != didCreate && st != willDelete || left != dirGen {
			return false, nil
		}
	}
	other, err := s.send.lookup(dir, name)
	if err != nil || other == 0 {
		return false, err
	}
	var gen ondisk.Generation
	if other == id.ino || other == s.cur.ino {
		if gen, err = s.send.gen(other); err != nil {
			return false, err
		}
	}
	switch {
	case other == id.ino && gen == id.gen:
		return false, nil
	case other < s.progress:
		return true, nil
	}
	return id.ino != s.cur.ino && other == s.cur.ino && gen == s.cur.gen, nil
}

// firstOverwritten is overwritten for the name by which the parent addresses an inode.
func (s *sender) firstOverwritten(id inoGen) (bool, error) {
	if s.parent == nil {
		return false, nil
	}
	r, gen, err := s.parent.mustFirst(id.ino)
	if err != nil {
		return false, err
	}
	return s.overwritten(r.dir, gen, id, r.name)
}
