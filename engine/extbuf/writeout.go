package extbuf

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

const (
	maxRun     = 1 << 20 // bytes of one staging buffer, and so of one write
	batchBytes = 4 << 20 // bytes of one WriteBatch
	writers    = 2       // goroutines that stage and write batches: one checksums while the other waits for the device
)

// WriteOut writes every dirty block of gen, all copies, and returns how many blocks there were. It does not flush.
//
// Each block passes CheckWrite first (I10); a block that does not is an error that names it, and then nothing of its
// batch is written. The blocks carry WRITTEN and their checksum on the disk; in memory only Written changes. gen must be
// closed: nobody holds a handle of it, so no byte of its blocks changes any more (I4) and no lock is taken here. The next
// generation may allocate and copy meanwhile. What could not be written stays dirty, so the call may be repeated.
func (c *Cache) WriteOut(ctx context.Context, gen ondisk.Generation) (n int, err error) {
	d := c.set(gen)
	d.writing.Lock()
	defer d.writing.Unlock()
	list := d.snapshot(func(*Buffer) bool { return true }, int(^uint(0)>>1))
	n, err = c.write(ctx, list, func(*Buffer) bool { return true }, func(*Buffer) {})
	c.counters.writtenOut.Add(uint64(n))
	c.drop(d)
	c.evict()
	if err != nil {
		return n, fmt.Errorf("write out generation %d: %w", gen, err)
	}
	return n, nil
}

// WriteSome writes up to max leaves of the running generation gen early, to make room. They carry WRITTEN from then on:
// who changes one again has to copy it first. Blocks whose lock is taken are passed over. It returns how many were
// written.
func (c *Cache) WriteSome(ctx context.Context, gen ondisk.Generation, max int) (n int, err error) {
	d := c.set(gen)
	d.writing.Lock()
	defer d.writing.Unlock()
	list := d.snapshot(func(b *Buffer) bool { return b.Level() == 0 }, max)
	n, err = c.write(ctx, list, func(b *Buffer) bool { return b.lockEarly(gen) }, (*Buffer).RUnlock)
	c.counters.writtenEarly.Add(uint64(n))
	c.evict()
	if err != nil {
		return n, fmt.Errorf("write blocks of generation %d early: %w", gen, err)
	}
	return n, nil
}

// lockEarly takes the read lock of a block of the running generation for its early write, and reports whether it may be
// written. From here to the unlock no writer is inside, and the next one finds Written set (I4). A block that was
// forgotten since it was chosen is no longer ours to write.
func (b *Buffer) lockEarly(gen ondisk.Generation) bool {
	if !b.TryRLock() {
		return false
	}
	if b.dirtyGen.Load() != uint64(gen) {
		b.RUnlock()
		return false
	}
	return true
}

// write writes the blocks of list and gives back their references. lock and unlock surround the copy of each; a block
// that lock refuses is left out.
func (c *Cache) write(ctx context.Context, list []*Buffer, lock func(*Buffer) bool, unlock func(*Buffer)) (int, error) {
	byAddr(list)
	batches := split(list, c.nodeSize)
	var (
		mu    sync.Mutex // protects next, total, errs
		next  int
		total int
		errs  []error
		wg    sync.WaitGroup
	)
	work := func() {
		for {
			mu.Lock()
			i := next
			next++
			stop := len(errs) > 0 || i >= len(batches)
			mu.Unlock()
			if stop {
				return
			}
			n, err := c.writeBatch(ctx, batches[i], lock, unlock)
			mu.Lock()
			total += n
			if err != nil {
				errs = append(errs, err)
			}
			mu.Unlock()
		}
	}
	for range min(writers, len(batches)) - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
	for _, b := range list {
		b.Release()
	}
	return total, errors.Join(errs...)
}

// split cuts a sorted list into batches of at most batchBytes.
func split(list []*Buffer, nodeSize int) (batches [][]*Buffer) {
	n := batchBytes / nodeSize
	for len(list) > 0 {
		k := min(n, len(list))
		batches = append(batches, list[:k])
		list = list[k:]
	}
	return batches
}

// writeBatch stages and writes one batch and marks its blocks clean.
func (c *Cache) writeBatch(ctx context.Context, batch []*Buffer, lock func(*Buffer) bool, unlock func(*Buffer)) (int, error) {
	st := staging{c: c}
	defer st.free()
	done := make([]*Buffer, 0, len(batch))
	for _, b := range batch {
		if !lock(b) {
			continue
		}
		err := st.add(b)
		unlock(b)
		if err != nil {
			return 0, err
		}
		done = append(done, b)
	}
	if len(done) == 0 {
		return 0, nil
	}
	if err := c.io.WriteBatch(ctx, st.writes()); err != nil {
		return 0, err
	}
	for _, b := range done {
		c.markClean(b)
	}
	return len(done), nil
}

// staging gathers copies of blocks in ascending order, adjacent ones in one buffer.
type staging struct {
	c    *Cache
	runs []volume.Write // Buf is a pool buffer of up to maxRun bytes, cut to what is filled
}

// add checks a block and appends a copy that carries WRITTEN and the checksum. The caller sees to it that the bytes
// stand still.
func (s *staging) add(b *Buffer) error {
	if err := s.c.checkWrite(b.block); err != nil {
		return fmt.Errorf("block %d must not be written: %w", b.addr, err)
	}
	// Before the copy: a writer that comes after it has to see the flag (I4).
	b.written.Store(true)
	n := len(b.block)
	var dst ondisk.Block
	if k := len(s.runs) - 1; k >= 0 && s.runs[k].Addr+ondisk.Logical(len(s.runs[k].Buf)) == b.addr && len(s.runs[k].Buf)+n <= cap(s.runs[k].Buf) {
		buf := s.runs[k].Buf
		s.runs[k].Buf = buf[:len(buf)+n]
		dst = s.runs[k].Buf[len(buf):]
	} else {
		s.runs = append(s.runs, volume.Write{Addr: b.addr, Buf: s.c.pool.Get(maxRun)[:n]})
		dst = s.runs[k+1].Buf
	}
	copy(dst, b.block)
	dst.SetFlags(dst.Flags() | ondisk.HeaderFlagWritten)
	s.c.csum.SetBlockCsum(dst)
	return nil
}

func (s *staging) writes() []volume.Write { return s.runs }

// free returns the buffers to the pool.
func (s *staging) free() {
	for _, r := range s.runs {
		s.c.pool.Put(r.Buf)
	}
	s.runs = nil
}
