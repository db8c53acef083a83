package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	memChunkSize = 64 << 10 // bytes of a chunk: larger than most requests, small enough to keep images sparse
	memShards    = 16       // locks; consecutive chunks lie in different shards
)

// Mem is a sparse device in memory. What was never written, or was discarded, reads as zeros and takes no memory.
//
// It is safe for concurrent use; a transfer is atomic within each aligned 64 KiB and not across. Everything written is
// durable at once, so Flush only counts: what a crash would lose is modelled by [Recorder].
type Mem struct {
	counters
	name   string
	size   atomic.Int64
	closed atomic.Bool
	shards [memShards]memShard
}

// memShard holds the chunks whose index is congruent to the shard's number. mu protects the map and the bytes of its
// chunks.
type memShard struct {
	mu     sync.RWMutex
	chunks map[int64]*memChunk
}

// memChunk is shared by all clones made since it was last copied. Once shared, for ever: there is no count, so the last
// user copies it once for nothing.
type memChunk struct {
	shared atomic.Bool
	data   [memChunkSize]byte
}

var zeroChunk [memChunkSize]byte

var _ Device = (*Mem)(nil)

// NewMem makes an all-zero device of size bytes. A negative size panics.
func NewMem(name string, size int64) *Mem {
	if size < 0 {
		panic(fmt.Sprintf("disk: NewMem(%q) of %d bytes", name, size))
	}
	m := &Mem{name: name}
	m.size.Store(size)
	for i := range m.shards {
		m.shards[i].chunks = make(map[int64]*memChunk)
	}
	return m
}

// Name implements [Device].
func (m *Mem) Name() string { return m.name }

// Size implements [Device].
func (m *Mem) Size() int64 { return m.size.Load() }

// Align implements [Device]: memory takes anything.
func (m *Mem) Align() Alignment { return Alignment{Offset: 1, Memory: 1} }

// begin is the check every operation starts with.
func (m *Mem) begin(ctx context.Context) error {
	if m.closed.Load() {
		return os.ErrClosed
	}
	return ctx.Err()
}

// ReadAt implements [Device].
func (m *Mem) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := m.begin(ctx); err != nil {
		return 0, &Error{OpRead, m.name, off, int64(len(p)), err}
	}
	n, end := clipRead(m.Size(), off, len(p))
	m.each(off, int64(n), func(sh *memShard, idx int64, from, to, at int64) {
		sh.mu.RLock()
		defer sh.mu.RUnlock()
		if c := sh.chunks[idx]; c != nil {
			copy(p[at:], c.data[from:to])
		} else {
			clear(p[at : at+to-from])
		}
	})
	m.read(n)
	return n, end
}

// WriteAt implements [Device].
func (m *Mem) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	err := m.begin(ctx)
	if err == nil {
		err = checkWrite(m.Size(), off, len(p))
	}
	if err != nil {
		return 0, &Error{OpWrite, m.name, off, int64(len(p)), err}
	}
	m.each(off, int64(len(p)), func(sh *memShard, idx int64, from, to, at int64) {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		copy(sh.own(idx).data[from:to], p[at:])
	})
	m.written(len(p))
	return len(p), nil
}

// own returns a chunk of the shard that no clone shares, made if need be. The caller holds mu.
func (sh *memShard) own(idx int64) *memChunk {
	c := sh.chunks[idx]
	if c != nil && !c.shared.Load() {
		return c
	}
	fresh := new(memChunk)
	if c != nil {
		fresh.data = c.data
	}
	sh.chunks[idx] = fresh
	return fresh
}

// each calls f for every chunk that [off, off+n) touches: the bytes [from, to) of chunk idx are those at at of the
// range.
func (m *Mem) each(off, n int64, f func(sh *memShard, idx int64, from, to, at int64)) {
	for at := int64(0); at < n; {
		idx, from := (off+at)/memChunkSize, (off+at)%memChunkSize
		to := min(memChunkSize, from+n-at)
		f(&m.shards[idx%memShards], idx, from, to, at)
		at += to - from
	}
}

// Flush implements [Device].
func (m *Mem) Flush(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return &Error{OpFlush, m.name, 0, 0, err}
	}
	m.flushes.Add(1)
	return nil
}

// Discard implements [Device]. The range reads as zeros afterwards; whole chunks are given back.
func (m *Mem) Discard(ctx context.Context, off, n int64) error {
	err := m.begin(ctx)
	if err == nil {
		err = checkDiscard(m.Size(), off, n)
	}
	if err != nil {
		return &Error{OpDiscard, m.name, off, n, err}
	}
	m.zero(off, n)
	m.discarded(n)
	return nil
}

// zero makes [off, off+n) a hole.
func (m *Mem) zero(off, n int64) {
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		for idx := range sh.chunks {
			from, to := max(off-idx*memChunkSize, 0), min(off+n-idx*memChunkSize, memChunkSize)
			switch {
			case from >= to:
			case from == 0 && to == memChunkSize:
				delete(sh.chunks, idx)
			default:
				clear(sh.own(idx).data[from:to])
			}
		}
		sh.mu.Unlock()
	}
}

// Truncate sets the size. Bytes beyond a smaller size are gone: a later larger size shows zeros there. No other
// operation may run at the same time.
func (m *Mem) Truncate(size int64) error {
	if size < 0 {
		return &os.PathError{Op: "truncate", Path: m.name, Err: syscall.EINVAL}
	}
	if old := m.Size(); size < old {
		m.zero(size, old-size)
	}
	m.size.Store(size)
	return nil
}

// Close implements [Device]. Later operations fail with os.ErrClosed; Clone and WriteFile still work, so that a test can
// look at what a file system left behind.
func (m *Mem) Close() error {
	if m.closed.Swap(true) {
		return fmt.Errorf("close %s: %w", m.name, os.ErrClosed)
	}
	return nil
}

// Clone is a copy of the bytes, open, with counters at zero. It costs a map entry a chunk; the chunks are copied when
// either side writes. A clone taken while writes are under way has each aligned 64 KiB of them or not.
func (m *Mem) Clone() *Mem {
	c := NewMem(m.name, m.Size())
	// All shards at once, in ascending order, for one moment in time. Writers hold one shard at a time, so there is
	// no cycle.
	for i := range m.shards {
		m.shards[i].mu.Lock()
		defer m.shards[i].mu.Unlock()
	}
	for i := range m.shards {
		for idx, chunk := range m.shards[i].chunks {
			chunk.shared.Store(true)
			c.shards[i].chunks[idx] = chunk
		}
	}
	return c
}

// Allocated is the memory taken, in bytes, chunks shared with clones included.
func (m *Mem) Allocated() int64 {
	var n int64
	for i := range m.shards {
		m.shards[i].mu.RLock()
		n += int64(len(m.shards[i].chunks)) * memChunkSize
		m.shards[i].mu.RUnlock()
	}
	return n
}

// WriteFile writes the bytes as a sparse file that must not exist, for tools that want a path.
func (m *Mem) WriteFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Truncate(m.Size()); err != nil {
		return err
	}
	frozen := m.Clone()
	for i := range frozen.shards {
		for idx, c := range frozen.shards[i].chunks {
			data := c.data[:min(memChunkSize, frozen.Size()-idx*memChunkSize)]
			if bytes.Equal(data, zeroChunk[:len(data)]) {
				continue
			}
			if _, err := f.WriteAt(data, idx*memChunkSize); err != nil {
				return err
			}
		}
	}
	return nil
}
