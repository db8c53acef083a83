package receive

import (
	"context"
	"runtime"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
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
