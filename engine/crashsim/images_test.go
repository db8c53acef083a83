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

// piece is how many bytes a canonical write has at most: it does not cross a multiple of them.
const piece = 16 << 10

// canonical brings each window of the log into the one form that does not tell in which order things were written and
// with which neighbours: discards first, then writes, sorted by address and cut into pieces, then discards of what was
// written in the same window (which a sound engine has none of).
func canonical(log []*disk.Entry) []*disk.Entry {
	var out []*disk.Entry
	at := 0
	for _, w := range windows(log) {
		out = append(out, log[at:w.from]...)
		out = append(out, tidy(log[w.from:w.to])...)
		at = w.to
	}
	return append(out, log[at:]...)
}

// tidy is canonical for one window. One in which the order matters in another way stays as it is.
func tidy(part []*disk.Entry) []*disk.Entry {
	var first, writes, last []*disk.Entry
	for i, e := range part {
		if e.Op == disk.OpWrite {
			writes = append(writes, e)
			continue
		}
		before, after := anyOverlaps(part[:i], e), anyOverlaps(part[i+1:], e)
		switch {
		case before && after:
			return part
		case before:
			last = append(last, e)
		default:
			first = append(first, e)
		}
	}
	for _, list := range [][]*disk.Entry{first, writes, last} {
		slices.SortStableFunc(list, func(a, b *disk.Entry) int { return cmp.Compare(a.Off, b.Off) })
	}
	for i := 1; i < len(writes); i++ {
		if writes[i-1].Off+writes[i-1].Len > writes[i].Off {
			return part
		}
	}
	return slices.Concat(first, pieces(writes), last)
}

// anyOverlaps reports whether a write among entries overlaps d.
func anyOverlaps(entries []*disk.Entry, d *disk.Entry) bool {
	return slices.ContainsFunc(entries, func(e *disk.Entry) bool {
		return e.Op == disk.OpWrite && e.Off < d.Off+d.Len && d.Off < e.Off+e.Len
	})
}

// pieces joins writes that are neighbours and cuts them at the multiples of a piece. They are sorted and disjoint.
func pieces(writes []*disk.Entry) []*disk.Entry {
	var out []*disk.Entry
	for _, e := range writes {
		for off, data := e.Off, e.Data; len(data) > 0; {
			n := min(int64(len(data)), piece-off%piece)
			next := &disk.Entry{Op: disk.OpWrite, Off: off, Len: n, Data: data[:n]}
			if k := len(out) - 1; k >= 0 && off%piece != 0 && out[k].Off+out[k].Len == off {
				next = &disk.Entry{Op: disk.OpWrite, Off: out[k].Off, Len: out[k].Len + n, Data: slices.Concat(out[k].Data, data[:n])}
				out = out[:k]
			}
			out = append(out, next)
			off, data = off+n, data[n:]
		}
	}
	return out
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
