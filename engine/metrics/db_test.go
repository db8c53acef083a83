package metrics_test

import (
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/metrics"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// TestEngine watches a real file system: what it does shows, and agrees with what it says of itself.
func TestEngine(t *testing.T) {
	ctx := t.Context()
	r := metrics.New()
	watch := r.NewFS()
	o := engine.FormatOptions{Options: mkfs.Default()}
	o.Label, o.Tracer = "watched", watch
	fs, err := engine.FormatDevice(ctx, disk.NewMem("mem", 200<<20), o)
	if err != nil {
		t.Fatal(err)
	}
	watch.Attach(metrics.FromDB(fs.DB()))
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	ino, err := tree.Create(ctx, inode.RootDir, "file", inode.Attr{Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.WriteAt(ctx, ino, make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if err := fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.Snapshot(ctx, "/", "/snap", true); err != nil {
		t.Fatal(err)
	}
	view, err := commitview.Open(ctx, fs.DB(), ondisk.FSTree, commitview.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := view.Get(ctx, ondisk.Key{ObjectID: inode.RootDir, Type: ondisk.InodeItemKey}); err != nil {
		t.Error(err)
	}

	// The figures of a commit are complete a little after those who waited for it go on. Generation 1 is mkfs' own.
	for n := float64(fs.DB().Durable()) - 1; gather(t, r)["commits_total"] < n || gather(t, r)["commit_seconds"] < n; {
		runtime.Gosched()
	}
	got := gather(t, r)
	for name, want := range map[string]float64{
		"commits_total":                  float64(fs.Stats().Txn.Commits),
		"searches_total found epoch":     1,
		"generation":                     float64(fs.DB().Durable()),
		"snapshots_total":                1,
		"used_bytes data single":         1 << 20,
		"used_bytes metadata dup":        float64(fs.Usage().Metadata.Used),
		"size_bytes system dup":          float64(fs.Usage().System.Total),
		"device_size_bytes mem":          200 << 20,
		"device_flushes_total mem":       float64(fs.Stats().Devices[0].Stats.Flushes),
		"device_written_bytes_total mem": float64(fs.Stats().Devices[0].Stats.WriteBytes),
		"cache_hits_total":               float64(fs.Stats().Cache.Hits),
		"aborts_total":                   0,
		"commit_seconds":                 float64(fs.Stats().Txn.Commits),
		"info watched":                   1,
		"readers":                        float64(fs.Stats().Pin.Tickets),
		"device_unused_bytes mem":        float64(200<<20 - fs.Usage().DeviceAllocated),
		"max_commit_fixpoint_passes":     float64(fs.Stats().Txn.MaxPasses),
		"delayed_ref_heads":              0,
		"reserved_bytes data single":     0,
		"free_bytes data single":         float64(fs.Usage().Data.Free()),
		"pinned_bytes metadata dup":      0,
		"discarded_bytes_total":          0,
	} {
		if have, ok := got[name]; !ok || have != want {
			t.Errorf("%s = %v (%v), want %v", name, have, ok, want)
		}
	}
	for _, name := range []string{"cowed_blocks_total", "allocated_blocks_total", "written_blocks_total", "commit_phase_seconds_total write"} {
		if got[name] <= 0 {
			t.Errorf("%s = %v, want more", name, got[name])
		}
	}
	if problems, err := testutil.GatherAndLint(r.Gatherer()); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	view.Close()
	// Scrapes do not stop for the end of the file system.
	stop, scraped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(scraped)
		for {
			if _, err := r.Gatherer().Gather(); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	if err := fs.Close(); err != nil {
		t.Error(err)
	}
	watch.Freeze()
	close(stop)
	<-scraped
	if again := gather(t, r); again["commits_total"] != got["commits_total"] {
		t.Errorf("after Close: %v commits, before: %v", again["commits_total"], got["commits_total"])
	}
}

// gather returns the values by name without the namespace, followed by the labels' values but for the UUID; of a
// histogram the count.
func gather(t *testing.T, r *metrics.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			key := strings.TrimPrefix(f.GetName(), "imgtool_btrfs_")
			for _, l := range m.Label {
				if l.GetName() != "uuid" {
					key += " " + l.GetValue()
				}
			}
			switch {
			case m.Histogram != nil:
				out[key] = float64(m.Histogram.GetSampleCount())
			case m.Counter != nil:
				out[key] = m.Counter.GetValue()
			default:
				out[key] = m.Gauge.GetValue()
			}
		}
	}
	return out
}
