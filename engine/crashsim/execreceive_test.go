package crashsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path"
	"slices"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// feed is the input of a receive: a stream in parts. Before each part but the first, other operations run, and one of
// them is a commit that has the half of the subvolume on the device.
type feed struct {
	w     *world
	ctx   context.Context
	parts [][]byte
	rest  []byte // of the part that is being read
	n     int    // parts begun
	every int    // how many parts there are to a pause
	rng   *rand.Rand
	err   error // of the operations
	early earlyOrphan
}

func (f *feed) Read(p []byte) (int, error) {
	if len(f.rest) == 0 {
		if len(f.parts) == 0 {
			return 0, io.EOF
		}
		if f.n > 0 && f.n%f.every == 0 && f.err == nil {
			f.err = f.between()
		}
		f.rest, f.parts = f.parts[0], f.parts[1:]
		f.n++
	}
	if f.err != nil {
		return 0, f.err
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

func (f *feed) between() error {
	if f.w.mutant.orphanEarly {
		if err := f.early.run(f.ctx, f.w, len(f.parts) == 1); err != nil {
			return err
		}
	}
	if f.rng.IntN(3) == 0 {
		return f.w.between(f.ctx, []op{{kind: opCommit}}, nil)
	}
	return f.w.between(f.ctx, append(betweenOps(f.rng), op{kind: opCommit}), nil)
}

// newFeed cuts a stream into parts, and off. What a receiver still has in hand when that happens is lost, and how much it
// is depends on time: so a stream breaks off where it has nothing in hand (TestReplay). With a small bound on dirty blocks
// nothing is certain anyway.
func (w *world) newFeed(ctx context.Context, s *stream, o op) (*feed, error) {
	settled, cut := w.cfg.maxDirty == 0, o.kind == opReceiveCut
	n := int(2 + o.d%4)
	if cut {
		n = int(2 + o.c%30)
	}
	parts, err := s.parts(n, settled)
	if err != nil {
		return nil, err
	}
	f := &feed{w: w, ctx: ctx, parts: parts, every: 1, rng: rand.New(rand.NewPCG(uint64(o.b)<<32|uint64(o.d), 13))}
	if cut {
		f.parts = f.parts[:1+int(o.c/30)%len(parts)]
		f.every = 1 + len(f.parts)/4
		last := &f.parts[len(f.parts)-1]
		switch next := len(f.parts); {
		case !settled || next == len(parts): // in the middle of something, if only of the end
			*last = (*last)[:1+int(o.d/4)%(len(*last)-1)]
			if settled {
				*last = (*last)[:min(len(*last), shortest-1)]
			}
		default:
			*last = append(*last, parts[next][:int(o.d/4)%shortest]...)
		}
	}
	return f, nil
}

// shortest is a bound below the length of every command, bytes.
const shortest = 10

// tryReceive receives a stream, of this image or a foreign one, whole or cut off.
func (w *world) tryReceive(ctx context.Context, o op) error {
	list := w.streams
	if o.kind == opReceiveForeign || o.kind == opReceiveCut && (len(list) == 0 || o.d/16%2 == 0) {
		var err error
		if list, err = foreign(); err != nil {
			return hard{err}
		}
	}
	if len(list) == 0 {
		return fserr.ErrNotFound
	}
	if w.cfg.roomy && w.fs.Usage().Data.Free() < 4<<20 {
		return fserr.ErrNoSpace
	}
	s := list[o.a%uint32(len(list))]
	f, err := w.newFeed(ctx, s, o)
	if err != nil {
		return hard{err}
	}
	ro := engine.ReceiveOptions{Path: []string{"", "", "sv1"}[o.b%3]}
	ro.ForceDecompress, ro.KeepPartial = o.b/3%4 == 0, o.b/12%2 == 0
	w.receiving, w.noState = true, w.generation() // which is not of now if it is not known by now
	subs, err := w.fs.Receive(ctx, f, ro)
	w.receiving = false
	if f.err != nil {
		return hard{f.err}
	}
	if o.kind == opReceiveCut {
		return w.cutOff(ctx, s, subs, err, ro)
	}
	if err != nil {
		for _, sub := range subs {
			if !sub.Partial || !ro.KeepPartial {
				return hard{fmt.Errorf("receive has left %+v: %w", sub, err)}
			}
		}
		return errors.Join(w.mayFail(ctx, s, ro, err), w.catchUp(ctx))
	}
	if len(subs) != 1 {
		return hard{fmt.Errorf("%d subvolumes were received of %v", len(subs), s)}
	}
	if err := w.complete(ctx, s, subs[0], path.Join(ro.Path, s.name)); err != nil {
		return hard{fmt.Errorf("%v: %w", s, err)}
	}
	state, err := stateOf(ctx, w.fs)
	if err != nil {
		return hard{err}
	}
	w.finished[w.generation()] = true
	return w.note(state)
}

// complete compares what was received with what was sent.
func (w *world) complete(ctx context.Context, s *stream, sub receive.Subvolume, at string) error {
	in, err := w.fs.SubvolumeInfo(ctx, at)
	if err != nil {
		return err
	}
	if in.ID != sub.ID || !in.Readonly || in.ReceivedUUID != s.uuid || in.STransID != s.transid {
		return fmt.Errorf("received as %+v, want number %d with UUID %v of generation %d, read-only", in, sub.ID, s.uuid, s.transid)
	}
	w.rel.frozen[in.UUID] = true
	if w.inDoubt(s) {
		return nil
	}
	m, err := manifestOf(ctx, w.fs, in.ID)
	if err != nil {
		return err
	}
	if m, err = asReceived(m); err == nil && !bytes.Equal(m, s.want) {
		err = fmt.Errorf("received is not what was sent: %s", diff(s.want, m))
	}
	return err
}

// inDoubt reports whether what a stream builds on may have changed since.
func (w *world) inDoubt(s *stream) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(s.needs)), func(u ondisk.UUID) bool { return w.rel.doubtful[u] })
}

// mayFail reports whether a good stream may fail in this way: for want of space, or because the place is taken or not
// there; one that builds on others may miss those, or find files without checksums to clone from.
func (w *world) mayFail(ctx context.Context, s *stream, ro engine.ReceiveOptions, err error) error {
	switch {
	case errors.Is(err, sendstream.ErrDamaged):
	case errors.Is(err, fserr.ErrNoSpace), errors.Is(err, fserr.ErrExist), errors.Is(err, fserr.ErrReadOnly), len(s.needs) > 0:
		return err
	case errors.Is(err, fserr.ErrNotFound):
		if _, missing := w.fs.SubvolumeAt(ctx, ro.Path); missing != nil {
			return err
		}
	}
	return hard{fmt.Errorf("%v: %w", s, err)}
}

// cutOff judges what a stream that breaks off has left: nothing, or a subvolume that is no received one.
func (w *world) cutOff(ctx context.Context, s *stream, subs []receive.Subvolume, err error, ro engine.ReceiveOptions) error {
	switch {
	case err == nil:
		return hard{errors.New("a stream that breaks off was received")}
	case errors.Is(err, sendstream.ErrDamaged):
		err = nil
	default:
		err = w.mayFail(ctx, s, ro, err)
	}
	for _, sub := range subs {
		if !ro.KeepPartial || !sub.Partial {
			return hard{fmt.Errorf("of a stream that breaks off there is %+v", sub)}
		}
		root, rerr := w.fs.DB().Root(ctx, sub.ID)
		if rerr != nil {
			return hard{rerr}
		}
		if it := root.Snapshot(); !it.ReceivedUUID().IsZero() || it.Flags()&ondisk.RootSubvolReadonly != 0 {
			return hard{fmt.Errorf("what is kept of a stream that breaks off passes for whole: UUID %v, flags %#x", it.ReceivedUUID(), it.Flags())}
		}
	}
	return errors.Join(err, w.catchUp(ctx))
}

// earlyOrphan is a mutant: the orphan item of a subvolume that is being received goes while it is being received, and is
// there again only when it is finished.
type earlyOrphan struct {
	key     ondisk.Key
	removed bool
}

func (e *earlyOrphan) run(ctx context.Context, w *world, last bool) error {
	tree := w.fs.DB().RootTree()
	if e.key == (ondisk.Key{}) {
		first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
		to := first
		to.Offset = ^uint64(0)
		err := tree.Scan(ctx, first, to, func(k ondisk.Key, _ []byte) (bool, error) {
			e.key = k // the newest is the one that has just begun
			return true, nil
		})
		if err != nil || e.key == (ondisk.Key{}) {
			return err
		}
	}
	h, err := w.fs.DB().Start(ctx, 1)
	if err != nil {
		return err
	}
	if last && e.removed {
		err = tree.Put(ctx, h, e.key, nil)
	} else if !last && !e.removed {
		e.removed = true
		err = tree.Delete(ctx, h, e.key)
	}
	return errors.Join(err, h.End(ctx))
}
