package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/klauspost/compress/zstd"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
)

// flipTarget is one extent in use: all its copies' places in the image.
type flipTarget struct {
	what   string
	tree   ondisk.TreeID // owner of a tree block, 0 for data
	copies []int64
	n      uint64
}

// TestFlippedByte changes one byte of each tree block and data extent of an image, and reads everything. With a second
// copy that is sound nothing is lost; without, it is an error. What was never written is never returned.
func TestFlippedByte(t *testing.T) {
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 12))
	for _, profile := range []uint64{0, ondisk.BGDup} {
		for _, csum := range []ondisk.CsumType{ondisk.CRC32C, ondisk.XXHash64, ondisk.SHA256, ondisk.Blake2b} {
			t.Run(fmt.Sprintf("%s,%v", ondisk.BGProfileName(profile), csum), func(t *testing.T) {
				flipAll(t, rnd, profile, csum)
			})
		}
	}
}

func flipAll(t *testing.T, rnd *rand.Rand, profile uint64, csum ondisk.CsumType) {
	img, fs := create(t, 512<<20, func(o *engine.FormatOptions) {
		o.NodeSize, o.Meta, o.Data, o.Csum = 4096, profile, profile, csum
	})
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	for i := range 40 {
		ino, err := tree.Create(t.Context(), 256, fmt.Sprintf("file%d", i), inode.Attr{Mode: 0o644})
		must(t, err)
		_, err = tree.WriteAt(t.Context(), ino, pattern(i*i*11), 0)
		must(t, err)
		if i < 2 {
			writePacked(t, tree, ino, 64<<10)
		}
	}
	must(t, fs.Commit(t.Context()))
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	targets := flipTargets(t, fs, f)
	must(t, fs.Close())
	want, err := readAll(t.Context(), img)
	must(t, err)
	found := 0
	for _, g := range targets {
		at := g.somewhere(rnd, csum)
		flip := func(copies []int64) {
			for _, c := range copies {
				flipByte(t, f, c+at)
			}
		}
		for i := range g.copies {
			if len(g.copies) > 1 {
				flip(g.copies[i : i+1])
				if got, err := readAll(t.Context(), img); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: byte %d of copy %d flipped, the other copy is sound: %v", g.what, at, i, err)
				}
				flip(g.copies[i : i+1])
			}
		}
		flip(g.copies)
		got, err := readAll(t.Context(), img)
		flip(g.copies)
		switch {
		case err != nil && !errors.Is(err, fserr.ErrCorrupt):
			t.Errorf("%s: byte %d flipped: %v", g.what, at, err)
		case err != nil:
			found++
		case !bytes.Equal(got, want):
			t.Errorf("%s: byte %d flipped, and other content is returned", g.what, at)
		case g.mustRead():
			t.Errorf("%s: byte %d flipped, and nobody noticed", g.what, at)
		}
	}
	if found < len(targets)/2 {
		t.Errorf("%d of %d flips were found", found, len(targets))
	}
	if got, err := readAll(t.Context(), img); err != nil || !bytes.Equal(got, want) {
		t.Errorf("with everything as it was: %v", err)
	}
}

// writePacked appends a compressed extent, most of which the decompressor takes as it comes: it is no help against flips.
func writePacked(t *testing.T, tree *inode.FileTree, ino ondisk.ObjectID, off int64) {
	t.Helper()
	plain := make([]byte, 32<<10)
	rnd := rand.NewChaCha8([32]byte{byte(ino)})
	_, _ = rnd.Read(plain[:6<<10]) // never fails
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(len(plain)), zstd.WithEncoderCRC(false))
	must(t, err)
	frame := z.EncodeAll(plain, nil)
	must(t, z.Close())
	n := uint64(len(plain))
	must(t, tree.WriteEncoded(t.Context(), ino, inode.Encoded{Off: off, Len: int64(n), Algorithm: ondisk.CompressZstd, RAMLen: n}, frame))
}

// TestMissingChecksum takes the checksums of a file away: what it holds is not returned any more, since nobody can tell
// whether it is what was written.
func TestMissingChecksum(t *testing.T) {
	_, fs := create(t, 256<<20, nil)
	tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
	must(t, err)
	ino, err := tree.Create(t.Context(), inode.RootDir, "file", inode.Attr{Mode: 0o644})
	must(t, err)
	_, err = tree.WriteAt(t.Context(), ino, pattern(20_000), 0)
	must(t, err)
	must(t, fs.Commit(t.Context()))
	p := make([]byte, 4096)
	_, err = tree.ReadAt(t.Context(), ino, p, 8192)
	must(t, err)
	csums, err := fs.DB().Tree(t.Context(), ondisk.CsumTree)
	must(t, err)
	key, _, ok, err := csums.SeekGE(t.Context(), ondisk.MinKey)
	if must(t, err); !ok {
		t.Fatal("there are no checksums")
	}
	h, err := fs.DB().Start(t.Context(), 1)
	must(t, err)
	must(t, csums.Delete(t.Context(), h, key))
	must(t, h.EndAndCommit(t.Context()))
	if n, err := tree.ReadAt(t.Context(), ino, p, 8192); n != 0 || !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// somewhere draws a byte that means something: a tree block's header has room for 32 bytes of checksum, and behind a
// shorter one nobody looks.
func (g flipTarget) somewhere(rnd *rand.Rand, csum ondisk.CsumType) int64 {
	if g.tree == 0 {
		return int64(rnd.Uint64N(g.n))
	}
	unused := uint64(ondisk.CsumSize - csum.Size())
	at := rnd.Uint64N(g.n - unused)
	if at >= uint64(csum.Size()) {
		at += unused
	}
	return int64(at)
}

// mustRead says that reading all files cannot do without the extent. Other trees are only for writing, and so are some
// leaves of the root tree.
func (g flipTarget) mustRead() bool {
	switch g.tree {
	case 0, ondisk.FSTree, ondisk.ChunkTree, ondisk.CsumTree:
		return true
	}
	return false
}

func flipByte(t *testing.T, f *os.File, at int64) {
	var b [1]byte
	_, err := f.ReadAt(b[:], at)
	must(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b[:], at)
	must(t, err)
}

// flipTargets lists what the extent tree says is in use.
func flipTargets(t *testing.T, fs *engine.FS, f *os.File) (list []flipTarget) {
	tree, err := fs.DB().Tree(t.Context(), ondisk.ExtentTree)
	must(t, err)
	sb := fs.Super()
	must(t, tree.Scan(t.Context(), ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, _ []byte) (bool, error) {
		g := flipTarget{what: fmt.Sprint(k), n: k.Offset}
		switch k.Type {
		case ondisk.MetadataItemKey:
			g.n = uint64(sb.NodeSize())
		case ondisk.ExtentItemKey:
		default:
			return true, nil
		}
		c, ok := fs.Volume().Chunk(ondisk.Logical(k.ObjectID))
		if !ok {
			return false, fmt.Errorf("%v lies in no chunk", k)
		}
		for _, s := range c.Stripes {
			g.copies = append(g.copies, int64(s.Offset)+int64(ondisk.Logical(k.ObjectID)-c.Start))
		}
		list = append(list, g)
		return true, nil
	}))
	// The owner stands in the block itself.
	for i := range list {
		g := &list[i]
		c, ok := chunkAt(fs, g.copies[0])
		if !ok || c&ondisk.BGData != 0 {
			continue
		}
		block := make([]byte, g.n)
		_, err := f.ReadAt(block, g.copies[0])
		must(t, err)
		g.tree = ondisk.Block(block).Header().Owner()
		g.what += fmt.Sprintf(" of tree %v", g.tree)
	}
	return list
}

// chunkAt returns the type of the chunk that a place on the device belongs to.
func chunkAt(fs *engine.FS, physical int64) (uint64, bool) {
	for _, c := range fs.Volume().Chunks() {
		for _, s := range c.Stripes {
			if off := physical - int64(s.Offset); off >= 0 && off < int64(c.Length) {
				return c.Type, true
			}
		}
	}
	return 0, false
}

// readAll opens an image and returns its manifest, with a hash of every file.
func readAll(ctx context.Context, img string) ([]byte, error) {
	fs, err := engine.Open(ctx, img, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer fs.Close()
	var out bytes.Buffer
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	err = manifest.Write(ctx, &out, ns)
	return out.Bytes(), err
}
