package check

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"imgtool/engine/ondisk"
)

// ID names a kind of finding. It never changes its meaning, so scripts may rely on it.
type ID string

// Severity says how much a kind of finding matters.
type Severity string

const (
	// Error is damage.
	Error Severity = "error"
	// Warning is no damage: an oddity that the kernel mends or lives with. An image with nothing but warnings is clean.
	Warning Severity = "warning"
)

// Kind is a row of the table of all findings.
type Kind struct {
	ID       ID
	Severity Severity
	Means    string // for the user, one sentence
}

// Finding is one thing found. Coordinates that do not apply are zero.
type Finding struct {
	ID       ID              `json:"id"`
	Severity Severity        `json:"severity"`
	Root     ondisk.TreeID   `json:"root,omitempty"`
	Block    ondisk.Logical  `json:"block,omitempty"`  // tree block; physical for a superblock copy
	Slot     int             `json:"slot,omitempty"`   // of the item in the block, counted from 1
	Inode    ondisk.ObjectID `json:"inode,omitempty"`  // in Root
	Extent   ondisk.Logical  `json:"extent,omitempty"` // logical address of an extent, a block group or a chunk
	Device   uint64          `json:"device,omitempty"` // devid
	Detail   string          `json:"detail"`
	Means    string          `json:"means"`
}

// String is one line: severity, id, coordinates, detail.
func (f *Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s:", f.Severity, f.ID)
	for _, c := range []struct {
		name string
		val  int64
	}{
		{"root", int64(f.Root)}, {"block", int64(f.Block)}, {"slot", int64(f.Slot) - 1}, {"inode", int64(f.Inode)},
		{"extent", int64(f.Extent)}, {"device", int64(f.Device)},
	} {
		if c.val != 0 && c.name != "slot" || c.name == "slot" && f.Slot != 0 {
			fmt.Fprintf(&b, " %s=%d", c.name, c.val)
		}
	}
	return b.String() + " " + strings.ReplaceAll(f.Detail, "\n", "; ")
}

// Count is how often one kind was found.
type Count struct {
	ID       ID       `json:"id"`
	Severity Severity `json:"severity"`
	N        uint64   `json:"count"`
	Means    string   `json:"means"`
}

// Report is what a check found.
type Report struct {
	Findings []Finding `json:"findings"` // by severity, id and place; at most Options.MaxPerID of each id
	Counts   []Count   `json:"counts"`   // of all findings, those that were not kept included
	Stats    Stats     `json:"stats"`
}

// Stats says how much was looked at.
type Stats struct {
	Trees      uint64 `json:"trees"`
	Blocks     uint64 `json:"blocks"`      // tree blocks read
	LostBlocks uint64 `json:"lost_blocks"` // tree blocks that could not be read or understood
	Extents    uint64 `json:"extents"`
	BytesUsed  uint64 `json:"bytes_used"`
	DataBytes  uint64 `json:"data_bytes"` // of file data whose checksums were verified, all copies
}

// Clean reports whether no damage was found; there may be warnings.
func (r *Report) Clean() bool {
	return !slices.ContainsFunc(r.Counts, func(c Count) bool { return c.Severity == Error })
}

// Has reports whether a kind was found.
func (r *Report) Has(id ID) bool {
	return slices.ContainsFunc(r.Counts, func(c Count) bool { return c.ID == id })
}

// collector takes findings from all workers.
type collector struct {
	max  int
	seed maphash.Seed

	mu     sync.Mutex
	counts map[ID]uint64
	kept   map[ID]int
	seen   map[uint64]bool // hashes of those kept: a tree that is walked twice reports once
	list   []Finding
}

func newCollector(limit int) *collector {
	return &collector{
		max: limit, seed: maphash.MakeSeed(), counts: map[ID]uint64{}, kept: map[ID]int{}, seen: map[uint64]bool{},
	}
}

// add records a finding; the caller fills in everything but severity and meaning.
func (r *collector) add(f Finding) {
	k := kindOf(f.ID)
	f.Severity, f.Means = k.Severity, k.Means
	sum := maphash.Comparable(r.seed, f)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.seen[sum] {
		return
	}
	r.counts[f.ID]++
	if r.kept[f.ID] >= r.max {
		return
	}
	r.kept[f.ID]++
	r.seen[sum] = true
	r.list = append(r.list, f)
}

// total counts all findings so far.
func (r *collector) total() (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.counts {
		n += k
	}
	return n
}

// report sorts what was found.
func (r *collector) report() *Report {
	out := &Report{Findings: r.list, Counts: []Count{}}
	if out.Findings == nil {
		out.Findings = []Finding{}
	}
	slices.SortFunc(out.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Root, b.Root),
			cmp.Compare(a.Block, b.Block), cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Inode, b.Inode),
			cmp.Compare(a.Extent, b.Extent), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Detail, b.Detail))
	})
	for _, k := range Kinds {
		if n := r.counts[k.ID]; n > 0 {
			out.Counts = append(out.Counts, Count{k.ID, k.Severity, n, k.Means})
		}
	}
	return out
}
