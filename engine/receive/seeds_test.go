package receive_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine/internal/oracle"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

var updateSeeds = flag.Bool("update-seeds", false, "let the kernel write testdata/streams anew")

// kernelSeeds are streams that the kernel has sent, in testdata/streams. The first is that of the parent of the
// incremental ones.
var kernelSeeds = []struct {
	name, subvol, parent string
	flags                []string
}{
	{"full-v1", "k0", "", nil},
	{"full-v2", "k0", "", []string{"--proto", "2", "--compressed-data"}},
	{"incremental-v1", "k1", "k0", nil},
	{"incremental-v2", "k1", "k0", []string{"--proto", "2", "--compressed-data"}},
}

func seedFile(name string) string { return filepath.Join("testdata", "streams", name) }

// seeds returns streams that broken ones are made of, and those that must be received before.
func seeds(t testing.TB) (before, list [][]byte) {
	t.Helper()
	for _, s := range kernelSeeds {
		b, err := os.ReadFile(seedFile(s.name))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	before = [][]byte{list[0], ourSeed(t, 1, "s", uuidA)}
	list = append(list, ourSeed(t, 1, "t", uuidB), ourSeed(t, 2, "t", uuidB), ourIncrement(t), ourTwo(t))
	return before, list
}

// ourSeed is a small stream with every command that its version has.
func ourSeed(t testing.TB, version uint32, name, uuid string) []byte {
	s := newScript(t, version).subvolAs(name, uuid).path(sendstream.CmdMkdir, "d").path(sendstream.CmdMkfile, "d/f").
		write("d/f", 0, strings.Repeat("x", 5000)).write("d/f", 5000, strings.Repeat("y", 4000)).
		do(sendstream.CmdRename, attrPath, "d", attrPathTo, "e").
		do(sendstream.CmdLink, attrPath, "hard", attrLink, "e/f").
		do(sendstream.CmdSymlink, attrPath, "link", attrLink, "../../etc").
		path(sendstream.CmdMkfifo, "fifo").path(sendstream.CmdMksock, "sock").
		do(sendstream.CmdMknod, attrPath, "null", sendstream.AttrMode, 0o20666, sendstream.AttrRdev, 0x103).
		path(sendstream.CmdMkfile, "g").
		do(sendstream.CmdClone, attrPath, "g", sendstream.AttrFileOffset, 0, sendstream.AttrCloneLen, 8192, sendstream.AttrCloneUUID, uuid,
			sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, "e/f", sendstream.AttrCloneOffset, 0).
		do(sendstream.CmdTruncate, attrPath, "g", sendstream.AttrSize, 5000).
		do(sendstream.CmdSetXattr, attrPath, "g", sendstream.AttrXattrName, "user.a", sendstream.AttrXattrData, "v").
		do(sendstream.CmdSetXattr, attrPath, "g", sendstream.AttrXattrName, "user.b", sendstream.AttrXattrData, "w").
		do(sendstream.CmdRemoveXattr, attrPath, "g", sendstream.AttrXattrName, "user.b").
		do(sendstream.CmdChown, attrPath, "g", sendstream.AttrUID, 5, sendstream.AttrGID, 6).
		do(sendstream.CmdChmod, attrPath, "g", sendstream.AttrMode, 0o750).
		do(sendstream.CmdUpdateExtent, attrPath, "g", sendstream.AttrFileOffset, 0, sendstream.AttrSize, 4096)
	if version >= 2 {
		s.do(sendstream.CmdFallocate, attrPath, "g", sendstream.AttrFallocateMode, 1, sendstream.AttrFileOffset, 8192, sendstream.AttrSize, 65536).
			do(sendstream.CmdFallocate, attrPath, "e/f", sendstream.AttrFallocateMode, 3, sendstream.AttrFileOffset, 4096, sendstream.AttrSize, 4096).
			do(sendstream.CmdFileattr, attrPath, "g", sendstream.AttrFileattr, 16)
	}
	return s.times("g").times("").path(sendstream.CmdUnlink, "fifo").path(sendstream.CmdMkdir, "r").path(sendstream.CmdRmdir, "r").end()
}

// ourIncrement goes on from ourSeed(…, "s", uuidA).
func ourIncrement(t testing.TB) []byte {
	return newScript(t, 2).snapshot("u", uuidA).path(sendstream.CmdUnlink, "hard").write("e/f", 10, "new").write("e/f", 3<<20, "far").
		do(sendstream.CmdRename, attrPath, "e/f", attrPathTo, "g").path(sendstream.CmdRmdir, "e").
		do(sendstream.CmdClone, attrPath, "g", sendstream.AttrFileOffset, 16384, sendstream.AttrCloneLen, 4096, sendstream.AttrCloneUUID, uuidA,
			sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, "e/f", sendstream.AttrCloneOffset, 4096).
		do(sendstream.CmdFallocate, attrPath, "g", sendstream.AttrFallocateMode, 0, sendstream.AttrFileOffset, 1<<20, sendstream.AttrSize, 1<<20).
		times("g").end()
}

// ourTwo has two subvolumes in one stream, and a second stream behind it.
func ourTwo(t testing.TB) []byte {
	in := newScript(t, 1).subvolAs("v", "CCCCCCCCCCCCCCCC").path(sendstream.CmdMkfile, "f").write("f", 0, "data").
		snapshot("w", "CCCCCCCCCCCCCCCC").write("f", 2, "more").end()
	return append(in, newScript(t, 2).subvolAs("x", "DDDDDDDDDDDDDDDD").path(sendstream.CmdMkfile, "f").end()...)
}

// TestSeeds receives the seeds whole, each on the image that broken ones are received into.
func TestSeeds(t *testing.T) {
	if *updateSeeds {
		makeSeeds(t)
	}
	before, list := seeds(t)
	b := newBase(t, before...)
	seen := map[uint16]bool{}
	for i, in := range list {
		if err := b.receive(t, in, receive.Options{}, true); err != nil {
			t.Errorf("seed %d: %v", i, err)
		}
		b.likePlain(t, in)
		p := takeApart(in)
		if got := p.join(); string(got) != string(in) {
			t.Errorf("seed %d of %d bytes was put together to %d", i, len(in), len(got))
		}
		for _, c := range p.cmds {
			seen[c.num] = true
		}
	}
	for c := sendstream.CmdSubvol; c <= sendstream.CmdEncodedWrite; c++ {
		if !seen[uint16(c)] {
			t.Errorf("no seed has %v", c)
		}
	}
}

// makeSeeds lets the kernel make the snapshots k0 and k1 and send them.
func makeSeeds(t *testing.T) {
	oracle.NeedRoot(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 256<<20)
	m := oracle.Mount(t, img)
	defer m.Unmount()
	m.KernelSubvolume("k")
	p := func(parts ...string) string { return m.Path(append([]string{"k"}, parts...)...) }
	write := func(name, data string) { t.Helper(); must(os.WriteFile(p(name), []byte(data), 0o644)) }
	must(os.MkdirAll(p("d", "e"), 0o755))
	write("d/f", strings.Repeat("some data ", 1000))
	must(os.Link(p("d/f"), p("hard")))
	must(os.Symlink("../d/f", p("link")))
	must(unix.Mkfifo(p("fifo"), 0o600))
	must(unix.Setxattr(p("d/f"), "user.a", []byte("value"), 0))
	write("gone", "gone")
	write("swap", "swap")
	write("inline", "inline")
	must(os.Mkdir(p("prop"), 0o755))
	for _, c := range []string{"zstd", "lzo", "zlib"} {
		write("prop/"+c, "")
		m.Btrfs("property", "set", p("prop", c), "compression", c)
		write("prop/"+c, strings.Repeat(c, 4000))
	}
	f, err := os.Create(p("sparse"))
	must(err)
	_, err = f.WriteAt([]byte("far"), 1<<20)
	must(err)
	must(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 4<<20, 1<<16))
	must(f.Close())
	m.KernelSnapshot("k", "k0", true)
	must(os.Remove(p("gone")))
	must(os.Rename(p("d", "e"), p("e")))
	must(os.Rename(p("d"), p("e", "d")))
	must(os.Remove(p("swap")))
	must(os.Mkdir(p("swap"), 0o700))
	must(os.Chmod(p("inline"), 0o600))
	must(os.Chown(p("inline"), 3, 4))
	must(os.Truncate(p("hard"), 5000))
	write("prop/zstd", strings.Repeat("again", 5000))
	src, err := os.Open(p("prop", "lzo"))
	must(err)
	dst, err := os.Create(p("cloned"))
	must(err)
	must(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())))
	must(src.Close())
	must(unix.Fallocate(int(dst.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 4096))
	must(dst.Close())
	m.KernelSnapshot("k", "k1", true)
	must(os.MkdirAll(filepath.Dir(seedFile("x")), 0o755))
	for _, s := range kernelSeeds {
		must(os.WriteFile(seedFile(s.name), m.KernelSend(s.subvol, s.parent, s.flags...), 0o644))
	}
}
