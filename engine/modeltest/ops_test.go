package modeltest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// kind is what an operation does.
type kind uint8

const (
	opCreate kind = iota
	opWrite
	opAppend
	opTruncate
	opPunch
	opFallocate
	opClone
	opUnlink
	opLink
	opSymlink
	opMknod
	opMkdir
	opRmdir
	opRename
	opSetXattr
	opRemoveXattr
	opAttr
	opTimes
	opRead
	opList
	opOpen
	opUseOpen // write, truncate or read through an open file, which may have no name any more
	opCloseFile
	opSubvolume
	opSnapshot
	opDelete
	opClean
	opReadonly
	opCommit
	opWalk   // one's own subvolume through io/fs, compared with the model
	opShared // somebody's read-only snapshot, compared with the model
	opView   // the commit root of one's own subvolume, compared with the states that it may be in
	opSend   // a read-only subvolume, somebody's; the stream is compared with the model
	opReceive
	kinds
)

var kindNames = [kinds]string{
	"create", "write", "append", "truncate", "punch", "fallocate", "clone", "unlink", "link", "symlink", "mknod", "mkdir", "rmdir",
	"rename", "set-xattr", "remove-xattr", "attr", "times", "read", "list", "open", "use-open", "close-file", "subvolume", "snapshot",
	"delete", "clean", "readonly", "commit", "walk", "shared", "view", "send", "receive",
}

func (k kind) String() string { return kindNames[k] }

// weights say how often each kind comes; of a thousand, roughly.
var weights = [kinds]int{
	opCreate: 50, opWrite: 190, opAppend: 50, opTruncate: 35, opPunch: 30, opFallocate: 25, opClone: 30, opUnlink: 60, opLink: 25,
	opSymlink: 20, opMknod: 12, opMkdir: 40, opRmdir: 25, opRename: 70, opSetXattr: 40, opRemoveXattr: 12, opAttr: 25, opTimes: 20,
	opRead: 60, opList: 20, opOpen: 20, opUseOpen: 30, opCloseFile: 15, opSubvolume: 5, opSnapshot: 9, opDelete: 9, opClean: 4,
	opReadonly: 5, opCommit: 14, opWalk: 5, opShared: 6, opView: 6, opSend: 7, opReceive: 9,
}

// op is one operation. Its numbers choose among what is there when it is done, so any subset of a workload is a
// workload.
type op struct {
	kind       kind
	a, b, c, d uint32
}

func (o op) String() string { return fmt.Sprintf("%v(%d,%d,%d,%d)", o.kind, o.a, o.b, o.c, o.d) }

// generate makes n operations of one client.
func generate(rng *rand.Rand, n int) []op {
	total := 0
	for _, w := range weights {
		total += w
	}
	ops := make([]op, n)
	for i := range ops {
		at := rng.IntN(total)
		k := kind(0)
		for ; at >= weights[k]; k++ {
			at -= weights[k]
		}
		ops[i] = op{k, rng.Uint32(), rng.Uint32(), rng.Uint32(), rng.Uint32()}
	}
	return ops
}

// names are those of files and directories alike, so that they are often in each other's way.
var names = []string{"n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", strings.Repeat("long", 60)}

// volNames is how many subvolumes a client has at most.
const volNames = 5

func volName(client int, n uint32) string { return fmt.Sprintf("c%d-s%d", client, n%volNames) }

var xattrNames = []string{"user.a", "user.b", "user.comment", "trusted.t", "security.s"}

// span chooses a range of a file: inline sizes, sectors, and seldom many of them, aligned or not.
func span(c, d uint32) (off int64, n int) {
	switch c % 8 {
	case 0, 1:
		return 0, 1 + int(d%2100)
	case 2, 3:
		return int64(d%24) * 4096, 4096 * (1 + int(d/32%8))
	case 4:
		return int64(d % 70000), 1 + int(d/7%40000)
	case 5:
		return int64(d%4) * 4096, 4096 * (1 + int(d/4%24))
	case 6:
		return int64(d % 5000), 1 + int(d/5000%5000)
	default:
		if d%16 == 0 { // more than goes through the queue of small writes
			return int64(d / 16 % 8 * 4096), 140_000 + int(d/128%400_000)
		}
		return int64(d%100) * 1000, 1 + int(d/100%3000)
	}
}

// maxFile bounds the files, in bytes.
const maxFile = 600 << 10

// content is data that no other call returns.
func content(seed uint32, n int) []byte {
	p := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), 1})
	_, _ = rng.Read(p) // never fails
	return p
}
