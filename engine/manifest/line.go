package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"unicode/utf8"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// line is one line; the order of the fields is that of the keys.
type line struct {
	Path         string            `json:"path,omitempty"`
	PathB64      []byte            `json:"path_b64,omitempty"`
	Type         string            `json:"type"`
	Mode         string            `json:"mode"`
	UID          uint32            `json:"uid"`
	GID          uint32            `json:"gid"`
	Size         uint64            `json:"size"`
	Mtime        json.Number       `json:"mtime"`
	Nlink        uint32            `json:"nlink"`
	Ino          uint64            `json:"ino"`
	Target       string            `json:"target,omitempty"`
	TargetB64    []byte            `json:"target_b64,omitempty"`
	Rdev         string            `json:"rdev,omitempty"`
	Xattrs       map[string]string `json:"xattrs,omitempty"`
	SHA256       string            `json:"sha256,omitempty"`
	SparseSHA256 string            `json:"sparse_sha256,omitempty"`
}

func newLine(path string, ino ondisk.ObjectID, it *ondisk.InodeItem) *line {
	l := &line{
		Type: typeName(it.Mode()), Mode: fmt.Sprintf("%04o", it.Mode()&ondisk.ModePerm), UID: it.UID(), GID: it.GID(),
		Size: it.Size(), Mtime: nanoseconds(it.MTime()), Nlink: it.NLink(), Ino: uint64(ino),
	}
	l.Path, l.PathB64 = textOrBytes(path)
	switch it.Mode() & ondisk.ModeFmt {
	case ondisk.ModeBlk, ondisk.ModeChr:
		major, minor := inode.SplitRdev(it.Rdev())
		l.Rdev = fmt.Sprintf("%d:%d", major, minor)
	}
	return l
}

func typeName(mode uint32) string {
	switch mode & ondisk.ModeFmt {
	case ondisk.ModeReg:
		return "file"
	case ondisk.ModeDir:
		return "dir"
	case ondisk.ModeLnk:
		return "symlink"
	case ondisk.ModeBlk:
		return "block"
	case ondisk.ModeChr:
		return "char"
	case ondisk.ModeFifo:
		return "fifo"
	case ondisk.ModeSock:
		return "socket"
	}
	return fmt.Sprintf("unknown %#o", mode&ondisk.ModeFmt)
}

// nanoseconds does not overflow: btrfs keeps 64 bits of seconds.
func nanoseconds(t ondisk.Timespec) json.Number {
	ns := new(big.Int).Mul(big.NewInt(t.Sec), big.NewInt(1e9))
	return json.Number(ns.Add(ns, big.NewInt(int64(t.Nsec))).String())
}

// textOrBytes chooses the key for a name: as it is, or in base64 where it is not UTF-8.
func textOrBytes(name string) (string, []byte) {
	if utf8.ValidString(name) {
		return name, nil
	}
	return "", []byte(name)
}

func (l *line) setXattrs(xs []inode.Xattr) {
	if len(xs) == 0 {
		return
	}
	l.Xattrs = make(map[string]string, len(xs))
	for _, x := range xs {
		l.Xattrs[x.Name] = base64.StdEncoding.EncodeToString(x.Value)
	}
}
