// Package fserr holds the errors that every layer of the engine speaks.
//
// Bad disk content is a *Corrupt with coordinates, in the grammar of the kernel's tree-checker. Everything a caller
// may want to test for is a sentinel that errors.Is finds, and the sentinels match io/fs and syscall: ENOENT is
// fs.ErrNotExist, EEXIST is fs.ErrExist, ENOSPC, EROFS and so on are the plain errno values. A layer wraps an error
// once, with the coordinate that this layer knows.
package fserr

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Errno sentinels, under the names that users of btrfs know them by.
const (
	ErrNotFound    = syscall.ENOENT
	ErrExist       = syscall.EEXIST
	ErrNoSpace     = syscall.ENOSPC
	ErrReadOnly    = syscall.EROFS
	ErrNotDir      = syscall.ENOTDIR
	ErrIsDir       = syscall.EISDIR
	ErrNotEmpty    = syscall.ENOTEMPTY
	ErrInvalid     = syscall.EINVAL
	ErrNameTooLong = syscall.ENAMETOOLONG
	ErrTooMany     = syscall.EMLINK
	ErrPerm        = syscall.EPERM
	ErrNoData      = syscall.ENODATA
	ErrCrossDevice = syscall.EXDEV
	ErrOverflow    = syscall.EOVERFLOW
	ErrBusy        = syscall.EBUSY
	ErrNotSup      = syscall.EOPNOTSUPP
	ErrFileTooBig  = syscall.EFBIG
	ErrRange       = syscall.ERANGE
	ErrLoop        = syscall.ELOOP
)

// Sentinels without an errno of their own.
var (
	// ErrViewExpired asks the reader of a commit root to take a new ticket and to search again from its last key.
	ErrViewExpired = errors.New("view expired: its space is needed, search again from the last key")
	// ErrNoTransaction is the answer of an attach when no transaction is running.
	ErrNoTransaction = errors.New("no running transaction")
	// ErrAborted marks a file system that turned read-only; the first cause is wrapped beside it.
	ErrAborted = errors.New("transaction aborted, the file system is read-only; reopen the image to go on from its last commit")
	// ErrItemFull is an ErrNoSpace that is about one item of a tree, however much room there is otherwise.
	ErrItemFull = fmt.Errorf("no item holds that: %w", ErrNoSpace)
	// ErrUnsupported marks features and profiles that this engine does not read, or does not write.
	ErrUnsupported = errors.New("unsupported")
	// ErrCorrupt is matched by every *Corrupt.
	ErrCorrupt = errors.New("corrupt file system")
	// ErrClosed is the answer of a file system or device that was closed.
	ErrClosed = errors.New("already closed")
)

// NoSlot is the value of Corrupt.Slot when the finding is about the whole block.
const NoSlot = -1

// Corrupt is one finding about disk content.
type Corrupt struct {
	What  string // "leaf", "node", "super", "chunk", "inode", "data", ...
	Root  uint64 // owner of the tree, 0 when not known
	Block uint64 // logical address of the block, physical for a super
	Slot  int    // item, NoSlot for the whole block
	Ino   uint64 // inode number, 0 when there is none
	Msg   string // "invalid item end, have 16300 expect 16283"
}

// Error prints "corrupt leaf: root=5 block=30408704 slot=3 ino=257, invalid item end, have 16300 expect 16283".
func (c *Corrupt) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "corrupt %s:", c.What)
	if c.Root != 0 {
		fmt.Fprintf(&b, " root=%d", int64(c.Root))
	}
	if c.Block != 0 {
		fmt.Fprintf(&b, " block=%d", c.Block)
	}
	if c.Slot >= 0 {
		fmt.Fprintf(&b, " slot=%d", c.Slot)
	}
	if c.Ino != 0 {
		fmt.Fprintf(&b, " ino=%d", int64(c.Ino))
	}
	if b.Len() > len("corrupt :")+len(c.What) {
		b.WriteByte(',')
	}
	b.WriteByte(' ')
	b.WriteString(c.Msg)
	return b.String()
}

// Is matches ErrCorrupt and EUCLEAN, the kernel's errno for a damaged structure.
func (c *Corrupt) Is(target error) bool { return target == ErrCorrupt || target == syscall.EUCLEAN }

// Corruptf makes a finding about a whole block of the named kind.
func Corruptf(what string, root, block uint64, format string, args ...any) *Corrupt {
	return &Corrupt{What: what, Root: root, Block: block, Slot: NoSlot, Msg: fmt.Sprintf(format, args...)}
}
