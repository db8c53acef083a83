package subvol_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// legal are the refusals that somebody may meet whose names others change.
var legal = []error{fserr.ErrNotFound, fserr.ErrExist, fserr.ErrInvalid, fserr.ErrNotEmpty, fserr.ErrCrossDevice, fserr.ErrBusy, fserr.ErrPerm, fserr.ErrReadOnly}

func isLegal(err error) bool {
	if errors.Is(err, fserr.ErrAborted) || errors.Is(err, fserr.ErrCorrupt) {
		return false
	}
	for _, l := range legal {
		if errors.Is(err, l) {
			return true
		}
	}
	return err == nil
}

// names is where the subvolumes of TestInParallel may be: few, so that everybody meets everybody.
const names = 4

// TestInParallel has several goroutines create, move, exchange, snapshot, remove and delete subvolumes at a few names in
// each other, and directories beside them, while commits go on. No operation fails but for a reason that somebody gave, no
// two wait for each other, every subvolume can be reached from the top in the end, and the checkers find nothing.
func TestInParallel(t *testing.T) {
	seed, rounds := oracle.Seed(t), 150
	if oracle.Soak() {
		rounds = 2000
	}
	ctx := t.Context()
	img := filepath.Join(t.TempDir(), "fs.img")
	fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: 512 << 20})
	must(t, err)
	defer fs.Close()
	var wg sync.WaitGroup
	var done [7]atomic.Int64
	for w := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(seed), uint64(w)))
			for i := range rounds {
				kind := rnd.IntN(len(done))
				err := step(ctx, fs, rnd, kind)
				if err == nil {
					done[kind].Add(1)
				}
				if !isLegal(err) {
					t.Errorf("goroutine %d, step %d, kind %d: %v", w, i, kind, err)
					return
				}
				if i%20 == 19 {
					if err := errors.Join(fs.Commit(ctx), fs.CleanSubvolumes(ctx)); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	var counts []int64
	for i := range done {
		counts = append(counts, done[i].Load())
	}
	infos, err := fs.Subvolumes(ctx)
	must(t, err)
	t.Logf("done: subvolume, directory, rename, exchange, rmdir, delete, snapshot: %v; %d subvolumes are left", counts, len(infos))
	for _, in := range infos {
		id, depth := in.ID, 0
		for ; id != ondisk.FSTree && depth < 1000; depth++ {
			if id, _, _, err = fs.Above(ctx, id); err != nil {
				t.Fatalf("subvolume %d cannot be reached: %v", in.ID, err)
			}
		}
		if id != ondisk.FSTree {
			t.Fatalf("subvolume %d lies in a circle", in.ID)
		}
		if at, err := fs.SubvolumeAt(ctx, in.Path); err != nil || at != in.ID {
			t.Errorf("%q leads to subvolume %d (%v), want %d", in.Path, at, err, in.ID)
		}
	}
	must(t, fs.CleanSubvolumes(ctx))
	must(t, fs.Commit(ctx))
	must(t, fs.Close())
	oracle.Check(t, img)
}

// somewhere draws a path of up to three names.
func somewhere(rnd *rand.Rand) (p string) {
	for range 1 + rnd.IntN(3) {
		p += fmt.Sprintf("/s%d", rnd.IntN(names))
	}
	return p
}

func step(ctx context.Context, fs *engine.FS, rnd *rand.Rand, kind int) error {
	path, to := somewhere(rnd), somewhere(rnd)
	switch kind {
	case 0:
		_, err := fs.CreateSubvolume(ctx, path, subvol.CreateOptions{})
		return err
	case 5:
		return fs.DeleteSubvolume(ctx, path)
	case 6:
		if rnd.IntN(4) > 0 {
			return nil // they multiply
		}
		_, err := fs.Snapshot(ctx, path, to, false)
		return err
	}
	from, err := placeOf(ctx, fs, path)
	if err != nil {
		return err
	}
	tree, err := fs.Subvolume(ctx, from.Tree)
	if err != nil {
		return err
	}
	switch kind {
	case 1:
		_, err := tree.Mkdir(ctx, from.Dir, from.Name, inode.Attr{Mode: 0o755})
		return err
	case 4:
		return tree.Rmdir(ctx, from.Dir, from.Name)
	}
	there, err := placeOf(ctx, fs, to)
	if err != nil {
		return err
	}
	mode := inode.RenameReplace
	if kind == 3 {
		mode = inode.RenameExchange
	}
	return fs.Rename(ctx, from, there, mode)
}

func placeOf(ctx context.Context, fs *engine.FS, path string) (subvol.Place, error) {
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		return subvol.Place{}, err
	}
	dir, name, err := ns.WalkParent(ctx, path)
	if err != nil {
		return subvol.Place{}, err
	}
	if dir.IsPlaceholder() {
		return subvol.Place{}, fserr.ErrNotFound
	}
	return subvol.Place{Tree: dir.Tree.ID(), Dir: dir.Ino, Name: name}, nil
}
