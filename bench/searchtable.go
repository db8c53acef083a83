package bench

import (
	"fmt"
	"io"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"

	"imgtool/engine/commitview"
)

// measured is the samples of all policies, by round.
type measured struct {
	samples [commitview.NumPolicies][]sample
	hist    [commitview.NumPolicies]*hdrhistogram.Histogram
}

// results turns samples into medians and spreads; ratios are taken round by round.
func (m *measured) results(beside string) (out []SearchResult) {
	for _, p := range commitview.Policies() {
		ss := m.samples[p]
		r := SearchResult{Beside: beside, Policy: p.String(), N: len(ss), P99NS: m.hist[p].ValueAtQuantile(99)}
		var ns, copied, allocs, ratio []float64
		for i, s := range ss {
			ns, copied, allocs = append(ns, s.ns), append(copied, s.copied), append(allocs, s.allocs)
			ratio = append(ratio, s.ns/m.samples[commitview.Shared][i].ns)
			r.Failed += s.failed
			r.Mismatches += s.mismatches
		}
		r.NS, r.NSQ1, r.NSQ3 = spread(ns)
		r.Ratio, r.RatioQ1, r.RatioQ3 = spread(ratio)
		r.Copied, _, _ = spread(copied)
		a, _, _ := spread(allocs)
		r.Allocs = &a
		out = append(out, r)
	}
	return out
}

// spread returns median and quartiles of some figures (linear between the two nearest); they get sorted.
func spread(v []float64) (median, q1, q3 float64) {
	slices.Sort(v)
	at := func(q float64) float64 {
		x := q * float64(len(v)-1)
		i := int(x)
		if i+1 == len(v) {
			return v[i]
		}
		return v[i] + (x-float64(i))*(v[i+1]-v[i])
	}
	return at(0.5), at(0.25), at(0.75)
}

func (l *searchLab) print(w io.Writer, results []SearchResult) {
	fmt.Fprintf(w, "one commit-root search, warm: tree of %d levels, %d inode items, blocks of %d bytes\n",
		searchLevels, len(l.keys), l.f.DB().Cache().NodeSize())
	fmt.Fprintf(w, "medians of %d samples of %d searches, policies taking turns; spread is quartiles\n\n", l.o.Rounds, l.o.Searches)
	fmt.Fprintf(w, "%-17s %-11s %7s %15s %8s %8s %7s %7s %13s %3s %8s %10s\n", "beside", "policy", "ns", "spread", "p99 ns", "copied B",
		"allocs", "ratio", "spread", "n", "failed", "mismatches")
	for _, r := range results {
		allocs := "-"
		if r.Allocs != nil {
			allocs = fmt.Sprintf("%.2f", *r.Allocs)
		}
		fmt.Fprintf(w, "%-17s %-11s %7.0f %15s %8d %8.0f %7s %7.2f %13s %3d %8d %10d\n", r.Beside, r.Policy, r.NS,
			fmt.Sprintf("%.0f-%.0f", r.NSQ1, r.NSQ3), r.P99NS, r.Copied, allocs, r.Ratio,
			fmt.Sprintf("%.2f-%.2f", r.RatioQ1, r.RatioQ3), r.N, r.Failed, r.Mismatches)
	}
	fmt.Fprintf(w, "\n%d snapshots, one commit each, were taken beside the searches\n", results[len(results)-1].Commits)
}
