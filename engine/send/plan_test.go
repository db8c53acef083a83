package send

import (
	"math/rand/v2"
	"slices"
	"testing"

	"imgtool/engine/ondisk"
)

// TestPlan cuts random fills into runs: each fill is in one, runs are as long as they may be and no longer, and gaps are
// read where they are short.
func TestPlan(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := &segment{}
		for i := range rng.IntN(60) {
			f := fill{pos: i, n: 1 + rng.IntN(48<<10), addr: ondisk.Logical(rng.Uint64N(4<<20) &^ 511), verify: rng.IntN(4) > 0}
			if rng.IntN(4) == 0 {
				f.comp, f.packed = ondisk.CompressZstd, uint64(1+rng.IntN(32))*sectorSize
				f.addr &^= sectorSize - 1
			}
			s.fills = append(s.fills, f)
		}
		all := slices.Clone(s.fills)
		s.plan()
		var seen []int
		for i, r := range s.runs {
			checkRun(t, seed, &r, s)
			for _, f := range r.fills {
				seen = append(seen, f.pos)
			}
			if i == 0 {
				continue
			}
			before := &s.runs[i-1]
			from, _ := r.fills[0].span()
			if before.fills[0].verify == r.fills[0].verify && from <= before.to+readGap && r.end(0) <= before.from+readSize {
				t.Errorf("seed %d: runs %d and %d could be one", seed, i-1, i)
			}
		}
		slices.Sort(seen)
		for i := range seen {
			if seen[i] != i || len(seen) != len(all) {
				t.Fatalf("seed %d: the runs have the fills %v of %d", seed, seen, len(all))
			}
		}
	}
}

// end is the end of a run if it had no more than its first fills up to i.
func (r *run) end(i int) (end uint64) {
	for _, f := range r.fills[:i+1] {
		_, to := f.span()
		end = max(end, to)
	}
	return end
}

func checkRun(t *testing.T, seed uint64, r *run, s *segment) {
	t.Helper()
	first, _ := r.fills[0].span()
	if r.seg != s || r.from != first || r.to != r.end(len(r.fills)-1) || len(r.fills) > 1 && r.to-r.from > readSize {
		t.Fatalf("seed %d: run [%d, %d) of %d fills, expect it to begin at %d and to end at %d", seed, r.from, r.to,
			len(r.fills), first, r.end(len(r.fills)-1))
	}
	gaps := false
	for i := 1; i < len(r.fills); i++ {
		from, _ := r.fills[i].span()
		if r.fills[i].verify != r.fills[0].verify || r.fills[i].addr < r.fills[i-1].addr || from > r.end(i-1)+readGap {
			t.Fatalf("seed %d: fill %d does not belong to its run", seed, i)
		}
		gaps = gaps || from > r.end(i-1)
	}
	if gaps != r.gaps {
		t.Fatalf("seed %d: a run with gaps: %v, it says %v", seed, gaps, r.gaps)
	}
	parts := 0
	for _, p := range split(nil, *r, 0) {
		if p.gaps || len(p.fills) > 1 && p.to-p.from > readSize {
			t.Fatalf("seed %d: a part has gaps or is too long", seed)
		}
		parts += len(p.fills)
	}
	if parts != len(r.fills) {
		t.Fatalf("seed %d: %d fills in the parts, %d in the run", seed, parts, len(r.fills))
	}
}
