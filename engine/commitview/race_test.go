package commitview_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/bench"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// replays is how many seeds each policy and scenario is replayed with, every one on a fresh image.
const replays = 50

// replay runs one replay on a fresh image. With ask, btrfs-progs are asked for the block at X, under epoch while the
// reader lives, and for the state of the image.
func replay(ctx context.Context, t *testing.T, p commitview.Policy, sc bench.Scenario, seed int64, ask bool, opened func(*engine.FS)) bench.RaceResult {
	t.Helper()
	img := filepath.Join(t.TempDir(), "race.img")
	var owner ondisk.TreeID
	o := bench.RaceOptions{Policies: []commitview.Policy{p}, Scenarios: []bench.Scenario{sc}, Image: img, Seed: seed, Opened: opened}
	if ask && p == commitview.Epoch {
		o.Paused = func(img string, x ondisk.Logical) error {
			owner = dumpedOwner(t, img, x)
			return nil
		}
	}
	rs, err := bench.Race(ctx, io.Discard, o)
	if err != nil || len(rs) != 1 {
		t.Fatalf("seed %d: %v, %d results", seed, err, len(rs))
	}
	r := rs[0]
	if !ask {
		return r
	}
	oracle.Check(t, img)
	if p != commitview.Epoch {
		owner = dumpedOwner(t, img, r.Bytenr)
	}
	if owner != r.OnDisk {
		t.Errorf("seed %d: btrfs dump-tree says that block %d is tree %d's, the replay says %d", seed, r.Bytenr, owner, r.OnDisk)
	}
	return r
}

// dumpedOwner asks btrfs-progs for the owner of a block.
func dumpedOwner(t *testing.T, img string, x ondisk.Logical) ondisk.TreeID {
	t.Helper()
	out := oracle.Btrfs(t, "inspect-internal", "dump-tree", "-b", fmt.Sprint(x), img)
	_, rest, ok := strings.Cut(out, " owner ")
	var id uint64
	if _, err := fmt.Sscan(rest, &id); !ok || err != nil {
		t.Fatalf("no owner in the dump of block %d: %v\n%s", x, err, out)
	}
	return ondisk.TreeID(id)
}

// TestRace is the claim of the project: shared shows both consequences in every run, the others in none.
func TestRace(t *testing.T) {
	n := int64(replays)
	if raceDetector || testing.Short() {
		n = 2
	}
	seed := oracle.Seed(t)
	for _, p := range commitview.Policies() {
		for _, sc := range bench.Scenarios() {
			t.Run(fmt.Sprintf("%v/%s", p, sc), func(t *testing.T) {
				t.Parallel() // most of the time is spent waiting for flushes
				xs := map[ondisk.Logical]bool{}
				for i := range n {
					r := replay(t.Context(), t, p, sc, seed+i, i%10 == 0, nil)
					if !r.Expected {
						t.Errorf("seed %d: %+v", seed+i, r)
					}
					// X has another file tree for its owner, but not while a reader under epoch lives.
					if reused := p != commitview.Epoch; reused != (r.ReusedBy != 0) || reused && r.OnDisk != r.ReusedBy || !r.OnDisk.IsSubvolume() {
						t.Errorf("seed %d: X=%d was handed to tree %d, and is tree %d's on the image", seed+i, r.Bytenr, r.ReusedBy, r.OnDisk)
					}
					xs[r.Bytenr] = true
				}
				if int64(len(xs)) < n/2 {
					t.Errorf("%d runs had only %d different Xs", n, len(xs))
				}
			})
		}
	}
}

// mutantSeeds is how many seeds each mutant is replayed with; none may survive a single one.
func mutantSeeds() int64 {
	if raceDetector {
		return 1
	}
	return 3
}

// TestIdentityRule is the mutant without the cache's identity rule: a re-allocated address gets a buffer of its own, and
// there is no race to study.
func TestIdentityRule(t *testing.T) {
	seed := oracle.Seed(t)
	for i := range mutantSeeds() {
		for _, sc := range bench.Scenarios() {
			r := replay(t.Context(), t, commitview.Shared, sc, seed+i, i == 0, func(f *engine.FS) { f.DB().Cache().SetIdentity(false) })
			if r.Outcome != commitview.Found.String() || r.Mismatches != 0 || r.ReusedBy == 0 {
				t.Errorf("seed %d: %+v, expect the item although X was re-used", seed+i, r)
			}
		}
	}
}

// TestMutants are views that protect themselves an instant too late: they fail as shared does, but for the oracle, which
// under these policies turns what was found into an error.
func TestMutants(t *testing.T) {
	seed := oracle.Seed(t)
	for i := range mutantSeeds() {
		for _, sc := range bench.Scenarios() {
			for _, m := range []struct {
				policy commitview.Policy
				ctx    context.Context
			}{
				{commitview.CloneRoot, commitview.LateClone(t.Context())},
				{commitview.Epoch, commitview.LateTicket(t.Context())},
			} {
				r := replay(m.ctx, t, m.policy, sc, seed+i, i == 0, nil)
				if r.Expected || r.Mismatches == 0 || r.Outcome != commitview.Corrupt.String() || r.ReusedBy == 0 {
					t.Errorf("seed %d, %s: %+v, expect a search that left its tree", seed+i, sc, r)
				}
			}
		}
	}
}
