package receive_test

import (
	"bytes"
	"context"
	"math"
	"path/filepath"
	"regexp"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// image is a file system in memory.
type image struct {
	testing.TB
	mem *disk.Mem
	fs  *engine.FS
}

func newImage(t testing.TB, size int64) *image {
	t.Helper()
	im := &image{TB: t, mem: disk.NewMem("test", size)}
	var err error
	im.fs, err = engine.FormatDevice(t.Context(), im.mem, engine.FormatOptions{Options: mkfs.Default(), Size: uint64(size)})
	im.must(err)
	return im
}

func (im *image) must(err error) {
	im.Helper()
	if err != nil {
		im.Fatal(err)
	}
}

// receive receives a stream that must be good.
func (im *image) receive(in []byte, o receive.Options) []receive.Subvolume {
	im.Helper()
	subs, err := im.fs.Receive(im.Context(), bytes.NewReader(in), engine.ReceiveOptions{Options: o})
	im.must(err)
	return subs
}

func (im *image) subvolumes() []string {
	im.Helper()
	list, err := im.fs.Subvolumes(im.Context())
	im.must(err)
	var names []string
	for _, s := range list {
		names = append(names, s.Path)
	}
	return names
}

// manifest is what the engine sees in a subvolume, without inode numbers.
func (im *image) manifest(path string) []byte {
	im.Helper()
	id, err := im.fs.SubvolumeAt(im.Context(), path)
	im.must(err)
	ns, err := im.fs.Namespace(im.Context(), id)
	im.must(err)
	var out bytes.Buffer
	im.must(manifest.Write(im.Context(), &out, ns))
	return noInos(out.Bytes())
}

// close closes the file system and writes what was committed to a file, which btrfs check must accept.
func (im *image) close() string {
	im.Helper()
	im.must(im.fs.Close())
	path := filepath.Join(im.TempDir(), "image")
	im.must(im.mem.WriteFile(path))
	oracle.Check(im, path)
	return path
}

var inoField = regexp.MustCompile(`,"ino":\d+`)

// noInos takes the inode numbers out of a manifest: a receiver has its own.
func noInos(m []byte) []byte { return inoField.ReplaceAll(m, nil) }

// script makes a stream command by command.
type script struct {
	testing.TB
	out    bytes.Buffer
	w      *sendstream.Writer
	starts []int // where the commands begin, and the last one ends
}

func newScript(t testing.TB, version uint32) *script {
	t.Helper()
	s := &script{TB: t}
	var err error
	if s.w, err = sendstream.NewWriter(&s.out, version); err != nil {
		t.Fatal(err)
	}
	s.must(s.w.Header())
	s.starts = append(s.starts, s.out.Len())
	return s
}

func (s *script) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// do adds a command; attributes are pairs of type and a string or an int.
func (s *script) do(c sendstream.Cmd, attrs ...any) *script {
	s.Helper()
	s.w.Begin(c)
	for i := 0; i < len(attrs); i += 2 {
		switch v := attrs[i+1].(type) {
		case string:
			s.w.String(attrs[i].(sendstream.AttrType), v)
		case int:
			s.w.Uint(attrs[i].(sendstream.AttrType), uint64(v))
		}
	}
	s.must(s.w.End())
	s.starts = append(s.starts, s.out.Len())
	return s
}

const uuidA, uuidB = "AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB"

func (s *script) subvol(name string) *script {
	s.Helper()
	return s.subvolAs(name, uuidA)
}

func (s *script) subvolAs(name, uuid string) *script {
	s.Helper()
	return s.do(sendstream.CmdSubvol, sendstream.AttrPath, name, sendstream.AttrUUID, uuid, sendstream.AttrCTransID, 7)
}

func (s *script) snapshot(name, parent string) *script {
	s.Helper()
	return s.do(sendstream.CmdSnapshot, sendstream.AttrPath, name, sendstream.AttrUUID, uuidB, sendstream.AttrCTransID, 9,
		sendstream.AttrCloneUUID, parent, sendstream.AttrCloneCTransID, 7)
}

func (s *script) path(c sendstream.Cmd, path string) *script {
	s.Helper()
	return s.do(c, sendstream.AttrPath, path)
}

func (s *script) write(path string, off int, data string) *script {
	s.Helper()
	return s.do(sendstream.CmdWrite, sendstream.AttrPath, path, sendstream.AttrFileOffset, off, sendstream.AttrData, data)
}

// times sets the times of an inode.
func (s *script) times(path string) *script {
	s.Helper()
	s.w.Begin(sendstream.CmdUtimes)
	s.w.String(sendstream.AttrPath, path)
	for _, t := range []sendstream.AttrType{sendstream.AttrATime, sendstream.AttrMTime, sendstream.AttrCTime} {
		s.w.Time(t, 1700000000, 5)
	}
	s.must(s.w.End())
	s.starts = append(s.starts, s.out.Len())
	return s
}

func (s *script) end() []byte {
	s.Helper()
	s.do(sendstream.CmdEnd)
	return s.out.Bytes()
}

// errReceive receives a stream and returns the error.
func (im *image) errReceive(in []byte, o receive.Options) error {
	im.Helper()
	_, err := im.fs.Receive(im.Context(), bytes.NewReader(in), engine.ReceiveOptions{Options: o})
	return err
}

// openCopy opens a copy of the device as it is now, as after a power cut.
func (im *image) openCopy() *image {
	im.Helper()
	c := &image{TB: im.TB, mem: im.mem.Clone()}
	var err error
	c.fs, err = engine.OpenDevices(context.Background(), []disk.Device{c.mem}, engine.OpenOptions{})
	im.must(err)
	return c
}

func readFile(t testing.TB, im *image, path string) string {
	t.Helper()
	ns, err := im.fs.Namespace(t.Context(), ondisk.FSTree)
	im.must(err)
	n, err := ns.Walk(t.Context(), path, false)
	im.must(err)
	it, err := n.Inode(t.Context())
	im.must(err)
	b := make([]byte, it.Size())
	if len(b) > 0 {
		_, err = n.Tree.ReadAt(t.Context(), n.Ino, b, 0)
		im.must(err)
	}
	return string(b)
}

// compressed counts the compressed extents of a subvolume that are not inline.
func (im *image) compressed(path string) (n int) {
	im.Helper()
	id, err := im.fs.SubvolumeAt(im.Context(), path)
	im.must(err)
	tree, err := im.fs.Subvolume(im.Context(), id)
	im.must(err)
	var visit func(dir ondisk.ObjectID)
	visit = func(dir ondisk.ObjectID) {
		es, err := tree.Entries(im.Context(), dir)
		im.must(err)
		for _, e := range es {
			switch e.Type {
			case ondisk.FTDir:
				visit(e.Ino())
			case ondisk.FTReg:
				im.must(tree.Extents(im.Context(), e.Ino(), 0, math.MaxInt64, func(x inode.Extent) (bool, error) {
					if x.Compression != ondisk.CompressNone && x.Type == ondisk.FileExtentReg {
						n++
					}
					return true, nil
				}))
			}
		}
	}
	visit(inode.RootDir)
	return n
}
