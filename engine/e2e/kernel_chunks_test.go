package e2e

import (
	"errors"
	"fmt"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

var chunkTypes = []struct {
	flags uint64
	usage func(*engine.FS) uint64 // bytes of the block groups
	used  func(*engine.FS) uint64
}{
	{ondisk.BGSystem, func(fs *engine.FS) uint64 { return fs.Usage().System.Total }, func(fs *engine.FS) uint64 { return fs.Usage().System.Used }},
	{ondisk.BGMetadata, func(fs *engine.FS) uint64 { return fs.Usage().Metadata.Total }, func(fs *engine.FS) uint64 { return fs.Usage().Metadata.Used }},
	{ondisk.BGData, func(fs *engine.FS) uint64 { return fs.Usage().Data.Total }, func(fs *engine.FS) uint64 { return fs.Usage().Data.Used }},
}

// TestForceChunkAlloc makes chunks of each type on demand, SYSTEM ones until the superblock can list no more, uses them,
// and has the kernel use them, balance them away and check them.
func TestForceChunkAlloc(t *testing.T) {
	oracle.NeedRoot(t)
	for _, c := range []struct {
		nodesize int
		meta     uint64
	}{{4096, 0}, {16384, ondisk.BGDup}} {
		t.Run(fmt.Sprintf("%dk/%#x", c.nodesize>>10, c.meta), func(t *testing.T) {
			ctx := t.Context()
			img, fs := create(t, 2<<30, func(o *engine.FormatOptions) { o.NodeSize, o.Meta = c.nodesize, c.meta })
			tree, err := fs.Subvolume(ctx, ondisk.FSTree)
			must(t, err)
			write := func(i int) {
				ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprintf("file-%d", i), inode.Attr{Mode: 0o644})
				must(t, err)
				_, err = tree.WriteAt(ctx, ino, make([]byte, 1<<20), 0)
				must(t, err)
				must(t, fs.Commit(ctx))
			}
			for i, typ := range chunkTypes {
				before := typ.usage(fs)
				must(t, fs.ForceChunkAlloc(ctx, typ.flags))
				if after := typ.usage(fs); after <= before {
					t.Errorf("%s: %d bytes in block groups, it was %d", ondisk.BGTypeName(typ.flags), after, before)
				}
				write(i)
			}
			n := 0
			for ; ; n++ { // each adds to sys_chunk_array; a commit may take empty ones away again
				err := fs.ForceChunkAlloc(ctx, ondisk.BGSystem)
				if errors.Is(err, fserr.ErrNoSpace) && !errors.Is(err, fserr.ErrAborted) {
					break
				}
				must(t, err)
				if n > 40 {
					t.Fatal("sys_chunk_array does not get full")
				}
			}
			write(100)
			t.Logf("%d more SYSTEM chunks until no more could be listed", n)
			if err := fs.ForceChunkAlloc(ctx, ondisk.BGRaid0); !errors.Is(err, fserr.ErrInvalid) {
				t.Errorf("a chunk of no type: %v", err)
			}
			used(t, fs)
			finish(t, fs, img)
			fs = reopen(t, img)
			must(t, fs.Commit(ctx))
			for _, typ := range chunkTypes {
				if u := typ.used(fs); u == 0 {
					t.Errorf("%s: nothing is used", ondisk.BGTypeName(typ.flags))
				}
			}
			finish(t, fs, img)
			m := oracle.Mount(t, img)
			oracle.Run(t, "sh", "-c", "head -c 30000000 /dev/zero > "+m.Path("kernel")+" && sync")
			m.KernelBalance("-s", "-f")
			m.KernelBalance("-m")
			m.KernelBalance("-d")
			m.Unmount()
			oracle.Check(t, img)
		})
	}
}

// forceChunks makes chunks of all types in an image that the kernel goes on with. What is left of the device may not do.
func (a *alternation) forceChunks(fs *engine.FS) {
	a.t.Helper()
	for _, typ := range chunkTypes {
		err := fs.ForceChunkAlloc(a.t.Context(), typ.flags)
		if err != nil && (!errors.Is(err, fserr.ErrNoSpace) || errors.Is(err, fserr.ErrAborted)) {
			a.t.Fatal(err)
		}
	}
}
