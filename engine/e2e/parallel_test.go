package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestParallelWriters writes in 8 subvolumes at once while commits, and snapshots of what is being written, go on: two at
// least, the writers go on until then.
func TestParallelWriters(t *testing.T) {
	const writers = 8
	rounds := 400
	if testing.Short() {
		rounds = 100
	}
	seed := oracle.Seed(t)
	ctx := t.Context()
	img, fs := create(t, 1<<30, func(o *engine.FormatOptions) { o.MaxDirty = 4 << 20 })
	var wg sync.WaitGroup
	var left, commits atomic.Int32
	left.Store(writers)
	more := func(done int) bool { return done < rounds || commits.Load() < 2 && ctx.Err() == nil }
	for w := range writers {
		id, err := fs.CreateSubvolume(ctx, fmt.Sprintf("w%d", w), subvol.CreateOptions{})
		must(t, err)
		wg.Go(func() {
			defer left.Add(-1)
			if err := writer(ctx, fs, id, rand.New(rand.NewPCG(uint64(seed), uint64(w))), more); err != nil {
				t.Errorf("writer %d: %v", w, err)
			}
		})
	}
	for i := 0; left.Load() > 0; i++ {
		_, err := fs.Snapshot(ctx, fmt.Sprintf("w%d", i%writers), fmt.Sprintf("snap%d", i), i%2 == 0)
		must(t, err)
		must(t, fs.Commit(ctx))
		commits.Add(1)
	}
	wg.Wait()
	used(t, fs)
	must(t, fs.Commit(ctx))
	used(t, fs)
	must(t, fs.Close())
	oracle.Check(t, img)
	m := oracle.Mount(t, img)
	m.Unmount()
}

// TestParallelCleans deletes subvolumes that share blocks, and has several goroutines clean up at once: each tree must be
// taken apart by one of them.
func TestParallelCleans(t *testing.T) {
	ctx := t.Context()
	img, fs := create(t, 256<<20, func(o *engine.FormatOptions) { o.NodeSize = 4096 })
	for round := range 6 {
		a, b := fmt.Sprintf("a%d", round), fmt.Sprintf("b%d", round)
		id, err := fs.CreateSubvolume(ctx, a, subvol.CreateOptions{})
		must(t, err)
		tree, err := fs.Subvolume(ctx, id)
		must(t, err)
		for i := range 200 {
			_, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("f%d", i), inode.Attr{Mode: 0o644})
			must(t, err)
		}
		_, err = fs.Snapshot(ctx, a, b, false)
		must(t, err)
		must(t, fs.DeleteSubvolume(ctx, a))
		must(t, fs.DeleteSubvolume(ctx, b))
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := fs.CleanSubvolumes(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must(t, fs.DB().Err())
	}
	used(t, fs)
	finish(t, fs, img)
}

// writer makes random changes in one subvolume, as long as more says so of the number made, and compares what it reads back
// with what it wrote.
func writer(ctx context.Context, fs *engine.FS, id ondisk.TreeID, rnd *rand.Rand, more func(done int) bool) error {
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	model := map[string][]byte{}
	for i := 0; more(i); i++ {
		name := fmt.Sprintf("n%d", rnd.IntN(60))
		switch old, have := model[name]; {
		case !have:
			data := bytes.Repeat([]byte{byte(i)}, 1+rnd.IntN(20000))
			ino, err := tree.Create(ctx, 256, name, inode.Attr{Mode: 0o644})
			if err != nil {
				return err
			}
			if _, err := tree.WriteAt(ctx, ino, data, 0); err != nil {
				return err
			}
			model[name] = data
		case rnd.IntN(3) == 0:
			if err := tree.Unlink(ctx, 256, name); err != nil {
				return err
			}
			delete(model, name)
		default:
			if err := compare(ctx, tree, name, old); err != nil {
				return err
			}
			to := name + "r"
			if err := tree.Rename(ctx, 256, name, 256, to, inode.RenameMode(0)); err != nil {
				return err
			}
			if err := tree.Rename(ctx, 256, to, 256, name, inode.RenameMode(0)); err != nil {
				return err
			}
		}
	}
	for name, data := range model {
		if err := compare(ctx, tree, name, data); err != nil {
			return err
		}
	}
	return nil
}

func compare(ctx context.Context, tree *inode.FileTree, name string, want []byte) error {
	e, err := tree.Lookup(ctx, 256, name)
	if err != nil {
		return err
	}
	got := make([]byte, len(want)+1)
	n, err := tree.ReadAt(ctx, e.Ino(), got, 0)
	if err != nil && n != len(want) {
		return err
	}
	if !bytes.Equal(got[:n], want) {
		return errors.Join(fmt.Errorf("%s: read back other data than was written", name), fserr.ErrCorrupt)
	}
	return nil
}
