package receive

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// A pipeline changes the subvolume under way, behind the receiver that reads the stream:
//
//	receiver --queue--> starter --started--> inserter
//
// The starter begins the operation of a batch, whose data is then on its way to the device, while the inserter makes the
// trees tell of the batch before. Everything else (an operation by itself, a batch entry by entry) is the starter's, and
// only while the inserter has nothing: an operation may have to wait for a commit, and a commit for the operation that
// every started batch is. So the order of the stream is kept where it matters, and a wait ends.
//
// mu protects failed, finished and redo; dead is set by the receiver; the rest is set before the goroutines start.
type pipeline struct {
	tree  *inode.FileTree
	pool  *disk.Pool
	frame func(context.Context, ondisk.ObjectID, *frame) error // writes one

	queue   chan step
	started chan startedBatch
	busy    sync.WaitGroup // batches that the inserter has not dealt with; only the starter adds, and waits
	ended   sync.WaitGroup // both goroutines
	dead    atomic.Bool    // nothing is to be done any more
	hasNews atomic.Bool    // failed or finished have something

	mu       sync.Mutex
	failed   []error
	finished []*batch // their inodes are in the tree, or have failed
	redo     []*batch // could not be inserted, or came behind such a one, and have changed nothing
}

// step is a batch, an operation, or the wish to know when all before it are done.
type step struct {
	ctx     context.Context
	b       *batch
	op      func(context.Context) error
	buf     []byte // of op, pooled; nil if it needs none
	settled chan struct{}
}

type startedBatch struct {
	ctx  context.Context
	b    *batch
	bulk *inode.Bulk
}

// maxQueue is how many steps may wait: with those under way, some 14 MiB of batches.
const maxQueue = 3

func newPipeline(tree *inode.FileTree, pool *disk.Pool, write func(context.Context, ondisk.ObjectID, *frame) error) *pipeline {
	p := &pipeline{tree: tree, pool: pool, frame: write, queue: make(chan step, maxQueue), started: make(chan startedBatch, 1)}
	p.ended.Go(p.start)
	p.ended.Go(p.insert)
	return p
}

// close ends the goroutines when all that is queued is done, or dropped if the pipeline is dead.
func (p *pipeline) close() {
	close(p.queue)
	p.ended.Wait()
}

// news returns what has happened since it was last called: errors, and batches that are done.
func (p *pipeline) news() (failed []error, finished []*batch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hasNews.Store(false)
	failed, finished, p.failed, p.finished = p.failed, p.finished, nil, nil
	return failed, finished
}

func (p *pipeline) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed = append(p.failed, err)
	p.hasNews.Store(true)
}

// finish gives the memory of a batch back and tells the receiver.
func (p *pipeline) finish(b *batch) {
	p.pool.Put(b.buf)
	b.buf, b.Batch = nil, inode.Batch{}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = append(p.finished, b)
	p.hasNews.Store(true)
}

// start is the starter.
func (p *pipeline) start() {
	defer close(p.started)
	ctx := context.Background()
	for s := range p.queue {
		ctx = s.ctx
		switch {
		case s.settled != nil:
			p.idle(s.ctx)
			close(s.settled)
		case p.dead.Load():
			p.release(s)
		case s.op != nil:
			p.idle(s.ctx)
			if err := s.op(s.ctx); err != nil {
				p.fail(err)
			}
			p.release(s)
		default:
			p.startBatch(s.ctx, s.b)
		}
	}
	p.idle(ctx) // a batch that could not be inserted has its memory still
}

// release gives back what an operation, or a step that is not done, has.
func (p *pipeline) release(s step) {
	if s.b != nil {
		p.finish(s.b)
	}
	if s.buf != nil {
		p.pool.Put(s.buf)
	}
}

func (p *pipeline) startBatch(ctx context.Context, b *batch) {
	p.mu.Lock()
	redo := len(p.redo) > 0
	p.mu.Unlock()
	if redo {
		p.idle(ctx) // what comes behind may build on it
	}
	bulk, err := p.tree.StartBulk(ctx, &b.Batch)
	if err != nil {
		p.idle(ctx)
		p.singly(ctx, b)
		return
	}
	p.busy.Add(1)
	p.started <- startedBatch{ctx, b, bulk}
}

// insert is the inserter. Behind a batch that could not be inserted it inserts none: the order is that of the stream.
func (p *pipeline) insert() {
	for s := range p.started {
		p.mu.Lock()
		behind := len(p.redo) > 0
		p.mu.Unlock()
		if behind {
			_ = s.bulk.Abandon(s.ctx) // what it could say is said again
		} else if err := s.bulk.Insert(s.ctx); err == nil {
			p.finish(s.b)
			p.busy.Done()
			continue
		}
		p.mu.Lock()
		p.redo = append(p.redo, s.b)
		p.mu.Unlock()
		p.busy.Done()
	}
}

// idle waits until the inserter has nothing, and does what it could not.
func (p *pipeline) idle(ctx context.Context) {
	p.busy.Wait()
	p.mu.Lock()
	redo := p.redo
	p.redo = nil
	p.mu.Unlock()
	for _, b := range redo {
		if p.dead.Load() {
			p.finish(b)
		} else {
			p.singly(ctx, b)
		}
	}
}

// singly makes the inodes of a batch one by one, which finds out what is wrong with which, and for want of space makes
// what there is room for.
func (p *pipeline) singly(ctx context.Context, b *batch) {
	defer p.finish(b)
	for i := range b.Entries {
		if err := p.one(ctx, b, i); err != nil {
			p.fail(b.entries[i].at.wrap(err))
			if hopeless(ctx, err) {
				return
			}
		}
	}
	for i, a := range b.Attrs {
		if err := p.tree.SetAttrs(ctx, a.Ino, a.Set); err != nil {
			p.fail(b.attrsAt[i].wrap(err))
			if hopeless(ctx, err) {
				return
			}
		}
	}
}

// one makes one entry of a batch as a batch of its own.
func (p *pipeline) one(ctx context.Context, b *batch, i int) error {
	e := b.Entries[i]
	own := inode.Batch{Exclusive: true, Entries: []inode.BulkEntry{e}}
	if e.Parts != nil {
		own.Entries[0].Size, own.Entries[0].Parts = 0, nil
	} else if e.Size > 0 && e.Inline == nil {
		end := e.DataOff + alignUp(int(e.Size))
		size := b.csum.Size()
		own.Data, own.Sums = b.Data[e.DataOff:end], b.Sums[e.DataOff/sectorSize*size:end/sectorSize*size]
		own.Entries[0].DataOff = 0
	}
	bulk, err := p.tree.StartBulk(ctx, &own)
	if err == nil {
		err = bulk.Insert(ctx)
	}
	if err == nil && e.Parts != nil {
		err = p.parts(ctx, b, &e)
	}
	return err
}

// parts writes the content of a file with compressed extents one by one, for which there may be room in pieces.
func (p *pipeline) parts(ctx context.Context, b *batch, e *inode.BulkEntry) error {
	for _, part := range e.Parts {
		data := b.Data[part.DataOff:]
		var err error
		if part.Algorithm == ondisk.CompressNone {
			_, err = p.tree.WriteAt(ctx, e.Ino, data[:part.Len], part.Off)
		} else {
			err = p.frame(ctx, e.Ino, &frame{off: part.Off, n: part.Len, ramLen: part.RAMLen, ramOff: part.RAMOff,
				algorithm: part.Algorithm, sector: sectorSize, data: data[:part.Disk]})
		}
		if err != nil {
			return err
		}
	}
	if t := e.Attr.Times; t != nil { // writing has changed them
		return p.tree.SetAttrs(ctx, e.Ino, inode.SetAttr{Access: &t.Access, Modify: &t.Modify, Birth: &t.Birth})
	}
	return nil
}

// hopeless reports whether nothing else can work after an error.
func hopeless(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, fserr.ErrAborted) || errors.Is(err, fserr.ErrNoSpace) && !errors.Is(err, fserr.ErrItemFull)
}

// place says where in the stream something comes from.
type place struct {
	offset int64
	cmd    sendstream.Cmd
	path   string
}

func placeOf(c *sendstream.Command) place {
	return place{c.Offset, c.Cmd, c.String(sendstream.AttrPath)}
}

func (p place) wrap(err error) error {
	if err == nil {
		return nil
	}
	if len(p.path) > shownPath {
		return fmt.Errorf("offset %d: %v %q...: %w", p.offset, p.cmd, p.path[:shownPath], err)
	}
	return fmt.Errorf("offset %d: %v %q: %w", p.offset, p.cmd, p.path, err)
}

// shownPath is how much of a path a message shows, in bytes.
const shownPath = 256
