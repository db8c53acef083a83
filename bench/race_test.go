package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/commitview"
)

// TestRunRace runs all policies on one image, as the command does, and reads its JSON.
func TestRunRace(t *testing.T) {
	ctx := context.Background()
	img := filepath.Join(t.TempDir(), "all.img")
	var out bytes.Buffer
	if err := RunRace(ctx, &out, RaceOptions{JSON: true, Image: img, Seed: 7}); err != nil {
		t.Fatal(err)
	}
	var rs []map[string]any
	if err := json.Unmarshal(out.Bytes(), &rs); err != nil {
		t.Fatal(err)
	}
	if len(rs) != 6 {
		t.Fatalf("%d results: %s", len(rs), &out)
	}
	want := map[string]string{"shared enoent": "ENOENT", "shared wrong-item": "wrong item"}
	for _, r := range rs {
		key := fmt.Sprint(r["policy"], " ", r["scenario"])
		outcome, ok := want[key]
		if !ok {
			outcome = "found"
		}
		if r["outcome"] != outcome || r["expected"] != true || (r["mismatches"] != 0.0) != ok || r["bytenr"].(float64) < 1<<20 || len(r) != 6 {
			t.Errorf("%v, expect outcome %q", r, outcome)
		}
	}

	// The image is there now: another run goes on in it, and the diagram names X.
	out.Reset()
	if err := RunRace(ctx, &out, RaceOptions{Image: img, Seed: 7, Policies: []commitview.Policy{commitview.Shared}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CPU 3", "bytenr == X = ", "X is pinned", "existing eb, which CPU 1 holds", "-ENOENT", "wrong tree", "dump-tree -b "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the diagrams do not say %q:\n%s", want, &out)
		}
	}
}

// TestUnexpected checks that a policy that breaks its promise is an error: without the cache's identity rule shared does
// not fail, which is not what it promises.
func TestUnexpected(t *testing.T) {
	err := RunRace(context.Background(), io.Discard, RaceOptions{
		Seed: 3, Policies: []commitview.Policy{commitview.Shared}, Scenarios: []Scenario{ScenarioENOENT},
		Opened: func(f *engine.FS) { f.DB().Cache().SetIdentity(false) },
	})
	if !errors.Is(err, ErrUnexpected) {
		t.Errorf("RunRace returned %v", err)
	}
}

func TestRunRaceErrors(t *testing.T) {
	if err := RunRace(context.Background(), io.Discard, RaceOptions{Image: t.TempDir()}); err == nil {
		t.Error("a directory was taken for an image")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	img := filepath.Join(t.TempDir(), "race.img")
	if err := RunRace(ctx, io.Discard, RaceOptions{Image: img}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled replay returned %v", err)
	}
}

func TestParsePolicies(t *testing.T) {
	for word, n := range map[string]int{"all": 3, "": 3, "epoch": 1, "shared": 1, "clone-root": 1, "none": 0} {
		if ps, err := ParsePolicies(word); len(ps) != n || (err == nil) != (n > 0) {
			t.Errorf("ParsePolicies(%q) = %v, %v", word, ps, err)
		}
	}
}
