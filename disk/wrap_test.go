package disk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// bytesOf is the whole of a device.
func bytesOf(t rapid.TB, dev Device) []byte {
	t.Helper()
	p := make([]byte, dev.Size())
	if n, err := dev.ReadAt(bg, p, 0); n != len(p) || err != nil {
		t.Fatal(n, err)
	}
	return p
}

// The image of the first n entries is what the device held when the log had n entries.
func TestRecorderReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 256 << 10
		m := NewMem("m", size)
		if _, err := m.WriteAt(bg, bytes.Repeat([]byte{0xee}, 1000), 70000); err != nil {
			t.Fatal(err)
		}
		base, r := m.Clone(), NewRecorder(m)
		states := [][]byte{bytesOf(t, m)}
		flushes := 0
		for range rapid.IntRange(1, 20).Draw(t, "ops") {
			off := rapid.Int64Range(0, size-1).Draw(t, "off")
			n := rapid.Int64Range(1, min(size-off, 100000)).Draw(t, "n")
			var err error
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0:
				err = r.Flush(bg)
				flushes++
			case 1:
				err = r.Discard(bg, off, n)
			default:
				p := bytes.Repeat([]byte{byte(rand.Uint32())}, int(n))
				_, err = r.WriteAt(bg, p, off)
				clear(p) // the log has a copy
			}
			if err != nil {
				t.Fatal(err)
			}
			states = append(states, bytesOf(t, m))
		}
		if r.Len() != len(states)-1 || len(r.Flushes()) != flushes {
			t.Fatalf("%d entries, %d flushes", r.Len(), len(r.Flushes()))
		}
		for n, want := range states {
			img, err := r.Image(base, n)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(bytesOf(t, img), want) {
				t.Fatalf("image of %d entries differs", n)
			}
		}
		if !bytes.Equal(bytesOf(t, base), states[0]) {
			t.Fatal("replay has changed the base")
		}
	})
}

// Every sector of a crash image is one that the flushed image holds or that a later entry wrote; the seeds reach both
// ends, torn writes too; and one seed gives one image.
func TestCrashImages(t *testing.T) {
	m := NewMem("m", 64<<10)
	base, r := m.Clone(), NewRecorder(m)
	must := func(_ int, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.WriteAt(bg, bytes.Repeat([]byte{1}, 16<<10), 0))
	must(0, r.Flush(bg))
	must(r.WriteAt(bg, bytes.Repeat([]byte{2}, 4<<10), 0))
	must(r.WriteAt(bg, bytes.Repeat([]byte{3}, 4<<10), 2<<10))
	must(r.WriteAt(bg, bytes.Repeat([]byte{4}, 4<<10), 8<<10))
	allowed := func(sector int) []byte {
		switch {
		case sector < 4:
			return []byte{1, 2}
		case sector < 8:
			return []byte{1, 2, 3}
		case sector < 12:
			return []byte{1, 3}
		case sector >= 16 && sector < 24:
			return []byte{1, 4}
		case sector < 32:
			return []byte{1}
		}
		return []byte{0}
	}
	var all, none, partly, order int
	for seed := range uint64(400) {
		img, err := r.CrashImage(base, r.Len(), seed)
		if err != nil {
			t.Fatal(err)
		}
		got := bytesOf(t, img)
		again, _ := r.CrashImage(base, r.Len(), seed)
		if !bytes.Equal(got, bytesOf(t, again)) {
			t.Fatalf("seed %d: two images", seed)
		}
		fours := 0
		for s := 0; s < len(got)/SectorSize; s++ {
			sector := got[s*SectorSize : (s+1)*SectorSize]
			if bytes.Count(sector, sector[:1]) != SectorSize {
				t.Fatalf("seed %d: sector %d is torn inside", seed, s)
			}
			if !bytes.Contains(allowed(s), sector[:1]) {
				t.Fatalf("seed %d: sector %d holds %d", seed, s, sector[0])
			}
			if sector[0] == 4 {
				fours++
			}
		}
		switch {
		case bytes.Equal(got, bytesOf(t, m)):
			all++
		case bytes.Count(got, []byte{1}) == 16<<10:
			none++
		case fours > 0 && fours < 8:
			partly++
		}
		if got[0] == 1 && got[8<<10] == 4 {
			order++ // the last write without the first
		}
	}
	if all == 0 || none == 0 || partly == 0 || order == 0 {
		t.Errorf("all %d, none %d, torn %d, out of order %d: each should occur", all, none, partly, order)
	}
	// A crash before the flush may lose what the flush would have saved.
	if img, err := r.CrashImage(base, r.Flushes()[0], 1); err != nil || !bytes.Equal(bytesOf(t, img), make([]byte, 64<<10)) {
		t.Errorf("before the flush: %v", err)
	}
}

// Entries that overlap keep their order, others do not.
func TestReorder(t *testing.T) {
	moved := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		log := make([]*Entry, 20)
		place := make(map[*Entry]int)
		for i := range log {
			log[i] = &Entry{Op: OpWrite, Off: rng.Int64N(30), Len: 1 + rng.Int64N(5)}
			place[log[i]] = i
		}
		reorder(log, rng)
		for i, e := range log {
			if place[e] != i {
				moved++
			}
			for _, later := range log[i+1:] {
				if place[later] < place[e] && later.Off < e.Off+e.Len && e.Off < later.Off+later.Len {
					t.Fatalf("seed %d: entries %d and %d overlap and changed places", seed, place[later], place[e])
				}
			}
		}
		if len(place) != len(log) {
			t.Fatalf("seed %d: entries lost", seed)
		}
	}
	if moved < 1000 {
		t.Errorf("only %d of 4000 entries moved", moved)
	}
}

func TestRecorderFailures(t *testing.T) {
	f := NewFaults(NewMem("m", 64<<10), 1)
	f.SetRules(Rule{Ops: []Op{OpFlush}, Err: syscall.EIO}, Rule{Ops: []Op{OpWrite}, Off: 0, Len: 1, Err: syscall.EIO})
	r := NewRecorder(f)
	r.WriteAt(bg, make([]byte, 10), 0)
	r.WriteAt(bg, make([]byte, 10), 5000)
	r.Flush(bg)
	want := []*Entry{{Op: OpWrite, Off: 5000, Len: 10, Data: make([]byte, 10)}, {Op: OpFlush, Failed: true}}
	if got := r.Entries(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if marks := r.Flushes(); len(marks) != 0 {
		t.Errorf("a failed flush is a mark: %v", marks)
	}
	img, err := r.CrashImage(NewMem("m", 64<<10), 2, 1)
	if err != nil || img.Allocated() != 0 {
		t.Errorf("a failed flush saved %d bytes, %v", img.Allocated(), err)
	}
}

func TestFaultRules(t *testing.T) {
	type step struct {
		op   Op
		off  int64
		want error
	}
	w := func(off int64, want error) step { return step{OpWrite, off, want} }
	for _, c := range []struct {
		name  string
		rule  Rule
		steps []step
	}{
		{"third", Rule{After: 2, Count: 1, Err: syscall.EIO}, []step{w(0, nil), w(0, nil), w(0, syscall.EIO), w(0, nil)}},
		{"dead after two", Rule{After: 2, Err: syscall.EIO}, []step{w(0, nil), {OpFlush, 0, nil}, {OpFlush, 0, syscall.EIO}, w(0, syscall.EIO), {OpRead, 0, syscall.EIO}, {OpDiscard, 0, syscall.EIO}}},
		{"range", Rule{Off: 8192, Len: 4096, Err: syscall.ENOSPC}, []step{w(0, nil), w(4096, nil), w(4097, syscall.ENOSPC), w(8192, syscall.ENOSPC), w(12287, syscall.ENOSPC), w(12288, nil)}},
		{"from", Rule{Off: 8192, Err: syscall.EIO}, []step{w(4096, nil), w(8192, syscall.EIO), w(40960, syscall.EIO)}},
		{"flush", Rule{Ops: []Op{OpFlush}, Count: 1, Err: syscall.EIO}, []step{w(0, nil), {OpFlush, 0, syscall.EIO}, {OpFlush, 0, nil}}},
		{"op", Rule{Ops: []Op{OpRead, OpDiscard}, Err: syscall.EIO}, []step{w(0, nil), {OpRead, 0, syscall.EIO}, {OpDiscard, 0, syscall.EIO}, {OpFlush, 0, nil}}},
		{"short", Rule{Ops: []Op{OpWrite, OpRead}, Short: true}, []step{w(0, io.ErrShortWrite), {OpRead, 0, io.ErrUnexpectedEOF}}},
		{"short with ENOSPC", Rule{Short: true, Err: syscall.ENOSPC}, []step{w(0, syscall.ENOSPC)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFaults(NewMem("m", 64<<10), 1)
			f.SetRules(c.rule)
			failed := 0
			for i, s := range c.steps {
				var err error
				switch s.op {
				case OpRead:
					_, err = f.ReadAt(bg, make([]byte, 4096), s.off)
				case OpWrite:
					_, err = f.WriteAt(bg, make([]byte, 4096), s.off)
				case OpFlush:
					err = f.Flush(bg)
				case OpDiscard:
					err = f.Discard(bg, s.off, 4096)
				}
				if !errors.Is(err, s.want) || s.want == nil && err != nil {
					t.Errorf("step %d: %v, want %v", i, err, s.want)
				}
				if s.want != nil {
					failed++
				}
			}
			if n := len(f.Injections()); n != failed {
				t.Errorf("%d injections listed, %d seen", n, failed)
			}
		})
	}
}

func TestFaultEffects(t *testing.T) {
	const n = 64 * SectorSize
	old, fresh := bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{2}, n)
	outcome := func(seed uint64, r Rule) (data []byte, wrote int, err error) {
		m := NewMem("m", n)
		if _, err := m.WriteAt(bg, old, 0); err != nil {
			t.Fatal(err)
		}
		f := NewFaults(m, seed)
		f.SetRules(r)
		wrote, err = f.WriteAt(bg, fresh, 0)
		return bytesOf(t, m), wrote, err
	}
	short, wrote, err := outcome(7, Rule{Short: true})
	if err == nil || wrote == 0 || wrote >= n || wrote%SectorSize != 0 || bytes.Count(short, []byte{2}) != wrote || short[wrote-1] != 2 {
		t.Errorf("short: %d bytes, %v", wrote, err)
	}
	torn, wrote, err := outcome(7, Rule{Torn: true})
	twos := bytes.Count(torn, []byte{2})
	if err != nil || wrote != n || twos == 0 || twos == n {
		t.Errorf("torn: %d of %d bytes, %d, %v", twos, n, wrote, err)
	}
	for s := 0; s < n; s += SectorSize {
		if c := bytes.Count(torn[s:s+SectorSize], []byte{2}); c != 0 && c != SectorSize {
			t.Errorf("torn inside the sector at %d", s)
		}
	}
	if again, _, _ := outcome(7, Rule{Torn: true}); !bytes.Equal(torn, again) {
		t.Error("one seed, two outcomes")
	}
	if other, _, _ := outcome(8, Rule{Torn: true}); bytes.Equal(torn, other) {
		t.Error("two seeds, one outcome")
	}
	if _, _, err := outcome(7, Rule{Torn: true, Err: syscall.EIO}); !errors.Is(err, syscall.EIO) {
		t.Errorf("torn with EIO: %v", err)
	}

	f := NewFaults(NewMem("m", n), 7)
	f.SetRules(Rule{Ops: []Op{OpRead}, Flip: true, Count: 1})
	p := make([]byte, n)
	if _, err := f.ReadAt(bg, p, 0); err != nil {
		t.Fatal(err)
	}
	if zeros := bytes.Count(p, []byte{0}); zeros != n-1 {
		t.Errorf("flip: %d bytes changed", n-zeros)
	}
	if p = bytesOf(t, f); bytes.Count(p, []byte{0}) != n {
		t.Error("the flip was not of the read alone")
	}
}

// Chance falls on the same operations whatever their order.
func TestFaultsDeterministic(t *testing.T) {
	run := func(seed uint64, order []int) map[int]bool {
		f := NewFaults(NewMem("m", 1<<20), seed)
		f.SetRules(Rule{Probability: 0.3, Err: syscall.EIO})
		failed := make(map[int]bool)
		var mu sync.Mutex
		var wg sync.WaitGroup
		for part := range 4 {
			wg.Go(func() {
				for _, i := range order[part*50 : (part+1)*50] {
					_, err := f.WriteAt(bg, make([]byte, 4096), int64(i)*4096)
					mu.Lock()
					failed[i] = err != nil
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		return failed
	}
	first := run(42, rand.New(rand.NewPCG(1, 1)).Perm(200))
	count := 0
	for _, bad := range first {
		if bad {
			count++
		}
	}
	if count < 30 || count > 90 {
		t.Errorf("%d of 200 failed at 30 %%", count)
	}
	if !reflect.DeepEqual(first, run(42, rand.New(rand.NewPCG(2, 2)).Perm(200))) {
		t.Error("another order, another outcome")
	}
	if reflect.DeepEqual(first, run(43, rand.New(rand.NewPCG(1, 1)).Perm(200))) {
		t.Error("another seed, the same outcome")
	}
}

func TestFaultLatency(t *testing.T) {
	f := NewFaults(NewMem("m", 8192), 1)
	f.SetRules(Rule{Latency: time.Hour}, Rule{Ops: []Op{OpFlush}, Latency: time.Minute})
	var slept time.Duration
	f.SetSleep(func(ctx context.Context, d time.Duration) error {
		slept += d
		return ctx.Err()
	})
	if err := f.Flush(bg); err != nil || slept != 61*time.Minute {
		t.Errorf("slept %v, %v", slept, err)
	}
	f.SetSleep(sleepContext)
	ctx, cancel := context.WithCancel(bg)
	cancel()
	if _, err := f.WriteAt(ctx, make([]byte, 1), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A flush that fails once has failed for good.
func TestFlushFailureSticks(t *testing.T) {
	f := create(t, 8192, Options{Direct: DirectOff})
	good := f.f
	r, w, err := os.Pipe() // fsync of a pipe is EINVAL
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	f.f = w
	if err := f.Flush(bg); !errors.Is(err, syscall.EINVAL) {
		t.Fatalf("flush of a pipe: %v", err)
	}
	f.f = good
	if err := f.Flush(bg); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("the next flush: %v", err)
	}
}

func TestMemClone(t *testing.T) {
	a := NewMem("m", 1<<20)
	a.WriteAt(bg, []byte("aaaa"), 65534)
	b := a.Clone()
	c := b.Clone()
	a.WriteAt(bg, []byte("A"), 65534)
	b.WriteAt(bg, []byte("B"), 65536)
	b.Discard(bg, 65537, 1)
	for _, x := range []struct {
		m    *Mem
		want string
	}{{a, "Aaaa"}, {b, "aaB\x00"}, {c, "aaaa"}} {
		if got := bytesOf(t, x.m)[65534:65538]; string(got) != x.want {
			t.Errorf("%q, want %q", got, x.want)
		}
	}
	path := filepath.Join(t.TempDir(), "image")
	a.Close()
	if err := a.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || len(got) != 1<<20 || string(got[65534:65538]) != "Aaaa" {
		t.Errorf("file of %d bytes, %v", len(got), err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil || st.Blocks*512 > 192<<10 {
		t.Errorf("%d blocks on disk, %v", st.Blocks, err)
	}
	if err := a.WriteFile(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
}

func TestMemConcurrent(t *testing.T) {
	m := NewMem("m", 8<<20)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 100 {
				p := bytes.Repeat([]byte{byte(w + 1)}, 4096)
				off := int64(i*4+w) * 4096
				m.WriteAt(bg, p, off)
				c := m.Clone()
				q := make([]byte, 4096)
				if _, err := c.ReadAt(bg, q, off); err != nil || !bytes.Equal(p, q) {
					t.Errorf("writer %d: the clone differs, %v", w, err)
				}
			}
		})
	}
	wg.Wait()
}
