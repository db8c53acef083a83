package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/copytree"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
	"imgtool/engine/subvol"
)

// The two snapshots of the image that is sent; sendChanges changes lie between them.
const (
	sendFull    = "a"
	sendNext    = "b"
	sendChanges = 1000
)

// sendKind is one way of sending, for both sides.
type sendKind struct {
	cold, noData, incremental bool
}

func (k sendKind) snapshot() string {
	if k.incremental {
		return sendNext
	}
	return sendFull
}

// sendComparison compares the sending of one image, which sending does not change, into a pipe. Warm: the kernel has
// just read every file through the mount; ours is one open file system that has just sent the same. Cold: neither has
// anything of the image in memory, and ours is a command that opens it.
func sendComparison(name string, k sendKind) comparison {
	return comparison{name, "send", one, true,
		func(ctx context.Context, b *bench) (measure, error) { return b.oursSend(ctx, k) },
		func(ctx context.Context, b *bench) (measure, error) { return b.theirsSend(ctx, k) },
	}
}

// sendImage is the image that is sent; it is made once.
func (b *bench) sendImage(ctx context.Context) (string, error) {
	if b.sent != "" {
		return b.sent, nil
	}
	img := b.image()
	began := time.Now()
	size := uint64(4<<30) + uint64(b.sendFiles)*(40<<10) // most of it a hole
	fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: size})
	if err != nil {
		return "", err
	}
	if err := errors.Join(b.sendTree(ctx, fs), fs.Close()); err != nil {
		return "", errors.Join(err, os.Remove(img))
	}
	fmt.Fprintf(os.Stderr, "made an image to send in %v\n", time.Since(began).Round(time.Second))
	b.sent = img
	return img, nil
}

// sendTree makes the subvolume and its snapshots: of the source directory, or of sendFiles made-up files.
func (b *bench) sendTree(ctx context.Context, fs *engine.FS) error {
	id, err := fs.CreateSubvolume(ctx, "source", subvol.CreateOptions{})
	if err != nil {
		return err
	}
	tree, err := fs.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	if b.sendFiles > 0 {
		_, err = makeFiles(ctx, tree, b.sendFiles)
	} else {
		_, err = copytree.Import(ctx, tree, inode.RootDir, b.source, copytree.ImportOptions{})
	}
	if err != nil {
		return err
	}
	if _, err := fs.Snapshot(ctx, "source", sendFull, true); err != nil {
		return err
	}
	if err := change(ctx, tree, sendChanges); err != nil {
		return err
	}
	_, err = fs.Snapshot(ctx, "source", sendNext, true)
	return err
}

// oursSend sends into a pipe that is read and forgotten.
func (b *bench) oursSend(ctx context.Context, k sendKind) (m measure, err error) {
	img, err := b.sendImage(ctx)
	if err != nil {
		return m, err
	}
	if k.cold {
		if err := forget(img); err != nil {
			return m, err
		}
		return piped(ctx, b.imgtool, "send", "-q", img, k.snapshot())
	}
	fs, err := engine.Open(ctx, img, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, fs.Close()) }()
	o := engine.SendOptions{Path: k.snapshot(), Options: send.Options{NoData: k.noData}}
	if k.incremental {
		o.ParentPath = sendFull
	}
	for range 2 { // the first warms the cache
		began := time.Now()
		if err := drained(func(w *os.File) error { return fs.Send(ctx, w, o) }); err != nil {
			return m, err
		}
		m.took = time.Since(began)
	}
	return m, nil
}

func (b *bench) theirsSend(ctx context.Context, k sendKind) (m measure, err error) {
	img, err := b.sendImage(ctx)
	if err != nil {
		return m, err
	}
	fs := &kernelFS{img: img, loopDIO: b.loopDIO, dir: img + ".mnt", flags: unix.MS_RDONLY}
	if err := forget(img); err != nil {
		return m, err
	}
	if err := os.Mkdir(fs.dir, 0o700); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.Remove(fs.dir)) }()
	if err := fs.mount(ctx); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, fs.unmount()) }()
	args := []string{"send", "-q"}
	if k.noData {
		args = append(args, "--no-data")
	}
	if k.incremental {
		args = append(args, "-p", filepath.Join(fs.dir, sendFull))
	}
	if !k.cold {
		for _, name := range []string{sendFull, k.snapshot()} {
			if err := readAll(filepath.Join(fs.dir, name)); err != nil {
				return m, err
			}
		}
	}
	return piped(ctx, "btrfs", append(args, filepath.Join(fs.dir, k.snapshot()))...)
}

// piped times a command that writes into a pipe, from its start to the end of its output.
func piped(ctx context.Context, name string, args ...string) (m measure, err error) {
	cmd := command(ctx, name, args...)
	cmd.Stderr = os.Stderr
	began := time.Now()
	err = drained(func(w *os.File) error {
		cmd.Stdout = w
		var err error
		m.memory, err = runWatched(cmd)
		return err
	})
	m.took = time.Since(began)
	if err != nil {
		return m, fmt.Errorf("%s %v: %w", name, args, err)
	}
	return m, nil
}

// drained gives fn the writing end of a pipe whose other end is read until it is closed.
func drained(fn func(w *os.File) error) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 1<<20)
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{r}, buf)
		done <- errors.Join(err, r.Close())
	}()
	err = errors.Join(fn(w), w.Close())
	return errors.Join(err, <-done)
}

// stream is a file with the full stream of the image that is sent; it is made once, by imgtool send, whose bytes are those
// of btrfs send.
func (b *bench) stream(ctx context.Context) (path string, err error) {
	if b.streamed != "" {
		return b.streamed, nil
	}
	img, err := b.sendImage(ctx)
	if err != nil {
		return "", err
	}
	path = img + ".stream"
	if _, err := tool(ctx, b.imgtool, "send", "-q", "-f", path, img, sendFull); err != nil {
		return "", err
	}
	b.streamed = path
	return path, nil
}

// oursReceive receives with the command, from a file in the page cache.
func oursReceive(ctx context.Context, b *bench) (m measure, err error) {
	stream, err := b.stream(ctx)
	if err != nil {
		return m, err
	}
	img := b.image()
	defer func() { err = errors.Join(err, os.Remove(img)) }()
	fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: uint64(b.workSize())})
	if err != nil {
		return m, err
	}
	if err := fs.Close(); err != nil {
		return m, err
	}
	return timed(ctx, img, b.imgtool, "receive", "-q", "-f", stream, img)
}

func theirsReceive(ctx context.Context, b *bench) (measure, error) {
	stream, err := b.stream(ctx)
	if err != nil {
		return measure{}, err
	}
	return b.withKernel(ctx, func(k *kernelFS) (time.Duration, error) {
		began := time.Now()
		if _, err := tool(ctx, "btrfs", "receive", "-q", "-f", stream, k.dir); err != nil {
			return 0, err
		}
		err := k.sync()
		return time.Since(began), err
	})
}

// change makes n changes, or as many as there are files, all over a tree: written to, appended to, renamed, removed with another in its place,
// in turn.
func change(ctx context.Context, tree *inode.FileTree, n int) error {
	files, err := filesOf(ctx, tree, inode.RootDir, nil)
	if err != nil {
		return err
	}
	n = min(n, len(files))
	block := pattern(4096)
	for i := range n {
		f := files[i*len(files)/n]
		switch name := fmt.Sprintf("%s.%d", f.name, i); i % 4 {
		case 0:
			_, err = tree.WriteAt(ctx, f.ino, block, 0)
		case 1:
			_, err = tree.WriteAt(ctx, f.ino, block[:100], int64(i)*10)
		case 2:
			err = tree.Rename(ctx, f.dir, f.name, f.dir, name, inode.RenameReplace)
		case 3:
			var ino ondisk.ObjectID
			if ino, err = tree.Create(ctx, f.dir, name, inode.Attr{Mode: 0o644}); err == nil {
				_, err = tree.WriteAt(ctx, ino, block, 0)
			}
		}
		if err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
	}
	return nil
}

// sentFile is a file of the tree that is changed, by one of its names.
type sentFile struct {
	ino, dir ondisk.ObjectID
	name     string
}

// filesOf appends the regular files below dir, in the order of their directories' names.
func filesOf(ctx context.Context, tree *inode.FileTree, dir ondisk.ObjectID, files []sentFile) ([]sentFile, error) {
	entries, err := tree.Entries(ctx, dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch e.Type {
		case ondisk.FTReg:
			files = append(files, sentFile{e.Ino(), dir, e.Name})
		case ondisk.FTDir:
			if files, err = filesOf(ctx, tree, e.Ino(), files); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}
