package txn

import (
	"sync"
	"time"
)

// Phase is a part of a commit, for its timing.
type Phase uint8

// The phases in their order.
const (
	PhaseStart Phase = iota
	PhasePending
	PhaseRefs
	PhaseFixpoint
	PhaseSwitch
	PhaseWrite
	PhaseSuper
	PhaseRelease
	NumPhases
)

var phaseNames = [NumPhases]string{"start", "pending", "delayed_refs", "fixpoint", "switch", "write", "super", "release"}

// String returns the phase's name as the metrics label has it.
func (p Phase) String() string { return phaseNames[p] }

// Stats are the figures of all commits so far.
type Stats struct {
	Commits   uint64
	Passes    uint64 // of the fixpoint, summed
	MaxPasses int
	Phase     [NumPhases]time.Duration // summed
}

type commitStats struct {
	mu sync.Mutex
	s  Stats
}

func (c *commitStats) observe(p Phase, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Phase[p] += d
	if p == PhaseRelease {
		c.s.Commits++
	}
}

func (c *commitStats) passes(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.s.Passes += uint64(n)
	c.s.MaxPasses = max(c.s.MaxPasses, n)
}

// Stats returns the figures of this instant.
func (db *DB) Stats() Stats {
	db.stats.mu.Lock()
	defer db.stats.mu.Unlock()
	return db.stats.s
}
