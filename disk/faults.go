package disk

import (
	"context"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Rule is one way in which a [Faults] fails. The zero values of the selecting fields select everything; at least one
// effect should be set.
type Rule struct {
	// Ops are the operations the rule applies to; none means all four.
	Ops []Op
	// Off and Len select transfers that touch the range, in bytes; a Len of 0 selects everything from Off on. A flush
	// has no range and is selected by any.
	Off, Len int64
	// After is how many selected operations pass before the rule begins to apply.
	After int
	// Count is how often the rule applies at most; 0 is without end.
	Count int
	// Probability is the chance that it applies, from 0 to 1; 0 is taken as 1.
	Probability float64

	// Latency is waited before the operation.
	Latency time.Duration
	// Err is returned; the operation is not carried out, or only in part with Short and Torn.
	Err error
	// Short carries out a prefix of a read or write of more than one sector, some whole sectors of it, and returns Err,
	// or io.ErrShortWrite or io.ErrUnexpectedEOF.
	Short bool
	// Torn writes some sectors of a write and not others. It returns Err; with no Err the write lies that it has
	// succeeded.
	Torn bool
	// Flip changes one bit of what a read gives.
	Flip bool
}

// Injection is one application of a rule.
type Injection struct {
	Rule int // position among the rules since the last SetRules
	Op   Op
	Off  int64 // bytes
	Len  int64 // bytes
}

// Faults passes everything on to a device, but for what its rules say.
//
// What chance decides, it decides by the seed, the rule, the operation, its range, and how often that same operation has
// been seen: so runs whose goroutines come in another order make the same choices. After and Count go by order of
// arrival. Of several rules that apply to one operation, latencies add up and the first that returns an error or writes
// less ends it.
type Faults struct {
	dev  Device
	seed uint64

	mu       sync.Mutex // protects what follows; never held over a call to dev or a wait
	sleep    func(context.Context, time.Duration) error
	rules    []*ruleState
	injected []Injection
}

// ruleState is a rule and how far it has got.
type ruleState struct {
	Rule
	selected int // operations
	applied  int
	seen     map[faultKey]uint64 // by operation, for Probability
}

type faultKey struct {
	op     Op
	off, n int64
}

var _ Device = (*Faults)(nil)

// NewFaults wraps dev, with no rules yet.
func NewFaults(dev Device, seed uint64) *Faults {
	return &Faults{dev: dev, seed: seed, sleep: sleepContext}
}

// SetRules replaces all rules and forgets the injections.
func (f *Faults) SetRules(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.injected = nil, nil
	for _, r := range rules {
		f.rules = append(f.rules, &ruleState{Rule: r, seen: make(map[faultKey]uint64)})
	}
}

// SetSleep replaces the wait of Latency, which is a timer. It must return early when ctx ends.
func (f *Faults) SetSleep(sleep func(context.Context, time.Duration) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sleep = sleep
}

// Injections lists what has been injected since the last SetRules, in order.
func (f *Faults) Injections() []Injection {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.injected)
}

// sleepContext waits on the clock of package time, and so on the fake one in a synctest bubble.
func sleepContext(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// selects reports whether the rule speaks of the operation.
func (r *Rule) selects(k faultKey) bool {
	if len(r.Ops) > 0 && !slices.Contains(r.Ops, k.op) {
		return false
	}
	return k.op == OpFlush || k.off+k.n > r.Off && (r.Len == 0 || k.off < r.Off+r.Len)
}

// applies counts the operation and reports whether the rule acts on it. The caller holds Faults.mu.
func (r *ruleState) applies(k faultKey, rng func(nth uint64) *rand.Rand) (*rand.Rand, bool) {
	if !r.selects(k) {
		return nil, false
	}
	nth := r.seen[k]
	r.seen[k]++
	r.selected++
	if r.selected <= r.After || r.Count > 0 && r.applied >= r.Count {
		return nil, false
	}
	chance := rng(nth)
	if r.Probability > 0 && chance.Float64() >= r.Probability {
		return nil, false
	}
	r.applied++
	return chance, true
}

// verdict is what the rules make of one operation.
type verdict struct {
	err         error
	short, torn bool
	flip        *rand.Rand // nil: no flip
	chance      *rand.Rand // of short and torn
}

// judge runs the rules over an operation and waits out their latency.
func (f *Faults) judge(ctx context.Context, op Op, off, n int64) (verdict, error) {
	k := faultKey{op, off, n}
	var v verdict
	var wait time.Duration
	f.mu.Lock()
	for i, r := range f.rules {
		chance, ok := r.applies(k, func(nth uint64) *rand.Rand { return f.rng(i, k, nth) })
		if !ok {
			continue
		}
		f.injected = append(f.injected, Injection{i, op, off, n})
		wait += r.Latency
		if r.Flip && op == OpRead {
			v.flip = chance
		}
		if r.Err != nil || r.Short || r.Torn {
			v.err, v.short, v.torn, v.chance = r.Err, r.Short, r.Torn, chance
			break
		}
	}
	sleep := f.sleep
	f.mu.Unlock()
	if wait > 0 {
		if err := sleep(ctx, wait); err != nil {
			return v, &Error{op, f.Name(), off, n, err}
		}
	}
	return v, nil
}

// rng is the chance of the nth time that rule i sees operation k.
func (f *Faults) rng(i int, k faultKey, nth uint64) *rand.Rand {
	h := fnv.New64a()
	for _, v := range []uint64{f.seed, uint64(i), uint64(k.op), uint64(k.off), uint64(k.n), nth} {
		var b [8]byte
		for j := range b {
			b[j] = byte(v >> (8 * j))
		}
		h.Write(b[:])
	}
	return rand.New(rand.NewPCG(f.seed, h.Sum64()))
}

// Name implements [Device].
func (f *Faults) Name() string { return f.dev.Name() }

// Size implements [Device].
func (f *Faults) Size() int64 { return f.dev.Size() }

// Align implements [Device].
func (f *Faults) Align() Alignment { return f.dev.Align() }

// Close implements [Device]. No rule applies to it.
func (f *Faults) Close() error { return f.dev.Close() }

// ReadAt implements [Device].
func (f *Faults) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	v, err := f.judge(ctx, OpRead, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	var n int
	switch {
	case v.short:
		n, err = f.dev.ReadAt(ctx, p[:prefix(len(p), v.chance)], off)
		if err == nil {
			err = f.fail(OpRead, off, int64(len(p)), orElse(v.err, io.ErrUnexpectedEOF))
		}
	case v.err != nil:
		return 0, f.fail(OpRead, off, int64(len(p)), v.err)
	default:
		n, err = f.dev.ReadAt(ctx, p, off)
	}
	if v.flip != nil && n > 0 {
		bit := v.flip.IntN(8 * n)
		p[bit/8] ^= 1 << (bit % 8)
	}
	return n, err
}

// WriteAt implements [Device].
func (f *Faults) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	v, err := f.judge(ctx, OpWrite, off, int64(len(p)))
	switch {
	case err != nil:
		return 0, err
	case v.torn:
		return f.writeTorn(ctx, p, off, v)
	case v.short:
		n, err := f.dev.WriteAt(ctx, p[:prefix(len(p), v.chance)], off)
		if err == nil {
			err = f.fail(OpWrite, off, int64(len(p)), orElse(v.err, io.ErrShortWrite))
		}
		return n, err
	case v.err != nil:
		return 0, f.fail(OpWrite, off, int64(len(p)), v.err)
	}
	return f.dev.WriteAt(ctx, p, off)
}

// writeTorn writes some sectors of p.
func (f *Faults) writeTorn(ctx context.Context, p []byte, off int64, v verdict) (int, error) {
	for _, e := range torn(p, off, v.chance) {
		if n, err := f.dev.WriteAt(ctx, e.Data, e.Off); err != nil {
			return int(e.Off-off) + n, err
		}
	}
	if v.err != nil {
		return 0, f.fail(OpWrite, off, int64(len(p)), v.err)
	}
	return len(p), nil
}

// Flush implements [Device]. A flush that fails by rule does not reach the device.
func (f *Faults) Flush(ctx context.Context) error {
	v, err := f.judge(ctx, OpFlush, 0, 0)
	switch {
	case err != nil:
		return err
	case v.err != nil:
		return f.fail(OpFlush, 0, 0, v.err)
	}
	return f.dev.Flush(ctx)
}

// Discard implements [Device].
func (f *Faults) Discard(ctx context.Context, off, n int64) error {
	v, err := f.judge(ctx, OpDiscard, off, n)
	switch {
	case err != nil:
		return err
	case v.err != nil:
		return f.fail(OpDiscard, off, n, v.err)
	}
	return f.dev.Discard(ctx, off, n)
}

func (f *Faults) fail(op Op, off, n int64, err error) error {
	return &Error{op, f.Name(), off, n, err}
}

// prefix is a random number of whole sectors, less than n bytes, possibly none.
func prefix(n int, chance *rand.Rand) int {
	if n == 0 {
		return 0
	}
	return chance.IntN((n+SectorSize-1)/SectorSize) * SectorSize
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}
