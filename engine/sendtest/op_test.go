package sendtest

import (
	"fmt"
	"math/rand/v2"
)

// kind is what an operation does.
type kind byte

const (
	opCreate    kind = iota // typ, path; symlinks to "to"; devices rdev n; a file of flag is NODATACOW
	opLink                  // path gets the further name "to"
	opRename                // path to "to", which may be there
	opExchange              // path and "to"
	opRemove                // path, a name or an empty directory
	opWrite                 // n bytes at off; flag: to the device at once, as an extent of its own
	opTruncate              // to n
	opFallocate             // n bytes at off; flag: keeps the size
	opPunch                 // n bytes at off
	opClone                 // n bytes at src of "to" (of snapshot "name" if that is one) to off of path
	opXattr                 // name, n bytes
	opUnxattr               // name
	opChmod                 // n
	opChown                 // n, off: user and group
	opTimes                 // n, seconds
	opFlags                 // n: inode flags as chattr(1) has them
	opSnapshot              // "a" or "b", as "to" says
	opReload                // goes on in a snapshot of the subvolume: inode numbers start above the greatest there
)

var kindNames = [...]string{"create", "link", "rename", "exchange", "remove", "write", "truncate", "fallocate", "punch", "clone", "xattr",
	"unxattr", "chmod", "chown", "times", "flags", "snapshot", "reload"}

// op is one operation.
type op struct {
	kind     kind
	typ      fileType
	path, to string
	name     string // of an xattr, or of a snapshot
	off, n   int64
	src      int64 // clone: offset in the source
	seed     uint32
	flag     bool
}

func (o op) String() string {
	s := fmt.Sprintf("%s %q", kindNames[o.kind], o.path)
	if o.kind == opCreate {
		s = fmt.Sprintf("%s %s %q", kindNames[o.kind], [...]string{"file", "dir", "symlink", "chr", "blk", "fifo", "sock"}[o.typ], o.path)
	}
	if o.to != "" {
		s += fmt.Sprintf(" to %q", o.to)
	}
	if o.name != "" {
		s += " " + o.name
	}
	if o.off != 0 || o.n != 0 || o.src != 0 {
		s += fmt.Sprintf(" off=%d n=%d src=%d", o.off, o.n, o.src)
	}
	if o.flag {
		s += " flag"
	}
	return s
}

// data is what a write brings: one write in two compresses well, some are zeros.
func (o op) data() []byte { return bytesOf(o.seed, o.n) }

func bytesOf(seed uint32, n int64) []byte {
	b := make([]byte, n)
	if seed%9 == 0 {
		return b
	}
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	step := 1
	if seed%2 == 0 {
		step = 97
	}
	for i := 0; i < len(b); i += step {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// posixACL is a valid value of system.posix_acl_access: version 2, then tag, permissions and id of each entry.
func posixACL(seed uint32) []byte {
	id := byte(seed%50 + 1)
	none := []byte{0xff, 0xff, 0xff, 0xff}
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][]byte{{1, 0, 6, 0}, {2, 0, 4, 0, id, 0, 0, 0}, {4, 0, 4, 0}, {16, 0, 6, 0}, {32, 0, 4, 0}} {
		acl = append(acl, e...)
		if len(e) == 4 {
			acl = append(acl, none...)
		}
	}
	return acl
}

// capability is a value of security.capability: revision 2, effective, two words each of permitted and inheritable.
func capability(seed uint32) []byte {
	b := make([]byte, 20)
	b[0], b[3], b[4] = 1, 2, byte(1<<(seed%7))
	return b
}

// value is what an xattr is set to.
func (o op) value() []byte {
	switch o.name {
	case "system.posix_acl_access", "system.posix_acl_default":
		return posixACL(o.seed)
	case "security.capability":
		return capability(o.seed)
	}
	return bytesOf(o.seed|1, o.n)
}
