package disk

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
)

// SectorSize is what a disk is taken to write whole or not at all, in bytes.
const SectorSize = 512

// Entry is one change in the log of a [Recorder]. Entries are immutable.
type Entry struct {
	Op   Op     // OpWrite, OpFlush or OpDiscard
	Off  int64  // bytes
	Len  int64  // bytes
	Data []byte // of a write: a copy

	// Failed says that a flush returned an error: it covers nothing.
	Failed bool
}

// Recorder passes everything on to a device and keeps a log of what changed it, from which a test builds the images that
// crashes could have left.
//
// The order of the log is sound for crashes: a write or a discard is logged when it has returned, a flush when it began
// (and is replaced by one marked Failed should it fail). So all that stands before a flush was covered by it, and what was under way
// beside it stands behind it. Changes made at the same time to ranges that overlap have no order, on a disk neither.
//
// To record torn writes, put [Faults] around the Recorder and not inside.
type Recorder struct {
	dev Device

	mu  sync.Mutex // protects log; never held over a call to dev
	log []*Entry
}

var _ Device = (*Recorder)(nil)

// NewRecorder starts an empty log of changes to dev.
func NewRecorder(dev Device) *Recorder { return &Recorder{dev: dev} }

// Name implements [Device].
func (r *Recorder) Name() string { return r.dev.Name() }

// Size implements [Device].
func (r *Recorder) Size() int64 { return r.dev.Size() }

// Align implements [Device].
func (r *Recorder) Align() Alignment { return r.dev.Align() }

// Close implements [Device]. The log stays readable.
func (r *Recorder) Close() error { return r.dev.Close() }

// ReadAt implements [Device].
func (r *Recorder) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return r.dev.ReadAt(ctx, p, off)
}

// WriteAt implements [Device]. Of a short write the part that was written is logged.
func (r *Recorder) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	n, err := r.dev.WriteAt(ctx, p, off)
	if n > 0 {
		r.add(&Entry{Op: OpWrite, Off: off, Len: int64(n), Data: bytes.Clone(p[:n])})
	}
	return n, err
}

// Discard implements [Device].
func (r *Recorder) Discard(ctx context.Context, off, n int64) error {
	err := r.dev.Discard(ctx, off, n)
	if err == nil && n > 0 {
		r.add(&Entry{Op: OpDiscard, Off: off, Len: n})
	}
	return err
}

// Flush implements [Device].
func (r *Recorder) Flush(ctx context.Context) error {
	e := &Entry{Op: OpFlush}
	r.add(e)
	err := r.dev.Flush(ctx)
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.log[slices.Index(r.log, e)] = &Entry{Op: OpFlush, Failed: true}
	}
	return err
}

func (r *Recorder) add(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, e)
}

// Len is the number of entries. Between changes it is a point in time that Image and CrashImage take.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.log)
}

// Entries is the log so far.
func (r *Recorder) Entries() []*Entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

// Flushes lists the positions of the flushes that succeeded in the log, in ascending order. The crash points next to a flush at i are i
// (it never happened) and i+1 (it was the last to happen).
func (r *Recorder) Flushes() []int {
	var marks []int
	for i, e := range r.Entries() {
		if e.Op == OpFlush && !e.Failed {
			marks = append(marks, i)
		}
	}
	return marks
}

// Image returns base with the first n entries carried out, in order. base is what the device held when recording began;
// it is not changed. A failure to replay, as onto a base too small, is an error.
func (r *Recorder) Image(base *Mem, n int) (*Mem, error) {
	img := base.Clone()
	return img, r.Apply(img, 0, n)
}

// Apply carries out entries [from, to) on img, which may be any device: for tests that step through a long log.
func (r *Recorder) Apply(img Device, from, to int) error {
	for i, e := range r.Entries()[from:to] {
		if err := e.apply(img); err != nil {
			return fmt.Errorf("replay of entry %d: %w", from+i, err)
		}
	}
	return nil
}

// apply does again what the entry says.
func (e *Entry) apply(img Device) error {
	ctx := context.Background()
	switch e.Op {
	case OpWrite:
		_, err := img.WriteAt(ctx, e.Data, e.Off)
		return err
	case OpDiscard:
		return img.Discard(ctx, e.Off, e.Len)
	}
	return nil
}

// CrashImage returns an image that a power cut after the first n entries could have left on base: everything before the
// last flush among them, and of the rest a subset chosen by seed: entries at random, in any order, and of some writes
// only some sectors. One seed in eight keeps all of the rest, one drops all of it.
func (r *Recorder) CrashImage(base *Mem, n int, seed uint64) (*Mem, error) {
	log := r.Entries()[:n]
	safe := n
	for safe > 0 && (log[safe-1].Op != OpFlush || log[safe-1].Failed) {
		safe--
	}
	img, err := r.Image(base, safe)
	if err != nil {
		return nil, err
	}
	for i, e := range survivors(log[safe:], seed) {
		if err := e.apply(img); err != nil {
			return nil, fmt.Errorf("replay of survivor %d: %w", i, err)
		}
	}
	return img, nil
}

// survivors picks what a crash leaves of entries that no flush covers, in the order in which they reached the medium.
func survivors(log []*Entry, seed uint64) []*Entry {
	switch seed % 8 {
	case 0:
		return log
	case 1:
		return nil
	}
	rng := rand.New(rand.NewPCG(seed, 0x6372617368))
	keep := 1 + rng.IntN(9) // of ten
	var left []*Entry
	for _, e := range log {
		switch k := rng.IntN(10); {
		case k >= keep:
		case e.Op == OpWrite && rng.IntN(4) == 0:
			left = append(left, torn(e.Data, e.Off, rng)...)
		default:
			left = append(left, e)
		}
	}
	// A disk reorders what it has not been told to flush, but two writes to one place keep their order here: the
	// kernel's block layer and ours never have both in the air.
	reorder(left, rng)
	return left
}

// reorder shuffles entries, keeping those that overlap in their order.
func reorder(log []*Entry, rng *rand.Rand) {
	for i := 1; i < len(log); i++ {
		for j, steps := i, rng.IntN(i+1); steps > 0 && j > 0 && !log[j].overlaps(log[j-1]); j, steps = j-1, steps-1 {
			log[j], log[j-1] = log[j-1], log[j]
		}
	}
}

func (e *Entry) overlaps(o *Entry) bool { return e.Off < o.Off+o.Len && o.Off < e.Off+e.Len }

// torn cuts a write of data at off into its sectors, by their place on the device, and keeps a random subset.
func torn(data []byte, off int64, rng *rand.Rand) []*Entry {
	var left []*Entry
	for at := int64(0); at < int64(len(data)); {
		n := min(SectorSize-(off+at)%SectorSize, int64(len(data))-at)
		if rng.IntN(2) == 0 {
			left = append(left, &Entry{Op: OpWrite, Off: off + at, Len: n, Data: data[at : at+n]})
		}
		at += n
	}
	return left
}
