package bench

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// The benchmarks work on an image file in the system's temporary directory, with what durable costs there. Side by side
// with btrfs-progs and the kernel the same is measured by peers.sh.

func benchOptions(size uint64) engine.FormatOptions {
	return engine.FormatOptions{Options: mkfs.Default(), Size: size}
}

// benchFS is a new file system with one subvolume.
func benchFS(b *testing.B, size uint64) (*engine.FS, *inode.FileTree) {
	b.Helper()
	ctx := context.Background()
	f, err := engine.Format(ctx, filepath.Join(b.TempDir(), "bench.img"), benchOptions(size))
	must(b, err)
	b.Cleanup(func() { must(b, f.Close()) })
	id, err := f.Subvols().Create(ctx, subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: "source"}, subvol.CreateOptions{})
	must(b, err)
	tree, err := f.Subvolume(ctx, id)
	must(b, err)
	must(b, f.Commit(ctx))
	return f, tree
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Helper()
		b.Fatal(err)
	}
}

func BenchmarkFormat10GiB(b *testing.B) {
	ctx := context.Background()
	for i := range b.N {
		f, err := engine.Format(ctx, filepath.Join(b.TempDir(), fmt.Sprint(i)), benchOptions(10<<30))
		must(b, err)
		must(b, f.Close())
	}
}

// BenchmarkCreate is a file an operation: one handle each, one commit at the end.
func BenchmarkCreate(b *testing.B) {
	for _, size := range []int{0, 4096} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			ctx := context.Background()
			f, tree := benchFS(b, 16<<30)
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i)
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("file-%07d", i), inode.Attr{Mode: 0o644})
				must(b, err)
				if size > 0 {
					_, err = tree.WriteAt(ctx, ino, data, 0)
					must(b, err)
				}
			}
			must(b, f.Commit(ctx))
		})
	}
}

func BenchmarkUnlink(b *testing.B) {
	ctx := context.Background()
	f, tree := benchFS(b, 16<<30)
	for i := range b.N {
		_, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("file-%07d", i), inode.Attr{Mode: 0o644})
		must(b, err)
	}
	must(b, f.Commit(ctx))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		must(b, tree.Unlink(ctx, inode.RootDir, fmt.Sprintf("file-%07d", i)))
	}
	must(b, f.Commit(ctx))
}

// BenchmarkSnapshot is a durable snapshot an operation.
func BenchmarkSnapshot(b *testing.B) {
	for _, dirtied := range []bool{false, true} {
		b.Run(fmt.Sprintf("dirtied=%v", dirtied), func(b *testing.B) {
			ctx := context.Background()
			f, tree := benchFS(b, 16<<30)
			ino, err := tree.Create(ctx, inode.RootDir, "data", inode.Attr{Mode: 0o644})
			must(b, err)
			_, err = tree.WriteAt(ctx, ino, make([]byte, 1<<20), 0)
			must(b, err)
			must(b, f.Commit(ctx))
			block := make([]byte, 4096)
			b.ResetTimer()
			for i := range b.N {
				if dirtied {
					_, err := tree.WriteAt(ctx, ino, block, int64(i%256)*4096)
					must(b, err)
				}
				_, err := f.Subvols().Snapshot(ctx, subvol.SnapshotSpec{
					Source: tree.ID(), Dest: subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: fmt.Sprintf("snap-%d", i)},
				})
				must(b, err)
			}
		})
	}
}

// BenchmarkSequential writes and commits 64 MiB an operation, or reads it.
func BenchmarkSequential(b *testing.B) {
	const size = 64 << 20
	ctx := context.Background()
	f, tree := benchFS(b, 4<<30)
	ino, err := tree.Create(ctx, inode.RootDir, "data", inode.Attr{Mode: 0o644})
	must(b, err)
	p := f.Pool().Get(1 << 20)
	defer f.Pool().Put(p)
	for i := range p {
		p[i] = byte(i * 7)
	}
	write := func(b *testing.B) {
		for at := int64(0); at < size; at += int64(len(p)) {
			_, err := tree.WriteAt(ctx, ino, p, at)
			must(b, err)
		}
		must(b, f.Commit(ctx))
	}
	b.Run("write", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			write(b)
		}
	})
	write(b)
	b.Run("read", func(b *testing.B) {
		b.SetBytes(size)
		for range b.N {
			r, err := inode.OpenFile(ctx, tree, ino)
			must(b, err)
			n, err := io.Copy(io.Discard, r)
			must(b, err)
			if n != size {
				b.Fatalf("read %d bytes", n)
			}
		}
	})
}

// BenchmarkSearch is one search of a commit root, warm, in a tree of three levels, with nothing else under way.
func BenchmarkSearch(b *testing.B) {
	ctx := context.Background()
	f, err := engine.Format(ctx, filepath.Join(b.TempDir(), "bench.img"), benchOptions(searchImageSize))
	must(b, err)
	b.Cleanup(func() { must(b, f.Close()) })
	l, err := newSearchLab(ctx, f, SearchOptions{})
	must(b, err)
	for _, p := range commitview.Policies() {
		b.Run(p.String(), func(b *testing.B) {
			v, err := commitview.Open(ctx, f.DB(), l.readonly, commitview.Options{Policy: p, AllowUnsafe: true})
			must(b, err)
			defer v.Close()
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				must(b, v.View(ctx, l.keys[i%len(l.keys)], func([]byte) error { return nil }))
			}
		})
	}
}
