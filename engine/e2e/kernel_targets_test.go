package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// op is one operation on a path of a file system. Which fields it uses depends on its kind.
type op struct {
	kind     opKind
	path, to string // to: the new name, the link's name, the snapshot's place, the source of a reflink
	off, n   int64  // a range, a size
	mode     uint32
	uid, gid uint32
	rdev     uint64 // as mknod(2) takes it
	sec      int64  // time of utimes
	name     string // of an xattr; target of a symlink
	value    []byte
	seed     uint64 // of data
}

func (o op) String() string {
	s := fmt.Sprintf("%v %q", o.kind, o.path)
	if o.to != "" {
		s += fmt.Sprintf(" %q", o.to)
	}
	if o.off != 0 || o.n != 0 {
		s += fmt.Sprintf(" %d+%d", o.off, o.n)
	}
	if o.name != "" {
		s += fmt.Sprintf(" %q(%d)", o.name, len(o.value))
	}
	return s
}

// opTarget is a file system that can do operations.
type opTarget interface {
	do(o op) error
}

// testData is n bytes that depend on the seed only: text that can be compressed, or noise.
func testData(seed uint64, n int64) []byte {
	p := make([]byte, n)
	rnd := rand.New(rand.NewPCG(seed, 7))
	if seed%2 == 0 {
		line := fmt.Appendf(nil, "line of the file with seed %d\n", seed)
		for i := range p {
			p[i] = line[i%len(line)]
		}
		for i := 0; i < len(p); i += 1000 {
			p[i] = byte(rnd.Uint32())
		}
		return p
	}
	for i := 0; i < len(p); i += 8 {
		v := rnd.Uint64()
		for j := i; j < min(i+8, len(p)); j++ {
			p[j] = byte(v)
			v >>= 8
		}
	}
	return p
}

// kernelTarget does operations by system calls in a mounted directory.
type kernelTarget struct{ dir string }

func (k kernelTarget) do(o op) error {
	path, to := filepath.Join(k.dir, o.path), filepath.Join(k.dir, o.to)
	switch o.kind {
	case opCreate:
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, o.mode)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	case opWrite, opOverwrite, opTruncate, opPunch, opFallocate, opReflink:
		return k.doFile(path, to, o)
	case opRename:
		return unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, uint(o.mode))
	case opExchange:
		return unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	case opLink:
		return unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, to, 0)
	case opUnlink:
		return unix.Unlinkat(unix.AT_FDCWD, path, 0)
	case opMkdir:
		return unix.Mkdir(path, o.mode)
	case opRmdir:
		return unix.Rmdir(path)
	case opSymlink:
		return unix.Symlink(o.name, path)
	case opMknod:
		return unix.Mknod(path, o.mode, int(o.rdev))
	case opSetXattr:
		return unix.Lsetxattr(path, o.name, o.value, 0)
	case opRemoveXattr:
		return unix.Lremovexattr(path, o.name)
	case opChmod:
		return unix.Chmod(path, o.mode)
	case opChown:
		return unix.Lchown(path, int(o.uid), int(o.gid))
	case opUtimes:
		ts := []unix.Timespec{{Sec: o.sec}, {Sec: o.sec, Nsec: 123456789}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	default:
		return k.doSubvol(path, to, o)
	}
}

func (k kernelTarget) doFile(path, to string, o op) (err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() {
		if e := unix.Close(fd); err == nil {
			err = e
		}
	}()
	switch o.kind {
	case opTruncate:
		return unix.Ftruncate(fd, o.n)
	case opPunch:
		// The kernel sets the time of change only if there was something to punch, which depends on the layout.
		now := []unix.Timeval{{}, {}}
		if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.off, o.n); err != nil {
			return err
		}
		if err := unix.Gettimeofday(&now[0]); err != nil {
			return err
		}
		now[1] = now[0]
		return unix.Futimes(fd, now)
	case opFallocate:
		return unix.Fallocate(fd, o.mode, o.off, o.n)
	case opReflink:
		src, err := unix.Open(to, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(src)
		return unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{Src_fd: int64(src), Src_offset: uint64(o.off),
			Src_length: uint64(o.n), Dest_offset: uint64(o.off)})
	}
	data := testData(o.seed, o.n)
	for len(data) > 0 {
		n, err := unix.Pwrite(fd, data, o.off+o.n-int64(len(data)))
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// The ioctls of subvolumes and their arguments (linux/btrfs.h).
const (
	iocSubvolCreate = 0x5000940e
	iocSnapDestroy  = 0x5000940f
	iocSnapCreateV2 = 0x50009417
	subvolReadonly  = 1 << 1
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type volArgsV2 struct {
	fd             int64
	transid, flags uint64
	unused         [4]uint64
	name           [4040]byte
}

func (k kernelTarget) doSubvol(path, to string, o op) error {
	place := path
	if o.kind == opSnapshotRW || o.kind == opSnapshotRO {
		place = to
	}
	parent, err := os.Open(filepath.Dir(place))
	if err != nil {
		return errno(err)
	}
	defer parent.Close()
	args := volArgs{}
	copy(args.name[:], filepath.Base(place))
	switch o.kind {
	case opSubvolume:
		return ioctl(parent, iocSubvolCreate, unsafe.Pointer(&args))
	case opDeleteSubvol:
		return ioctl(parent, iocSnapDestroy, unsafe.Pointer(&args))
	}
	src, err := os.Open(path)
	if err != nil {
		return errno(err)
	}
	defer src.Close()
	v2 := volArgsV2{fd: int64(src.Fd())}
	if o.kind == opSnapshotRO {
		v2.flags = subvolReadonly
	}
	copy(v2.name[:], filepath.Base(place))
	return ioctl(parent, iocSnapCreateV2, unsafe.Pointer(&v2))
}

func ioctl(f *os.File, req uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// errno is the error number in an error's chain, or the error itself.
func errno(err error) error {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// engineTarget does operations through the engine.
type engineTarget struct {
	ctx context.Context
	fs  *engine.FS
}

// at finds the directory and name of a path.
func (e engineTarget) at(path string) (*inode.FileTree, ondisk.ObjectID, string, error) {
	ns, err := e.fs.Namespace(e.ctx, ondisk.FSTree)
	if err != nil {
		return nil, 0, "", err
	}
	dir, name, err := ns.WalkParent(e.ctx, path)
	if err != nil {
		return nil, 0, "", err
	}
	return dir.Tree.(*inode.FileTree), dir.Ino, name, nil
}

// node finds the inode of a path.
func (e engineTarget) node(path string) (*inode.FileTree, ondisk.ObjectID, error) {
	ns, err := e.fs.Namespace(e.ctx, ondisk.FSTree)
	if err != nil {
		return nil, 0, err
	}
	n, err := ns.Walk(e.ctx, path, false)
	if err != nil {
		return nil, 0, err
	}
	return n.Tree.(*inode.FileTree), n.Ino, nil
}

func (e engineTarget) do(o op) error {
	err := e.run(o)
	if errors.Is(err, fserr.ErrAborted) || errors.Is(err, fserr.ErrCorrupt) {
		return err // never what the kernel answers
	}
	return errno(err)
}

func (e engineTarget) run(o op) error {
	switch o.kind {
	case opCreate, opMkdir, opSymlink, opMknod, opUnlink, opRmdir:
		return e.doName(o)
	case opRename, opExchange, opLink:
		return e.doTwoNames(o)
	case opSubvolume:
		_, err := e.fs.CreateSubvolume(e.ctx, o.path, subvol.CreateOptions{})
		return err
	case opDeleteSubvol:
		return e.fs.DeleteSubvolume(e.ctx, o.path)
	case opSnapshotRW, opSnapshotRO:
		_, err := e.fs.Snapshot(e.ctx, o.path, o.to, o.kind == opSnapshotRO)
		return err
	}
	return e.doInode(o)
}

func (e engineTarget) doName(o op) error {
	tree, dir, name, err := e.at(o.path)
	if err != nil {
		return err
	}
	switch o.kind {
	case opCreate:
		_, err = tree.Create(e.ctx, dir, name, inode.Attr{Mode: o.mode})
	case opMkdir:
		_, err = tree.Mkdir(e.ctx, dir, name, inode.Attr{Mode: o.mode})
	case opSymlink:
		_, err = tree.Symlink(e.ctx, dir, name, o.name, inode.Attr{})
	case opMknod:
		_, err = tree.Mknod(e.ctx, dir, name, inode.MakeRdev(unix.Major(o.rdev), unix.Minor(o.rdev)), inode.Attr{Mode: o.mode})
	case opUnlink:
		err = tree.Unlink(e.ctx, dir, name)
	case opRmdir:
		err = tree.Rmdir(e.ctx, dir, name)
	}
	return err
}

func (e engineTarget) doTwoNames(o op) error {
	to, toDir, toName, err := e.at(o.to)
	if err != nil {
		return err
	}
	if o.kind == opLink {
		tree, ino, err := e.node(o.path)
		switch {
		case err != nil:
			return err
		case tree != to:
			return fserr.ErrCrossDevice
		}
		return tree.Link(e.ctx, ino, toDir, toName)
	}
	tree, dir, name, err := e.at(o.path)
	if err != nil {
		return err
	}
	mode := inode.RenameReplace
	switch {
	case o.kind == opExchange:
		mode = inode.RenameExchange
	case o.mode&unix.RENAME_NOREPLACE != 0:
		mode = inode.RenameNoReplace
	}
	return e.fs.Rename(e.ctx, subvol.Place{Tree: tree.ID(), Dir: dir, Name: name}, subvol.Place{Tree: to.ID(), Dir: toDir, Name: toName}, mode)
}

func (e engineTarget) doInode(o op) error {
	ctx := e.ctx
	tree, ino, err := e.node(o.path)
	if err != nil {
		return err
	}
	switch o.kind {
	case opWrite, opOverwrite:
		n, err := tree.WriteAt(ctx, ino, testData(o.seed, o.n), o.off)
		if err == nil && int64(n) != o.n {
			err = io.ErrShortWrite
		}
		return err
	case opTruncate:
		return tree.Truncate(ctx, ino, o.n)
	case opPunch:
		now := ondisk.TimeOf(time.Now())
		if err := tree.PunchHole(ctx, ino, o.off, o.n); err != nil {
			return err
		}
		return tree.Utimes(ctx, ino, now, now) // as kernelTarget does, and why
	case opFallocate:
		return tree.Fallocate(ctx, ino, o.off, o.n, o.mode&unix.FALLOC_FL_KEEP_SIZE != 0)
	case opReflink:
		src, srcIno, err := e.node(o.to)
		if err != nil {
			return err
		}
		return tree.CloneRange(ctx, inode.Clone{Src: src, SrcIno: srcIno, SrcOff: o.off, N: o.n, Ino: ino, Off: o.off})
	case opSetXattr:
		return tree.SetXattr(ctx, ino, o.name, o.value, inode.XattrAny)
	case opRemoveXattr:
		return tree.RemoveXattr(ctx, ino, o.name)
	case opChmod:
		return tree.Chmod(ctx, ino, o.mode)
	case opChown:
		return tree.Chown(ctx, ino, o.uid, o.gid)
	case opUtimes:
		return tree.Utimes(ctx, ino, ondisk.Timespec{Sec: o.sec}, ondisk.Timespec{Sec: o.sec, Nsec: 123456789})
	}
	return fmt.Errorf("no such operation: %v", o.kind)
}
