package delayedref

import (
	"fmt"
	"slices"
)

// Head is everything that is pending for one extent. An Applier gets it for the
// duration of one Apply and does not keep it.
type Head struct {
	Bytenr   uint64 // logical address
	NumBytes uint64
	IsData   bool
	Level    uint8 // of a tree block

	// MustInsert: the extent was allocated in this transaction and has no
	// extent item yet. With references left, Apply inserts the item; with none,
	// the extent was freed again before it was ever on disk: Apply gives back
	// what was reserved, and pins the space (I2).
	MustInsert bool

	// Op is what else changes in the extent item, or nil.
	Op *ExtentOp

	// RefMod is the sum of all counts of Refs.
	RefMod int

	// Born is the generation of the block a Drop was about, as the dropper read
	// it in the block's header; 0 when no Drop gave one (data: the generation
	// in the extent item tells).
	Born uint64

	// Owner is the tree on whose behalf a new extent was allocated.
	Owner uint64

	counts refCounts
	op     ExtentOp      // what Op points to
	done   chan struct{} // while applying: closed at the end, if anybody waits; under Set.mu
}

// Refs returns the reference changes: additions first, then drops, each in the
// order of Ref.Compare. (Adding first keeps an item from being deleted that a
// later addition of the same head would need.)
func (h *Head) Refs() []RefCount {
	out := h.counts.copy(h.Level)
	slices.SortFunc(out, func(a, b RefCount) int {
		if (a.Count > 0) != (b.Count > 0) {
			if a.Count > 0 {
				return -1
			}
			return 1
		}
		return a.Ref.Compare(b.Ref)
	})
	return out
}

func (h *Head) String() string {
	what := fmt.Sprintf("level %d", h.Level)
	if h.IsData {
		what = "data"
	}
	s := fmt.Sprintf("delayed refs of extent [%d, +%d) %s: ref mod %+d, %d refs", h.Bytenr, h.NumBytes, what, h.RefMod, h.counts.len())
	if h.MustInsert {
		s += ", new"
	}
	return s
}

// reset makes a head as good as new, keeping its memory.
func (h *Head) reset() {
	c := h.counts
	c.reset()
	*h = Head{counts: c}
}

// idle reports that the head has nothing left to say to anybody.
func (h *Head) idle() bool {
	return h.counts.len() == 0 && h.Op == nil && !h.MustInsert
}

func (h *Head) setOp(op ExtentOp) {
	if h.Op == nil {
		h.op = op
		h.Op = &h.op
		return
	}
	h.Op.merge(op)
}

// refCounts maps references to counts that are not 0. A list, because nearly
// every extent has one or two; beyond listMax an index stands beside it.
type refCounts struct {
	refs   []RefCount
	inline [2]RefCount
	index  map[Ref]int // into refs; nil while that is short
}

// listMax is how many references are searched one by one.
const listMax = 16

func (c *refCounts) len() int { return len(c.refs) }

func (c *refCounts) reset() {
	if cap(c.refs) > listMax {
		c.refs = nil // the memory of a rare, huge head
	}
	c.refs = c.refs[:0]
	c.index = nil
}

func (c *refCounts) find(r Ref) int {
	if c.index != nil {
		if i, ok := c.index[r]; ok {
			return i
		}
		return -1
	}
	for i := range c.refs {
		if c.refs[i].Ref == r {
			return i
		}
	}
	return -1
}

// add changes the count of r, a canonical reference, and reports whether it met
// one that was there.
func (c *refCounts) add(r Ref, n int) (merged bool) {
	i := c.find(r)
	if i < 0 {
		if c.refs == nil {
			c.refs = c.inline[:0]
		}
		c.refs = append(c.refs, RefCount{r, n})
		if c.index != nil {
			c.index[r] = len(c.refs) - 1
		} else if len(c.refs) > listMax {
			c.index = make(map[Ref]int, 2*listMax)
			for i := range c.refs {
				c.index[c.refs[i].Ref] = i
			}
		}
		return false
	}
	if c.refs[i].Count += n; c.refs[i].Count != 0 {
		return true
	}
	last := len(c.refs) - 1
	c.refs[i] = c.refs[last]
	c.refs = c.refs[:last]
	if c.index != nil {
		delete(c.index, r)
		if i < last {
			c.index[c.refs[i].Ref] = i
		}
	}
	return true
}

// copy returns the changes, in no particular order.
func (c *refCounts) copy(level uint8) []RefCount {
	out := slices.Clone(c.refs)
	for i := range out {
		if !out[i].Kind.data() {
			out[i].Level = level
		}
	}
	return out
}
