package sendtest

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"imgtool/engine/internal/oracle"
)

// maker carries out the operations of pairs in one file system.
type maker interface {
	// begin starts a pair with an empty subvolume, or with what the pair's snapshot from has. Snapshots are called prefix
	// and what the operation says.
	begin(prefix, from string) error
	do(o op) error
	// end commits. What is left of the pair are its snapshots.
	end() error
}

// makePair carries out the operations. pass tells which failures are passed over; nil passes none.
func makePair(m maker, prefix, from string, ops []op, pass func(op, error) bool) error {
	if err := m.begin(prefix, from); err != nil {
		return err
	}
	for i, o := range ops {
		if err := m.do(o); err != nil && (pass == nil || !pass(o, err)) {
			return fmt.Errorf("operation %d, %v: %w", i, o, err)
		}
	}
	return m.end()
}

// kernelMaker works below a mount.
type kernelMaker struct {
	m      *oracle.Mounted
	prefix string
	work   string // the subvolume, below the mount
	n      int
}

func (k *kernelMaker) begin(prefix, from string) error {
	k.prefix, k.work, k.n = prefix, prefix+"w", 0
	if from != "" {
		k.m.KernelSnapshot(prefix+from, k.work, false)
	} else {
		k.m.KernelSubvolume(k.work)
	}
	return nil
}

func (k *kernelMaker) end() error {
	for i := range k.n + 1 {
		name := k.prefix + "w"
		if i > 0 {
			name = fmt.Sprint(name, i)
		}
		k.m.Btrfs("subvolume", "delete", k.m.Path(name))
	}
	return nil
}

func (k *kernelMaker) path(p string) string { return k.m.Path(k.work, p) }

func (k *kernelMaker) do(o op) error {
	p, to := k.path(o.path), k.path(o.to)
	switch o.kind {
	case opCreate:
		return k.create(o, p)
	case opLink:
		return os.Link(p, to)
	case opRename:
		return unix.Rename(p, to)
	case opExchange:
		return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	case opRemove:
		return os.Remove(p)
	case opWrite, opTruncate, opFallocate, opPunch, opClone, opFlags:
		return k.file(o, p)
	case opXattr:
		return unix.Lsetxattr(p, o.name, o.value(), 0)
	case opUnxattr:
		return unix.Lremovexattr(p, o.name)
	case opChmod:
		return unix.Chmod(p, uint32(o.n))
	case opChown:
		return os.Lchown(p, int(o.n), int(o.off))
	case opTimes:
		ts := []unix.Timespec{{Sec: o.n, Nsec: 1}, {Sec: o.n + 7, Nsec: 999999999}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	case opSnapshot:
		k.m.KernelSnapshot(k.work, k.prefix+o.to, true)
		return nil
	case opReload:
		k.n++
		next := fmt.Sprint(k.prefix, "w", k.n)
		k.m.KernelSnapshot(k.work, next, false)
		k.work = next
		return nil
	}
	return fmt.Errorf("no such operation")
}

func (k *kernelMaker) create(o op, p string) error {
	switch o.typ {
	case typDir:
		return os.Mkdir(p, 0o755)
	case typSymlink:
		return os.Symlink(o.to, p)
	case typChr:
		return unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(o.n>>20), uint32(o.n&0xfffff))))
	case typBlk:
		return unix.Mknod(p, unix.S_IFBLK|0o640, int(unix.Mkdev(uint32(o.n>>20), uint32(o.n&0xfffff))))
	case typFifo:
		return unix.Mkfifo(p, 0o600)
	case typSock:
		return unix.Mknod(p, unix.S_IFSOCK|0o700, 0)
	}
	f, err := os.OpenFile(p, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if o.flag {
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x800000) // FS_NOCOW_FL
	}
	return nil
}

// file carries out what needs an open file.
func (k *kernelMaker) file(o op, p string) error {
	mode := os.O_RDWR
	if o.kind == opFlags {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(p, mode, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	switch o.kind {
	case opWrite:
		if _, err := f.WriteAt(o.data(), o.off); err != nil || !o.flag {
			return err
		}
		return f.Sync()
	case opTruncate:
		return f.Truncate(o.n)
	case opFallocate:
		mode := uint32(0)
		if o.flag {
			mode = unix.FALLOC_FL_KEEP_SIZE
		}
		return unix.Fallocate(int(f.Fd()), mode, o.off, o.n)
	case opPunch:
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.off, o.n)
	case opFlags:
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(o.n)) // +A, +d
	}
	from := k.path(o.to)
	if o.name != "" {
		from = filepath.Join(k.m.Path(k.prefix+o.name), o.to)
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	return unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{
		Src_fd: int64(src.Fd()), Src_offset: uint64(o.src), Src_length: uint64(o.n), Dest_offset: uint64(o.off),
	})
}
