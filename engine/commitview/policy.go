package commitview

import (
	"fmt"
	"strings"
	"sync/atomic"
)

// Policy is how a reader is protected from commits.
type Policy uint8

// The policies; see the package comment. The zero value is the one that is always safe.
const (
	Epoch Policy = iota
	CloneRoot
	Shared
	NumPolicies
)

var policyNames = [NumPolicies]string{"epoch", "clone-root", "shared"}

// Policies returns all policies, the least protected first.
func Policies() []Policy { return []Policy{Shared, CloneRoot, Epoch} }

// String returns the policy's name as the command line has it.
func (p Policy) String() string {
	if p < NumPolicies {
		return policyNames[p]
	}
	return fmt.Sprintf("policy-%d", uint8(p))
}

// ParsePolicy is the inverse of String.
func ParsePolicy(s string) (Policy, error) {
	for i, n := range policyNames {
		if n == s {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("unknown policy %q: take one of %s", s, strings.Join(policyNames[:], ", "))
}

// Outcome is how a search ended.
type Outcome uint8

// The outcomes.
const (
	Found     Outcome = iota
	NotFound          // ENOENT
	WrongItem         // an item of the key was found in a block that is not the one looked for
	Corrupt           // the path makes no sense
	Expired           // the reader was asked to go
	Failed            // any other error: I/O, a cancelled context
	NumOutcomes
)

var outcomeNames = [NumOutcomes]string{"found", "ENOENT", "wrong item", "corrupt", "expired", "failed"}

// String returns the outcome in the words of the race report.
func (o Outcome) String() string {
	if o < NumOutcomes {
		return outcomeNames[o]
	}
	return fmt.Sprintf("outcome-%d", uint8(o))
}

// notes are the notes of SearchDone events, made once so that an event allocates nothing.
var notes = func() (n [NumPolicies][NumOutcomes]string) {
	for p := range n {
		for o := range n[p] {
			n[p][o] = policyNames[p] + " " + outcomeNames[o]
		}
	}
	return n
}()

// Counters count the searches of many views, by policy. The zero value is ready; safe for concurrent use.
type Counters struct{ by [NumPolicies]counter }

type counter struct {
	outcomes                             [NumOutcomes]atomic.Uint64
	blockCopies, bytesCopied, mismatches atomic.Uint64
	tickets                              atomic.Uint64
	_                                    [64]byte // the next policy's counters are another reader's
}

// Stats are the figures of one policy.
type Stats struct {
	Policy      Policy
	Searches    uint64              // all outcomes
	Outcomes    [NumOutcomes]uint64 // by Outcome
	BlockCopies uint64
	BytesCopied uint64
	Mismatches  uint64 // blocks that were not what the pointer to them promised
	Tickets     uint64 // taken by readers, also to look up root items
}

// Stats returns the figures of every policy.
func (c *Counters) Stats() [NumPolicies]Stats {
	var out [NumPolicies]Stats
	for p := range c.by {
		k, s := &c.by[p], &out[p]
		s.Policy = Policy(p)
		for o := range k.outcomes {
			s.Outcomes[o] = k.outcomes[o].Load()
			s.Searches += s.Outcomes[o]
		}
		s.BlockCopies, s.BytesCopied = k.blockCopies.Load(), k.bytesCopied.Load()
		s.Mismatches, s.Tickets = k.mismatches.Load(), k.tickets.Load()
	}
	return out
}
