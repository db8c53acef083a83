package metrics

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"imgtool/delayedref"
	"imgtool/disk"
	"imgtool/engine/extbuf"
	"imgtool/engine/trace"
)

var update = flag.Bool("update", false, "write testdata/names.txt anew")

// sample fills every field, each with another number.
func sample() Snapshot {
	n := uint64(100)
	next := func() uint64 { n++; return n }
	return Snapshot{
		UUID: "6cb1e0e4-7d4f-4d0c-9c6c-5b1b0e1d2c3f", Label: "a \"label\"\xff", Generation: next(),
		Commits: next(), Passes: next(), MaxPasses: 4,
		Phases: []Phase{{"start", time.Second}, {"write", 1500 * time.Millisecond}},
		Refs:   delayedref.Stats{Queued: next(), Merged: next(), Run: next(), RefsRun: next(), Heads: 7},
		Spaces: []Space{
			{"data", "single", next(), next(), next(), next(), next(), next()},
			{"metadata", "dup", next(), next(), next(), next(), next(), next()},
		},
		Readers: 2, Asked: next(),
		Cache: extbuf.Stats{Hits: next(), Misses: next(), BadCopies: next(), Mismatches: next(), Reused: next(), Evicted: next(),
			CleanBytes: 4096, DirtyBytes: 8192, Limit: 16384},
		Devices: []Device{{"/tmp/a\xff.img", next(), next(), disk.Stats{Reads: next(), ReadBytes: next(), Writes: next(),
			WriteBytes: next(), Discards: next(), DiscardBytes: next(), Flushes: next()}}},
	}
}

func attached(t *testing.T) (*Registry, *FS) {
	t.Helper()
	r := New()
	f := r.NewFS()
	f.Attach(SourceFunc(sample))
	f.Trace(trace.Event{Kind: trace.SearchDone, Note: "epoch found"})
	for range 2 {
		f.Trace(trace.Event{Kind: trace.SearchDone, Note: "shared wrong item", N: 3})
	}
	f.Trace(trace.Event{Kind: trace.SearchDone, Note: "shared ENOENT", N: 1})
	return r, f
}

func TestLint(t *testing.T) {
	r, _ := attached(t)
	problems, err := testutil.GatherAndLint(r.Gatherer())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	// The linter itself must be able to find something.
	bad, err := promlint.New(strings.NewReader("# TYPE some_total gauge\nsome_total 1\n")).Lint()
	if err != nil || len(bad) == 0 {
		t.Errorf("the linter accepts a gauge that is called a total and has no help: %v", err)
	}
}

// TestNames compares the names, kinds and labels with the golden file: they are what users' dashboards and alerts depend
// on.
func TestNames(t *testing.T) {
	r, _ := attached(t)
	families, err := r.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		fmt.Fprintf(&out, "%s %s %s\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ","))
	}
	const golden = "testdata/names.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != out.String() {
		t.Errorf("names changed (go test ./engine/metrics -update, if that is wanted):\n%s", out.String())
	}
	if n := len(families); n != len(table)+1 {
		t.Errorf("%d of %d metrics are shown", n, len(table)+1)
	}
}

// TestValues takes the figures of each source through to the text that Prometheus reads.
func TestValues(t *testing.T) {
	r, f := attached(t)
	for range 3 {
		f.Trace(trace.Event{Kind: trace.BlockCOWed})
	}
	f.Trace(trace.Event{Kind: trace.BlocksWritten, N: 5})
	f.Trace(trace.Event{Kind: trace.BlocksWritten, N: 6})
	f.Trace(trace.Event{Kind: trace.CommitCompleted, Took: 3 * time.Millisecond})
	f.Trace(trace.Event{Kind: trace.CommitCompleted, Took: time.Minute})
	f.Trace(trace.Event{Kind: trace.HandleStarted})
	s := sample()
	text := scrape(t, r)
	u := `uuid="` + s.UUID + `"`
	for _, want := range []string{
		`imgtool_btrfs_info{label="a \"label\"` + "\ufffd" + `",` + u + `} 1`,
		fmt.Sprintf(`imgtool_btrfs_commits_total{%s} %d`, u, s.Commits),
		`imgtool_btrfs_commit_phase_seconds_total{phase="write",` + u + `} 1.5`,
		`imgtool_btrfs_cowed_blocks_total{` + u + `} 3`,
		`imgtool_btrfs_written_blocks_total{` + u + `} 11`,
		fmt.Sprintf(`imgtool_btrfs_delayed_refs_run_total{%s} %d`, u, s.Refs.RefsRun),
		fmt.Sprintf(`imgtool_btrfs_held_bytes{block_group_type="metadata",mode="dup",%s} %d`, u, s.Spaces[1].Held),
		fmt.Sprintf(`imgtool_btrfs_pinned_bytes{block_group_type="data",mode="single",%s} %d`, u, s.Spaces[0].Pinned),
		fmt.Sprintf(`imgtool_btrfs_cache_misses_total{%s} %d`, u, s.Cache.Misses),
		fmt.Sprintf(`imgtool_btrfs_device_flushes_total{device="/tmp/a%s.img",%s} %d`, "\ufffd", u, s.Devices[0].Stats.Flushes),
		`imgtool_btrfs_searches_total{outcome="found",policy="epoch",` + u + `} 1`,
		`imgtool_btrfs_searches_total{outcome="wrong item",policy="shared",` + u + `} 2`,
		`imgtool_btrfs_search_mismatches_total{policy="shared",` + u + `} 7`,
		`imgtool_btrfs_search_mismatches_total{policy="epoch",` + u + `} 0`,
		`imgtool_btrfs_commit_seconds_bucket{` + u + `,le="0.002"} 0`,
		`imgtool_btrfs_commit_seconds_bucket{` + u + `,le="0.005"} 1`,
		`imgtool_btrfs_commit_seconds_bucket{` + u + `,le="30"} 1`,
		`imgtool_btrfs_commit_seconds_bucket{` + u + `,le="+Inf"} 2`,
		`imgtool_btrfs_commit_seconds_sum{` + u + `} 60.003`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func scrape(t *testing.T, r *Registry) string {
	t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestFreeze: a closed file system keeps its last figures and is not asked again; one that was never attached is not
// shown; of two with one UUID the newer is.
func TestFreeze(t *testing.T) {
	r := New()
	r.NewFS().Trace(trace.Event{Kind: trace.BlockCOWed})
	if text := scrape(t, r); text != "" {
		t.Fatalf("shown without a UUID:\n%s", text)
	}
	commits, asked := uint64(1), 0
	src := SourceFunc(func() Snapshot { asked++; return Snapshot{UUID: "u", Commits: commits} })
	first := r.NewFS()
	first.Attach(src)
	commits = 5
	first.Freeze()
	first.Freeze()
	commits = 9
	if text := scrape(t, r); !strings.Contains(text, `commits_total{uuid="u"} 5`) || asked != 2 {
		t.Errorf("asked %d times, want 2:\n%s", asked, text)
	}
	r.NewFS().Attach(src)
	if text := scrape(t, r); !strings.Contains(text, `commits_total{uuid="u"} 9`) {
		t.Errorf("the newer is not shown:\n%s", text)
	}
}

func TestServe(t *testing.T) {
	r, _ := attached(t)
	s, err := r.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://" + s.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(body), "imgtool_btrfs_commits_total") {
		t.Errorf("%v: %.200s", err, body)
	}
	if _, err := r.Serve(s.Addr().String()); err == nil || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("a second server on the address: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get("http://" + s.Addr().String() + "/metrics"); err == nil {
		t.Error("answers after Close")
	}
}

func TestTextfile(t *testing.T) {
	r, _ := attached(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "imgtool.prom")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteTextfile(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != scrape(t, r) {
		t.Errorf("the file is not what a scrape gives:\n%s", got)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v %v", names, err)
	}
	if err := r.WriteTextfile(filepath.Join(dir, "no", "dir.prom")); err == nil || !strings.Contains(err.Error(), "dir.prom") {
		t.Errorf("a directory that is missing: %v", err)
	}
}

// TestConcurrent is for the race detector: events, scrapes, and file systems that come and go.
func TestConcurrent(t *testing.T) {
	r, f := attached(t)
	var wg sync.WaitGroup
	const events = 500
	for range 4 {
		wg.Go(func() {
			for i := range events {
				f.Trace(trace.Event{Kind: trace.CommitCompleted, Took: time.Duration(i) * time.Millisecond})
				f.Trace(trace.Event{Kind: trace.BlockCOWed})
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			g := r.NewFS()
			g.Attach(SourceFunc(func() Snapshot { return Snapshot{UUID: "other"} }))
			g.Freeze()
		}
	})
	for range 20 {
		if _, err := r.Gatherer().Gather(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if text := scrape(t, r); !strings.Contains(text, fmt.Sprintf("commit_seconds_count{uuid=%q} %d\n", sample().UUID, 4*events)) {
		t.Errorf("events are missing:\n%s", text)
	}
}
