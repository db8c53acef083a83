package extbuf

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// flight is one read from the disk that several callers may wait for. Its fields but done are set before done is
// closed; stale is protected by the shard's mu.
type flight struct {
	done  chan struct{}
	want  Expect
	err   error
	stale bool // the address was allocated while the read was under way: its result must not enter the cache
}

// Read returns the block at addr with one more reference. A block in memory is compared with want (I9). Otherwise its
// copies are read one after the other until one has the right checksum, address and fsid, passes the check of Options
// and is what want promises; concurrent reads of one address share the I/O.
//
// A block that is not what it should be is an error that matches fserr.ErrCorrupt and names the last finding; so is an
// address that no chunk covers. Failures of all copies to be read at all are returned as the device gave them.
//
// The caller holds the lock of the block that the pointer stood in, or reads from a commit root that cannot move. With
// Expect.Repair the copies found bad on the way to a good one are written over with it; see repair.go.
func (c *Cache) Read(ctx context.Context, addr ondisk.Logical, want Expect) (*Buffer, error) {
	s := c.shard(addr)
	if b := s.lookup(addr); b != nil {
		s.hits.Add(1)
		return c.checkHit(b, want)
	}
	return c.miss(ctx, s, addr, want, true)
}

// ReadUnchecked is Read for readers without protection (policy shared): a block in memory is returned whatever it
// holds. One that comes from the disk passes every check that needs no pointer.
func (c *Cache) ReadUnchecked(ctx context.Context, addr ondisk.Logical) (*Buffer, error) {
	s := c.shard(addr)
	if b := s.lookup(addr); b != nil {
		s.hits.Add(1)
		return b, nil
	}
	return c.miss(ctx, s, addr, Expect{Level: AnyLevel}, false)
}

// miss finds or begins the flight for addr.
func (c *Cache) miss(ctx context.Context, s *shard, addr ondisk.Logical, want Expect, compare bool) (*Buffer, error) {
	for {
		s.mu.Lock()
		if b := s.bufs[addr]; b != nil {
			b.refs.Add(1)
			s.mu.Unlock()
			if !compare {
				return b, nil
			}
			return c.checkHit(b, want)
		}
		f := s.flights[addr]
		if f == nil {
			f = &flight{done: make(chan struct{}), want: want.clone()}
			s.flights[addr] = f
			s.mu.Unlock()
			if b, err := c.fly(ctx, s, addr, f); err != errStale {
				return b, err
			}
			continue
		}
		s.mu.Unlock()

		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("read block %d: %w", addr, ctx.Err())
		}
		// A flight that ended well has put its block into the map; look again. One that failed answers for us only if
		// it asked the same, and not when it was merely cancelled.
		if f.err != nil && f.err != errStale && !isCancel(f.err) && f.want.same(want) {
			return nil, f.err
		}
	}
}

// errStale ends a flight whose address was allocated while it read: what it has read is of the past, look again.
var errStale = errors.New("block freed and allocated again while it was read")

func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// fly reads the block, publishes it and ends the flight.
func (c *Cache) fly(ctx context.Context, s *shard, addr ondisk.Logical, f *flight) (*Buffer, error) {
	c.counters.misses.Add(1)
	b := c.newBuffer(addr)
	return c.land(s, addr, f, b, c.readCopies(ctx, b, &f.want))
}

// land ends a flight: it publishes the block, if err is nil and nothing has come in between, and returns it with one more
// reference.
func (c *Cache) land(s *shard, addr ondisk.Logical, f *flight, b *Buffer, err error) (*Buffer, error) {
	s.mu.Lock()
	delete(s.flights, addr)
	var other *Buffer
	switch {
	case err != nil:
	case s.bufs[addr] != nil:
		other = s.bufs[addr] // allocated meanwhile; what we read is history
		other.refs.Add(1)
	case f.stale:
		err = errStale
	default:
		b.refs.Store(1) // ours
		c.insert(s, b)
		c.enring(s, b)
	}
	f.err = err
	s.mu.Unlock()
	close(f.done)

	switch {
	case other != nil:
		c.pool.Put(b.block)
		return c.checkHit(other, f.want)
	case err != nil:
		c.pool.Put(b.block)
		return nil, err
	}
	c.evict()
	return b, nil
}

// readCopies fills b from the first copy that is good.
func (c *Cache) readCopies(ctx context.Context, b *Buffer, want *Expect) error {
	if uint64(b.addr)%ondisk.SectorSize != 0 {
		return fserr.Corruptf("block", 0, uint64(b.addr), "address is not a multiple of %d", ondisk.SectorSize)
	}
	n := c.io.Copies(b.addr)
	if n == 0 {
		return fserr.Corruptf("block", 0, uint64(b.addr), "no chunk covers this address")
	}
	var last error
	var bad []int
	for i := range n {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read block %d: %w", b.addr, err)
		}
		err := c.io.ReadCopy(ctx, b.addr, b.block, i)
		if err == nil {
			if err = c.judge(b, want); err == nil {
				c.repair(ctx, b, want, bad)
				return nil
			}
		} else if isCancel(err) {
			return fmt.Errorf("read block %d: %w", b.addr, err)
		}
		c.counters.badCopies.Add(1)
		bad = append(bad, i)
		// A finding about content says more than a device's error; keep the last of the better kind.
		if last == nil || errors.Is(err, fserr.ErrCorrupt) || !errors.Is(last, fserr.ErrCorrupt) {
			last = fmt.Errorf("copy %d of %d: %w", i+1, n, err)
		}
	}
	c.counters.failedReads.Add(1)
	return fmt.Errorf("read block %d: %w", b.addr, last)
}

// judge checks the bytes just read, cheapest first, and sets the atomics from them.
func (c *Cache) judge(b *Buffer, want *Expect) error {
	h := b.block.Header()
	if h.Bytenr() != b.addr {
		return fserr.Corruptf("block", 0, uint64(b.addr), "bad tree block start, have %d expect %d", uint64(h.Bytenr()), uint64(b.addr))
	}
	if !c.fsid.IsZero() && h.FSID() != c.fsid {
		return fserr.Corruptf("block", 0, uint64(b.addr), "bad fsid, have %s expect %s", h.FSID(), c.fsid)
	}
	if !c.csum.BlockCsumOK(b.block) {
		var sum [ondisk.CsumSize]byte
		c.csum.Sum(sum[:], b.block[ondisk.CsumSize:])
		n := c.csum.Size()
		return fserr.Corruptf("block", 0, uint64(b.addr), "checksum verify failed, have %#x expect %#x", sum[:n], h.Csum()[:n])
	}
	b.fromHeader()
	if l := h.Level(); l >= ondisk.MaxLevel {
		return corrupt(b, fmt.Sprintf("invalid level, have %d expect [0, %d]", l, ondisk.MaxLevel-1))
	}
	if err := c.check(b.block); err != nil {
		return err
	}
	if want.FirstKey != nil && b.block.NrItems() == 0 {
		return corrupt(b, fmt.Sprintf("empty block, expect first key %v", *want.FirstKey))
	}
	if p := want.problem(b); p != "" {
		return corrupt(b, p)
	}
	return nil
}
