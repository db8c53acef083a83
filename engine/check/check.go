package check

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// Options say how to check. The zero value checks all but file data.
type Options struct {
	// DataCsum reads all copies of all file data and verifies their checksums.
	DataCsum bool
	// Copy chooses the superblock copy: 1 or 2 for the mirror at 64 MiB or 256 GiB, 0 for the newest valid one.
	Copy int
	// Backup takes the roots from the newest of the superblock's root backups whose root tree can be read.
	Backup bool
	// Workers is the number of goroutines that read and look; 0 takes a default.
	Workers int
	// MaxPerID bounds the findings of one id that are kept; 0 takes 1000.
	MaxPerID int
	// Progress, if not nil, is told how far the check is, from several goroutines, at most every few hundred blocks.
	Progress func(Progress)
	Tracer   trace.Tracer
}

// Progress is how far a check has come in one of its steps.
type Progress struct {
	Step        string // "trees" or "data"
	Done, Total uint64 // bytes; Total is 0 while it is not known
}

// checker is one check under way.
type checker struct {
	ctx      context.Context
	o        Options
	vol      *volume.Volume
	devs     []disk.Device
	sb       ondisk.SuperBlock
	tc       *treecheck.Context
	pool     *disk.Pool
	nodeSize int
	sector   uint64
	h        hasher
	rep      *collector
	progress progress
	lost     lostTrees

	blocks  []block
	index   addrIndex // of blocks, by address
	edges   []uint32  // children of all nodes, see block.child
	edgeSig []uint64  // what the pointer of each edge promises
	drops   []dropped

	tables
	summaries []summary
	details   detailBudget
}

// Image checks the file system on devs, which are all its devices, opened for reading. What is wrong with it is in the
// report; the error says why there is none: no superblock can be used (a *fserr.Corrupt), a feature that this checker
// does not know (fserr.ErrUnsupported), or ctx was cancelled.
func Image(ctx context.Context, devs []disk.Device, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = 4 + 2*runtime.GOMAXPROCS(0)
	}
	if o.MaxPerID <= 0 {
		o.MaxPerID = 1000
	}
	vol, err := volume.Open(ctx, devs, volume.Options{Copy: o.Copy, QueueDepth: o.Workers})
	if err != nil {
		return nil, err
	}
	c := &checker{
		ctx: ctx, o: o, vol: vol, devs: devs, sb: vol.Super(), pool: disk.NewPool(), h: newHasher(), rep: newCollector(o.MaxPerID),
	}
	defer c.pool.Close()
	c.nodeSize, c.sector = int(c.sb.NodeSize()), uint64(c.sb.SectorSize())
	c.tc = treecheck.FromSuper(&c.sb)
	c.progress.tell = o.Progress
	if err := c.run(); err != nil {
		return nil, err
	}
	rep := c.rep.report()
	rep.Stats = c.stats()
	return rep, nil
}

// Unopened is the report on devices that Image could not open for their damage, such as an image without a good
// superblock: err, which is its error, is all that was found.
func Unopened(err error) *Report {
	c := newCollector(1)
	c.add(Finding{ID: SuperInvalid, Detail: err.Error()})
	return c.report()
}

func (c *checker) run() error {
	for _, step := range []func() error{
		c.superblocks, c.useBackup, c.chunkTree, c.rootTree, c.otherTrees, c.fileTrees, c.logTrees,
		c.treesRead, c.links, c.extentTable, c.refs, c.space, c.freeSpace, c.files, c.subvolumes, c.uuidTree, c.data,
	} {
		if err := step(); err != nil {
			return err
		}
		if err := c.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// treesRead ends the first and longest step.
func (c *checker) treesRead() error {
	c.progress.end()
	return nil
}

func (c *checker) stats() Stats {
	s := Stats{Trees: uint64(len(c.roots)) + 2, Extents: uint64(len(c.extents)), BytesUsed: c.sb.BytesUsed(), DataBytes: c.dataBytes.Load()}
	for i := range c.blocks {
		switch c.blocks[i].state {
		case good:
			s.Blocks++
		case lost:
			s.LostBlocks++
		}
	}
	return s
}

// found adds a finding with its text.
func (c *checker) found(f Finding, format string, args ...any) {
	f.Detail = fmt.Sprintf(format, args...)
	c.rep.add(f)
}

// supported separates what this checker cannot judge from what is damaged.
func supported(err error) error {
	if errors.Is(err, fserr.ErrUnsupported) {
		return err
	}
	return nil
}

// lostTrees knows in which trees blocks were lost: comparisons with those trees would report what follows from the loss.
type lostTrees struct {
	mu    sync.RWMutex
	trees map[ondisk.TreeID]bool
}

func (l *lostTrees) add(t ondisk.TreeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trees == nil {
		l.trees = map[ondisk.TreeID]bool{}
	}
	l.trees[t] = true
}

func (l *lostTrees) in(t ondisk.TreeID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.trees[t]
}

func (l *lostTrees) any() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.trees) > 0
}

// progress counts bytes done and passes them on now and then.
type progress struct {
	tell  func(Progress)
	step  string
	done  atomic.Uint64
	total uint64
	told  atomic.Uint64
}

// begin starts a step; between steps only.
func (p *progress) begin(step string, done, total uint64) {
	p.step, p.total = step, total
	p.done.Store(done)
	p.told.Store(done)
	if p.tell != nil {
		p.tell(Progress{step, done, total})
	}
}

// end says that a step is done, whatever was expected.
func (p *progress) end() {
	if p.tell != nil && p.step != "" {
		p.tell(Progress{p.step, p.total, p.total})
	}
}

const progressEvery = 4 << 20 // bytes

func (p *progress) add(n uint64) {
	done := p.done.Add(n)
	if p.tell == nil {
		return
	}
	if last := p.told.Load(); done-last >= progressEvery && p.told.CompareAndSwap(last, done) {
		p.tell(Progress{p.step, min(done, max(p.total, done)), p.total})
	}
}
