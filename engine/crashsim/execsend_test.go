package crashsim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
	"imgtool/engine/subvol"
)

// keptStreams is how many streams are kept to be received.
const keptStreams = 6

// rules of what a stream must bring about; see world.
type relations struct {
	// frozen are subvolumes that have been read-only since they were made: of two of them that are related one can be sent
	// against the other.
	frozen map[ondisk.UUID]bool
	// doubtful are UUIDs of subvolumes that were made writable: what a receiver finds by them may be something else than
	// what was sent.
	doubtful map[ondisk.UUID]bool
}

func newRelations() relations {
	return relations{frozen: map[ondisk.UUID]bool{}, doubtful: map[ondisk.UUID]bool{}}
}

// thawed notes that a subvolume may be changed from now on.
func (r *relations) thawed(in *subvol.Info) {
	delete(r.frozen, in.UUID)
	r.doubtful[in.UUID] = true
}

// mayBeParent reports whether the differences from p to in can be sent: both are snapshots of one subvolume, or one is a
// snapshot of the other, and nobody else has given out inode numbers in their names.
func (r *relations) mayBeParent(p, in *subvol.Info) bool {
	if p.ID == in.ID || !r.frozen[p.UUID] || !r.frozen[in.UUID] || in.ParentUUID.IsZero() {
		return false
	}
	return in.ParentUUID == p.UUID || in.ParentUUID == p.ParentUUID
}

// send sends a read-only subvolume while other operations go on, which run from its progress reports: there it holds
// tickets and nothing else.
func (w *world) send(ctx context.Context, o op) error {
	all, err := w.fs.Subvolumes(ctx)
	if err != nil {
		return hard{err}
	}
	all = slices.DeleteFunc(all, func(in subvol.Info) bool { return !in.Readonly || in.Path == "" })
	if len(all) == 0 {
		return fserr.ErrNotFound
	}
	in := all[o.a%uint32(len(all))]
	so := engine.SendOptions{Path: in.Path}
	so.Name = []string{"rx1", "rx2"}[o.b%2]
	so.Version, so.Compressed = 1+o.b/2%2, o.b/2%2 == 1 && o.b/4%2 == 0
	if o.c%3 != 0 {
		parents := slices.DeleteFunc(slices.Clone(all), func(p subvol.Info) bool { return !w.rel.mayBeParent(&p, &in) })
		if len(parents) > 0 {
			so.ParentPath = parents[o.d%uint32(len(parents))].Path
			so.ClonePaths = []string{all[o.d/8%uint32(len(all))].Path}
		}
	}
	if so.NoData = o.c/3%4 == 0; !so.NoData && w.cfg.maxDirty == 0 {
		// The goroutines that read data use the ticket as well: when it goes would be a matter of time, and so would be what
		// space is free (TestReplay).
		so.Policy = commitview.CloneRoot
	}
	var raw bytes.Buffer
	var to io.Writer = &raw
	if so.NoData {
		to = io.Discard
	}
	w.noState = w.generation() // if it is not known by now
	var failed error
	if so.Progress = w.sendBeside(ctx, &in, o, &failed); o.d/64%4 == 0 {
		so.Progress = nil
	}
	m, err := manifestOf(ctx, w.fs, in.ID)
	if err != nil {
		return hard{err}
	}
	if err := errors.Join(w.fs.Send(ctx, to, so), failed); err != nil {
		return hard{fmt.Errorf("send of %s, parent %q: %w", so.Path, so.ParentPath, err)}
	}
	if left := w.fs.Subvols().Sends(in.ID); len(left) > 0 {
		return hard{fmt.Errorf("nobody sends %s any more, and %v are counted", in.Path, left)}
	}
	if so.NoData {
		return nil
	}
	s, err := newStream(raw.Bytes(), m)
	if err != nil {
		return hard{fmt.Errorf("what was sent: %w", err)}
	}
	if w.streams = append(w.streams, s); len(w.streams) > keptStreams {
		w.streams = w.streams[1:]
	}
	return nil
}

// sendBeside returns the function that runs other operations in the middle of a send. They must not wait for space, which
// the send holds back: it cannot let go before they return.
func (w *world) sendBeside(ctx context.Context, in *subvol.Info, o op, failed *error) func(send.Progress) {
	rng := rand.New(rand.NewPCG(uint64(o.b)<<32|uint64(o.d), 12))
	calls := 0
	return func(send.Progress) {
		if calls++; calls > 4 || *failed != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // rather than to wait for ever
		defer cancel()
		if names := w.fs.Subvols().Sends(in.ID); len(names) > 0 { // not behind the last segment
			*failed = w.refused(ctx, in)
		}
		if *failed == nil {
			*failed = w.between(ctx, betweenOps(rng), w.roomy)
		}
	}
}

// refused demands that what is being sent stays as it is.
func (w *world) refused(ctx context.Context, in *subvol.Info) error {
	for what, err := range map[string]error{"deletion": w.fs.DeleteSubvolumeID(ctx, in.ID), "flip": w.fs.SetReadonly(ctx, in.ID, false)} {
		if err == nil || what == "flip" && (!errors.Is(err, fserr.ErrPerm) || !strings.Contains(err.Error(), fmt.Sprintf("the send of subvolume %d", in.ID))) {
			return fmt.Errorf("%s of %s while it is being sent: %w", what, in.Path, errors.Join(err, errNotRefused))
		}
	}
	return nil
}

var errNotRefused = errors.New("EPERM that names the send is due")

// betweenOps makes operations that run in the middle of another one: writes mostly, and commits.
func betweenOps(rng *rand.Rand) []op {
	ops := generateOverlap(op{a: rng.Uint32(), b: rng.Uint32()})
	more := []kind{opCommit, opCommit, opCommitOverlapped, opSnapshot, opDeleteSubvolume, opSubvolume, opClean}
	for range 1 + rng.IntN(2) {
		o := op{kind: more[rng.IntN(len(more))], a: rng.Uint32(), b: rng.Uint32(), c: rng.Uint32(), d: rng.Uint32()}
		ops = slices.Insert(ops, rng.IntN(len(ops)+1), o)
	}
	return ops
}

// between runs operations in the middle of another one, as long as there is room.
func (w *world) between(ctx context.Context, ops []op, roomy func() bool) error {
	if err := w.catchUp(ctx); err != nil {
		return err
	}
	for _, o := range ops {
		if roomy != nil && !roomy() {
			w.crowded++
			break
		}
		if err := w.do(ctx, o); err != nil {
			return fmt.Errorf("beside another operation: %w", err)
		}
	}
	// What was committed in the middle of one of them is not what there is now.
	w.noState = w.generation()
	return nil
}

// catchUp notes the state of a generation that the operation under way has committed by itself: nobody else has changed
// anything since.
func (w *world) catchUp(ctx context.Context) error {
	gen := w.generation()
	if _, known := w.states[gen]; known || gen == w.noState || w.cfg.maxDirty > 0 {
		return nil
	}
	state, err := stateOf(ctx, w.fs)
	if err != nil {
		return hard{err}
	}
	return w.note(state)
}

func (w *world) generation() ondisk.Generation {
	sb := w.fs.Super()
	return sb.Generation()
}
