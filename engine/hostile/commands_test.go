package hostile

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/check"
	"imgtool/engine/copytree"
	"imgtool/engine/inode"
	"imgtool/engine/inspect"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
	"imgtool/engine/scrub"
	"imgtool/engine/subvol"
	"imgtool/engine/treecheck"
	"imgtool/engine/volume"
)

// Bounds of one command on the base image, whatever was done to it. The image has some 300 KiB of metadata and 1 MiB of
// data, and a sound one takes a tenth of this.
const (
	maxRead  = 256 << 20 // bytes read from the device
	maxWrite = 64 << 20  // bytes put out
	maxAlloc = 512 << 20 // bytes allocated in all, most of them given back at once
)

// budget refuses to go on when a command has done too much.
type budget struct {
	disk.Device
	read, written atomic.Int64
	changed       atomic.Bool // there was a try to write, or discard
}

var errBudget = errors.New("more work than the image is worth")

func (b *budget) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if b.read.Add(int64(len(p))) > maxRead {
		return 0, errBudget
	}
	return b.Device.ReadAt(ctx, p, off)
}

func (b *budget) WriteAt(context.Context, []byte, int64) (int, error) {
	b.changed.Store(true)
	return 0, errors.New("a command that only reads has written")
}

func (b *budget) Discard(context.Context, int64, int64) error {
	b.changed.Store(true)
	return errors.New("a command that only reads has discarded")
}

func (b *budget) Close() error { return nil }

// Write makes a budget the output of a command, too.
func (b *budget) Write(p []byte) (int, error) {
	if b.written.Add(int64(len(p))) > maxWrite {
		return 0, errBudget
	}
	return len(p), nil
}

func (b *budget) spent() bool { return b.read.Load() > maxRead || b.written.Load() > maxWrite }

// command is one that only reads.
type command struct {
	name string
	run  func(ctx context.Context, t testing.TB, dev *budget) error
}

var commands = []command{
	{"check", func(ctx context.Context, _ testing.TB, dev *budget) error {
		rep, err := check.Image(ctx, []disk.Device{dev}, check.Options{DataCsum: true})
		if err == nil && !rep.Clean() {
			err = errDamaged
		}
		return err
	}},
	{"scrub", func(ctx context.Context, _ testing.TB, dev *budget) error {
		vol, err := volume.Open(ctx, []disk.Device{dev}, volume.Options{CheckSuper: treecheck.Super})
		if err != nil {
			return err
		}
		rep, err := scrub.Run(ctx, vol, scrub.Options{})
		if bad, _ := rep.Errors(); err == nil && bad > 0 {
			err = errDamaged
		}
		return err
	}},
	{"manifest", opened(func(ctx context.Context, _ testing.TB, fs *engine.FS, out io.Writer) error {
		ns, err := fs.Namespace(ctx, ondisk.FSTree)
		if err != nil {
			return err
		}
		return manifest.Write(ctx, out, ns)
	})},
	{"subvolume list, df", opened(func(ctx context.Context, _ testing.TB, fs *engine.FS, _ io.Writer) error {
		fs.Usage()
		_, err := fs.Subvols().List(ctx)
		return err
	})},
	{"get -r", opened(func(ctx context.Context, t testing.TB, fs *engine.FS, _ io.Writer) error {
		ns, err := fs.Namespace(ctx, ondisk.FSTree)
		if err != nil {
			return err
		}
		out := filepath.Join(t.TempDir(), "out")
		defer os.RemoveAll(out) // not only at the end of the test: there may be very many
		_, err = copytree.Export(ctx, ns, ns.Top(), out, copytree.ExportOptions{})
		return err
	})},
	{"send", opened(func(ctx context.Context, _ testing.TB, fs *engine.FS, out io.Writer) error {
		return fs.Send(ctx, out, engine.SendOptions{Path: "snap"})
	})},
	{"dump-tree", opened(func(ctx context.Context, _ testing.TB, fs *engine.FS, out io.Writer) error {
		return inspect.DumpTree(ctx, out, blocks{fs}, inspect.Options{})
	})},
}

var errDamaged = errors.New("damaged")

// opened makes a command of what is done with an open file system.
func opened(do func(context.Context, testing.TB, *engine.FS, io.Writer) error) func(context.Context, testing.TB, *budget) error {
	return func(ctx context.Context, t testing.TB, dev *budget) error {
		fs, err := engine.OpenDevices(ctx, []disk.Device{dev}, engine.OpenOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		err = do(ctx, t, fs, dev)
		return errors.Join(err, fs.Close())
	}
}

// blocks gives dump-tree what it reads.
type blocks struct{ fs *engine.FS }

func (r blocks) Super() ondisk.SuperBlock { return r.fs.Super() }

func (r blocks) ReadTreeBlock(ctx context.Context, addr ondisk.Logical) (ondisk.Block, error) {
	b := make(ondisk.Block, nodeSize)
	return b, r.fs.Volume().ReadCopy(ctx, addr, b, 0) // past treecheck, as the command does
}

// readAll runs every command on an image and holds it to the bounds. It returns what each said.
func readAll(t testing.TB, im *image) map[string]error {
	t.Helper()
	said := map[string]error{}
	for _, c := range commands {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // only so that a loop without any work ends, too
		dev := &budget{Device: im.dev}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := c.run(ctx, t, dev)
		runtime.ReadMemStats(&after)
		switch n := after.TotalAlloc - before.TotalAlloc; {
		case ctx.Err() != nil:
			t.Errorf("%s: did not come to an end: %v", c.name, err)
		case dev.changed.Load():
			t.Errorf("%s: only reads, and has tried to write: %v", c.name, err)
		case dev.spent():
			t.Errorf("%s: read %d bytes and wrote %d: %v", c.name, dev.read.Load(), dev.written.Load(), err)
		case n > maxAlloc:
			t.Errorf("%s: %d bytes were allocated: %v", c.name, n, err)
		case err != nil && strings.TrimSpace(err.Error()) == "":
			t.Errorf("%s: an error without words", c.name)
		case err != nil && strings.Contains(err.Error(), "internal"):
			t.Errorf("%s: the image is blamed on the engine: %v", c.name, err)
		}
		cancel()
		said[c.name] = err
	}
	return said
}

func placeIn(tree ondisk.TreeID, name string) subvol.Place {
	return subvol.Place{Tree: tree, Dir: inode.RootDir, Name: name}
}

func subvolOptions() subvol.CreateOptions { return subvol.CreateOptions{} }

// TestSound holds the bounds against an image that nobody has touched: they must not be what ends a command.
func TestSound(t *testing.T) {
	for name, err := range readAll(t, newImage(t)) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
