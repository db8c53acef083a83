package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/subvol"
)

// TestFullInParallel has several writers at the last free bytes at once, each creating, writing and deleting in a
// subvolume of its own, while snapshots are taken and deleted. Each error is the ENOSPC of one operation.
func TestFullInParallel(t *testing.T) {
	seed, rounds := oracle.Seed(t), 2500
	if oracle.Soak() {
		rounds = 10000
	}
	for _, nodesize := range []int{4096, 16384} {
		t.Run(fmt.Sprintf("%dk", nodesize>>10), func(t *testing.T) {
			ctx := t.Context()
			img, fs := create(t, 0, func(o *engine.FormatOptions) { o.NodeSize, o.Size = nodesize, o.MinSize() })
			var wg sync.WaitGroup
			full := make([]int, 4)
			for w := range full {
				id, err := fs.CreateSubvolume(ctx, fmt.Sprintf("w%d", w), subvol.CreateOptions{})
				must(t, err)
				tree, err := fs.Subvolume(ctx, id)
				must(t, err)
				wg.Go(func() {
					rnd := rand.New(rand.NewPCG(uint64(seed), uint64(w)))
					var err error
					if full[w], err = crowd(ctx, tree, rnd, rounds); err != nil {
						t.Errorf("writer %d: %v (%+v)", w, err, fs.Usage())
					}
				})
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			snapshots := snapshotsUntil(t, fs, done)
			must(t, fs.DB().Err())
			for w, n := range full {
				if n == 0 {
					t.Errorf("writer %d never found the file system full", w)
				}
			}
			t.Logf("ENOSPC %v times, %d snapshots", full, snapshots)
			must(t, fs.Commit(ctx))
			used(t, fs)
			must(t, fs.Close())
			oracle.Check(t, img)
		})
	}
}

// snapshotsUntil takes snapshots of what the writers write, and deletes them, until done.
func snapshotsUntil(t *testing.T, fs *engine.FS, done <-chan struct{}) (taken int) {
	ctx := t.Context()
	for i := 0; ; i++ {
		select {
		case <-done:
			return taken
		default:
		}
		name := fmt.Sprintf("snap%d", i)
		_, err := fs.Snapshot(ctx, fmt.Sprintf("w%d", i%4), name, i%2 == 0)
		if errors.Is(err, fserr.ErrNoSpace) && !errors.Is(err, fserr.ErrAborted) {
			continue
		}
		if err == nil {
			taken++
			err = fs.DeleteSubvolume(ctx, name)
		}
		if err == nil {
			err = fs.CleanSubvolumes(ctx)
		}
		if err != nil {
			t.Errorf("snapshot %d: %v (%+v)", i, err, fs.Usage())
			<-done
			return taken
		}
	}
}

// crowd makes changes at random, more than fit, and deletes when it finds the file system full. It returns how often
// that was.
func crowd(ctx context.Context, tree *inode.FileTree, rnd *rand.Rand, rounds int) (full int, err error) {
	var names []string
	remove := func() error {
		i := rnd.IntN(len(names))
		name := names[i]
		names[i] = names[len(names)-1]
		names = names[:len(names)-1]
		return tree.Unlink(ctx, 256, name)
	}
	for i := range rounds {
		name := fmt.Sprintf("file%d", i)
		ino, err := tree.Create(ctx, 256, name, inode.Attr{Mode: 0o644})
		if err == nil {
			names = append(names, name)
			_, err = tree.WriteAt(ctx, ino, make([]byte, 1+rnd.IntN(20000)), 0)
		}
		if err == nil && rnd.IntN(4) == 0 {
			err = tree.SetXattr(ctx, ino, "user.x", make([]byte, rnd.IntN(1500)), 0)
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, fserr.ErrNoSpace) || errors.Is(err, fserr.ErrAborted) {
			return full, err
		}
		full++
		for range min(len(names), 1+rnd.IntN(30)) {
			if err := remove(); err != nil {
				return full, fmt.Errorf("unlink: %w", err)
			}
		}
	}
	return full, nil
}
