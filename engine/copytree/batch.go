package copytree

import (
	"sync"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

const (
	batchData    = 2 << 20 // bytes of data of a batch, at most
	batchEntries = 512
	batchInline  = 256 << 10 // bytes of inline data
	maxBatches   = 12        // on their way at once: bounds the memory, 12 times 2 MiB and some
	largeFile    = 1 << 20   // bytes; files from here on are not part of a batch's data
)

// batch is a piece of the tree on its way through the pipeline.
type batch struct {
	inode.Batch
	srcs   []source // one for each entry
	buf    []byte   // pooled memory of Data
	sums   []byte   // memory of Sums
	used   int      // bytes of it
	inline []byte
	inUsed int
	dirs   map[ondisk.ObjectID]bool
	extras []extra
	parts  sync.WaitGroup // loaders at work on it
	err    error          // of the first loader that failed; guarded by errMu until parts is done
	errMu  sync.Mutex
}

// source is where an entry comes from.
type source struct {
	dir *hostDir
	st  unix.Stat_t
}

// extra is what is done behind the batch: filling a large or sparse file, or another name of a file.
type extra struct {
	src  source
	name string
	ino  ondisk.ObjectID
	link bool
}

func newBatch(pool *disk.Pool) *batch {
	return &batch{
		buf: pool.Get(batchData), sums: make([]byte, batchData/ondisk.SectorSize*ondisk.CsumSize),
		inline: make([]byte, batchInline), dirs: map[ondisk.ObjectID]bool{},
	}
}

// fits reports whether an entry with that much data goes into the batch.
func (b *batch) fits(dir ondisk.ObjectID, data, inline int) bool {
	return len(b.Entries) < batchEntries && b.used+data <= batchData && b.inUsed+inline <= batchInline &&
		(b.dirs[dir] || len(b.dirs) < inode.MaxBulkDirs)
}

func (b *batch) fail(err error) {
	b.errMu.Lock()
	defer b.errMu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

// reset lets go of the host's directories and empties the batch for its next use.
func (b *batch) reset() {
	for i := range b.srcs {
		b.srcs[i].dir.release()
	}
	for i := range b.extras {
		b.extras[i].src.dir.release()
	}
	clear(b.dirs)
	clear(b.Entries)
	b.Entries, b.srcs, b.extras = b.Entries[:0], b.srcs[:0], b.extras[:0]
	b.used, b.inUsed, b.err = 0, 0, nil
}

// align rounds up to whole sectors.
func align(n int64) int { return int((n + ondisk.SectorSize - 1) &^ (ondisk.SectorSize - 1)) }
