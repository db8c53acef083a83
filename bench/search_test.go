package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
)

// TestSearch runs the measurement in short: all policies in both surroundings, with figures that make sense.
func TestSearch(t *testing.T) {
	var out bytes.Buffer
	err := RunSearch(context.Background(), &out, SearchOptions{JSON: true, Dir: t.TempDir(), Rounds: 7, Searches: 500})
	if raceDetector {
		if !errors.Is(err, fserr.ErrNotSup) {
			t.Fatalf("under the race detector: %v, expect a refusal", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var rs []SearchResult
	if err := json.Unmarshal(out.Bytes(), &rs); err != nil {
		t.Fatal(err)
	}
	if len(rs) != 2*int(commitview.NumPolicies) {
		t.Fatalf("%d results", len(rs))
	}
	for _, r := range rs {
		copied := 0.0
		if r.Policy == commitview.CloneRoot.String() {
			copied = 16384
		}
		if r.Copied != copied || r.NS <= 0 || r.P99NS <= 0 || r.Ratio <= 0 || r.NSQ1 > r.NS || r.NS > r.NSQ3 || r.N != 7 {
			t.Errorf("%+v, expect %v bytes copied", r, copied)
		}
		if safe := r.Policy != commitview.Shared.String() || r.Beside == "alone"; safe && r.Failed+r.Mismatches > 0 {
			t.Errorf("%+v: failed searches", r)
		}
		if r.Beside == "alone" && (r.Allocs == nil || *r.Allocs > 2) {
			t.Errorf("%+v: allocations", r)
		}
		if r.Beside != "alone" && r.Commits == 0 {
			t.Errorf("%+v: no commits beside it", r)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		in          []float64
		med, q1, q3 float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{3, 1}, 2, 1.5, 2.5},
		{[]float64{5, 1, 4, 2, 3}, 3, 2, 4},
	} {
		if med, q1, q3 := spread(c.in); med != c.med || q1 != c.q1 || q3 != c.q3 {
			t.Errorf("spread(%v) = %v %v %v, expect %v %v %v", c.in, med, q1, q3, c.med, c.q1, c.q3)
		}
	}
}
