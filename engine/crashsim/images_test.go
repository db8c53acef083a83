package crashsim

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"

	"imgtool/disk"
	"imgtool/engine/ondisk"
)

// window is a range of the log between two flushes, neither included.
type window struct{ from, to int }

// windows cuts the log at its flushes, leaving out what is empty.
func windows(log []*disk.Entry) []window {
	var all []window
	from := 0
	for i := 0; i <= len(log); i++ {
		if i < len(log) && log[i].Op != disk.OpFlush {
			continue
		}
		if i > from {
			all = append(all, window{from, i})
		}
		from = i + 1
	}
	return all
}

// canonical sorts each window of the log by address, if nothing in it overlaps.
func canonical(log []*disk.Entry) {
	for _, w := range windows(log) {
		part := slices.Clone(log[w.from:w.to])
		slices.SortStableFunc(part, func(a, b *disk.Entry) int { return cmp.Compare(a.Off, b.Off) })
		disjoint := true
		for i := 1; i < len(part); i++ {
			disjoint = disjoint && part[i-1].Off+part[i-1].Len <= part[i].Off
		}
		if disjoint {
			copy(log[w.from:w.to], part)
		}
	}
}

// supers lists the generations of the primary superblocks among entries.
func supers(log []*disk.Entry) []ondisk.Generation {
	var gens []ondisk.Generation
	for _, e := range log {
		if isSuper(e) {
			gens = append(gens, ondisk.AsSuperBlock(e.Data).Generation())
		}
	}
	return gens
}

func isSuper(e *disk.Entry) bool {
	return e.Op == disk.OpWrite && e.Off == int64(ondisk.SuperOffsets[0]) && e.Len == ondisk.SuperSize
}

// apply carries entries out on memory, which cannot fail.
func apply(img *disk.Mem, log []*disk.Entry) {
	ctx := context.Background()
	for _, e := range log {
		var err error
		switch e.Op {
		case disk.OpWrite:
			_, err = img.WriteAt(ctx, e.Data, e.Off)
		case disk.OpDiscard:
			err = img.Discard(ctx, e.Off, e.Len)
		}
		if err != nil {
			panic(err) // the entry was carried out before, on a device of the same size
		}
	}
}

// crash is one image to look at.
type crash struct {
	img    *disk.Mem
	window int
	seed   uint64              // of disk.Recorder.CrashImage, applied to the window
	legal  []ondisk.Generation // that may be found: the last durable one, and those whose super is in the window
}

// null takes writes and keeps nothing: beneath a Recorder that only carries a part of a log.
type null struct{ disk.Device }

func (null) WriteAt(_ context.Context, p []byte, _ int64) (int, error) { return len(p), nil }
func (null) Discard(context.Context, int64, int64) error               { return nil }
func (null) Flush(context.Context) error                               { return nil }

// crashes calls fn with about n images, spread over all windows by how much may be lost in each, and with one more for
// the end. It stops when fn returns false.
func (h *history) crashes(n int, seed uint64, fn func(crash) bool) error {
	wins := windows(h.log)
	weight, total := make([]int, len(wins)), 0
	for i, w := range wins {
		weight[i] = 1 + min(w.to-w.from, 10)
		total += weight[i]
	}
	safe := h.base.Clone()
	durable := ondisk.Generation(0)
	if err := h.firstDurable(&durable); err != nil {
		return err
	}
	for i, w := range wins {
		part := h.log[w.from:w.to]
		gens := supers(part)
		rec := disk.NewRecorder(null{safe})
		for _, e := range part {
			if err := replay(rec, e); err != nil {
				return err
			}
		}
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		for k := range max(1, n*weight[i]/total) {
			s := uint64(1) // nothing of the window
			if k > 0 {
				s = rng.Uint64()&^7 | uint64(2+rng.IntN(6)) // a subset
			}
			img, err := rec.CrashImage(safe, rec.Len(), s)
			if err != nil {
				return err
			}
			if !fn(crash{img: img, window: i, seed: s, legal: append([]ondisk.Generation{durable}, gens...)}) {
				return nil
			}
		}
		apply(safe, part)
		for _, g := range gens {
			durable = max(durable, g)
		}
	}
	fn(crash{img: safe.Clone(), window: len(wins), legal: []ondisk.Generation{durable}})
	return nil
}

// firstDurable finds the generation of the base.
func (h *history) firstDurable(gen *ondisk.Generation) error {
	b := make([]byte, ondisk.SuperSize)
	_, err := h.base.Clone().ReadAt(context.Background(), b, int64(ondisk.SuperOffsets[0]))
	*gen = ondisk.AsSuperBlock(b).Generation()
	return err
}

// replay records an entry once more.
func replay(rec *disk.Recorder, e *disk.Entry) error {
	if e.Op == disk.OpDiscard {
		return rec.Discard(context.Background(), e.Off, e.Len)
	}
	_, err := rec.WriteAt(context.Background(), e.Data, e.Off)
	return err
}
