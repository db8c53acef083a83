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

// prefetcher bounds the reads under way and lets Close wait for them.
type prefetcher struct {
	slots chan struct{}
	mu    sync.Mutex // protects closed against wg.Add
	stop  bool
	wg    sync.WaitGroup
}

func (p *prefetcher) init(depth int) {
	if depth <= 0 {
		depth = 16
	}
	p.slots = make(chan struct{}, depth)
}

// Prefetch starts reading those of the blocks that are not in memory, in the background, and returns at once. It is
// advice: when all slots are taken the rest is dropped, and failures are left to the reader who comes for the block. ctx
// ends the reads.
func (c *Cache) Prefetch(ctx context.Context, wants []Want) {
	for _, w := range wants {
		s := c.shard(w.Addr)
		s.mu.RLock()
		known := s.bufs[w.Addr] != nil || s.flights[w.Addr] != nil
		s.mu.RUnlock()
		if known {
			continue
		}
		select {
		case c.prefetch.slots <- struct{}{}:
		default:
			return
		}
		addr, want := w.Addr, w.Expect.clone()
		if !c.prefetch.start(func() {
			if b, err := c.miss(ctx, s, addr, want, true); err == nil {
				b.Release()
			}
		}) {
			return
		}
	}
}

// start runs fn, which frees a slot when it ends, unless the cache is being closed.
func (p *prefetcher) start(fn func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stop {
		<-p.slots
		return false
	}
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		fn()
	})
	return true
}

// close refuses new reads and waits for those under way.
func (p *prefetcher) close() {
	p.mu.Lock()
	p.stop = true
	p.mu.Unlock()
	p.wg.Wait()
}
