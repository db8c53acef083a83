package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// raceRun is one replay.
type raceRun struct {
	*RaceOptions
	policy   commitview.Policy
	scenario Scenario
	image    string // RaceOptions.Image, or the temporary one
}

// found is how a search has ended.
type found struct {
	commitview.Result
	err error
}

// replay sets the scene in a directory of its own, runs the race, and commits what it changed.
func (r raceRun) replay(ctx context.Context, f *engine.FS, st *stage) (res RaceResult, err error) {
	res = RaceResult{Policy: r.policy.String(), Scenario: r.scenario}
	rng := rand.New(rand.NewPCG(uint64(r.Seed), uint64(r.policy)<<8|uint64(len(r.scenario))))
	sc, err := setScene(ctx, f, rng, fmt.Sprintf("race-%s-%s-%d", r.policy, r.scenario, r.Seed))
	if err != nil {
		return res, err
	}
	key := sc.absent
	if r.scenario == ScenarioWrongItem {
		key = sc.common
	}
	v, err := commitview.Open(ctx, f.DB(), sc.readonly, commitview.Options{Policy: r.policy, AllowUnsafe: true, Name: "bench race"})
	if err != nil {
		return res, err
	}
	defer v.Close()
	root, err := f.DB().Root(ctx, sc.readonly)
	if err != nil {
		return res, err
	}
	right, err := root.Tree.Get(ctx, key) // not through the view, which must meet the race in its first search
	if err != nil {
		return res, fmt.Errorf("before the race: %w", err)
	}

	st.begin(sc.readonly)
	defer st.end()
	r.title(st, sc, key)
	done := make(chan found, 1)
	go func() {
		r, err := v.Search(ctx, key)
		done <- found{r, err}
	}()
	got, err := r.race(ctx, f, st, sc, v, &res, done)
	if err != nil {
		return res, err
	}
	r.judge(st, &res, got, right)
	if err := f.Commit(ctx); err != nil {
		return res, err
	}
	return res, r.afterwards(ctx, f, st, &res)
}

// race goes from the moment where the reader has its root to the end of its search.
func (r raceRun) race(ctx context.Context, f *engine.FS, st *stage, sc *scene, v *commitview.View, res *RaceResult, done <-chan found) (found, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at, err := st.await(ctx)
	if err != nil {
		return found{}, err
	}
	resumed := false
	resume := func() found {
		resumed = true
		close(st.resume)
		return <-done
	}
	defer func() {
		if !resumed { // something failed: the reader must not stay behind
			resume()
		}
	}()
	res.Bytenr = ondisk.Logical(at.Bytenr)
	st.watch(at.Bytenr)
	if err := r.acquired(ctx, f, st, sc, v, at.Bytenr); err != nil {
		return found{}, err
	}
	if err := r.snapshot(ctx, f, st, sc); err != nil {
		return found{}, err
	}
	if err := r.reuse(ctx, f, st, sc, res); err != nil {
		return found{}, err
	}
	if r.policy == commitview.Epoch {
		if res.OnDisk, res.Gen, err = r.owner(ctx, f, res.Bytenr); err != nil {
			return found{}, err
		}
	}
	if r.Paused != nil {
		if err := r.Paused(r.image, res.Bytenr); err != nil {
			return found{}, err
		}
	}
	return resume(), nil
}

func (r raceRun) title(st *stage, sc *scene, key ondisk.Key) {
	st.say(0, "", fmt.Sprintf("policy %v, scenario %s: search of %v in read-only subvolume %d", r.policy, r.scenario, key, sc.readonly), "")
	st.say(0, fmt.Sprintf("%-39s%-40s%s", "          CPU 1", "              CPU 2", "              CPU 3"), "")
}

// acquired tells what the reader has in its hands.
func (r raceRun) acquired(ctx context.Context, f *engine.FS, st *stage, sc *scene, v *commitview.View, x uint64) error {
	owner, gen, err := r.owner(ctx, f, ondisk.Logical(x))
	if err != nil {
		return err
	}
	st.say(1, "search of the commit root", " commit_root lock taken", " eb of the commit root",
		fmt.Sprintf("  bytenr == X = %d", x), fmt.Sprintf("  owner %d, generation %d", owner, gen))
	switch r.policy {
	case commitview.Shared:
		st.say(1, "  reference taken")
	case commitview.CloneRoot:
		st.say(1, "  copied under the lock")
	case commitview.Epoch:
		st.say(1, fmt.Sprintf("  under a ticket of generation %d", v.Generation()))
	}
	st.say(1, " commit_root lock let go")
	return nil
}

// snapshot is CPU 2: an ordinary snapshot, durable when it returns.
func (r raceRun) snapshot(ctx context.Context, f *engine.FS, st *stage, sc *scene) error {
	st.say(2, fmt.Sprintf("snapshot of subvolume %d", sc.readonly), " commit transaction", "  create_pending_snapshot()")
	if err := sc.snapshot(ctx, f); err != nil {
		return err
	}
	gen, free := st.dropped()
	if gen == 0 {
		return errors.New("the snapshot's commit did not drop the old root")
	}
	if !free {
		st.say(2, "  X stays held: a reader can see it")
	}
	st.say(2, fmt.Sprintf("  transaction %d finished", gen))
	return nil
}

// laps bounds how often the allocator may come round before X has become the root of another file tree. At times
// another tree takes it, and gives it back with its next copy.
const laps = 16

// reuse is CPU 3: it changes one other subvolume after the other and commits after each round, until X is the root of
// one of them, or until the allocator has come by X and left it alone.
func (r raceRun) reuse(ctx context.Context, f *engine.FS, st *stage, sc *scene, res *RaceResult) error {
	limit := laps * sc.metadataBlocks(f)
	st.say(3, "other subvolumes are changed")
	for round := 1; ; round++ {
		for _, o := range sc.others {
			if err := o.change(ctx, round); err != nil {
				return err
			}
			owner, born, passed, blocks := st.news()
			switch {
			case owner == o.tree.ID() && born == f.DB().Generation():
				st.say(3, fmt.Sprintf("  the eb is the root of tree %d now,", owner), fmt.Sprintf("  %d changes in subvolumes later", round*len(sc.others)))
				res.ReusedBy = owner
				return nil
			case passed && r.policy == commitview.Epoch:
				st.say(3, fmt.Sprintf("  the allocator went past X (%d blocks)", blocks))
				return f.Commit(ctx)
			case blocks > limit:
				return fmt.Errorf("the allocator handed out %d blocks and not X = %d: the metadata space is too large or too full, take another image: %w",
					blocks, res.Bytenr, fserr.ErrNoSpace)
			}
		}
		if err := f.Commit(ctx); err != nil {
			return err
		}
	}
}

// judge compares the outcome with what the policy promises.
func (r raceRun) judge(st *stage, res *RaceResult, got found, right []byte) {
	res.Outcome, res.Mismatches = got.Outcome.String(), got.Mismatches
	intact := got.Outcome == commitview.Found && got.Mismatches == 0 && bytes.Equal(got.Item, right)
	switch {
	case r.policy != commitview.Shared:
		res.Expected = intact && got.err == nil
	case r.scenario == ScenarioENOENT:
		res.Expected = got.Outcome == commitview.NotFound && got.Mismatches > 0
	default:
		res.Expected = got.Outcome == commitview.WrongItem && got.Mismatches > 0 && !bytes.Equal(got.Item, right)
	}
	st.say(1, "the search goes on in its eb")
	switch {
	case intact:
		st.say(1, fmt.Sprintf("  -> found, %s", describe(got.Item)))
	case got.Outcome == commitview.WrongItem:
		st.say(1, "  -> an item of the same key,", "     in the wrong tree:", "     have "+describe(got.Item), "     want "+describe(right))
	case got.Outcome == commitview.NotFound:
		st.say(1, "  -> -ENOENT, though the item exists:", "     "+describe(right))
	default:
		st.say(1, fmt.Sprintf("  -> %s: %v", got.Outcome, got.err))
	}
	st.say(1, fmt.Sprintf("  blocks that were not what was promised: %d", got.Mismatches))
}

func describe(item []byte) string {
	if len(item) != ondisk.InodeItemSize {
		return fmt.Sprintf("%d bytes", len(item))
	}
	i := ondisk.AsInodeItem(item)
	return fmt.Sprintf("uid %d mode %o generation %d", i.UID(), i.Mode(), i.Generation())
}

// afterwards says who owns X on the image, as dump-tree shows it.
func (r raceRun) afterwards(ctx context.Context, f *engine.FS, st *stage, res *RaceResult) error {
	when := "while the reader lived"
	if r.policy != commitview.Epoch {
		when = "now"
		var err error
		if res.OnDisk, res.Gen, err = r.owner(ctx, f, res.Bytenr); err != nil {
			return err
		}
		if res.OnDisk != res.ReusedBy {
			return fmt.Errorf("block %d is tree %d's on the image, and was handed to tree %d", res.Bytenr, res.OnDisk, res.ReusedBy)
		}
	}
	image := r.Image
	if image == "" {
		image = "the temporary image"
	}
	st.say(0, "", fmt.Sprintf("dump-tree -b %d of %s, %s: owner %d, generation %d", res.Bytenr, image, when, res.OnDisk, res.Gen), "")
	return nil
}

// owner reads the header of a block from the image, not from memory.
func (r raceRun) owner(ctx context.Context, f *engine.FS, x ondisk.Logical) (ondisk.TreeID, ondisk.Generation, error) {
	p := f.Pool().Get(f.DB().Cache().NodeSize())
	defer f.Pool().Put(p)
	if err := f.Volume().ReadCopy(ctx, x, p, 0); err != nil {
		return 0, 0, err
	}
	h := ondisk.AsHeader(p)
	return h.Owner(), h.Generation(), nil
}
