package copytree

import (
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"

	"golang.org/x/sys/unix"
)

// Progress is what has been copied so far.
type Progress struct {
	Inodes uint64 // names: every file, directory and hard link
	Bytes  uint64 // content of regular files
}

// ImportOptions say how Import copies.
type ImportOptions struct {
	// TopAttrs gives the destination directory the source directory's owner, mode, times and xattrs.
	TopAttrs bool
	// Progress is called now and then, from one goroutine at a time, and once at the end. May be nil.
	Progress func(Progress)
	// Skip is asked for everything, by its path below the source directory; what it says true to is left out, a directory
	// with everything below it. May be nil.
	Skip func(path string) bool
	// Workers is the number of goroutines that read; 0 takes a number by the processors.
	Workers int
}

func timespec(t unix.Timespec) ondisk.Timespec {
	return ondisk.Timespec{Sec: int64(t.Sec), Nsec: uint32(t.Nsec)}
}

// attrOf takes over owner, mode and times. The birth time, which hosts do not let one set either, is the oldest of the
// others, so that the same source gives the same image.
func attrOf(st *unix.Stat_t) inode.Attr {
	t := inode.Times{Access: timespec(st.Atim), Change: timespec(st.Ctim), Modify: timespec(st.Mtim)}
	t.Birth = t.Modify
	if before(t.Change, t.Birth) {
		t.Birth = t.Change
	}
	return inode.Attr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Times: &t}
}

func before(a, b ondisk.Timespec) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// isSparse reports whether a regular file has holes worth looking for.
func isSparse(st *unix.Stat_t) bool { return st.Size > ondisk.SectorSize && st.Blocks*512 < st.Size }

// fileKey names a host inode.
type fileKey struct {
	dev, ino uint64
}
