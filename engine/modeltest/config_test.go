package modeltest

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"imgtool/disk"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// config is the file system that a run works on, and how.
type config struct {
	mkfs     mkfs.Options
	size     int64
	discard  bool
	maxDirty uint64 // small: blocks are written early, and commits come in the middle of operations
	cache    int64  // small: blocks are read from the device again and again
	nocow    bool   // some files have no checksums
	clients  int
	lockstep bool // one operation at a time, in an order from the seed
	calm     bool // the device does not fail
	badCopy  int  // the copy, of two, that faults of one copy befall
}

// configFor chooses by seed, so that seeds in a row differ in more than one respect.
func configFor(seed uint64) config {
	c := config{mkfs: mkfs.Default(), size: 192 << 20, clients: 4, nocow: true}
	c.mkfs.NodeSize = []int{16384, 4096}[seed%2]
	c.mkfs.Csum = []ondisk.CsumType{ondisk.CRC32C, ondisk.XXHash64, ondisk.SHA256, ondisk.Blake2b}[seed/2%4]
	if seed%5 == 3 {
		c.mkfs.Meta = 0
	}
	features := []string{"", "^block-group-tree", "^free-space-tree,^block-group-tree", "^no-holes,^block-group-tree"}[seed/3%4]
	if err := c.mkfs.Features.Parse(features); err != nil {
		panic(err)
	}
	switch seed % 4 {
	case 1:
		c.size = 112 << 20
	case 2:
		c.mkfs.Data, c.size, c.nocow = ondisk.BGDup, 288<<20, false
	}
	c.discard = seed/2%2 == 1
	if seed%6 == 5 {
		c.maxDirty = 256 << 10
	}
	if seed%3 == 0 {
		c.cache = 1 << 20
	}
	c.lockstep = seed%3 == 2
	c.badCopy = int(seed / 2 % 2)
	return c
}

func (c config) String() string {
	how := "parallel"
	if c.lockstep {
		how = "in lockstep"
	}
	return fmt.Sprintf("%d clients %s; %d MiB, node size %d, %v, metadata %s, data %s, %s; discard %v, MaxDirty %d, cache %d", c.clients, how,
		c.size>>20, c.mkfs.NodeSize, c.mkfs.Csum, ondisk.BGProfileName(c.mkfs.Meta), ondisk.BGProfileName(c.mkfs.Data), c.mkfs.Features,
		c.discard, c.maxDirty, c.cache)
}

// ending is how a session ends.
type ending uint8

const (
	endCommit ending = iota // a commit, and then a clean close
	endClose                // a close without a commit, as after a power cut of a device without a cache
	endCrash                // what was not flushed is lost, in part
	endings
)

func (e ending) String() string { return [...]string{"commit and close", "close", "crash"}[e] }

// fault is what goes wrong in a session.
type fault uint8

const (
	noFault fault = iota
	latency
	writeEIO
	writeShort
	writeTorn
	flushEIO
	superEIO
	discardEIO
	readEIO     // some reads of anything
	readEIOCopy // all reads of one copy of the metadata
	readFlip    // some reads of one copy give a wrong bit
	silentTorn  // some writes of one copy are torn and do not say so
	rot         // bits of one copy have changed while nobody looked
	faults
)

var faultNames = [faults]string{"none", "latency", "EIO on write", "short write", "torn write", "failing flush", "EIO on the superblock",
	"EIO on discard", "EIO on read", "EIO on reads of one copy", "flipped bits on reads of one copy", "writes of one copy torn in silence",
	"bit rot on one copy"}

func (f fault) String() string { return faultNames[f] }

// plan is what one session is like; all of it comes from the seed.
type plan struct {
	ops   int // of each client, at most
	end   ending
	crash struct { // of endCrash: the moment when this client has done so many operations
		client, after int
		seed          uint64 // of what is lost
	}
	fault fault
	after int // operations of the device before the fault
	// writes says that the fault is one of writing, after which the file system must turn read-only; reads, that
	// operations may fail with EIO.
	writes, reads bool
	scrub         bool // repair before going on
	seed          uint64
}

func (p plan) String() string {
	return fmt.Sprintf("%d operations each, then %v; fault: %v after %d", p.ops, p.end, p.fault, p.after)
}

// planFor makes the plan of a session.
func planFor(cfg config, rng *rand.Rand) plan {
	p := plan{ops: 20 + rng.IntN(120), end: ending(rng.IntN(int(endings))), after: rng.IntN(60), seed: rng.Uint64(), scrub: rng.IntN(2) == 0}
	p.crash.client, p.crash.after, p.crash.seed = rng.IntN(cfg.clients), 1+rng.IntN(p.ops), rng.Uint64()
	p.fault = fault(rng.IntN(int(faults)))
	if rng.IntN(3) == 0 {
		p.fault = noFault
	}
	switch p.fault {
	case readEIOCopy, readFlip, silentTorn, rot:
		if cfg.mkfs.Meta&ondisk.BGDup == 0 {
			p.fault = noFault
		}
	case writeEIO, writeShort, writeTorn:
		p.after *= 8
	case discardEIO:
		if !cfg.discard {
			p.fault = writeEIO
		}
	case flushEIO, superEIO:
		p.after /= 6
	}
	switch p.fault {
	case writeEIO, writeShort, writeTorn, flushEIO, superEIO, discardEIO:
		p.writes = true
	case readEIO:
		p.reads, p.writes = true, false
	}
	return p
}

// rules are those of the device for a fault. one are the places on it of the copy that faults of one copy befall.
func (p plan) rules(one []extentOf) []disk.Rule {
	const eio = syscall.EIO
	write := []disk.Op{disk.OpWrite}
	switch p.fault {
	case latency:
		return []disk.Rule{{Probability: 0.05, Latency: 200 * time.Microsecond}}
	case writeEIO:
		return []disk.Rule{{Ops: write, After: p.after, Err: eio}}
	case writeShort:
		return []disk.Rule{{Ops: write, After: p.after, Err: eio, Short: true}}
	case writeTorn:
		return []disk.Rule{{Ops: write, After: p.after, Err: eio, Torn: true}}
	case flushEIO:
		return []disk.Rule{{Ops: []disk.Op{disk.OpFlush}, After: p.after, Count: 1, Err: eio}}
	case superEIO:
		return []disk.Rule{{Ops: write, Off: int64(ondisk.SuperOffsets[p.seed%2]), Len: ondisk.SuperSize, After: p.after, Count: 1, Err: eio, Torn: p.seed%4 == 3}}
	case discardEIO:
		return []disk.Rule{{Ops: []disk.Op{disk.OpDiscard}, After: p.after, Count: 1, Err: eio}}
	case readEIO:
		return []disk.Rule{{Ops: []disk.Op{disk.OpRead}, After: p.after, Probability: 0.02, Err: eio, Short: p.seed%2 == 0}}
	}
	var rules []disk.Rule
	for _, e := range one {
		r := disk.Rule{Ops: []disk.Op{disk.OpRead}, Off: e.off, Len: e.len}
		switch p.fault {
		case readEIOCopy:
			r.Err = eio
		case readFlip:
			r.Flip, r.Probability = true, 0.3
		case silentTorn:
			r.Ops, r.Torn, r.Probability = write, true, 0.1
		default:
			return nil
		}
		rules = append(rules, r)
	}
	return rules
}

// extentOf is a range of the device.
type extentOf struct{ off, len int64 }
