package scrub

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// Kind is what a copy holds.
type Kind int

// The kinds.
const (
	Super Kind = iota
	Metadata
	Data
	Kinds int = iota // how many there are
)

func (k Kind) String() string { return [...]string{"super", "metadata", "data"}[k] }

// Options say how to scrub.
type Options struct {
	// Repair writes over bad copies from good ones. The devices must be open for writing.
	Repair bool
	// Depth is how many blocks are in flight; 0 takes 16.
	Depth int
	// Progress is called now and then, and Found for each finding, by one goroutine at a time. May be nil.
	Progress func(Progress)
	Found    func(Finding)
}

// Progress tells how far a scrub is, in bytes of the logical address space. Data without checksums is in Total only.
type Progress struct {
	Done, Total uint64
	Report      Report // so far
}

// Finding is one bad copy: of a superblock, of a tree block, or of adjacent sectors of data.
type Finding struct {
	Kind     Kind
	Tree     ondisk.TreeID  // the tree that leads to the block, of Metadata
	Addr     ondisk.Logical // not of Super
	Len      uint64         // bytes
	Copy     int            // from 0; of Super the number of the mirror; -1 if the address has no copies at all
	Place    volume.Place   // of the copy; Dev is nil if it has none
	Err      error          // what is wrong with it
	Repaired bool
	NoRepair error // why it could not be repaired; nil if it was, or was not to be
}

// Count is the outcome for one Kind. Errors and Repaired count superblocks, tree blocks and sectors, in copies.
type Count struct{ Bytes, Errors, Repaired uint64 }

// Report is the outcome.
type Report struct {
	Counts [Kinds]Count // indexed by Kind
	// Unverified is how many bytes of data have no checksums: files without them, and space that is only reserved.
	Unverified uint64
}

// Errors returns the number of bad copies, and how many of them have been repaired.
func (r *Report) Errors() (bad, repaired uint64) {
	for _, c := range r.Counts {
		bad, repaired = bad+c.Errors, repaired+c.Repaired
	}
	return bad, repaired
}

// Run scrubs the file system of a volume that has just been opened, or opened and filled with chunks; it adds the chunks
// of the chunk tree itself. Nobody else may change the devices meanwhile.
//
// Damage is no error. Errors are: those of ctx; fserr.ErrUnsupported for features that cannot be read; devices that are
// missing; a flush that failed after a repair.
func Run(ctx context.Context, vol *volume.Volume, o Options) (Report, error) {
	sb := vol.Super()
	if sb.Flags()&(ondisk.SuperFlagMetadump|ondisk.SuperFlagMetadumpV2) != 0 {
		return Report{}, fmt.Errorf("this is a metadata dump, restore it with `btrfs-image -r` first: %w", fserr.ErrUnsupported)
	}
	if err := treecheck.Features(&sb, false); err != nil {
		return Report{}, err
	}
	s := &scrubber{vol: vol, o: o, sb: &sb, check: treecheck.FromSuper(&sb), pool: disk.NewPool(), seen: map[ondisk.Logical]*want{}}
	if s.o.Depth <= 0 {
		s.o.Depth = 16
	}
	err := s.run(ctx)
	if o.Progress != nil {
		o.Progress(Progress{s.done.Load(), sb.BytesUsed(), s.report})
	}
	return s.report, errors.Join(err, s.pool.Close())
}

// scrubber is one Run.
type scrubber struct {
	vol   *volume.Volume
	o     Options
	sb    *ondisk.SuperBlock
	check *treecheck.Context
	pool  *disk.Pool
	done  atomic.Uint64 // logical bytes

	chunkUUID ondisk.UUID // set before the first wave

	mu       sync.Mutex // protects what follows, and calls of Progress and Found
	report   Report
	csums    []csumLeaf
	written  bool
	seen     map[ondisk.Logical]*want // every tree block that was reached
	next     []*want                  // the next wave
	later    []*want                  // roots of subvolumes that are half deleted
	dataUsed uint64                   // bytes of data extents
}

func (s *scrubber) run(ctx context.Context) error {
	if err := s.supers(ctx); err != nil {
		return err
	}
	err := s.trees(ctx)
	if err == nil {
		err = s.data(ctx)
	}
	if s.written {
		// Whatever ended it, what has been repaired stays so.
		err = errors.Join(err, s.vol.Flush(context.WithoutCancel(ctx)))
	}
	return err
}

// found counts and reports n bad units of a copy, the ones of f.
func (s *scrubber) found(f Finding, n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.report.Counts[f.Kind]
	c.Errors += n
	if f.Repaired {
		c.Repaired += n
	}
	if s.o.Found != nil {
		s.o.Found(f)
	}
}

// verified counts what has been compared in all its copies.
func (s *scrubber) verified(k Kind, logical, copies uint64) {
	done := s.done.Add(logical)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Counts[k].Bytes += logical * copies
	if s.o.Progress != nil {
		s.o.Progress(Progress{done, s.sb.BytesUsed(), s.report})
	}
}

// place is where a copy lies, nowhere if it has no place.
func (s *scrubber) place(l ondisk.Logical, copy int) volume.Place {
	p, _ := s.vol.Place(l, copy) // the error is the one that reading has met already
	return p
}

// repair writes good bytes over a copy and reads them back.
func (s *scrubber) repair(ctx context.Context, l ondisk.Logical, good []byte, copy int) error {
	s.mu.Lock()
	s.written = true
	s.mu.Unlock()
	if err := s.vol.WriteCopy(ctx, l, good, copy); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	back := s.pool.Get(len(good))[:len(good)]
	defer s.pool.Put(back)
	if err := s.vol.ReadCopy(ctx, l, back, copy); err != nil {
		return fmt.Errorf("read what was written: %w", err)
	}
	if string(back) != string(good) {
		return fmt.Errorf("the device does not give back what was written: %w", fserr.ErrCorrupt)
	}
	return nil
}

// each calls fn for the elements of list, several at a time, beginning them in order.
func each[T any](ctx context.Context, depth int, list []T, fn func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var at atomic.Int64
	for range min(depth, len(list)) {
		g.Go(func() error {
			for {
				i := int(at.Add(1)) - 1
				if i >= len(list) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := fn(ctx, list[i]); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}
