package send_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestHostile sends trees in which bytes of items have been changed, as far as the checks of blocks let that pass: names
// that lead in circles or nowhere, inodes that are not there, extents of other types and places. A send ends, with its
// stream or with an error that says what is wrong, and does not panic.
func TestHostile(t *testing.T) {
	rounds := 40
	if oracle.Soak() {
		rounds = 3000
	}
	seed := oracle.Seed(t)
	sent, refused, unfit := 0, 0, 0
	for round := range rounds {
		rng := rand.New(rand.NewPCG(uint64(seed), uint64(round)))
		switch err := hostileOne(t, rng); {
		case errors.Is(err, errUnfit):
			unfit++
		case err == nil:
			sent++
		case errors.Is(err, fserr.ErrCorrupt):
			refused++
		default:
			t.Errorf("seed %d, round %d: %v, want a finding", seed, round, err)
		}
	}
	t.Logf("%d sent, %d refused, %d not written", sent, refused, unfit)
}

// errUnfit says that the changed blocks do not pass the checks before they are written.
var errUnfit = errors.New("not written")

func hostileOne(t *testing.T, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only so that a loop ends, too
	defer cancel()
	fs, err := engine.FormatDevice(ctx, disk.NewMem(filepath.Base(t.Name()), 128<<20), engine.FormatOptions{Options: mkfs.Default()})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close() // an aborted file system has nothing to say
	id, err := fs.CreateSubvolume(ctx, "a", subvol.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, tree, rng, 40)
	if _, err := fs.Snapshot(ctx, "/a", "/s", true); err != nil {
		t.Fatal(err)
	}
	grow(t, tree, rng, 20)
	if err := spoil(ctx, fs, id, rng); err != nil {
		return errUnfit
	}
	if _, err := fs.Snapshot(ctx, "/a", "/t", true); err != nil {
		return errUnfit
	}
	var all error
	for _, o := range []engine.SendOptions{{Path: "/t"}, {Path: "/t", ParentPath: "/s"}, {Path: "/s", ParentPath: "/t"}} {
		o.Version, o.Compressed = 2, true
		if err := fs.Send(ctx, io.Discard, o); err != nil {
			if !errors.Is(err, fserr.ErrCorrupt) {
				return fmt.Errorf("%s: %w", o.Path, err)
			}
			all = err
		}
	}
	return all
}

// grow adds files, directories, links and attributes, and moves some about.
func grow(t *testing.T, tree *inode.FileTree, rng *rand.Rand, n int) {
	ctx := t.Context()
	dirs := []ondisk.ObjectID{inode.RootDir}
	for i := range n {
		dir := dirs[rng.IntN(len(dirs))]
		name := fmt.Sprint("n", i, "-", rng.Uint32())
		switch rng.IntN(4) {
		case 0:
			ino, err := tree.Mkdir(ctx, dir, name, inode.Attr{Mode: 0o755})
			if err != nil {
				t.Fatal(err)
			}
			dirs = append(dirs, ino)
		case 1:
			if _, err := tree.Symlink(ctx, dir, name, "target", inode.Attr{}); err != nil {
				t.Fatal(err)
			}
		default:
			ino, err := tree.Create(ctx, dir, name, inode.Attr{Mode: 0o644})
			if err == nil {
				_, err = tree.WriteAt(ctx, ino, make([]byte, 1+rng.IntN(20000)), int64(rng.IntN(3))*8192)
			}
			if err == nil {
				err = tree.Link(ctx, ino, dirs[rng.IntN(len(dirs))], name+"link")
			}
			if err == nil {
				err = tree.SetXattr(ctx, ino, "user.a", []byte(name), 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// spoil changes bytes of a few items of a tree.
func spoil(ctx context.Context, fs *engine.FS, id ondisk.TreeID, rng *rand.Rand) error {
	tree, err := fs.DB().Tree(ctx, id)
	if err != nil {
		return err
	}
	var keys []ondisk.Key
	err = tree.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, _ []byte) (bool, error) {
		keys = append(keys, k)
		return true, nil
	})
	if err != nil {
		return err
	}
	h, err := fs.DB().Start(ctx, 10)
	if err != nil {
		return err
	}
	for range 1 + rng.IntN(3) {
		k := keys[rng.IntN(len(keys))]
		if rng.IntN(4) == 0 {
			err = tree.Delete(ctx, h, k)
			if errors.Is(err, fserr.ErrNotFound) {
				err = nil
			}
		} else {
			err = tree.Update(ctx, h, k, func(item []byte) error {
				for range 1 + rng.IntN(2) {
					item[rng.IntN(len(item))] ^= byte(1 << rng.IntN(8))
				}
				return nil
			})
			if errors.Is(err, fserr.ErrNotFound) {
				err = nil
			}
		}
		if err != nil {
			break
		}
	}
	return errors.Join(err, h.End(ctx), fs.Commit(ctx))
}
