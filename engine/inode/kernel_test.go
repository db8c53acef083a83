package inode_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// text is compressible data, a little different everywhere.
func text(rng *rand.Rand, n int) []byte {
	words := []string{"extent ", "inode ", "transaction ", "generation ", "block group ", "chunk ", "0000000000000000", "\x00\x00\x00\x00\x00\x00\x00\x00"}
	b := make([]byte, 0, n+16)
	for len(b) < n {
		if rng.IntN(9) == 0 {
			b = append(b, byte(rng.Uint32()))
		}
		b = append(b, words[rng.IntN(len(words))]...)
	}
	return b[:n]
}

// kernelFiles lets the kernel write files of many shapes below dir and returns what they hold.
func kernelFiles(t *testing.T, rng *rand.Rand, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for i, size := range []int{1, 100, 2000, 2048, 2049, 3000, 4095, 4096, 4097, 8192, 20000, 65536, 131072, 131073, 200000, 262144, 700001} {
		name := fmt.Sprintf("f%d", size)
		data := text(rng, size)
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(name, err)
			}
		}
		_, err = f.Write(data)
		must(err)
		must(f.Sync())
		if size > 8192 { // overwrite, punch and cut, so that extents are used in part
			at := 4096 * (1 + rng.IntN(size/8192))
			piece := text(rng, 5000)
			_, err = f.WriteAt(piece, int64(at))
			must(err)
			data = append(data[:at:at], append(piece, data[min(len(data), at+len(piece)):]...)...)
			must(f.Sync())
			must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 6000, 9000))
			clear(data[6000:min(15000, len(data))])
			must(f.Sync())
			if i%2 == 0 {
				must(f.Truncate(int64(len(data) - 777)))
				data = data[:len(data)-777]
			}
			must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(len(data)), 50000))
		}
		must(f.Close())
		files[name] = data
	}
	return files
}

// TestKernelCompressed reads what the kernel compressed with each algorithm, changes the files, and lets the kernel read
// the result.
func TestKernelCompressed(t *testing.T) {
	oracle.NeedRoot(t)
	for i, alg := range []string{"zlib", "lzo", "zstd", "none"} {
		t.Run(alg, func(t *testing.T) {
			seed := uint64(oracle.Seed(t)) + uint64(i)
			rng := rand.New(rand.NewPCG(seed, 2))
			img := filepath.Join(t.TempDir(), "image")
			oracle.Mkfs(t, img, 256<<20)
			opt := "compress-force=" + alg
			if alg == "none" {
				opt = "max_inline=0"
			}
			mnt := oracle.Mount(t, img, oracle.Opts(opt))
			files := kernelFiles(t, rng, mnt.Path())
			mnt.Unmount()

			ctx := context.Background()
			fs, err := engine.Open(ctx, img, engine.OpenOptions{})
			if err != nil {
				t.Fatal(err)
			}
			tree, err := fs.Subvolume(ctx, ondisk.FSTree)
			if err != nil {
				t.Fatal(err)
			}
			compressed := 0
			for name, data := range files {
				compressed += compareFile(t, tree, name, data)
			}
			if alg != "none" && compressed < 20 {
				t.Fatalf("%d compressed extents, not enough to prove anything", compressed)
			}
			for name := range files {
				files[name] = changeFile(t, rng, tree, name, files[name])
				compareFile(t, tree, name, files[name])
			}
			if err := errors.Join(fs.Commit(ctx), fs.Close()); err != nil {
				t.Fatal(err)
			}
			oracle.Check(t, img)
			mnt = oracle.Mount(t, img)
			for name, data := range files {
				if got, err := os.ReadFile(mnt.Path(name)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s: the kernel reads %d bytes, expected %d: %v", name, len(got), len(data), err)
				}
			}
			mnt.Unmount()
		})
	}
}

// compareFile reads a file in the top directory as a whole, in small steps, and at random, and returns how many
// compressed extents it has.
func compareFile(t *testing.T, tree *inode.FileTree, name string, data []byte) (compressed int) {
	t.Helper()
	ctx := context.Background()
	e, err := tree.Lookup(ctx, inode.RootDir, name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tree.Open(ctx, e.Ino())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := io.ReadAll(struct{ io.Reader }{f}) // in small steps
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%s: %d bytes read, expected %d: %v", name, len(got), len(data), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if n, err := f.WriteTo(&all); err != nil || n != int64(len(data)) || !bytes.Equal(all.Bytes(), data) {
		t.Fatalf("%s: WriteTo of %d bytes, expected %d: %v", name, n, len(data), err)
	}
	for at := 0; at < len(data); at += 1 + len(data)/7 {
		p := make([]byte, min(3333, len(data)-at))
		if _, err := f.ReadAt(p, int64(at)); err != nil || !bytes.Equal(p, data[at:at+len(p)]) {
			t.Fatalf("%s at %d: %v", name, at, err)
		}
	}
	err = tree.Extents(ctx, e.Ino(), 0, 1<<62, func(x inode.Extent) (bool, error) {
		if x.Compression != 0 {
			compressed++
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return compressed
}

// changeFile overwrites, punches, cuts and extends a file and returns what it holds then.
func changeFile(t *testing.T, rng *rand.Rand, tree *inode.FileTree, name string, data []byte) []byte {
	t.Helper()
	ctx := context.Background()
	e, err := tree.Lookup(ctx, inode.RootDir, name)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(name, err)
		}
	}
	n := node{data: slices.Clone(data)}
	for range 3 {
		switch off := rng.IntN(len(n.data) + 1); rng.IntN(4) {
		case 0:
			p := text(rng, 1+rng.IntN(9000))
			_, err := tree.WriteAt(ctx, e.Ino(), p, int64(off))
			must(err)
			n.resize(max(len(n.data), off+len(p)))
			copy(n.data[off:], p)
		case 1:
			must(tree.PunchHole(ctx, e.Ino(), int64(off), 7000))
			clear(n.data[off:min(len(n.data), off+7000)])
		case 2:
			must(tree.Truncate(ctx, e.Ino(), int64(off)))
			n.resize(off)
		default:
			must(tree.Truncate(ctx, e.Ino(), int64(len(n.data)+off)))
			n.resize(len(n.data) + off)
		}
	}
	return n.data
}

// TestBitFlips changes bytes of data on the disk: with one copy the read is an error, with two the other copy is taken.
func TestBitFlips(t *testing.T) {
	for _, dup := range []bool{false, true} {
		t.Run(fmt.Sprintf("dup=%v", dup), func(t *testing.T) {
			ctx := context.Background()
			im := newImage(t, 256<<20, func(o *engine.FormatOptions) {
				if dup {
					o.Data = ondisk.BGDup
				}
			})
			tree := im.top()
			ino, err := tree.Create(ctx, inode.RootDir, "f", inode.Attr{})
			if err != nil {
				t.Fatal(err)
			}
			data := text(rand.New(rand.NewPCG(1, 1)), 100000)
			if _, err := tree.WriteAt(ctx, ino, data, 0); err != nil {
				t.Fatal(err)
			}
			if err := im.fs.Commit(ctx); err != nil { // before it the device need not have the data
				t.Fatal(err)
			}
			flipped := find(t, im.mem, data[50000:50100])
			if want := map[bool]int{false: 1, true: 2}[dup]; len(flipped) != want {
				t.Fatalf("%d copies of the data found, expected %d", len(flipped), want)
			}
			flip(t, im.mem, flipped[0])
			got := make([]byte, len(data))
			n, err := tree.ReadAt(ctx, ino, got, 0)
			if dup {
				if err != nil || n != len(data) || !bytes.Equal(got, data) {
					t.Fatalf("the other copy was not used: %v", err)
				}
				flip(t, im.mem, flipped[1])
				_, err = tree.ReadAt(ctx, ino, got, 0)
			}
			if !errors.Is(err, fserr.ErrCorrupt) {
				t.Fatalf("damaged data gave %v", err)
			}
			if _, err := tree.ReadAt(ctx, ino, got[:4096], 0); err != nil {
				t.Fatalf("a sound sector gave %v", err)
			}
		})
	}
}

// find finds every place of the device that holds b.
func find(t *testing.T, mem *disk.Mem, b []byte) (at []int64) {
	t.Helper()
	const step = 1 << 20
	p := make([]byte, step+len(b))
	for off := int64(0); off < mem.Size(); off += step {
		n, err := mem.ReadAt(context.Background(), p[:min(int64(len(p)), mem.Size()-off)], off)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			k := bytes.Index(p[i:n], b)
			if k < 0 || i+k >= step {
				break
			}
			i += k
			at = append(at, off+int64(i))
		}
	}
	return at
}

func flip(t *testing.T, mem *disk.Mem, at int64) {
	t.Helper()
	p := make([]byte, 1)
	_, err := mem.ReadAt(context.Background(), p, at)
	if err == nil {
		p[0] ^= 0x10
		_, err = mem.WriteAt(context.Background(), p, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}
