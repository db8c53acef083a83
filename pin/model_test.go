package pin

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the naive set: every extent and every live generation, looked
// through whole at each step.
type model struct {
	extents map[uint64]*modelExtent // by Start, those not released yet
	live    []*Ticket
	durable uint64
	gone    map[uint64]bool // starts released, since the last look
}

type modelExtent struct {
	Extent
	state State
}

func (m *model) seen(born, died uint64) bool {
	return slices.ContainsFunc(m.live, func(t *Ticket) bool { return born <= t.gen && t.gen < died })
}

// settle moves each extent on as far as the rules allow.
func (m *model) settle() {
	for start, e := range m.extents {
		switch {
		case e.Died > m.durable:
			e.state = Pinned
		case m.seen(e.Born, e.Died):
			e.state = Held
		default:
			delete(m.extents, start)
			m.gone[start] = true
		}
	}
}

func (m *model) compare(s *Set, released map[uint64]bool) error {
	if !maps.Equal(released, m.gone) {
		return fmt.Errorf("released %v, want %v", slices.Sorted(maps.Keys(released)), slices.Sorted(maps.Keys(m.gone)))
	}
	clear(released)
	clear(m.gone)
	var st Stats
	groups := map[uint64][states]uint64{}
	for _, e := range m.extents {
		st.Bytes[e.state][e.Kind] += e.Len
		st.Extents[e.state]++
		g := groups[e.BG]
		g[e.state] += e.Len
		groups[e.BG] = g
	}
	got := s.Stats()
	if got.Bytes != st.Bytes || got.Extents != st.Extents {
		return fmt.Errorf("stats %+v, want %+v", got, st)
	}
	if got.Tickets != len(m.live) || got.Durable != m.durable || got.Late != 0 {
		return fmt.Errorf("stats %+v, %d live, durable %d", got, len(m.live), m.durable)
	}
	for bg := range uint64(4) {
		if g := s.Group(bg << 20); g != groups[bg<<20] {
			return fmt.Errorf("group %d: %v, want %v", bg, g, groups[bg<<20])
		}
	}
	n := 0
	for e, state := range s.Overlapping(0, 1<<62) {
		if o := m.extents[e.Start]; o == nil || o.Extent != e || o.state != state {
			return fmt.Errorf("%v %v is not in the model", e, state)
		}
		n++
	}
	if n != len(m.extents) {
		return fmt.Errorf("%d extents, want %d", n, len(m.extents))
	}
	return nil
}

func TestModel(t *testing.T) {
	held, crossed := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m := &model{extents: map[uint64]*modelExtent{}, gone: map[uint64]bool{}}
		released := map[uint64]bool{}
		s := New(Options{Release: func(list []Extent) {
			if !slices.IsSortedFunc(list, func(a, b Extent) int { return int(int64(a.Start - b.Start)) }) {
				t.Fatalf("not sorted: %v", list)
			}
			for _, e := range list {
				released[e.Start] = true
			}
		}})
		var fired, due []int // Unseen actions, by number
		type action struct{ born, died uint64 }
		actions := map[int]action{}
		switched, running := uint64(1), uint64(2)
		t.Repeat(map[string]func(*rapid.T){
			"pin": func(t *rapid.T) {
				slot := rapid.Uint64Range(0, 63).Draw(t, "slot")
				e := Extent{
					Start: slot << 16, Len: rapid.Uint64Range(1, 3).Draw(t, "len") << 15,
					Born: rapid.Uint64Range(0, running).Draw(t, "born"), Died: running,
					BG: slot >> 4 << 20, Kind: uint8(slot % Kinds),
				}
				overlap := false
				for _, o := range m.extents {
					overlap = overlap || o.Start < e.end() && e.Start < o.end()
				}
				if err := s.Pin(e); (err != nil) != overlap {
					t.Fatalf("Pin(%v): overlap %v, got %v", e, overlap, err)
				}
				if !overlap {
					m.extents[e.Start] = &modelExtent{Extent: e}
				}
				m.settle()
			},
			"unseen": func(t *rapid.T) {
				n := len(actions)
				a := action{rapid.Uint64Range(0, running).Draw(t, "born"), rapid.Uint64Range(1, running).Draw(t, "died")}
				actions[n] = a
				s.Unseen(a.born, a.died, func() { fired = append(fired, n) })
			},
			"switch": func(t *rapid.T) {
				if running == switched+1 {
					switched, running = running, running+1
				}
			},
			"release": func(t *rapid.T) {
				m.durable = rapid.Uint64Range(m.durable, switched).Draw(t, "gen")
				s.Release(m.durable)
				m.settle()
			},
			"enter": func(t *rapid.T) {
				m.live = append(m.live, s.Enter(func() uint64 { return switched }))
			},
			"leave": func(t *rapid.T) {
				if len(m.live) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(m.live)-1).Draw(t, "which")
				tk := m.live[i]
				m.live = slices.Delete(m.live, i, i+1)
				tk.Leave()
				m.settle()
			},
			"ask": func(t *rapid.T) {
				// The oldest unasked ticket that can see something held.
				var want *Ticket
				asked := false
				for _, tk := range m.live {
					asked = asked || tk.Asked()
					for _, e := range m.extents {
						if e.state == Held && e.Born <= tk.gen && tk.gen < e.Died && !tk.Asked() &&
							(want == nil || tk.gen < want.gen) {
							want = tk
						}
					}
				}
				for _, a := range actions { // actions are held like extents
					for _, tk := range m.live {
						if a.died <= m.durable && a.born <= tk.gen && tk.gen < a.died && !tk.Asked() &&
							(want == nil || tk.gen < want.gen) {
							want = tk
						}
					}
				}
				if got := s.AskOldest(); got != (asked || want != nil) {
					t.Fatalf("AskOldest() = %v, want %v", got, want)
				}
				if want != nil && !want.Asked() {
					t.Fatalf("%v was not asked", want)
				}
			},
			"": func(t *rapid.T) {
				if err := m.compare(s, released); err != nil {
					t.Fatal(err)
				}
				for n, a := range actions {
					if a.died <= m.durable && !m.seen(a.born, a.died) {
						due = append(due, n)
						delete(actions, n)
						actions[-1-n] = action{0, 1 << 60} // keeps the numbers unique; never due
					}
				}
				if slices.Sort(fired); !slices.Equal(fired, slices.Sorted(slices.Values(due))) {
					t.Fatalf("actions run %v, want %v", fired, due)
				}
				for _, e := range m.extents {
					if e.state == Held {
						held++
						for _, o := range m.live {
							if o.gen < e.Died && o.gen > e.Born {
								crossed++
							}
						}
					}
				}
			},
		})
	})
	if held == 0 || crossed == 0 {
		t.Errorf("held %d, crossed %d: the test does not reach what it is for", held, crossed)
	}
}
