package volume

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// ReadCopy fills p from one copy of the bytes at l, counted from 0. A range may cross stripes and chunks, as long as all
// of them have that copy. Errors of a device name it and the offset; a range outside all chunks is a *fserr.Corrupt, a
// missing device is named. Other copies are not tried: only the caller can tell a good one.
func (v *Volume) ReadCopy(ctx context.Context, l ondisk.Logical, p []byte, copy int) error {
	if len(p) == 0 {
		return nil
	}
	dev, pc, err := v.locate(l, len(p), copy)
	if err != nil {
		return err
	}
	if pc.n == len(p) {
		// The usual case, without a list.
		_, err := dev.dev.ReadAt(ctx, p, int64(pc.phys))
		return readError(dev.dev, int64(pc.phys), len(p), err)
	}
	var reqs []disk.Request
	for {
		reqs = append(reqs, disk.Request{Dev: dev.dev, Op: disk.OpRead, Buf: p[:pc.n], Off: int64(pc.phys)})
		l, p = l+ondisk.Logical(pc.n), p[pc.n:]
		if len(p) == 0 {
			break
		}
		if dev, pc, err = v.locate(l, len(p), copy); err != nil {
			return err
		}
	}
	err = disk.Do(ctx, v.depth, reqs)
	for i := range reqs {
		if r := &reqs[i]; r.Err != nil {
			return readError(r.Dev, r.Off, len(r.Buf), r.Err)
		}
	}
	return err
}

// readError gives a read past the end, which devices report as a plain io.EOF, its place. A device is shorter than its
// chunks when an image was cut.
func readError(dev disk.Device, off int64, n int, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return &disk.Error{Op: disk.OpRead, Device: dev.Name(), Off: off, Len: int64(n),
			Err: fmt.Errorf("past the end, at %d: was the image cut? %w", dev.Size(), io.ErrUnexpectedEOF)}
	}
	return err
}

// locate finds the place of one copy of the first bytes of [l, l+n).
func (v *Volume) locate(l ondisk.Logical, n, i int) (*device, piece, error) {
	c := find(v.chunkMap(), l)
	if c == nil {
		return nil, piece{}, unmapped(l, n)
	}
	if i < 0 || i >= c.NumCopies {
		return nil, piece{}, fmt.Errorf("copy %d of %d: chunk %d has %d copies: %w", i, l, c.Start, c.NumCopies, fserr.ErrInvalid)
	}
	pc := c.locate(l, n, i)
	d := c.devs[pc.stripe]
	if d == nil {
		return nil, piece{}, c.missingError(pc.stripe)
	}
	return d, pc, nil
}

// WriteAll writes p to every copy of the bytes at l. An error leaves some copies written and others not.
func (v *Volume) WriteAll(ctx context.Context, l ondisk.Logical, p []byte) error {
	return v.WriteBatch(ctx, []Write{{l, p}})
}

const (
	maxMerge   = 1 << 20   // bytes of a merged request
	mergeBelow = 256 << 10 // bytes; a request from here on gains nothing by being copied to sit beside its neighbour
)

// WriteBatch writes every element to all its copies, several requests at a time, in no order, and returns when all are
// written: the first error, or nil. Small neighbours on a device become one request. The elements must not overlap.
// Nothing is flushed. Profiles other than single and DUP match fserr.ErrUnsupported; then nothing was written.
func (v *Volume) WriteBatch(ctx context.Context, ws []Write) error {
	reqs := make([]disk.Request, 0, 2*len(ws))
	for _, w := range ws {
		var err error
		if reqs, err = v.mapWrite(reqs, w); err != nil {
			return fmt.Errorf("write %d bytes at logical %d: %w", len(w.Buf), w.Addr, err)
		}
	}
	if len(reqs) == 1 {
		_, err := reqs[0].Dev.WriteAt(ctx, reqs[0].Buf, reqs[0].Off)
		return err
	}
	v.sort(reqs)
	reqs, staged := v.merge(reqs)
	err := disk.Do(ctx, v.depth, reqs)
	for _, b := range staged {
		v.put(b)
	}
	return err
}

// get returns a buffer that put takes back.
func (v *Volume) get(n int) []byte {
	if v.pool == nil {
		return make([]byte, n)
	}
	return v.pool.Get(n)
}

func (v *Volume) put(b []byte) {
	if v.pool != nil {
		v.pool.Put(b)
	}
}

// mapWrite appends the requests of one write: one for each chunk it touches and each copy.
func (v *Volume) mapWrite(reqs []disk.Request, w Write) ([]disk.Request, error) {
	for l, p := w.Addr, w.Buf; len(p) > 0; {
		c := find(v.chunkMap(), l)
		if c == nil {
			return nil, unmapped(l, len(p))
		}
		if c.Type&ondisk.BGProfileMask&^ondisk.BGDup != 0 {
			return nil, fmt.Errorf("writing the profile %s: %w", ondisk.BGProfileName(c.Type), fserr.ErrUnsupported)
		}
		n := 0
		for i := range c.NumCopies {
			pc := c.locate(l, len(p), i)
			if c.devs[pc.stripe] == nil {
				return nil, c.missingError(pc.stripe)
			}
			n = pc.n
			reqs = append(reqs, disk.Request{Dev: c.devs[pc.stripe].dev, Op: disk.OpWrite, Buf: p[:n], Off: int64(pc.phys)})
		}
		l, p = l+ondisk.Logical(n), p[n:]
	}
	return reqs, nil
}

// sort orders requests by device and offset, so that the device sees them ascending and merge finds neighbours.
func (v *Volume) sort(reqs []disk.Request) {
	index := func(d disk.Device) int {
		return slices.IndexFunc(v.devices, func(x *device) bool { return x.dev == d })
	}
	slices.SortFunc(reqs, func(a, b disk.Request) int {
		if a.Dev != b.Dev {
			return cmp.Compare(index(a.Dev), index(b.Dev))
		}
		return cmp.Compare(a.Off, b.Off)
	})
}

// merge joins runs of small adjacent requests by copying them into one buffer each. It reuses reqs; the buffers are
// given back once the requests are done.
func (v *Volume) merge(reqs []disk.Request) (out []disk.Request, staged [][]byte) {
	out = reqs[:0]
	for i := 0; i < len(reqs); {
		j, n := i+1, len(reqs[i].Buf)
		for j < len(reqs) && len(reqs[j-1].Buf) < mergeBelow && len(reqs[j].Buf) < mergeBelow &&
			reqs[j].Dev == reqs[i].Dev && reqs[j].Off == reqs[i].Off+int64(n) && n+len(reqs[j].Buf) <= maxMerge {
			n += len(reqs[j].Buf)
			j++
		}
		r := reqs[i]
		if j > i+1 {
			buf := v.get(n)[:0]
			for _, x := range reqs[i:j] {
				buf = append(buf, x.Buf...)
			}
			staged = append(staged, buf)
			r.Buf = buf
		}
		out = append(out, r)
		i = j
	}
	return out, staged
}

// Discard tells the devices that nobody needs the n bytes at l any more, all copies of them.
func (v *Volume) Discard(ctx context.Context, l ondisk.Logical, n uint64) error {
	var reqs []disk.Request
	for n > 0 {
		c := find(v.chunkMap(), l)
		if c == nil {
			return unmapped(l, int(n))
		}
		// Striped chunks come back in pieces of 64 KiB; all others whole.
		step := 0
		for i := range c.NumCopies {
			pc := c.locate(l, int(min(n, 1<<62)), i)
			step = pc.n
			if d := c.devs[pc.stripe]; d != nil {
				reqs = append(reqs, disk.Request{Dev: d.dev, Op: disk.OpDiscard, Off: int64(pc.phys), Len: int64(pc.n)})
			}
		}
		l, n = l+ondisk.Logical(step), n-uint64(step)
	}
	return disk.Do(ctx, v.depth, reqs)
}
