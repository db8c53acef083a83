package extbuf

import (
	"context"
	"sync"

	"imgtool/engine/ondisk"
)

// Want is one block to prefetch, with what its pointer promises: a stale copy must not get into the cache because
// nobody knew better.
type Want struct {
	Addr   ondisk.Logical
	Expect Expect
}

// joinedRead is the largest single read of neighbouring blocks, bytes.
const joinedRead = 256 << 10

// prefetcher bounds the reads under way and lets Close wait for them.
type prefetcher struct {
	slots chan struct{}
	mu    sync.Mutex // protects stop against wg.Add
	stop  bool
	wg    sync.WaitGroup
}

func (p *prefetcher) init(depth int) {
	if depth <= 0 {
		depth = 16
	}
	p.slots = make(chan struct{}, depth)
}

// begin takes a slot, which end gives back; false if there is none, or the cache is being closed.
func (p *prefetcher) begin() bool {
	select {
	case p.slots <- struct{}{}:
	default:
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop {
		<-p.slots
		return false
	}
	p.wg.Add(1)
	return true
}

func (p *prefetcher) end() {
	<-p.slots
	p.wg.Done()
}

// close refuses new reads and waits for those under way.
func (p *prefetcher) close() {
	p.mu.Lock()
	p.stop = true
	p.mu.Unlock()
	p.wg.Wait()
}

// Prefetch starts reading those of the blocks that are not in memory, in the background, and returns at once: blocks that
// follow one another in wants and on the disk in one read. It is advice: when all slots are taken the rest is dropped,
// and failures are left to the reader who comes for the block. ctx ends the reads.
func (c *Cache) Prefetch(ctx context.Context, wants []Want) {
	for len(wants) > 0 {
		if c.Knows(wants[0].Addr) {
			wants = wants[1:]
			continue
		}
		if !c.prefetch.begin() {
			return
		}
		run := c.depart(wants)
		if len(run) == 0 { // somebody was quicker
			c.prefetch.end()
			wants = wants[1:]
			continue
		}
		wants = wants[len(run):]
		go func() {
			defer c.prefetch.end()
			c.flyTogether(ctx, run)
		}()
	}
}

// Knows reports whether a block is in memory or on its way there.
func (c *Cache) Knows(addr ondisk.Logical) bool {
	s := c.shard(addr)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bufs[addr] != nil || s.flights[addr] != nil
}

// departure is a flight that has been entered in its shard and must be landed.
type departure struct {
	addr ondisk.Logical
	s    *shard
	f    *flight
}

// depart begins flights for the first of the blocks and for those behind it, as long as each is the neighbour of the one
// before and nobody knows it. From here on an allocation of the address makes the flight stale, and readers wait for it.
func (c *Cache) depart(wants []Want) (run []departure) {
	for i, w := range wants[:min(len(wants), max(joinedRead/c.nodeSize, 1))] {
		if i > 0 && w.Addr != wants[i-1].Addr+ondisk.Logical(c.nodeSize) {
			break
		}
		s := c.shard(w.Addr)
		f := &flight{done: make(chan struct{}), want: w.Expect.clone()}
		s.mu.Lock()
		known := s.bufs[w.Addr] != nil || s.flights[w.Addr] != nil
		if !known {
			s.flights[w.Addr] = f
		}
		s.mu.Unlock()
		if known {
			break
		}
		run = append(run, departure{w.Addr, s, f})
	}
	return run
}

// flyTogether reads neighbouring blocks at once. One that is not good in the copy read, or all if it cannot be read, is
// looked for in all copies, as if it had been read alone.
func (c *Cache) flyTogether(ctx context.Context, run []departure) {
	var joined []byte
	if len(run) > 1 {
		buf := c.pool.Get(len(run) * c.nodeSize)
		defer c.pool.Put(buf)
		if c.io.ReadCopy(ctx, run[0].addr, buf, 0) == nil {
			joined = buf
		}
	}
	for i, d := range run {
		c.counters.misses.Add(1)
		b := c.newBuffer(d.addr)
		good := false
		if joined != nil {
			copy(b.block, joined[i*c.nodeSize:])
			good = c.judge(b, &d.f.want) == nil
		}
		var err error
		if !good {
			err = c.readCopies(ctx, b, &d.f.want)
		}
		if b, err := c.land(d.s, d.addr, d.f, b, err); err == nil {
			b.Release()
		}
	}
}
