package txn

import "fmt"

// State is where a transaction stands.
type State uint8

// The states in their order (fs/btrfs/transaction.c has the same ones).
const (
	Running State = iota
	CommitStart
	CommitDoing
	Unblocked
	SuperCommitted
	Completed
	Aborted
	nStates
)

var stateNames = [nStates]string{"RUNNING", "COMMIT_START", "COMMIT_DOING", "UNBLOCKED", "SUPER_COMMITTED", "COMPLETED", "ABORTED"}

// String returns the state's name in the kernel's capitals.
func (s State) String() string {
	if s < nStates {
		return stateNames[s]
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

// Entry is a way into a transaction.
type Entry uint8

// The ways in: Start reserves space and opens a transaction if none runs; Attach never opens one; Join is for work that
// the running transaction itself waits for, such as the end of a data write; Own is the commit's own handle.
const (
	EntryStart Entry = iota
	EntryAttach
	EntryJoin
	EntryOwn
	nEntries
)

// Verdict is what a state says to an entry.
type Verdict uint8

// The verdicts.
const (
	Enter      Verdict = iota // a handle on this transaction
	Wait                      // until this transaction is unblocked, then look again
	OpenNext                  // a new transaction
	NextIfRuns                // the next transaction if it runs, else ErrNoTransaction
	Refuse                    // a bug, or the abort's cause
)

// allowed is the design's table: what each state answers to each way in.
var allowed = [nStates][nEntries]Verdict{
	Running:        {EntryStart: Enter, EntryAttach: Enter, EntryJoin: Enter, EntryOwn: Enter},
	CommitStart:    {EntryStart: Wait, EntryAttach: Wait, EntryJoin: Enter, EntryOwn: Enter},
	CommitDoing:    {EntryStart: Wait, EntryAttach: Wait, EntryJoin: Wait, EntryOwn: Enter},
	Unblocked:      {EntryStart: OpenNext, EntryAttach: NextIfRuns, EntryJoin: OpenNext, EntryOwn: Refuse},
	SuperCommitted: {EntryStart: OpenNext, EntryAttach: NextIfRuns, EntryJoin: OpenNext, EntryOwn: Refuse},
	Completed:      {EntryStart: OpenNext, EntryAttach: NextIfRuns, EntryJoin: OpenNext, EntryOwn: Refuse},
	Aborted:        {EntryStart: Refuse, EntryAttach: Refuse, EntryJoin: Refuse, EntryOwn: Refuse},
}

// Allowed looks the table up.
func Allowed(s State, e Entry) Verdict { return allowed[s][e] }
