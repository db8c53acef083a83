package receive

import (
	"context"
	"fmt"
	"runtime"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// SetMaxDirs changes how many directories a receiver knows by their paths, and returns how to change it back.
func SetMaxDirs(n int) (back func()) {
	old := maxDirs
	maxDirs = n
	return func() { maxDirs = old }
}

// GiveUpBehindFailure sends a batch through a pipeline that cannot be inserted, for its directory is not there, and ends
// the pipeline when the inserter has found that out and nobody has asked yet, as a receiver does that gives up.
func GiveUpBehindFailure(ctx context.Context, tree *inode.FileTree, pool *disk.Pool) {
	p := newPipeline(tree, pool, nil)
	b := newBatch(pool, tree)
	e := &entry{path: "f"}
	e.Dir, e.Name, e.Ino, e.Attr.Mode = 1<<40, "f", 1<<41, ondisk.ModeReg|0o600
	b.add(e)
	b.close()
	p.queue <- step{ctx: ctx, b: b}
	for waiting := true; waiting; runtime.Gosched() {
		p.mu.Lock()
		waiting = len(p.redo) == 0
		p.mu.Unlock()
	}
	p.dead.Store(true)
	p.close()
}

// RedoBehindFailure starts two batches, each of which sets the modification time of an inode to a number of seconds, before
// the first is inserted, which fails: its directory is not there. It returns when both are done.
func RedoBehindFailure(ctx context.Context, tree *inode.FileTree, pool *disk.Pool, ino ondisk.ObjectID, first, second int64) {
	p := &pipeline{tree: tree, pool: pool, started: make(chan startedBatch, 2)}
	for i, sec := range []int64{first, second} {
		b := newBatch(pool, tree)
		if i == 0 {
			e := &entry{path: "f"}
			e.Dir, e.Name, e.Ino, e.Attr.Mode = 1<<40, "f", 1<<41, ondisk.ModeReg|0o600
			b.add(e)
		}
		b.setAttrs(ino, inode.SetAttr{Modify: &ondisk.Timespec{Sec: sec}}, place{})
		b.close()
		p.startBatch(ctx, b)
	}
	close(p.started)
	p.insert()
	p.idle(ctx)
}

// GatherXattrs gives a file of a batch attributes of so many bytes until the batch takes no more, or has a thousand.
func GatherXattrs(tree *inode.FileTree, pool *disk.Pool, size int) (n int) {
	r := &receiver{sub: &subvol.Incoming{Tree: tree}, paths: newPaths(tree), cur: newBatch(pool, tree)}
	defer pool.Put(r.cur.buf)
	e := &entry{path: "f"}
	r.cur.add(e)
	r.paths.coming.paths = map[string]*entry{"f": e}
	for n < 1000 && r.entryXattr("f", inode.Xattr{Name: fmt.Sprint("user.", n), Value: make([]byte, size)}) {
		n++
	}
	return n
}
