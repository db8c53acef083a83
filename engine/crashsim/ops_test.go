package crashsim

import (
	"fmt"
	"math/rand/v2"

	"imgtool/engine"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// kind is what an operation does.
type kind uint8

const (
	opCreate kind = iota
	opWrite
	opRewrite // writes over a file that exists, so that extents are freed
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
	opXattr
	opAttr
	opChurn // all files of a directory written anew
	opMany  // many small files at once, by a Bulk
	opPrune // and most of them removed
	opOpenUnlink
	opCloseFile
	opFill // take all data space but a little
	opDrain
	opSubvolume
	opSnapshot // commits
	opDeleteSubvolume
	opClean
	opCleanInterrupted
	opGrow // a subvolume whose deletion takes several transactions
	opReadonly
	opSend           // a read-only subvolume, while other operations run
	opReceive        // what was sent so, while other operations run and commit
	opReceiveForeign // what was sent from another image
	opReceiveCut     // a stream that breaks off
	opLabel
	opCommit
	opCommitOverlapped
	opReopen // closed without a commit, and opened again
	kinds
)

var kindNames = [kinds]string{
	"create", "write", "rewrite", "truncate", "punch", "fallocate", "clone", "unlink", "link", "symlink", "mknod", "mkdir", "rmdir",
	"rename", "xattr", "attr", "churn", "many", "prune", "open-unlink", "close-file", "fill", "drain", "subvolume", "snapshot",
	"delete-subvolume", "clean", "clean-interrupted", "grow", "readonly", "send",
	"receive", "receive-foreign", "receive-cut", "label", "commit", "commit-overlapped", "reopen",
}

func (k kind) String() string { return kindNames[k] }

// weights say how often each kind comes; of a thousand, roughly.
var weights = [kinds]int{
	opCreate: 50, opWrite: 150, opRewrite: 120, opTruncate: 30, opPunch: 25, opFallocate: 20, opClone: 25, opUnlink: 60,
	opLink: 20, opSymlink: 15, opMknod: 10, opMkdir: 25, opRmdir: 12, opRename: 40, opXattr: 25, opAttr: 20, opChurn: 60, opMany: 20,
	opPrune: 12, opOpenUnlink: 15, opCloseFile: 10, opFill: 6, opDrain: 12, opSubvolume: 15, opSnapshot: 25,
	opDeleteSubvolume: 25, opClean: 12, opCleanInterrupted: 8, opGrow: 2, opReadonly: 10, opSend: 16, opReceive: 16,
	opReceiveForeign: 10, opReceiveCut: 8, opLabel: 4, opCommit: 90,
	opCommitOverlapped: 90, opReopen: 12,
}

// op is one operation. It names its targets by numbers into fixed sets of names, and one whose target is not there, or
// is in the way, does nothing: so any subset of a workload is a workload.
type op struct {
	kind       kind
	a, b, c, d uint32
}

func (o op) String() string { return fmt.Sprintf("%v(%d,%d,%d,%d)", o.kind, o.a, o.b, o.c, o.d) }

// generate makes about n operations: each kind as often as its weight says, but at least once, in random order behind
// a few that make somewhere to go. Without grow there is no opGrow, which makes everything slow.
func generate(rng *rand.Rand, n int, grow bool) []op {
	total := 0
	for _, w := range weights {
		total += w
	}
	var deck []kind
	for k, w := range weights {
		if kind(k) == opGrow && !grow {
			continue
		}
		for range max(1, w*n/total) {
			deck = append(deck, kind(k))
		}
	}
	rng.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	ops := []op{{kind: opSubvolume}, {kind: opSubvolume, b: 1}, {kind: opMkdir}, {kind: opMkdir, c: 1}, {kind: opMkdir, a: 2},
		{kind: opMany, a: 2}, {kind: opMkdir, c: 2}, {kind: opRmdir, c: 1}, {kind: opReceiveForeign},
		{kind: opSnapshot, a: 2}, {kind: opSend, c: 3}, {kind: opCommit}}
	for _, k := range deck {
		if k == opCommitOverlapped && rng.IntN(2) == 0 {
			ops = append(ops, op{kind: opChurn, a: rng.Uint32(), b: rng.Uint32(), d: rng.Uint32()})
		}
		ops = append(ops, op{kind: k, a: rng.Uint32(), b: rng.Uint32(), c: rng.Uint32(), d: rng.Uint32()})
	}
	return ops
}

// config is the file system that a workload runs on.
type config struct {
	mkfs     mkfs.Options
	size     uint64
	discard  bool
	maxDirty uint64 // small: blocks are written early, and commits come in the middle of operations
	full     bool   // nearly full from the start
	// roomy is for TestReplay: nothing is received where space may run out, since how far a receiver comes then is a matter of
	// time, and nothing runs in the middle of a commit.
	roomy bool
}

// configFor chooses a file system by seed. Every seed in a row differs in more than one respect, and each value of each
// option comes up in every 12 seeds.
func configFor(seed uint64) config {
	c := config{mkfs: mkfs.Default(), size: 160 << 20}
	c.mkfs.NodeSize = []int{16384, 4096}[seed%2]
	c.mkfs.Csum = []ondisk.CsumType{ // the slow ones for a quarter of the seeds
		ondisk.CRC32C, ondisk.XXHash64, ondisk.CRC32C, ondisk.SHA256, ondisk.CRC32C, ondisk.XXHash64, ondisk.CRC32C, ondisk.Blake2b}[seed/2%8]
	if seed%3 == 1 {
		c.mkfs.Meta = 0
	}
	features := []string{"", "^block-group-tree", "^free-space-tree,^block-group-tree", "^no-holes,^block-group-tree"}[seed/3%4]
	if err := c.mkfs.Features.Parse(features); err != nil {
		panic(err)
	}
	if seed%11 == 5 {
		c.mkfs.Data, c.size = ondisk.BGDup, 320<<20
	}
	c.discard = seed/2%2 == 1
	if seed%5 == 2 {
		c.maxDirty = 128 << 10
	}
	c.full = seed%4 == 3
	return c
}

func (c config) String() string {
	return fmt.Sprintf("%d MiB, node size %d, %v, metadata %s, data %s, %s; discard %v, MaxDirty %d, full %v", c.size>>20, c.mkfs.NodeSize,
		c.mkfs.Csum, ondisk.BGProfileName(c.mkfs.Meta), ondisk.BGProfileName(c.mkfs.Data), c.mkfs.Features, c.discard, c.maxDirty, c.full)
}

func (c config) format() engine.FormatOptions {
	return engine.FormatOptions{Options: c.mkfs, Size: c.size}
}
