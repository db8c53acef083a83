package treecheck_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

const mib = 1 << 20

// scan calls fn for each tree block in the image file, live or not: everything with the file system's id and a right
// checksum. Below 2 MiB stand the blocks of mkfs.btrfs' temporary first trees, which it never reads again.
func scan(t testing.TB, img string, fn func(c *treecheck.Context, b ondisk.Block)) {
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	sb := ondisk.AsSuperBlock(data[ondisk.SuperOffsets[0]:])
	if err := treecheck.Super(sb); err != nil {
		t.Fatal(err)
	}
	c := treecheck.FromSuper(sb)
	for off := 2 * mib; off+c.NodeSize <= len(data); off += c.SectorSize {
		if slices.Contains(ondisk.SuperOffsets[:], ondisk.Physical(off)) {
			continue
		}
		b := ondisk.Block(data[off : off+c.NodeSize])
		if b.Header().FSID() == c.FSID && c.Csum.BlockCsumOK(b) {
			fn(c, b)
		}
	}
}

// TestNoFalseAlarms holds the checks, those for writing too, against every block that mkfs.btrfs and the kernel wrote.
func TestNoFalseAlarms(t *testing.T) {
	for _, args := range [][]string{
		{}, {"-n", "4096", "--csum", "xxhash"}, {"--csum", "sha256", "-O", "block-group-tree,quota"},
		{"-O", "^no-holes,^free-space-tree", "-n", "65536"}, {"-M", "--csum", "blake2"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			oracle.Mkfs(t, img, 256*mib, args...)
			kernelWork(t, img, args)
			blocks, types := 0, map[ondisk.ItemType]int{}
			scan(t, img, func(c *treecheck.Context, b ondisk.Block) {
				blocks++
				w := *c
				w.Write = true
				if err := treecheck.Block(b, &w); err != nil {
					t.Error(err)
					return
				}
				treecheck.Trust(t, b)
				for i := range b.NrItems() {
					types[b.Key(i).Type]++
				}
			})
			if blocks < 30 || len(types) < 15 {
				t.Errorf("only %d blocks with %d item types", blocks, len(types))
			}
		})
	}
}

// kernelWork lets the kernel make items of many types.
func kernelWork(t *testing.T, img string, mkfs []string) {
	opts := []oracle.MountOption{oracle.Opts("compress=zstd")}
	if slices.Contains(mkfs, "^no-holes,^free-space-tree") {
		opts = append(opts, oracle.AllowComplaints()) // it warns of the old free-space cache
	}
	m := oracle.Mount(t, img, opts...)
	oracle.Run(t, "sh", "-ec", `cd "$0"
btrfs -q subvolume create a
for i in $(seq 200); do echo "content $i" > a/f$i; done
head -c 300000 /dev/urandom > a/random; yes text | head -c 200000 > a/text
truncate -s 9M a/hole; printf x | dd of=a/hole bs=1 seek=5000000 conv=notrunc status=none
fallocate -l 1M a/prealloc; printf x | dd of=a/prealloc bs=1 seek=9000 conv=notrunc status=none
for i in $(seq 300); do ln a/f1 a/a-name-that-fills-inode-refs-quickly-$i; cp --reflink=always a/random a/r$i; done
ln -s target a/link; mkfifo a/fifo; mknod a/dev c 1 3
btrfs -q subvolume snapshot -r a ro; btrfs -q subvolume snapshot a rw
sync; for i in $(seq 100); do rm rw/f$i; echo new > rw/n$i; done
sync; echo synced > a/synced; sync a/synced; sync -f .
btrfs -q subvolume delete -c rw; btrfs subvolume sync . >/dev/null`, m.Dir)
	if !slices.Contains(mkfs, "-M") { // mixed block groups have no metadata of their own to balance
		m.KernelBalance("-m")
	}
	m.Unmount()
}

// TestFlippedBits damages single bits of what is in use of real blocks: no panic, whether it is found or not. What is
// not found lies in times, sizes, data and the like.
func TestFlippedBits(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 256*mib, "-n", "4096", "-r", ".")
	tried, found := 0, 0
	scan(t, img, func(c *treecheck.Context, b ondisk.Block) {
		d := make(ondisk.Block, len(b))
		for at := ondisk.CsumSize; at < len(b); at += 7 {
			copy(d, b)
			if headers := ondisk.HeaderSize + b.NrItems()*ondisk.ItemSize; b.IsLeaf() && at >= headers && at < headers+b.LeafFree() {
				continue // nobody reads it
			}
			d[at] ^= 1 << (at % 8)
			tried++
			if treecheck.Block(d, c) != nil {
				found++
			} else {
				treecheck.Trust(t, d)
			}
		}
	})
	t.Logf("%d of %d flipped bits found", found, tried)
	if tried < 1000 || found*5 < tried {
		t.Errorf("%d of %d flipped bits found", found, tried)
	}
}

func BenchmarkBlock(b *testing.B) {
	img := filepath.Join(b.TempDir(), "img")
	oracle.Mkfs(b, img, 256*mib, "-r", "/etc")
	var c *treecheck.Context
	var full ondisk.Block
	scan(b, img, func(sc *treecheck.Context, k ondisk.Block) {
		if k.IsLeaf() && (full == nil || k.NrItems() > full.NrItems()) {
			c, full = sc, k
		}
	})
	b.Logf("%d items of tree %s", full.NrItems(), full.Header().Owner())
	b.ReportAllocs()
	b.SetBytes(int64(len(full)))
	for b.Loop() {
		if err := treecheck.Block(full, c); err != nil {
			b.Fatal(err)
		}
	}
}
