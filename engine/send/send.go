package send

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
	"imgtool/engine/txn"
)

// FS is what sending needs of an open file system.
type FS interface {
	DB() *txn.DB
	Subvols() *subvol.Manager
	Pool() *disk.Pool
	Commit(ctx context.Context) error
}

// MaxVersion is the newest version of the protocol that is sent: the newest that Linux 6.18 sends.
const MaxVersion = 2

// Options say what to send and how.
type Options struct {
	Subvol ondisk.TreeID
	// Parent is what the receiver makes the subvolume from; 0 sends all of it.
	Parent ondisk.TreeID
	// CloneSources are subvolumes that the receiver has, too, exactly as they are here; the parent belongs to them
	// only if it is named.
	CloneSources []ondisk.TreeID
	// Name is what the stream calls the subvolume; "" is the name that it has.
	Name string
	// Version of the protocol, 1 or 2; 0 is 1.
	Version uint32
	// NoData leaves data out and tells only where it has changed.
	NoData bool
	// Compressed sends compressed extents as they are; it needs version 2.
	Compressed bool
	// OmitHeader and OmitEnd join several subvolumes in one stream.
	OmitHeader, OmitEnd bool

	Policy      commitview.Policy
	AllowUnsafe bool
	Counters    *commitview.Counters // nil: the views count for themselves

	// Count looks through the trees first, so that Progress knows the totals.
	Count bool
	// Progress is told now and then, from the sending goroutine, and once at the end.
	Progress func(Progress)
	// Stats takes the figures while the send runs; nil if nobody wants to see them.
	Stats *Stats
}

// Progress is how far a send has come. Totals are 0 if they were not asked for. Data is of files, in bytes, whether it
// is sent, cloned or only named.
type Progress struct {
	Inodes, Inodes0 uint64 // done, total
	Data, Data0     uint64
}

// Stats are the figures of one or more sends. All may be read at any time.
type Stats struct {
	Commands, Bytes    atomic.Uint64 // of streams
	Inodes, Data       atomic.Uint64 // visited; bytes of files sent, cloned or named
	Searches           atomic.Uint64 // of trees
	CacheHits          atomic.Uint64 // searches that a cache has saved
	Skipped            atomic.Uint64 // subtrees that two trees share
	Waits, Refreshes   atomic.Uint64 // times that the output was full; tickets taken anew
	Started, Completed atomic.Uint64 // sends
}

// sender is one send under way. It belongs to one goroutine, but for out and what out has in hand.
type sender struct {
	o       Options
	db      *txn.DB
	subvols *subvol.Manager
	ctx     context.Context
	label   string // whose tickets these are
	stats   *Stats
	views   []*commitview.View // of send, parent, the other sources and extents

	send, parent *tree
	sources      []*tree // what may be cloned from, by id; send is one of them
	extents      *tree   // the extent tree
	leaves       leafTrees
	clone        cloneSearch

	out *output
	seg *segment // being encoded, with enc
	enc *sendstream.Encoder

	cur      current
	progress ondisk.ObjectID // inodes below are at the receiver as they are in the sent tree
	newRefs  refList
	oldRefs  refList
	due      refsDue // of the current inode, kept for its memory
	waiting  map[ondisk.ObjectID]*waitingMove
	pending  map[ondisk.ObjectID][]*move
	orphans  map[inoGen]*orphanDir
	made     map[ondisk.ObjectID]bool // new directories that were made before the walk came to them
	times    timesDue
	paths    cache[inoGen, knownPath]
	epoch    uint64
	spares   map[string]bool // names of the top directory that look like temporary ones; nil if they are looked up
	spare    spare
	sameDir  ondisk.ObjectID // a directory that is the same in both trees, see dirsDiffer
	punches  bool            // holes are punched, not written as zeros
	visiting bool            // the walk sends, and does not only count
	bare     bool            // the top directory has nothing at the receiver that new inodes inherit, see bareTop

	sent Progress // done and total
}

// Send writes the stream of a subvolume to w. It returns when all is written, or with the first error: then w has
// the beginning of a stream. Errors: fserr.ErrInvalid for options, fserr.ErrPerm for a subvolume, parent or clone source
// that is not read-only, fserr.ErrNotFound, *fserr.Corrupt, those of w, the context's.
//
// The subvolumes that take part can neither be deleted nor made writable meanwhile. w is called by one goroutine at a
// time, and not any more when Send has returned.
func Send(ctx context.Context, fs FS, w io.Writer, o Options) (err error) {
	if o.Version == 0 {
		o.Version = 1
	}
	if o.Version > MaxVersion || o.Compressed && o.Version < 2 {
		return fmt.Errorf("send stream of version %d, compressed data %v: %w", o.Version, o.Compressed, fserr.ErrInvalid)
	}
	if o.Stats == nil {
		o.Stats = new(Stats)
	}
	if o.Counters == nil {
		o.Counters = new(commitview.Counters)
	}
	ids := append([]ondisk.TreeID{o.Subvol}, o.CloneSources...)
	if o.Parent != 0 {
		ids = append(ids, o.Parent)
	}
	name, done, err := begin(ctx, fs, o, ids)
	if err != nil {
		return err
	}
	defer done()
	s := &sender{o: o, db: fs.DB(), subvols: fs.Subvols(), ctx: ctx, stats: o.Stats, label: fmt.Sprintf("send of subvolume %d", o.Subvol),
		waiting: map[ondisk.ObjectID]*waitingMove{}, pending: map[ondisk.ObjectID][]*move{}, orphans: map[inoGen]*orphanDir{},
		made: map[ondisk.ObjectID]bool{}, paths: newCache[inoGen, knownPath](cachedPaths)}
	defer s.close()
	if s.enc, err = sendstream.NewEncoder(o.Version); err != nil {
		return err
	}
	s.punches = o.Version >= 2
	if err := s.open(); err != nil {
		return err
	}
	o.Stats.Started.Add(1)
	before := o.Counters.Stats()[commitview.Shared].Mismatches
	if err := s.run(ctx, fs, w, name); err != nil {
		return fmt.Errorf("send subvolume %d: %w", o.Subvol, err)
	}
	if n := o.Counters.Stats()[commitview.Shared].Mismatches - before; n > 0 {
		return fmt.Errorf("send subvolume %d: %d blocks were other trees' while they were read under policy shared: do not trust the stream",
			o.Subvol, n)
	}
	o.Stats.Completed.Add(1)
	return nil
}

// begin counts the send with its subvolumes, which from then on stay as they are, and commits if one of them was
// changed in the running transaction. done takes the count back.
func begin(ctx context.Context, fs FS, o Options, ids []ondisk.TreeID) (name string, done func(), err error) {
	m := fs.Subvols()
	counted, err := m.BeginSend(ctx, fmt.Sprintf("the send of subvolume %d", o.Subvol), ids...)
	if err != nil {
		return "", nil, err
	}
	defer func() {
		if err != nil {
			counted()
		}
	}()
	for _, id := range ids {
		root, err := m.Readable(ctx, id)
		if err != nil {
			return "", nil, err
		}
		if root.Changed() {
			if err := fs.Commit(ctx); err != nil {
				return "", nil, err
			}
			break
		}
	}
	if name = o.Name; name == "" {
		if name, err = m.NameOf(ctx, o.Subvol); err != nil {
			return "", nil, err
		}
	}
	return name, counted, nil
}

// open opens the views, all of one generation.
func (s *sender) open() (err error) {
	if s.send, err = openTree(s.ctx, s, s.o.Subvol); err != nil {
		return err
	}
	if s.o.Parent != 0 {
		if s.parent, err = openTree(s.ctx, s, s.o.Parent); err != nil {
			return err
		}
	}
	s.sources = []*tree{s.send}
	for _, id := range s.o.CloneSources {
		t := s.parent
		if slices.ContainsFunc(s.sources, func(t *tree) bool { return t.id == id }) {
			continue
		}
		if t == nil || t.id != id {
			if t, err = openTree(s.ctx, s, id); err != nil {
				return err
			}
		}
		s.sources = append(s.sources, t)
	}
	s.tellApart()
	slices.SortFunc(s.sources, func(a, b *tree) int { return cmp.Compare(a.id, b.id) })
	for i, t := range s.sources {
		t.source = i
	}
	if s.extents, err = openTree(s.ctx, s, ondisk.ExtentTree); err != nil {
		return err
	}
	return s.quiesce()
}

// tellApart leaves out the clone sources that a receiver would take another subvolume for. It knows them by the UUID that
// the stream says, and where the kernel has made a received subvolume writable, each later snapshot of it has the same
// received UUID, whatever it holds.
func (s *sender) tellApart() {
	named := map[ondisk.UUID]int{}
	for _, t := range s.sources {
		named[t.named()]++
	}
	if s.parent != nil && !slices.Contains(s.sources, s.parent) {
		named[s.parent.named()]++
	}
	s.sources = slices.DeleteFunc(s.sources, func(t *tree) bool { return t != s.send && named[t.named()] > 1 })
}

func (s *sender) close() {
	for _, v := range s.views {
		v.Close()
	}
}

// run writes the stream.
func (s *sender) run(ctx context.Context, fs FS, w io.Writer, name string) (err error) {
	if s.o.Policy == commitview.Shared {
		// Without protection a copied leaf may be torn; then its offsets may be anything.
		defer func() {
			if p := recover(); p != nil {
				err = errors.Join(fserr.Corruptf("leaf", uint64(s.send.id), 0, "read without protection: %v", p), err)
			}
		}()
	}
	sb := s.db.Super()
	data := &dataReader{db: s.db, tree: s.send.id, view: s.send.view, pool: fs.Pool(), csum: sb.Checksum()}
	if s.o.Count {
		if err := s.count(); err != nil {
			return err
		}
	}
	s.out = newOutput(ctx, w, data, s.stats)
	finished := false
	defer func() {
		if !finished { // a panic
			_ = s.out.finish(errors.New("internal: send has failed"))
		}
	}()
	s.ctx = s.out.ctx
	s.seg, _ = s.out.take(func() {})
	s.enc.Buf = s.seg.buf
	err = s.stream(name)
	s.leave() // what is left is to wait for the writer, however long that takes
	if err == nil {
		s.seg.buf = s.enc.Buf
		s.out.send(s.seg)
	}
	finished = true
	err = s.out.finish(err)
	if err == nil {
		s.reportNow()
	}
	return err
}

// stream encodes all of it.
func (s *sender) stream(name string) error {
	if !s.o.OmitHeader {
		s.enc.Header()
	}
	if err := s.sendSubvol(name); err != nil {
		return err
	}
	s.visiting = true
	var err error
	if s.parent == nil {
		if s.spares, err = s.findSpares(); err != nil {
			return err
		}
		err = s.walkAll()
	} else {
		err = s.walkDiff(s.visit)
	}
	if err == nil {
		err = s.finish()
	}
	if err == nil {
		err = s.dressTop()
	}
	if err == nil {
		err = s.sendAllTimes()
	}
	if err != nil || s.o.OmitEnd {
		return err
	}
	if len(s.pending) > 0 {
		return s.send.corrupt(s.cur.ino, "%d directories wait for others that have not moved", len(s.waiting))
	}
	s.enc.Begin(sendstream.CmdEnd)
	return s.end()
}

// findSpares looks through the top directory for names that look like temporary ones.
func (s *sender) findSpares() (map[string]bool, error) {
	spares := map[string]bool{}
	err := s.send.each(keyOf(topDir, ondisk.DirIndexKey, 0), keyOf(topDir, ondisk.DirIndexKey, noExtent), ahead, func(it *item) (bool, error) {
		bad := ondisk.DirEntries(it.data, func(d ondisk.DirEntry) bool {
			if n := d.Name; len(n) > 5 && n[0] == 'o' && n[1] >= '0' && n[1] <= '9' {
				spares[string(n)] = true
			}
			return true
		})
		if bad != nil {
			return false, s.send.corrupt(topDir, "directory index %d: %v", it.key.Offset, bad)
		}
		return len(spares) <= maxSpares, nil
	})
	if len(spares) > maxSpares {
		return nil, err // somebody wants us to look each up
	}
	return spares, err
}

const maxSpares = 1 << 14

// quiesce brings all views to the newest generation, one and the same. Nothing but copies is held.
func (s *sender) quiesce() error {
	for {
		moved := false
		for _, v := range s.views {
			m, err := v.Quiesce(s.ctx)
			if err != nil {
				return err
			}
			if m {
				s.stats.Refreshes.Add(1)
			}
			moved = moved || m
		}
		if !moved || len(s.views) == 1 {
			return nil
		}
	}
}

// leave gives all tickets up, before the sender waits.
func (s *sender) leave() {
	for _, v := range s.views {
		v.Leave()
	}
}

// count looks what there is to send.
func (s *sender) count() error {
	note := func(c change, left, _ *item) error {
		switch {
		case left == nil || c == same:
		case left.key.Type == ondisk.InodeItemKey:
			s.sent.Inodes0++
		case left.key.Type == ondisk.ExtentDataKey:
			e, err := s.send.extentOf(left)
			if err != nil {
				return err
			}
			switch {
			case e.typ == ondisk.FileExtentInline:
				s.sent.Data0 += e.ram
			case e.typ == ondisk.FileExtentReg && e.disk != 0:
				s.sent.Data0 += e.num
			}
		}
		return nil
	}
	if s.parent != nil {
		return s.walkDiff(note)
	}
	return s.send.each(keyOf(topDir, ondisk.InodeItemKey, 0), ondisk.MaxKey, ahead, func(it *item) (bool, error) {
		return true, note(added, it, nil)
	})
}

// report tells how far the send has come.
func (s *sender) report() {
	if s.o.Progress != nil && s.visiting {
		s.reportNow()
	}
}

func (s *sender) reportNow() {
	if s.o.Progress == nil {
		return
	}
	s.o.Progress(s.sent)
}
