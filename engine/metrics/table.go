package metrics

import "github.com/prometheus/client_golang/prometheus"

const namespace = "imgtool_btrfs_"

// figures is what one metric is computed from.
type figures struct {
	Snapshot
	events   *events
	searches []search
}

// emit takes one value, with the values of the metric's labels.
type emit func(value float64, labels ...string)

// metric is one line of the table: a name behind the namespace, its help, its kind, its labels beside uuid, and where
// its values come from.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	values     func(f *figures, out emit)
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

var (
	spaceLabels  = []string{"block_group_type", "mode"}
	deviceLabels = []string{"device"}
)

// table is all metrics but the histogram of commits.
var table = []metric{
	{"info", "Label of the file system; always 1.", gauge, []string{"label"},
		func(f *figures, out emit) { out(1, f.Label) }},
	{"generation", "Generation of the last commit.", gauge, nil, one(func(f *figures) uint64 { return f.Generation })},

	{"commits_total", "Transactions committed.", counter, nil, one(func(f *figures) uint64 { return f.Commits })},
	{"commit_phase_seconds_total", "Seconds that commits spent, by phase.", counter, []string{"phase"},
		func(f *figures, out emit) {
			for _, p := range f.Phases {
				out(p.Time.Seconds(), p.Name)
			}
		}},
	{"commit_fixpoint_passes_total", "Passes of commits over root, block-group and device items.", counter, nil,
		one(func(f *figures) uint64 { return f.Passes })},
	{"max_commit_fixpoint_passes", "Most passes that one commit needed.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.MaxPasses)) }},
	{"aborts_total", "Transactions aborted; the file system is read-only from the first on.", counter, nil,
		one(func(f *figures) uint64 { return f.events.aborts.Load() })},
	{"warnings_total", "Warnings that the engine gave.", counter, nil,
		one(func(f *figures) uint64 { return f.events.warnings.Load() })},
	{"snapshots_total", "Snapshots created.", counter, nil, one(func(f *figures) uint64 { return f.events.snapshots.Load() })},

	{"allocated_blocks_total", "Tree blocks allocated.", counter, nil,
		one(func(f *figures) uint64 { return f.events.allocated.Load() })},
	{"cowed_blocks_total", "Tree blocks copied because they could not be changed in place.", counter, nil,
		one(func(f *figures) uint64 { return f.events.cowed.Load() })},
	{"written_blocks_total", "Tree blocks written by commits.", counter, nil,
		one(func(f *figures) uint64 { return f.events.written.Load() })},
	{"allocated_chunks_total", "Chunks allocated.", counter, nil,
		one(func(f *figures) uint64 { return f.events.chunks.Load() })},

	{"delayed_refs_queued_total", "Changes of extent references queued.", counter, nil,
		one(func(f *figures) uint64 { return f.Refs.Queued })},
	{"delayed_refs_merged_total", "Queued changes that met a pending change of the same reference.", counter, nil,
		one(func(f *figures) uint64 { return f.Refs.Merged })},
	{"delayed_refs_run_total", "Changes of references applied to the extent tree.", counter, nil,
		one(func(f *figures) uint64 { return f.Refs.RefsRun })},
	{"delayed_ref_heads_run_total", "Extents whose pending changes were applied to the extent tree.", counter, nil,
		one(func(f *figures) uint64 { return f.Refs.Run })},
	{"delayed_ref_heads", "Extents with pending changes of references.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.Refs.Heads)) }},

	{"size_bytes", "Size of block groups, one copy.", gauge, spaceLabels, spaces(func(s *Space) uint64 { return s.Total })},
	{"used_bytes", "Bytes of block groups that extents use.", gauge, spaceLabels, spaces(func(s *Space) uint64 { return s.Used })},
	{"free_bytes", "Bytes of block groups that can be allocated.", gauge, spaceLabels, spaces(func(s *Space) uint64 { return s.Free })},
	{"reserved_bytes", "Bytes promised to operations under way.", gauge, spaceLabels,
		spaces(func(s *Space) uint64 { return s.Reserved })},
	{"pinned_bytes", "Freed bytes that wait for their transaction to be durable.", gauge, spaceLabels,
		spaces(func(s *Space) uint64 { return s.Pinned })},
	{"held_bytes", "Freed bytes held back for readers of commit roots.", gauge, spaceLabels,
		spaces(func(s *Space) uint64 { return s.Held })},
	{"unpinned_bytes_total", "Freed bytes that became free space again.", counter, nil,
		one(func(f *figures) uint64 { return f.events.unpinnedBytes.Load() })},
	{"discarded_bytes_total", "Bytes that were discarded.", counter, nil,
		one(func(f *figures) uint64 { return f.events.discardedBytes.Load() })},
	{"readers", "Readers of commit roots that hold back space.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.Readers)) }},
	{"readers_asked_total", "Times a reader was asked to go because space was needed.", counter, nil,
		one(func(f *figures) uint64 { return f.Asked })},
	{"searches_total", "Searches of commit roots, by reader policy and outcome.", counter, []string{"policy", "outcome"},
		func(f *figures, out emit) {
			for _, s := range f.searches {
				out(float64(s.n), s.policy, s.outcome)
			}
		}},
	{"search_mismatches_total", "Blocks met by searches that were not what their parent's pointer promised.", counter,
		[]string{"policy"},
		func(f *figures, out emit) {
			by := map[string]uint64{}
			for _, s := range f.searches {
				by[s.policy] += s.mismatches
			}
			for policy, n := range by {
				out(float64(n), policy)
			}
		}},

	{"cache_hits_total", "Tree blocks found in the extent-buffer cache.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Hits })},
	{"cache_misses_total", "Tree blocks read from a device.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Misses })},
	{"cache_bad_copies_total", "Copies of tree blocks that failed their checks; another copy was tried.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.BadCopies })},
	{"cache_repaired_copies_total", "Bad copies of tree blocks that were written over with a good one.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Repaired })},
	{"cache_failed_repairs_total", "Bad copies of tree blocks that could not be written over.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.NotRepaired })},
	{"cache_mismatches_total", "Tree blocks in memory that were not what the pointer promised.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Mismatches })},
	{"cache_reused_buffers_total", "Allocations that took over a live buffer of their address.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Reused })},
	{"cache_evicted_buffers_total", "Clean tree blocks that made room for others.", counter, nil,
		one(func(f *figures) uint64 { return f.Cache.Evicted })},
	{"cache_clean_bytes", "Bytes of unchanged tree blocks in the cache.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.Cache.CleanBytes)) }},
	{"cache_dirty_bytes", "Bytes of tree blocks that the next commit writes.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.Cache.DirtyBytes)) }},
	{"cache_limit_bytes", "Bound on the clean bytes that nobody uses.", gauge, nil,
		func(f *figures, out emit) { out(float64(f.Cache.Limit)) }},

	{"device_size_bytes", "Size of the device.", gauge, deviceLabels, devices(func(d *Device) uint64 { return d.Size })},
	{"device_unused_bytes", "Bytes of the device that no chunk has.", gauge, deviceLabels,
		devices(func(d *Device) uint64 { return d.Unallocated })},
	{"device_reads_total", "Reads of the device.", counter, deviceLabels, devices(func(d *Device) uint64 { return d.Stats.Reads })},
	{"device_read_bytes_total", "Bytes read from the device.", counter, deviceLabels,
		devices(func(d *Device) uint64 { return d.Stats.ReadBytes })},
	{"device_writes_total", "Writes to the device.", counter, deviceLabels, devices(func(d *Device) uint64 { return d.Stats.Writes })},
	{"device_written_bytes_total", "Bytes written to the device.", counter, deviceLabels,
		devices(func(d *Device) uint64 { return d.Stats.WriteBytes })},
	{"device_discarded_bytes_total", "Bytes of the device that were discarded.", counter, deviceLabels,
		devices(func(d *Device) uint64 { return d.Stats.DiscardBytes })},
	{"device_flushes_total", "Flushes of the device.", counter, deviceLabels, devices(func(d *Device) uint64 { return d.Stats.Flushes })},
}

func one(value func(*figures) uint64) func(*figures, emit) {
	return func(f *figures, out emit) { out(float64(value(f))) }
}

func spaces(value func(*Space) uint64) func(*figures, emit) {
	return func(f *figures, out emit) {
		for i := range f.Spaces {
			s := &f.Spaces[i]
			out(float64(value(s)), s.Type, s.Mode)
		}
	}
}

func devices(value func(*Device) uint64) func(*figures, emit) {
	return func(f *figures, out emit) {
		for i := range f.Devices {
			d := &f.Devices[i]
			out(float64(value(d)), d.Name)
		}
	}
}
