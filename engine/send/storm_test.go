package send_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
	"imgtool/engine/trace"
)

// storm takes a snapshot of a subvolume, deletes the one before, and makes blocks of another tree until one of them has
// taken the address of the root that has gone.
func (l *lab) storm(path string, root ondisk.Logical) error {
	ctx := context.WithoutCancel(l.Context())
	l.n++
	if _, err := l.fs.Snapshot(ctx, path, fmt.Sprint("/storm", l.n), true); err != nil {
		return err
	}
	if l.n > 1 {
		if err := l.fs.DeleteSubvolume(ctx, fmt.Sprint("/storm", l.n-1)); err != nil {
			return err
		}
		if err := l.fs.CleanSubvolumes(ctx); err != nil {
			return err
		}
	}
	for i := range 20 {
		for j := range 10 {
			if _, err := l.churn.Create(ctx, inode.RootDir, fmt.Sprintf("%d-%d-%d-%s", l.n, i, j, strings.Repeat("x", 200)), inode.Attr{}); err != nil {
				return err
			}
		}
		if err := l.fs.Commit(ctx); err != nil {
			return err
		}
		b := l.fs.DB().Cache().Lookup(root)
		if b == nil {
			return nil
		}
		taken := b.Owner() == l.churn.ID()
		b.Release()
		if taken {
			return nil
		}
	}
	return nil
}

// TestStorm sends while the subvolume that is being sent is snapshotted at every search of it, the roots that go are
// overwritten by other trees, and other snapshots are deleted: under the safe policies the stream is what it is in
// silence. Under shared the race is there and is noticed. No leaves are kept, so that each look-up is a search.
func TestStorm(t *testing.T) {
	defer send.SmallSegments(4 << 10)()
	defer send.KeepLeaves(0)()
	for _, c := range []struct {
		name  string
		files int
		o     engine.SendOptions
	}{
		{"full", 100, engine.SendOptions{Path: "/s"}},
		{"incremental", 170, engine.SendOptions{Path: "/t", ParentPath: "/s"}},
	} {
		for _, p := range commitview.Policies() {
			if raceDetector && c.name == "incremental" {
				continue // minutes; TestMany and TestBlocked are incremental, too
			}
			t.Run(c.name+"/"+p.String(), func(t *testing.T) { stormOne(t, c.files, c.o, p) })
		}
	}
}

// TestStormKept is TestStorm as users have it: leaves are kept, so that nearly all searches fetch the next one, of a tree
// that has enough of them for as many snapshots.
func TestStormKept(t *testing.T) {
	defer send.SmallSegments(4 << 10)()
	for _, p := range commitview.Policies() {
		t.Run(p.String(), func(t *testing.T) { stormOne(t, 1200, engine.SendOptions{Path: "/s"}, p) })
	}
}

func stormOne(t *testing.T, files int, o engine.SendOptions, p commitview.Policy) {
	l := newLab(t, files)
	l.fill()
	var quiet, loud bytes.Buffer
	l.must(l.send(&quiet, o))
	var counters commitview.Counters
	var stats send.Stats
	o.Policy, o.AllowUnsafe, o.Counters, o.Stats = p, p == commitview.Shared, &counters, &stats
	sent := uint64(l.id(o.Path))
	var busy atomic.Bool
	var failed error
	every, searches, least := 1, 0, 100
	if raceDetector { // it takes its time
		every, least = 4, 20
	}
	storm := func(e trace.Event) {
		if e.Kind != trace.CommitRootAcquired || e.Root != sent || !busy.CompareAndSwap(false, true) {
			return
		}
		defer busy.Store(false)
		if searches++; failed == nil && searches%every == 0 {
			failed = l.storm(o.Path, ondisk.Logical(e.Bytenr))
		}
	}
	l.hook.Store(&storm)
	err := l.send(&loud, o)
	l.hook.Store(nil)
	l.must(failed)
	mismatches := uint64(0)
	for _, s := range counters.Stats() {
		mismatches += s.Mismatches
	}
	t.Logf("%d snapshots, %d bytes, %d mismatches, %v", l.n, loud.Len(), mismatches, err)
	if p == commitview.Shared {
		if mismatches == 0 || err == nil {
			t.Errorf("the race has not shown: %d mismatches, %v", mismatches, err)
		}
	} else {
		if err != nil || !bytes.Equal(quiet.Bytes(), loud.Bytes()) {
			t.Errorf("%v; the stream has %d bytes, in silence %d", err, loud.Len(), quiet.Len())
		}
		if mismatches != 0 || l.n < least {
			t.Errorf("%d mismatches, %d snapshots during the send, want 0 and at least %d", mismatches, l.n, least)
		}
	}
	if st := l.fs.DB().Pin().Stats(); st.Held() != 0 || st.Tickets != 0 || st.Late != 0 {
		t.Errorf("no reader is left, and there is still %v", st)
	}
	l.close()
}
