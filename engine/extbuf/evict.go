package extbuf

// enring makes b a candidate for eviction. The caller holds the shard's mu; b is in the map and clean.
func (c *Cache) enring(s *shard, b *Buffer) {
	if b.ring >= 0 {
		return
	}
	b.ring = len(s.ring)
	s.ring = append(s.ring, b)
	b.hot.Store(true)
	c.clean.Add(1)
}

// unring takes b out of the ring, if it is in it. The caller holds the shard's mu.
func (c *Cache) unring(s *shard, b *Buffer) {
	if b.ring < 0 {
		return
	}
	last := len(s.ring) - 1
	s.ring[b.ring] = s.ring[last]
	s.ring[b.ring].ring = b.ring
	s.ring[last] = nil
	s.ring = s.ring[:last]
	b.ring = -1
	c.clean.Add(-1)
}

// ringIn makes b a candidate for eviction if it is in the map and clean.
func (c *Cache) ringIn(b *Buffer) {
	s := c.shard(b.addr)
	s.mu.Lock()
	if s.bufs[b.addr] == b && !b.Dirty() {
		c.enring(s, b)
	}
	s.mu.Unlock()
}

// ringOut is called once b is dirty: from then on ringIn leaves it alone, so it is out for good.
func (c *Cache) ringOut(b *Buffer) {
	s := c.shard(b.addr)
	s.mu.Lock()
	c.unring(s, b)
	s.mu.Unlock()
}

// over reports whether the cache holds more than its limit and the clean buffers more than their share of it.
func (c *Cache) over() bool {
	clean := c.clean.Load() * int64(c.nodeSize)
	return clean > c.limit/4 && clean+c.counters.dirty.Load()*int64(c.nodeSize) > c.limit
}

// evict brings the cache back to its limit, as far as clean buffers that nobody holds allow. It gives each shard one
// short visit, so its cost is bounded even when everything is held. No shard lock may be held.
func (c *Cache) evict() {
	if !c.over() {
		return
	}
	for range nShards {
		s := &c.shards[c.evictFrom.Add(1)%nShards]
		c.evictShard(s)
		if !c.over() {
			return
		}
	}
}

// evictShard lets the clock hand pass over a few buffers: one that was used since the last time gets another round, one
// that nobody holds goes.
func (c *Cache) evictShard(s *shard) {
	const maxSteps = 32
	s.mu.Lock()
	defer s.mu.Unlock()
	for range min(maxSteps, 2*len(s.ring)) {
		if len(s.ring) == 0 || !c.over() {
			return
		}
		if s.hand >= len(s.ring) {
			s.hand = 0
		}
		b := s.ring[s.hand]
		if b.hot.Load() {
			b.hot.Store(false)
			s.hand++
			continue
		}
		// The map's reference is the only one, and lookups, which add theirs under mu, are shut out: nobody holds it
		// and nobody can come to. (I3: the next reader makes a new buffer of this address.)
		if !b.refs.CompareAndSwap(1, 0) {
			s.hand++
			continue
		}
		c.remove(s, b) // the last one of the ring takes its place under the hand
		c.counters.evicted.Add(1)
		b.free()
	}
}
