package txn

import "testing"

// TestStateTable writes the design's table a second time, row by row in its own words.
func TestStateTable(t *testing.T) {
	rows := []struct {
		state                    State
		start, attach, join, own Verdict
	}{
		{Running, Enter, Enter, Enter, Enter},
		{CommitStart, Wait, Wait, Enter, Enter},
		{CommitDoing, Wait, Wait, Wait, Enter},
		{Unblocked, OpenNext, NextIfRuns, OpenNext, Refuse},
		{SuperCommitted, OpenNext, NextIfRuns, OpenNext, Refuse},
		{Completed, OpenNext, NextIfRuns, OpenNext, Refuse},
		{Aborted, Refuse, Refuse, Refuse, Refuse},
	}
	if len(rows) != int(nStates) {
		t.Fatalf("%d rows for %d states", len(rows), nStates)
	}
	for _, r := range rows {
		for e, want := range map[Entry]Verdict{EntryStart: r.start, EntryAttach: r.attach, EntryJoin: r.join, EntryOwn: r.own} {
			if got := Allowed(r.state, e); got != want {
				t.Errorf("%v, entry %d: verdict %d, want %d", r.state, e, got, want)
			}
		}
	}
}
