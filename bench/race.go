package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// Scenario is what the re-used block holds when the search goes on in it.
type Scenario string

// The two consequences that the kernel's commit message names. The other tree is a file tree in both.
const (
	ScenarioENOENT    Scenario = "enoent"     // no item of the key
	ScenarioWrongItem Scenario = "wrong-item" // an item of the same key
)

// Scenarios returns both.
func Scenarios() []Scenario { return []Scenario{ScenarioENOENT, ScenarioWrongItem} }

// RaceOptions of RunRace.
type RaceOptions struct {
	Policies []commitview.Policy // nil: all
	JSON     bool                // the results as JSON in place of the diagrams
	// Image is where to run: a btrfs image, which gets a directory with the subvolumes of each replay, or a path where
	// nothing is yet, or an empty file, which is formatted. Empty: temporary images, one a replay.
	Image string
	Seed  int64 // of file counts and the like, and so of X

	Scenarios []Scenario // nil: both
	// Opened is called with the file system before a replay; Paused when all has happened that can go wrong and the
	// reader, who lives, has not gone on yet. Both for tests, may be nil.
	Opened func(*engine.FS)
	Paused func(image string, x ondisk.Logical) error
}

// RaceResult is the outcome of one replay.
type RaceResult struct {
	Policy     string         `json:"policy"`
	Scenario   Scenario       `json:"scenario"`
	Bytenr     ondisk.Logical `json:"bytenr"` // X
	Outcome    string         `json:"outcome"`
	Mismatches int            `json:"mismatches"`
	Expected   bool           `json:"expected"` // the outcome is what the policy promises

	ReusedBy ondisk.TreeID     `json:"-"` // the file tree that got X; 0 if it was not handed out
	OnDisk   ondisk.TreeID     `json:"-"` // owner of the block at X on the image when all was over; under epoch while the reader lived
	Gen      ondisk.Generation `json:"-"` // in that block's header
}

// ErrUnexpected is returned when a policy did not do what it promises.
var ErrUnexpected = errors.New("a search did not end as its policy promises")

// ParsePolicies returns the policies of a word: the name of one, or "all".
func ParsePolicies(word string) ([]commitview.Policy, error) {
	if word == "" || word == "all" {
		return commitview.Policies(), nil
	}
	p, err := commitview.ParsePolicy(word)
	if err != nil {
		return nil, fmt.Errorf("%w, or all", err)
	}
	return []commitview.Policy{p}, nil
}

// RunRace replays both scenarios under each policy and writes the diagrams, or JSON, to w. The error matches
// ErrUnexpected if a policy broke its promise; otherwise it says why a replay could not be run.
func RunRace(ctx context.Context, w io.Writer, o RaceOptions) error {
	text := w
	if o.JSON {
		text = io.Discard
	}
	results, err := Race(ctx, text, o)
	if err != nil {
		return err
	}
	if o.JSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(results); err != nil {
			return err
		}
	} else {
		printResults(w, results)
	}
	for _, r := range results {
		if !r.Expected {
			err = errors.Join(err, fmt.Errorf("policy %s, scenario %s: %s with %d mismatches: %w", r.Policy, r.Scenario, r.Outcome,
				r.Mismatches, ErrUnexpected))
		}
	}
	return err
}

// Race is RunRace without a verdict: it writes the diagrams to w and returns the results.
func Race(ctx context.Context, w io.Writer, o RaceOptions) (results []RaceResult, err error) {
	if o.Policies == nil {
		o.Policies = commitview.Policies()
	}
	if o.Scenarios == nil {
		o.Scenarios = Scenarios()
	}
	st := newStage(w)
	var f *engine.FS
	if o.Image != "" {
		if f, err = openOrFormat(ctx, o.Image, st, len(o.Policies)*len(o.Scenarios)); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	for _, p := range o.Policies {
		for _, sc := range o.Scenarios {
			r, err := raceOnce(ctx, f, st, raceRun{RaceOptions: &o, policy: p, scenario: sc, image: o.Image})
			if err != nil {
				return results, fmt.Errorf("race replay, policy %v, scenario %s: %w", p, sc, err)
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// raceOnce replays on f, or on a temporary image if that is nil.
func raceOnce(ctx context.Context, f *engine.FS, st *stage, r raceRun) (res RaceResult, err error) {
	if f == nil {
		dir, err := os.MkdirTemp("", "imgtool-race-")
		if err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		r.image = filepath.Join(dir, "race.img")
		if f, err = formatRace(ctx, r.image, st, raceImageSize); err != nil {
			return res, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	if r.Opened != nil {
		r.Opened(f)
	}
	return r.replay(ctx, f, st)
}

// raceImageSize is the size of an image made for one replay, in bytes. Metadata is single and a tenth of it, at least
// 8 MiB, so that the allocator soon comes round.
const raceImageSize = 64 << 20

func formatRace(ctx context.Context, path string, st *stage, size uint64) (*engine.FS, error) {
	o := engine.FormatOptions{Options: mkfs.Default(), Size: size}
	o.Meta = 0
	o.Label = "race"
	o.Tracer = st
	return engine.Format(ctx, path, o)
}

func openOrFormat(ctx context.Context, path string, st *stage, replays int) (*engine.FS, error) {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Mode().IsRegular() && fi.Size() == 0 {
		return formatRace(ctx, path, st, uint64(replays)*raceImageSize)
	}
	if err != nil {
		return nil, err
	}
	return engine.Open(ctx, path, engine.OpenOptions{Tracer: st})
}

func printResults(w io.Writer, results []RaceResult) {
	fmt.Fprintf(w, "%-12s %-12s %12s  %-12s %-10s %s\n", "policy", "scenario", "X", "outcome", "mismatches", "as promised")
	for _, r := range results {
		as := "yes"
		if !r.Expected {
			as = "NO"
		}
		fmt.Fprintf(w, "%-12s %-12s %12d  %-12s %-10d %s\n", r.Policy, r.Scenario, r.Bytenr, r.Outcome, r.Mismatches, as)
	}
}
