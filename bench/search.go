package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// SearchOptions of RunSearch.
type SearchOptions struct {
	JSON     bool
	Dir      string // for the temporary image; empty: the system's
	Rounds   int    // samples of each policy; 0: 101, at least 5
	Searches int    // a sample; 0: 2,000
	Seed     int64  // of the order of the keys
}

// SearchResult is the cost of one search under a policy: medians over n samples.
type SearchResult struct {
	Beside     string   `json:"beside"` // "alone" or "snapshot-commits"
	Policy     string   `json:"policy"`
	NS         float64  `json:"ns"`
	NSQ1       float64  `json:"ns_q1"` // quartiles
	NSQ3       float64  `json:"ns_q3"`
	P99NS      int64    `json:"p99_ns"` // of searches timed one by one, the timing included
	Copied     float64  `json:"bytes_copied"`
	Allocs     *float64 `json:"allocs"` // null beside commits, whose allocations cannot be told apart
	Ratio      float64  `json:"ratio"`  // to shared in the same round
	RatioQ1    float64  `json:"ratio_q1"`
	RatioQ3    float64  `json:"ratio_q3"`
	N          int      `json:"n"`
	Failed     uint64   `json:"failed"` // searches that did not find what is there
	Mismatches uint64   `json:"mismatches"`
	Commits    uint64   `json:"commits"` // that were made meanwhile
}

const (
	minRounds       = 5
	searchLevels    = 3
	searchImageSize = 1 << 30
	timedEvery      = 16 // one search in so many is timed by itself, for the percentile
)

// RunSearch measures what one commit-root search costs under each policy, and writes a table, or JSON, to w. The tree
// has three levels and is all in memory. In every round each policy has its turn, in changing order, so that what
// disturbs the machine disturbs all; first with nothing else under way, then beside a loop that takes a snapshot of the
// very subvolume and commits. Samples are short and many, for then most of them, and so median and quartiles, are free
// of what else the machine does. A search is followed by a quiescent point, as in a reader that copies what it found.
//
// Beside commits the policy shared really races, and really fails; under the race detector RunSearch refuses.
func RunSearch(ctx context.Context, w io.Writer, o SearchOptions) (err error) {
	if raceDetector {
		return fmt.Errorf("policy shared races by design: build without -race: %w", fserr.ErrNotSup)
	}
	if o.Rounds == 0 {
		o.Rounds = 101
	}
	if o.Searches == 0 {
		o.Searches = 2000
	}
	if o.Rounds < minRounds || o.Searches < timedEvery {
		return fmt.Errorf("%d rounds of %d searches: take at least %d of %d: %w", o.Rounds, o.Searches, minRounds, timedEvery, fserr.ErrInvalid)
	}
	dir, err := os.MkdirTemp(o.Dir, "imgtool-search-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	fo := engine.FormatOptions{Options: mkfs.Default(), Size: searchImageSize}
	f, err := engine.Format(ctx, filepath.Join(dir, "search.img"), fo)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lab, err := newSearchLab(ctx, f, o)
	if err != nil {
		return err
	}
	results, err := lab.run(ctx)
	if err != nil {
		return err
	}
	if o.JSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(results)
	}
	lab.print(w, results)
	return nil
}

// searchLab is the tree to search and the keys to search for.
type searchLab struct {
	f        *engine.FS
	o        SearchOptions
	readonly ondisk.TreeID
	keys     []ondisk.Key // of inode items, shuffled
}

// newSearchLab fills a subvolume until its tree has three levels, and takes a read-only snapshot. Large xattrs make the
// leaves many and the files few.
func newSearchLab(ctx context.Context, f *engine.FS, o SearchOptions) (*searchLab, error) {
	l := &searchLab{f: f, o: o}
	id, err := f.Subvols().Create(ctx, subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: "source"}, subvol.CreateOptions{})
	if err != nil {
		return nil, err
	}
	tree, err := f.Subvolume(ctx, id)
	if err != nil {
		return nil, err
	}
	root, err := f.DB().Root(ctx, id)
	if err != nil {
		return nil, err
	}
	attr := inode.Attr{Mode: 0o644, Xattrs: []inode.Xattr{{Name: "user.filler", Value: make([]byte, 3000)}}}
	for i := 0; ; i++ {
		ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("file-%06d", i), attr)
		if err != nil {
			return nil, err
		}
		l.keys = append(l.keys, ondisk.Key{ObjectID: ino, Type: ondisk.InodeItemKey})
		if _, level, _ := root.Tree.Root(); level == searchLevels-1 && i%1000 == 999 {
			break
		}
	}
	rng := rand.New(rand.NewPCG(uint64(o.Seed), 1))
	rng.Shuffle(len(l.keys), func(i, j int) { l.keys[i], l.keys[j] = l.keys[j], l.keys[i] })
	l.readonly, err = f.Subvols().Snapshot(ctx, subvol.SnapshotSpec{
		Source: id, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: "readonly"}, Readonly: true,
	})
	return l, err
}

// sample is one turn of one policy.
type sample struct {
	ns, copied, allocs float64 // a search
	failed, mismatches uint64
}

// turn makes one sample's searches.
func (l *searchLab) turn(ctx context.Context, v *commitview.View, h *hdrhistogram.Histogram, from int) (s sample, err error) {
	before := v.Counters().Stats()[v.Policy()]
	seen := 0
	look := func(item []byte) error { seen += len(item); return nil }
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	began := time.Now()
	for i := range l.o.Searches {
		key := l.keys[(from+i)%len(l.keys)]
		timed := i%timedEvery == 0
		var t time.Time
		if timed {
			t = time.Now()
		}
		if err := v.View(ctx, key, look); err != nil {
			if v.Policy() != commitview.Shared && !errors.Is(err, fserr.ErrViewExpired) {
				return s, err
			}
			s.failed++
		}
		if _, err := v.Quiesce(ctx); err != nil {
			return s, err
		}
		if timed {
			if err := h.RecordValue(min(time.Since(t).Nanoseconds(), h.HighestTrackableValue())); err != nil {
				return s, err
			}
		}
	}
	took := time.Since(began)
	runtime.ReadMemStats(&m1)
	after := v.Counters().Stats()[v.Policy()]
	n := float64(l.o.Searches)
	s.ns, s.allocs = float64(took.Nanoseconds())/n, float64(m1.Mallocs-m0.Mallocs)/n
	s.copied = float64(after.BytesCopied-before.BytesCopied) / n
	s.mismatches = after.Mismatches - before.Mismatches
	if want := (l.o.Searches - int(s.failed)) * ondisk.InodeItemSize; seen < want {
		return s, fmt.Errorf("internal: searches saw %d bytes of items, expect %d", seen, want)
	}
	return s, nil
}

// run measures alone and beside commits.
func (l *searchLab) run(ctx context.Context) ([]SearchResult, error) {
	alone, err := l.rounds(ctx)
	if err != nil {
		return nil, err
	}
	stop := l.commits(ctx)
	beside, err := l.rounds(ctx)
	commits, cerr := stop()
	if err := errors.Join(err, cerr); err != nil {
		return nil, err
	}
	out := alone.results("alone")
	for _, r := range beside.results("snapshot-commits") {
		r.Allocs, r.Commits = nil, commits
		out = append(out, r)
	}
	return out, nil
}

// rounds takes the samples: samples[policy][round].
func (l *searchLab) rounds(ctx context.Context) (m *measured, err error) {
	m = &measured{}
	var views [commitview.NumPolicies]*commitview.View
	for p := range views {
		v, err := commitview.Open(ctx, l.f.DB(), l.readonly, commitview.Options{
			Policy: commitview.Policy(p), AllowUnsafe: true, Counters: new(commitview.Counters), Name: "bench search",
		})
		if err != nil {
			return nil, err
		}
		defer v.Close()
		views[p] = v
		m.hist[p] = hdrhistogram.New(1, int64(10*time.Second), 3)
		if _, err := l.turn(ctx, v, hdrhistogram.New(1, int64(10*time.Second), 1), 0); err != nil { // warm
			return nil, err
		}
	}
	for round := range l.o.Rounds {
		for k := range views {
			p := (k + round) % len(views)
			s, err := l.turn(ctx, views[p], m.hist[p], round*l.o.Searches)
			if err != nil {
				return nil, fmt.Errorf("policy %v: %w", views[p].Policy(), err)
			}
			m.samples[p] = append(m.samples[p], s)
		}
	}
	return m, nil
}

// commits takes snapshots of the read-only subvolume, one commit each, until the returned function is called, which says
// how many there were: at least one, which has begun when commits returns.
func (l *searchLab) commits(ctx context.Context) (stop func() (uint64, error)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	n, begun := uint64(0), make(chan struct{})
	go func() {
		close(begun)
		for first := true; first || ctx.Err() == nil; first = false {
			_, err := l.f.Subvols().Snapshot(context.WithoutCancel(ctx), subvol.SnapshotSpec{
				Source: l.readonly, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: fmt.Sprintf("snapshot-%d", n)}, Readonly: true,
			})
			if err != nil {
				done <- err
				return
			}
			n++
		}
		done <- nil
	}()
	<-begun
	return func() (uint64, error) {
		cancel()
		err := <-done
		return n, err
	}
}
