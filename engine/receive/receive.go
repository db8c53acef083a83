package receive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

// FS is what receiving needs of a file system that is open for writing.
type FS interface {
	Subvolume(ctx context.Context, id ondisk.TreeID) (*inode.FileTree, error)
	Subvols() *subvol.Manager
	// Incompat sets incompatible features in the superblock, for data that needs them.
	Incompat(ctx context.Context, bits uint64) error
	Commit(ctx context.Context) error
}

// Options say how to receive.
type Options struct {
	// Tree and Dir are the directory in which the subvolumes appear.
	Tree ondisk.TreeID
	Dir  ondisk.ObjectID
	// OneStream stops behind the first end command, and reads nothing from behind it; otherwise streams are received up to
	// the end of the input.
	OneStream bool
	// MaxErrors is how many commands may fail before the receiving does: 0 is 1, and below 0 is any number. Subvolumes
	// are finished in spite of errors that are tolerated, as btrfs receive -e does (without -e it leaves them writable and
	// fails): Failed and Stats.Errors tell of them. A damaged stream is never tolerated.
	MaxErrors int
	// ForceDecompress unpacks compressed data always.
	ForceDecompress bool
	// KeepPartial keeps what a stream that fails has brought, as a subvolume that can be changed.
	KeepPartial bool
	// Begun is called for each subvolume, Failed for each error that is tolerated. Both may be nil.
	Begun  func(name string, snapshot bool)
	Failed func(error)
	// Stats takes the figures while streams are received; nil if nobody wants to see them.
	Stats *Stats
}

// Subvolume is one that has been received.
type Subvolume struct {
	ID      ondisk.TreeID
	Name    string
	Parent  ondisk.TreeID // of an incremental stream, 0 of a full one
	Partial bool          // kept as KeepPartial has it
}

// receiver is one run over one input.
type receiver struct {
	fs     FS
	o      Options
	in     *sendstream.Reader
	done   []Subvolume
	errors int
	bits   atomic.Uint64 // incompatible features that are set

	counted int64 // offset in the input up to which Stats has it

	// The subvolume under way; sub is nil if there is none.
	sub      *subvol.Incoming
	info     Subvolume
	received subvol.Received
	paths    *paths
	gather   gather
	pipe     *pipeline                // nil between subvolumes
	buffers  *disk.Pool               // of the pipeline's batches
	cur      *batch                   // is gathered now
	behind   bool                     // something has been given to pipe since it was last settled
	plain    bool                     // new inodes inherit nothing from the top directory, where streams make them
	settable map[ondisk.ObjectID]bool // inodes of the tree that no flag protects
	sources  map[ondisk.UUID]*paths   // of clones
}

// Receive makes the subvolumes that the streams in input describe, and returns those that are there. Each is committed
// when it is complete. When it fails, the one that was under way is discarded (see Options.KeepPartial) and that is
// committed, too; errors match sendstream.ErrDamaged if the stream is at fault, fserr.ErrNotFound for a parent or clone
// source that is not there, fserr.ErrExist for a name that is taken.
func Receive(ctx context.Context, fs FS, input io.Reader, o Options) ([]Subvolume, error) {
	if o.MaxErrors == 0 {
		o.MaxErrors = 1
	}
	if o.Stats == nil {
		o.Stats = new(Stats)
	}
	if !o.OneStream {
		input = bufio.NewReaderSize(input, 256<<10)
	}
	r := &receiver{fs: fs, o: o, in: sendstream.NewReader(input)}
	err := r.streams(ctx)
	if err != nil && r.sub != nil {
		err = errors.Join(err, r.giveUp(context.WithoutCancel(ctx)))
	}
	return r.done, err
}

// streams receives one stream after the other.
func (r *receiver) streams(ctx context.Context) error {
	for first := true; ; first = false {
		switch err := r.in.Begin(); {
		case err == io.EOF && first:
			return fmt.Errorf("the stream is empty: %w", sendstream.ErrDamaged)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		for end := false; !end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c, err := r.in.Next()
			if err != nil {
				return err
			}
			end = c.Cmd == sendstream.CmdEnd
			err = r.command(ctx, c)
			r.o.Stats.Bytes.Add(uint64(r.in.Offset() - r.counted))
			r.counted = r.in.Offset()
			if err != nil {
				return err
			}
		}
		if r.o.OneStream {
			return nil
		}
	}
}

// command carries out one command. Errors of its own are counted, and tolerated up to the bound.
func (r *receiver) command(ctx context.Context, c *sendstream.Command) error {
	switch c.Cmd {
	case sendstream.CmdEnd:
		err := r.finish(ctx)
		r.o.Stats.count(c, err)
		return err
	case sendstream.CmdSubvol, sendstream.CmdSnapshot:
		err := r.finish(ctx) // several subvolumes in one stream have one end command
		if err == nil {
			err = at(c, r.begin(ctx, c))
		}
		r.o.Stats.count(c, err)
		return err
	}
	if r.sub == nil {
		return at(c, fmt.Errorf("no subvolume has begun: %w", sendstream.ErrDamaged))
	}
	err := checkPaths(c)
	if err == nil {
		err = r.apply(ctx, c)
	}
	r.o.Stats.count(c, err)
	return r.tolerate(ctx, at(c, err))
}

// fatal is an error that has been counted and ends the receiving.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// tolerate counts an error and returns it, as a fatal one, if it is one too many, or if nothing can work any more.
func (r *receiver) tolerate(ctx context.Context, err error) error {
	if err == nil || isFatal(err) {
		return err
	}
	r.errors++
	if r.o.MaxErrors > 0 && r.errors >= r.o.MaxErrors || hopeless(ctx, err) {
		return fatal{err}
	}
	r.o.Stats.Errors.Add(1)
	if r.o.Failed != nil {
		r.o.Failed(err)
	}
	return nil
}

func isFatal(err error) bool {
	var f fatal
	return errors.As(err, &f)
}

// at says at which command an error came up, unless that has been said.
func at(c *sendstream.Command, err error) error {
	if err == nil || isFatal(err) {
		return err
	}
	return placeOf(c).wrap(err)
}

// begin starts a subvolume.
func (r *receiver) begin(ctx context.Context, c *sendstream.Command) error {
	if err := checkPaths(c); err != nil {
		return err
	}
	name := c.String(sendstream.AttrPath)
	if err := checkName(name); err != nil {
		return err
	}
	r.info = Subvolume{Name: name}
	r.received = subvol.Received{UUID: c.UUID(sendstream.AttrUUID), STransID: ondisk.Generation(c.Uint(sendstream.AttrCTransID))}
	if r.received.UUID.IsZero() {
		return fmt.Errorf("it has no UUID: %w", fserr.ErrInvalid)
	}
	if c.Cmd == sendstream.CmdSnapshot {
		parent, err := r.fs.Subvols().FindSent(ctx, c.UUID(sendstream.AttrCloneUUID), ondisk.Generation(c.Uint(sendstream.AttrCloneCTransID)))
		if err != nil {
			return fmt.Errorf("parent, receive it first: %w", err)
		}
		if !parent.Readonly {
			return fmt.Errorf("parent %s is not read-only and may have been changed: %w", parent.Path, fserr.ErrInvalid)
		}
		r.info.Parent = parent.ID
	}
	if r.o.Begun != nil {
		r.o.Begun(name, c.Cmd == sendstream.CmdSnapshot)
	}
	sub, err := r.fs.Subvols().Begin(ctx, subvol.Place{Tree: r.o.Tree, Dir: r.o.Dir, Name: name}, r.info.Parent)
	if err != nil {
		return err
	}
	r.sub, r.info.ID = sub, sub.Tree.ID()
	r.paths, r.sources, r.gather = newPaths(sub.Tree), map[ondisk.UUID]*paths{}, gather{}
	r.sources[r.received.UUID] = r.paths
	if _, err = sub.Tree.CleanOrphans(ctx); err != nil { // the parent may have some, being read-only
		return err
	}
	return r.open(ctx)
}

// finish makes the subvolume under way, if any, visible and durable.
func (r *receiver) finish(ctx context.Context) error {
	if r.sub == nil {
		return nil
	}
	if err := errors.Join(r.settle(ctx), r.close()); err != nil {
		return err
	}
	if err := r.sub.Finish(ctx, r.received); err != nil {
		return fmt.Errorf("subvolume %s: %w", r.info.Name, err)
	}
	r.sub = nil
	if err := r.fs.Commit(context.WithoutCancel(ctx)); err != nil { // it is complete: to give up now would help nobody
		return err
	}
	r.done = append(r.done, r.info)
	r.o.Stats.Subvolumes.Add(1)
	return nil
}

// giveUp discards the subvolume under way, or keeps it. After an abort there is nothing to be done: the file system is at
// its last commit, and its next opening drops what that holds of the subvolume.
func (r *receiver) giveUp(ctx context.Context) error {
	sub := r.sub
	if r.o.KeepPartial {
		err := errors.Join(r.settle(ctx), r.close())
		if e := sub.Keep(ctx); e == nil {
			if e = r.fs.Commit(ctx); e == nil {
				r.info.Partial = true
				r.done = append(r.done, r.info)
			}
			return errors.Join(err, e)
		}
	}
	if r.pipe != nil {
		r.pipe.dead.Store(true)
	}
	if err := r.close(); err != nil {
		return err
	}
	if err := sub.Discard(ctx); err != nil {
		if errors.Is(err, fserr.ErrAborted) {
			return nil
		}
		return fmt.Errorf("discard subvolume %s: %w", r.info.Name, err)
	}
	return r.fs.Commit(ctx)
}
