package send

import "bytes"

// inheritable are the attributes of a directory that the kernel gives to what is made in it. Every new inode is made in the
// top directory, wherever it goes from there, and would have the top's where it has none of its own. So the top directory
// at the receiver does not have them while inodes are made: those that it has from the parent are removed before the first,
// and what it is to have is set at the end.
var inheritable = []string{"system.posix_acl_default", "btrfs.compression"}

// inherits reports whether an attribute of the current inode is one that is set at the end.
func (s *sender) inherits(name []byte) bool {
	if s.cur.ino != topDir {
		return false
	}
	for _, n := range inheritable {
		if string(name) == n {
			return true
		}
	}
	return false
}

// bareTop removes what the next inode would inherit; the first time it is called, and then it knows.
func (s *sender) bareTop() error {
	if s.bare || s.parent == nil {
		return nil
	}
	s.bare = true
	for _, name := range inheritable {
		if was, err := s.parent.xattr(topDir, name); err != nil {
			return err
		} else if was == nil {
			continue
		}
		if err := s.sendRemoveXattr("", []byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// dressTop sets what the top directory is to have of what is inherited, when all inodes have been made.
func (s *sender) dressTop() error {
	for _, name := range inheritable {
		now, err := s.send.xattr(topDir, name)
		if err != nil {
			return err
		}
		var was []byte
		if s.parent != nil && !s.bare {
			if was, err = s.parent.xattr(topDir, name); err != nil {
				return err
			}
		}
		switch {
		case now != nil && (was == nil || !bytes.Equal(now, was)):
			err = s.sendSetXattr("", []byte(name), sentValue(name, now))
		case now == nil && was != nil:
			err = s.sendRemoveXattr("", []byte(name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
