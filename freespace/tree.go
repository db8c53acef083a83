package freespace

// tree is a complete binary tree of summaries over the windows, as a heap:
// node 1 is the root, the children of v are 2v and 2v+1, and leaf i is node
// leaves+i. Windows beyond the group's end are leaves of length 0. All numbers
// are sectors, counted from the group's start.
type tree struct {
	windows []window
	nodes   []summary
	leaves  uint64 // a power of two
	sectors uint64 // of the group
	depth   uint
}

func newTree(sectors uint64) tree {
	n := (sectors + windowBits - 1) / windowBits
	t := tree{windows: make([]window, n), leaves: 1, sectors: sectors}
	for t.leaves < n {
		t.leaves *= 2
		t.depth++
	}
	t.nodes = make([]summary, 2*t.leaves)
	return t
}

// span returns the sectors that node v at the given height (0: leaf) covers.
func (t *tree) span(v uint64, height uint) uint64 {
	first := v<<height - t.leaves // its first leaf
	return min(t.sectors, (first+1<<height)*windowBits) - min(t.sectors, first*windowBits)
}

// update brings the summaries above leaf i up to date; it stops at the first
// node that does not change.
func (t *tree) update(i uint64, s summary) {
	v := t.leaves + i
	if t.nodes[v] == s {
		return
	}
	t.nodes[v] = s
	for h := uint(1); v > 1; h++ {
		v /= 2
		l, r := t.nodes[2*v], t.nodes[2*v+1]
		m := summary{front: l.front, longest: max(l.longest, r.longest, l.back+r.front), back: r.back}
		if l.front == t.span(2*v, h-1) {
			m.front += r.front
		}
		if r.back == t.span(2*v+1, h-1) {
			m.back += l.back
		}
		if t.nodes[v] == m {
			return
		}
		t.nodes[v] = m
	}
}

// carry returns how many sectors are free at the end of node v, given how many
// are free just before it.
func (t *tree) carry(v uint64, height uint, before uint64) uint64 {
	s := t.nodes[v]
	if s.front == t.span(v, height) {
		return before + s.front
	}
	return s.back
}

// find returns the lowest start >= from of n free sectors. O(log n): every
// subtree that cannot hold or complete the run is stepped over by its summary.
func (t *tree) find(n, from uint64) (start uint64, ok bool) {
	if from >= t.sectors || n > t.nodes[1].longest {
		return 0, false
	}
	i := from / windowBits
	start, ok, before := t.findIn(i, n, int(from%windowBits))
	if ok {
		return start, true
	}
	// Everything before node v has been looked at, and ends in `before` free
	// sectors (of which none lies below from).
	v, h := t.leaves+i, uint(0)
	for {
		for v&1 == 1 { // a right child is done: so is its parent
			if v /= 2; v <= 1 {
				return 0, false
			}
			h++
		}
		v++
		if s := t.nodes[v]; before+s.front >= n || s.longest >= n {
			return t.descend(v, h, n, before)
		}
		before = t.carry(v, h, before)
	}
}

// descend finds the lowest start of n free sectors that node v holds or
// completes; there is one.
func (t *tree) descend(v uint64, h uint, n, before uint64) (uint64, bool) {
	for h > 0 {
		v, h = 2*v, h-1
		if s := t.nodes[v]; before+s.front < n && s.longest < n {
			before = t.carry(v, h, before)
			v++
		}
	}
	i := v - t.leaves
	if before+t.nodes[v].front >= n {
		return i*windowBits - before, true
	}
	start, ok, _ := t.findIn(i, n, 0)
	return start, ok
}

// findIn looks for n free sectors inside window i from the sector `from` of it
// on. Failing that, it says how many sectors, from there on, are free at the
// window's end.
func (t *tree) findIn(i, n uint64, from int) (start uint64, ok bool, back uint64) {
	base, s := i*windowBits, t.nodes[t.leaves+i]
	length := min(windowBits, t.sectors-base)
	if s.longest >= n {
		w := &t.windows[i]
		for {
			a, b, ok := w.nextRun(from)
			if !ok {
				return 0, false, 0
			}
			if uint64(b-a) >= n {
				return base + uint64(a), true, 0
			}
			if uint64(b) == length {
				return 0, false, uint64(b - a)
			}
			from = b
		}
	}
	return 0, false, min(s.back, length-uint64(from))
}

// runEnd returns the end of the free run that holds sector at, or at itself
// when that sector is used. O(log n).
func (t *tree) runEnd(at uint64) uint64 {
	i := at / windowBits
	_, end, ok := t.windows[i].runAt(int(at % windowBits))
	if !ok {
		return at
	}
	pos := i*windowBits + uint64(end)
	if end < windowBits {
		return pos
	}
	v, h := t.leaves+i, uint(0)
	for {
		for v&1 == 1 {
			if v /= 2; v <= 1 {
				return pos
			}
			h++
		}
		v++
		pos += t.nodes[v].front
		if t.nodes[v].front < t.span(v, h) {
			return pos
		}
	}
}

// set frees (or takes) the sectors [start, end), which are wholly used (free).
func (t *tree) set(start, end uint64, free bool) {
	for start < end {
		i := start / windowBits
		stop := min(end, (i+1)*windowBits)
		t.setIn(i, int(start-i*windowBits), int(stop-i*windowBits), free)
		start = stop
	}
}

func (t *tree) setIn(i uint64, a, b int, free bool) {
	w, s := &t.windows[i], t.nodes[t.leaves+i]
	length := int(min(windowBits, t.sectors-i*windowBits))
	if free {
		a, b = w.add(a, b)
		s.longest = max(s.longest, uint64(b-a))
		if a == 0 {
			s.front = uint64(b)
		}
		if b == length {
			s.back = uint64(b - a)
		}
	} else {
		ra, rb := w.remove(a, b)
		if uint64(rb-ra) == s.longest { // else the longest run is another one
			s.longest = uint64(w.longest(rb - ra))
		}
		if ra == 0 {
			s.front = uint64(a)
		}
		if rb == length {
			s.back = uint64(length - b)
		}
	}
	t.update(i, s)
}
