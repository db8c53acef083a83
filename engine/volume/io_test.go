package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"

	"pgregory.net/rapid"
)

// A batch of writes in random order, sizes and places over single and DUP chunks ends in the places of the naive
// layout, on all copies, and nowhere else.
func TestWriteBatchAgainstModel(t *testing.T) {
	const start, length = ondisk.Logical(64 << 20), 512 << 10 // of each of two touching chunks
	chunks := []struct {
		typ     uint64
		stripes [][2]uint64
	}{
		{ondisk.BGMetadata | ondisk.BGDup, [][2]uint64{{1, 100 << 20}, {1, 101 << 20}}},
		{ondisk.BGData, [][2]uint64{{2, 101 << 20}}},
	}
	rapid.Check(t, func(rt *rapid.T) {
		v, mems := testVolume(t, 2)
		v.pool = disk.NewPool()
		defer func() {
			if err := v.pool.Close(); err != nil {
				rt.Error(err)
			}
		}()
		var layout [][]place
		for i, c := range chunks {
			if err := v.AddChunk(start+ondisk.Logical(i*length), chunkItem(c.typ, length, 0, c.stripes...)); err != nil {
				rt.Fatal(err)
			}
			layout = append(layout, naive(c.typ, length, c.stripes)...)
		}
		model := map[uint64][]byte{1: make([]byte, 2<<20), 2: make([]byte, 2<<20)} // the devices from 100 MiB on
		var ws []Write
		sector := 0
		for sector < len(layout) {
			sector += rapid.SampledFrom([]int{0, 0, 0, 1, 7, 60}).Draw(rt, "gap")
			n := min(rapid.SampledFrom([]int{1, 4, 4, 4, 64, 100}).Draw(rt, "size"), len(layout)-sector)
			if n <= 0 {
				break
			}
			p := bytes.Repeat([]byte{byte(len(ws) + 1)}, n*4096)
			ws = append(ws, Write{start + ondisk.Logical(sector*4096), p})
			for s := sector; s < sector+n; s++ {
				for _, pl := range layout[s] {
					copy(model[pl.dev][pl.phys-100<<20:], p[:4096])
				}
			}
			sector += n
		}
		ws = rapid.Permutation(ws).Draw(rt, "order")
		if err := v.WriteBatch(t.Context(), ws); err != nil {
			rt.Fatal(err)
		}
		for id, want := range model {
			got := make([]byte, len(want))
			if _, err := mems[id].ReadAt(t.Context(), got, 100<<20); err != nil {
				rt.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				rt.Fatalf("device %d differs", id)
			}
		}
	})
}

func TestWriteBatchMergesNeighbours(t *testing.T) {
	v, mems := testVolume(t, 1)
	mustAdd(t, v, 64<<20, chunkItem(ondisk.BGMetadata|ondisk.BGDup, 8<<20, 0, [2]uint64{1, 16 << 20}, [2]uint64{1, 32 << 20}))
	before := mems[1].Stats().Writes
	var ws []Write
	for i := range 100 { // 1600 KiB of blocks: two requests a copy
		ws = append(ws, Write{64<<20 + ondisk.Logical((99-i)*16384), make([]byte, 16384)})
	}
	if err := v.WriteBatch(t.Context(), ws); err != nil {
		t.Fatal(err)
	}
	if n := mems[1].Stats().Writes - before; n != 4 {
		t.Errorf("%d writes, want 4", n)
	}
}

func TestWriteRefusals(t *testing.T) {
	v, mems := testVolume(t, 2, 2)
	mustAdd(t, v, 64<<20, chunkItem(ondisk.BGData|ondisk.BGRaid1, 1<<20, 0, [2]uint64{1, 16 << 20}, [2]uint64{2, 16 << 20}))
	mustAdd(t, v, 65<<20, chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{2, 16 << 20}))
	mustAdd(t, v, 66<<20, chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{1, uint64(testSize) - 4096}))
	before := mems[1].Stats().Writes
	for _, tc := range []struct {
		l   ondisk.Logical
		is  error
		msg string
	}{
		{64 << 20, fserr.ErrUnsupported, "RAID1"},
		{65 << 20, nil, "device 2 (uuid de020000-0000-0000-0000-000000000000) is missing: name it with --device"},
		{80 << 20, fserr.ErrCorrupt, "no chunk covers 8192 bytes at 83886080"},
		{67<<20 - 4096, fserr.ErrCorrupt, "no chunk covers 4096 bytes"}, // begins in a chunk
	} {
		err := v.WriteAll(t.Context(), tc.l, make([]byte, 8192))
		if err == nil || !strings.Contains(err.Error(), tc.msg) || (tc.is != nil && !errors.Is(err, tc.is)) {
			t.Errorf("write at %d: %v", tc.l, err)
		}
	}
	if n := mems[1].Stats().Writes; n != before {
		t.Error("a refused write wrote")
	}
	// Past the end of the device: the device's error, with its name and offset.
	err := v.WriteAll(t.Context(), 66<<20, make([]byte, 8192))
	var de *disk.Error
	if !errors.As(err, &de) || de.Device != "mem1" || de.Off != testSize-4096 {
		t.Errorf("write past the end: %v", err)
	}
}

func TestReadDegraded(t *testing.T) {
	v, mems := testVolume(t, 4, 2)
	mustAdd(t, v, 64<<20, chunkItem(ondisk.BGData|ondisk.BGRaid10, 4<<16, 2, [2]uint64{1, 16 << 20}, [2]uint64{2, 16 << 20}, [2]uint64{3, 16 << 20}, [2]uint64{4, 16 << 20}))
	mustAdd(t, v, 128<<20, chunkItem(ondisk.BGMetadata|ondisk.BGRaid1C3, 1<<20, 0, [2]uint64{1, 32 << 20}, [2]uint64{2, 32 << 20}, [2]uint64{9, 32 << 20}))
	if got := fmt.Sprint(v.Missing()); got != "[2 9]" {
		t.Errorf("missing %s", got)
	}
	for i, want := range []bool{true, false} {
		if err := v.ReadCopy(t.Context(), 64<<20, make([]byte, 4<<16), i); (err == nil) != want {
			t.Errorf("RAID10 copy %d: %v", i, err)
		} else if err != nil && !strings.Contains(err.Error(), "device 2") {
			t.Errorf("the missing device is not named: %v", err)
		}
	}
	for i, want := range []bool{true, false, false} {
		if err := v.ReadCopy(t.Context(), 128<<20, make([]byte, 4096), i); (err == nil) != want {
			t.Errorf("RAID1C3 copy %d: %v", i, err)
		}
	}
	for _, i := range []int{-1, 3} {
		if err := v.ReadCopy(t.Context(), 128<<20, make([]byte, 4096), i); !errors.Is(err, fserr.ErrInvalid) {
			t.Errorf("copy %d: %v", i, err)
		}
	}
	if err := v.ReadCopy(t.Context(), 129<<20-4096, make([]byte, 8192), 0); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("a range that leaves its chunk: %v", err)
	}
	if err := mems[1].Truncate(33 << 20); err != nil {
		t.Fatal(err)
	}
	err := v.ReadCopy(t.Context(), 129<<20-4096, make([]byte, 4096), 0)
	if err != nil {
		t.Error(err)
	}
	if err := mems[1].Truncate(32 << 20); err != nil {
		t.Fatal(err)
	}
	if err := v.ReadCopy(t.Context(), 128<<20, make([]byte, 4096), 0); err == nil || !strings.Contains(err.Error(), "mem1") {
		t.Errorf("read past the end of a truncated image: %v", err)
	}
}

// A device with the right number and another uuid is not the one that the chunk means.
func TestReplacedDevice(t *testing.T) {
	v, _ := testVolume(t, 2)
	item := chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{2, 16 << 20})
	ondisk.ChunkStripe(item, 0).SetDevUUID(ondisk.UUID{77})
	mustAdd(t, v, 64<<20, item)
	if err := v.ReadCopy(t.Context(), 64<<20, make([]byte, 4096), 0); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("read: %v", err)
	}
}

func TestDiscard(t *testing.T) {
	v, mems := testVolume(t, 2)
	mustAdd(t, v, 64<<20, chunkItem(ondisk.BGMetadata|ondisk.BGDup, 1<<20, 0, [2]uint64{1, 16 << 20}, [2]uint64{1, 32 << 20}))
	mustAdd(t, v, 65<<20, chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{2, 48 << 20}))
	ones := bytes.Repeat([]byte{1}, 2<<20)
	if err := v.WriteAll(t.Context(), 64<<20, ones); err != nil {
		t.Fatal(err)
	}
	if err := v.Discard(t.Context(), 64<<20+4096, 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dev  uint64
		off  int64
		want int // ones left in the first MiB
	}{{1, 16 << 20, 4096}, {1, 32 << 20, 4096}, {2, 48 << 20, 1<<20 - 4096}} {
		p := make([]byte, 1<<20)
		if _, err := mems[c.dev].ReadAt(t.Context(), p, c.off); err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(p, []byte{1}); n != c.want {
			t.Errorf("device %d at %d: %d bytes left, want %d", c.dev, c.off, n, c.want)
		}
	}
	if err := v.Discard(t.Context(), 90<<20, 4096); !errors.Is(err, fserr.ErrCorrupt) {
		t.Error(err)
	}
}

// Lookups, reads and writes go on while chunks come and go.
func TestConcurrentChunks(t *testing.T) {
	v, _ := testVolume(t, 1)
	mustAdd(t, v, 64<<20, chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{1, 16 << 20}))
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 200 {
				l := 64<<20 + ondisk.Logical((g*7+i)%256*4096)
				if err := v.WriteAll(t.Context(), l, make([]byte, 4096)); err != nil {
					t.Error(err)
				}
				if err := v.ReadCopy(t.Context(), l, make([]byte, 4096), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		mustAdd(t, v, ondisk.Logical(100+i%8)<<20, chunkItem(ondisk.BGData, 1<<20, 0, [2]uint64{1, 32 << 20}))
		v.RemoveChunk(ondisk.Logical(100+(i+4)%8) << 20)
	}
	wg.Wait()
}

func TestFlush(t *testing.T) {
	v, mems := testVolume(t, 3)
	var names []string
	v.SetTracer(trace.Func(func(e trace.Event) {
		if e.Kind == trace.DeviceFlushed {
			names = append(names, e.Note)
		}
	}))
	if err := v.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names); got != "[mem1 mem2 mem3]" {
		t.Errorf("flushed %s", got)
	}
	for id, m := range mems {
		if m.Stats().Flushes != 1 {
			t.Errorf("device %d: %d flushes", id, m.Stats().Flushes)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := v.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func BenchmarkLookup(b *testing.B) {
	v, _ := testVolume(b, 1)
	for i := range 1000 {
		mustAdd(b, v, ondisk.Logical(64+i)<<30, chunkItem(ondisk.BGData, 1<<30, 0, [2]uint64{1, 16 << 20}))
	}
	var l ondisk.Logical
	for b.Loop() {
		l += 37 << 30
		if v.Copies(64<<30+l%(1000<<30)) != 1 {
			b.Fatal("no chunk")
		}
	}
}
