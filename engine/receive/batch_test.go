package receive_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// squashy is 256 KiB of which compression leaves two bits of eight.
func squashy(rng *rand.Rand) []byte {
	b := make([]byte, 256<<10)
	for i := range b {
		b[i] = byte(rng.IntN(4))
	}
	return b
}

// frame adds an encoded write of plain but for what skip leaves out at its beginning.
func (s *script) frame(path string, off, skip int, plain []byte) *script {
	s.Helper()
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, err := w.Write(plain)
	s.must(err)
	s.must(w.Close())
	return s.do(sendstream.CmdEncodedWrite, attrPath, path, sendstream.AttrFileOffset, off, sendstream.AttrUnencodedFileLen, len(plain)-skip,
		sendstream.AttrUnencodedLen, len(plain), sendstream.AttrUnencodedOffset, skip, sendstream.AttrCompression, sendstream.EncodedZlib,
		sendstream.AttrData, z.String())
}

// stampOf is a time in seconds, as an attribute.
func stampOf(sec int) string {
	return string(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(nil, uint64(sec)), 5))
}

// scatter leaves free space for data only in pieces of two sectors, and about that much of it in all, in bytes.
func scatter(im *image, free int) {
	im.Helper()
	ctx := im.Context()
	tree, err := im.fs.Subvolume(ctx, ondisk.FSTree)
	im.must(err)
	dir, err := tree.Mkdir(ctx, inode.RootDir, "filler", inode.Attr{Mode: 0o755})
	im.must(err)
	piece, n := make([]byte, 8192), 0
	for {
		ino, err := tree.Create(ctx, dir, fmt.Sprint(n), inode.Attr{})
		if err == nil {
			_, err = tree.WriteAt(ctx, ino, piece, 0)
		}
		if errors.Is(err, fserr.ErrNoSpace) {
			break
		}
		im.must(err)
		n++
	}
	for i := range free / len(piece) {
		im.must(tree.Unlink(ctx, dir, fmt.Sprint(2*i)))
	}
	im.must(im.fs.Commit(ctx)) // what was freed can be taken from now on
}

// TestScattered receives compressed files where no batch's data lies in one piece: frames that a piece can hold stay as
// they are. Where one needs more than a piece there is no room, and nothing is left.
func TestScattered(t *testing.T) {
	for _, c := range []struct {
		sectors int // of each frame
		fits    bool
	}{{1, true}, {2, true}, {3, false}} {
		t.Run(fmt.Sprint(c.sectors), func(t *testing.T) {
			im := newImage(t, 128<<20)
			scatter(im, 8<<20)
			rng := rand.New(rand.NewPCG(1, 1))
			g, plain := newScript(t, 2).subvol("s"), squashy(rng)
			for i := range 60 {
				name := fmt.Sprint("f", i)
				g.do(sendstream.CmdMkfile, attrPath, name)
				n := (4*c.sectors - 2) * 4096
				g.frame(name, 0, 0, plain[i*2048:i*2048+n])
				g.write(name, n, "and the rest")
				g.do(sendstream.CmdUtimes, attrPath, name, sendstream.AttrATime, stampOf(1), sendstream.AttrMTime, stampOf(2), sendstream.AttrCTime, stampOf(3))
			}
			in := g.do(sendstream.CmdUtimes, attrPath, "", sendstream.AttrATime, stampOf(1), sendstream.AttrMTime, stampOf(2), sendstream.AttrCTime, stampOf(3)).end()
			if !c.fits {
				if err := im.errReceive(in, receive.Options{}); !errors.Is(err, fserr.ErrNoSpace) {
					t.Errorf("error %v", err)
				}
				if got := im.subvolumes(); len(got) > 0 {
					t.Errorf("%q is left", got)
				}
				im.close()
				return
			}
			im.receive(in, receive.Options{})
			whole := newImage(t, 128<<20)
			whole.receive(in, receive.Options{})
			if diff := oracle.ManifestDiff(im.manifest("s"), whole.manifest("s")); diff != "" {
				t.Errorf("scattered (-), in one piece (+):\n%s", diff)
			}
			if n := im.compressed("s"); n != 60 {
				t.Errorf("%d compressed extents, want 60", n)
			}
			im.close()
			whole.close()
		})
	}
}

// TestGiveUpBehindFailure: what a batch holds that could not be inserted is given back also when nobody asks any more.
func TestGiveUpBehindFailure(t *testing.T) {
	im := newImage(t, 128<<20)
	tree, err := im.fs.Subvolume(t.Context(), ondisk.FSTree)
	im.must(err)
	pool := disk.NewPool()
	receive.GiveUpBehindFailure(t.Context(), tree, pool)
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	im.close()
}

// TestMovedOn: a file that its batch has no more room for moves to the next one. The times that its directory has got
// meanwhile stay.
func TestMovedOn(t *testing.T) {
	b := newBase(t)
	for _, dir := range []string{"", "d", "old"} {
		g := newScript(t, 1).subvol("s").path(sendstream.CmdMkdir, "old")
		g.do(sendstream.CmdLink, attrPath, "hard", attrLink, "old/none") // settles
		g.path(sendstream.CmdMkdir, "d")
		for i := range 6 { // the last is the one too many
			name := fmt.Sprint("f", i)
			if dir != "" {
				g.path(sendstream.CmdMkfile, "temp").do(sendstream.CmdRename, attrPath, "temp", attrPathTo, dir+"/"+name)
				name = dir + "/" + name
			} else {
				g.path(sendstream.CmdMkfile, name)
			}
			g.times(dir)
			for off := 0; off < 400<<10; off += 40 << 10 {
				g.write(name, off, string(make([]byte, 40<<10)))
			}
		}
		b.likePlain(t, g.end())
	}
}

// TestRedoInOrder: a batch that has been started behind one that cannot be inserted does not come before it.
func TestRedoInOrder(t *testing.T) {
	im := newImage(t, 128<<20)
	tree, err := im.fs.Subvolume(t.Context(), ondisk.FSTree)
	im.must(err)
	ino, err := tree.Mkdir(t.Context(), inode.RootDir, "d", inode.Attr{Mode: 0o755})
	im.must(err)
	pool := disk.NewPool()
	receive.RedoBehindFailure(t.Context(), tree, pool, ino, 1, 2)
	im.must(pool.Close())
	it, err := tree.Inode(t.Context(), ino)
	im.must(err)
	if got := it.MTime().Sec; got != 2 {
		t.Errorf("the time is %d, set by the first batch last", got)
	}
	im.close()
}

// TestXattrsBounded: what a batch holds of attributes is bounded, and what a file has beyond is set all the same.
func TestXattrsBounded(t *testing.T) {
	im := newImage(t, 128<<20)
	tree, err := im.fs.Subvolume(t.Context(), ondisk.FSTree)
	im.must(err)
	pool := disk.NewPool()
	for _, size := range []int{0, 16000} {
		if n := receive.GatherXattrs(tree, pool, size); n < 10 || n > 100 {
			t.Errorf("%d attributes of %d bytes wait in one batch", n, size)
		}
	}
	im.must(pool.Close())
	im.close()
	g := newScript(t, 1).subvol("s").path(sendstream.CmdMkfile, "f")
	for i := range 150 {
		g.do(sendstream.CmdSetXattr, attrPath, "f", sendstream.AttrXattrName, fmt.Sprint("user.", i%140), sendstream.AttrXattrData, strings.Repeat("v", i*100))
	}
	newBase(t).likePlain(t, g.path(sendstream.CmdMkfile, "g").end())
}

// TestLastAttrsCount: of several changes of one inode's attributes in a batch the last counts.
func TestLastAttrsCount(t *testing.T) {
	b := newBase(t)
	g := newScript(t, 1).subvol("s").path(sendstream.CmdMkfile, "f")
	g.do(sendstream.CmdLink, attrPath, "hard", attrLink, "none") // settles: f is in the tree
	for _, mode := range []int{0o600, 0o640, 0o751} {
		g.do(sendstream.CmdChmod, attrPath, "f", sendstream.AttrMode, mode)
		g.do(sendstream.CmdChown, attrPath, "f", sendstream.AttrUID, mode, sendstream.AttrGID, mode+1)
	}
	b.likePlain(t, g.end())
}
