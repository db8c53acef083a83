package inode_test

import (
	"context"
	"fmt"
	"testing"

	"imgtool/engine/inode"
)

// BenchmarkCreate and BenchmarkUnlink measure empty files in one directory, one handle an operation, without the
// commit.
func BenchmarkCreate(b *testing.B) {
	ctx := context.Background()
	im := newImage(b, 4<<30, nil)
	tree := im.top()
	names := benchNames(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	for _, name := range names {
		if _, err := tree.Create(ctx, inode.RootDir, name, inode.Attr{Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnlink(b *testing.B) {
	ctx := context.Background()
	im := newImage(b, 4<<30, nil)
	tree := im.top()
	names := benchNames(b.N)
	for _, name := range names {
		if _, err := tree.Create(ctx, inode.RootDir, name, inode.Attr{Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, name := range names {
		if err := tree.Unlink(ctx, inode.RootDir, name); err != nil {
			b.Fatal(err)
		}
	}
}

func benchNames(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("file-%d", i)
	}
	return names
}

// BenchmarkCreate4K makes files with one sector of data.
func BenchmarkCreate4K(b *testing.B) {
	ctx := context.Background()
	im := newImage(b, 4<<30, nil)
	tree := im.top()
	data := make([]byte, 4096)
	b.ReportAllocs()
	b.ResetTimer()
	for _, name := range benchNames(b.N) {
		ino, err := tree.Create(ctx, inode.RootDir, name, inode.Attr{Mode: 0o644})
		if err == nil {
			_, err = tree.WriteAt(ctx, ino, data, 0)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWrite writes a file in pieces of 1 MiB; BenchmarkRead reads it.
func BenchmarkWrite(b *testing.B) {
	ctx := context.Background()
	im := newImage(b, 4<<30, nil)
	tree := im.top()
	ino, err := tree.Create(ctx, inode.RootDir, "f", inode.Attr{})
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 1<<20)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := tree.WriteAt(ctx, ino, data, int64(i%512)<<20); err != nil {
			b.Fatal(err)
		}
		if i%512 == 511 {
			if err := im.fs.Commit(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkRead(b *testing.B) {
	ctx := context.Background()
	im := newImage(b, 1<<30, nil)
	tree := im.top()
	ino, err := tree.Create(ctx, inode.RootDir, "f", inode.Attr{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := tree.WriteAt(ctx, ino, make([]byte, 64<<20), 0); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if _, err := tree.ReadAt(ctx, ino, p, int64(i%64)<<20); err != nil {
			b.Fatal(err)
		}
	}
}
