package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

const (
	checkDirFiles = 1000 // files in a directory of the image that is checked
	checkDirtied  = 200  // files written to before each snapshot, spread over all
)

// oursCheck and theirsCheck check the same image, from the page cache.
func oursCheck(ctx context.Context, b *bench) (measure, error) {
	return b.check(ctx, b.imgtool, "check", "-q")
}

func theirsCheck(ctx context.Context, b *bench) (measure, error) {
	return b.check(ctx, "btrfs", "check", "--readonly")
}

func (b *bench) check(ctx context.Context, name string, args ...string) (measure, error) {
	if b.checked == "" {
		began := time.Now()
		img, err := b.snapshotImage(ctx)
		if err != nil {
			return measure{}, err
		}
		b.checked = img
		// The engine writes past the page cache; both read the same blocks out of it from now on.
		if _, err := tool(ctx, b.imgtool, "check", "-q", img); err != nil {
			return measure{}, err
		}
		fmt.Fprintf(os.Stderr, "made an image of %d files and %d snapshots in %v\n", b.checkFiles, b.checkSnapshots, time.Since(began).Round(time.Second))
	}
	return timed(ctx, b.checked, name, append(args, b.checked)...)
}

// snapshotImage makes a file system of many files and snapshots. A third of the files lie in the tree, the others have
// an extent of 4 or 12 KiB. Before each snapshot some files in all parts of the tree are written to, so that snapshots
// share most of their blocks and not all.
func (b *bench) snapshotImage(ctx context.Context) (img string, err error) {
	img = b.image()
	size := uint64(2<<30) + uint64(b.checkFiles)*(40<<10) + uint64(b.checkSnapshots)*(16<<20) // most of it a hole
	fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: size})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	id, err := fs.CreateSubvolume(ctx, "source", subvol.CreateOptions{})
	if err != nil {
		return "", err
	}
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		return "", err
	}
	inos, err := makeFiles(ctx, tree, b.checkFiles)
	if err != nil {
		return "", err
	}
	block := pattern(4096)
	for i := range b.checkSnapshots {
		for j := range min(checkDirtied, len(inos)) {
			ino := inos[(j*len(inos)/checkDirtied+i*7)%len(inos)]
			if _, err := tree.WriteAt(ctx, ino, block, 0); err != nil {
				return "", err
			}
		}
		if _, err := fs.Snapshot(ctx, "source", fmt.Sprintf("snap-%03d", i), i%2 == 0); err != nil {
			return "", err
		}
	}
	return img, fs.Commit(ctx)
}

// makeFiles makes n files in directories.
func makeFiles(ctx context.Context, tree *inode.FileTree, n int) ([]ondisk.ObjectID, error) {
	data := pattern(12 << 10)
	var dir ondisk.ObjectID
	var inos []ondisk.ObjectID
	for i := range n {
		var err error
		if i%checkDirFiles == 0 {
			if dir, err = tree.Mkdir(ctx, inode.RootDir, fmt.Sprintf("dir-%04d", i/checkDirFiles), inode.Attr{Mode: 0o755}); err != nil {
				return nil, err
			}
		}
		ino, err := tree.Create(ctx, dir, fileName(i), inode.Attr{Mode: 0o644})
		if err == nil {
			_, err = tree.WriteAt(ctx, ino, data[:[]int{500, 4 << 10, 12 << 10}[i%3]], 0)
		}
		if err != nil {
			return nil, err
		}
		inos = append(inos, ino)
	}
	return inos, nil
}
