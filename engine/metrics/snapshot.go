package metrics

import (
	"time"

	"imgtool/delayedref"
	"imgtool/disk"
	"imgtool/engine/extbuf"
)

// Snapshot is what a [Source] knows of one file system at one moment. Counters of it only grow while the file system
// is open.
type Snapshot struct {
	UUID       string
	Label      string
	Generation uint64 // of the last commit

	Commits   uint64
	Passes    uint64 // of the fixpoint, summed
	MaxPasses int
	Phases    []Phase

	Refs    delayedref.Stats
	Spaces  []Space
	Readers int    // live tickets
	Asked   uint64 // times a reader was asked to go

	Cache   extbuf.Stats
	Devices []Device
}

// Phase is the time that all commits together spent in one part of the commit.
type Phase struct {
	Name string
	Time time.Duration
}

// Space is the bytes of the block groups of one type and profile.
type Space struct {
	Type string // data, metadata, system: node_exporter's block_group_type
	Mode string // single, dup, ...: node_exporter's mode

	Total, Used, Free, Reserved, Pinned, Held uint64
}

// Device is one device of the file system.
type Device struct {
	Name        string // node_exporter's device: the file's path
	Size        uint64 // bytes
	Unallocated uint64 // bytes that no chunk has
	Stats       disk.Stats
}

// Source gives the figures of an open file system. Snapshot is called at each scrape, by one goroutine at a time; it
// may take the locks of the engine.
type Source interface{ Snapshot() Snapshot }

// SourceFunc adapts a function to Source.
type SourceFunc func() Snapshot

// Snapshot calls f.
func (f SourceFunc) Snapshot() Snapshot { return f() }
