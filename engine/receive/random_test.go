package receive_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"imgtool/engine/internal/oracle"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// randomStream makes streams as senders make them, mixed with commands that come out of the blue: names that are taken or
// not there, directories that move, files that grow over what a batch holds.
type randomStream struct {
	*script
	*rand.Rand
	n    int    // inodes made
	soft []byte // for compressed pieces
}

// path is one of few paths, so that commands meet.
func (s *randomStream) path() string {
	p := ""
	for range s.IntN(3) {
		p += fmt.Sprintf("d%d/", s.IntN(4))
	}
	if s.IntN(4) == 0 {
		return p + fmt.Sprintf("d%d", s.IntN(4))
	}
	return p + fmt.Sprintf("f%d", s.IntN(30))
}

// newInode is what a sender does for a new inode: a temporary name, its own, content, attributes.
func (s *randomStream) newInode() {
	temp, path := fmt.Sprintf("o%d-7-0", 257+s.n), s.path()
	s.n++
	kind := s.IntN(12)
	dir := strings.HasPrefix(path[strings.LastIndexByte(path, '/')+1:], "d")
	switch {
	case dir:
		s.script.path(sendstream.CmdMkdir, temp)
	case kind == 0:
		s.do(sendstream.CmdSymlink, attrPath, temp, attrLink, "../target")
	case kind == 1:
		s.do(sendstream.CmdMknod, attrPath, temp, sendstream.AttrMode, 0o20600, sendstream.AttrRdev, 0x103)
	default:
		s.script.path(sendstream.CmdMkfile, temp)
	}
	if s.IntN(20) > 0 {
		s.do(sendstream.CmdRename, attrPath, temp, attrPathTo, path)
	} else {
		path = temp
	}
	if s.IntN(5) == 0 {
		s.xattr(path)
	}
	if !dir && kind > 1 {
		s.content(path)
	}
	s.do(sendstream.CmdChown, attrPath, path, sendstream.AttrUID, s.IntN(3), sendstream.AttrGID, s.IntN(3))
	s.do(sendstream.CmdChmod, attrPath, path, sendstream.AttrMode, s.IntN(0o10000))
	if s.IntN(8) > 0 {
		s.times(path)
	}
}

// content writes pieces, most of them one behind the other.
func (s *randomStream) content(path string) {
	off, pieces := 0, s.IntN(3)
	if s.IntN(60) == 0 {
		pieces = 10 + s.IntN(60) // up to some MiB
	}
	for range pieces {
		n := []int{0, 1, 100, 2000, 4096, 5000, 48 << 10}[s.IntN(7)]
		if pieces > 3 {
			n = 48 << 10
		}
		if s.IntN(4) == 0 {
			n = 1 + s.IntN(min(128<<10, 1<<s.IntN(18)))
			skip := 4096 * s.IntN(1+min(2, n/4097)) // now and then only the end of what is in it
			if s.soft == nil {
				s.soft = squashy(s.Rand)
			}
			s.frame(path, off, skip, s.soft[:n])
			n -= skip
		} else {
			s.write(path, off, strings.Repeat(string(rune('a'+s.IntN(26))), n))
		}
		if off += n; s.IntN(15) == 0 {
			off = max(0, off+[]int{-4096, -1, 1, 4096, 100_000}[s.IntN(5)])
		}
	}
	if s.IntN(4) == 0 {
		s.do(sendstream.CmdTruncate, attrPath, path, sendstream.AttrSize, off)
	}
}

func (s *randomStream) xattr(path string) {
	name := fmt.Sprintf("user.%d", s.IntN(4))
	if s.IntN(3) == 0 {
		s.do(sendstream.CmdRemoveXattr, attrPath, path, sendstream.AttrXattrName, name)
		return
	}
	n := s.IntN(100)
	if s.IntN(20) == 0 {
		n = 5000 + s.IntN(12000) // up to more than an item holds
	}
	s.do(sendstream.CmdSetXattr, attrPath, path, sendstream.AttrXattrName, name, sendstream.AttrXattrData, strings.Repeat("v", n))
}

// anything is one command, without any reason.
func (s *randomStream) anything() {
	a, b := s.path(), s.path()
	block := func() int { return 4096 * s.IntN(8) }
	switch s.IntN(13) {
	case 0, 1:
		s.do(sendstream.CmdRename, attrPath, a, attrPathTo, b)
	case 2:
		s.do(sendstream.CmdLink, attrPath, a, attrLink, b)
	case 3:
		s.script.path(sendstream.CmdUnlink, a)
	case 4:
		s.script.path(sendstream.CmdRmdir, a)
	case 5:
		s.do(sendstream.CmdTruncate, attrPath, a, sendstream.AttrSize, s.IntN(60000))
	case 6:
		s.content(a)
	case 7:
		s.do(sendstream.CmdClone, attrPath, a, sendstream.AttrFileOffset, block(), sendstream.AttrCloneLen, block(), sendstream.AttrCloneUUID, uuidB,
			sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, b, sendstream.AttrCloneOffset, block())
	case 8:
		s.do(sendstream.CmdFallocate, attrPath, a, sendstream.AttrFallocateMode, []int{0, 1, 3, 16}[s.IntN(4)], sendstream.AttrFileOffset, block(),
			sendstream.AttrSize, block())
	case 9:
		s.xattr(a)
	case 10:
		s.do(sendstream.CmdChmod, attrPath, a, sendstream.AttrMode, s.IntN(0o10000))
	case 11:
		s.times(a)
	case 12:
		s.script.path([]sendstream.Cmd{sendstream.CmdMkfile, sendstream.CmdMkdir, sendstream.CmdMkfifo}[s.IntN(3)], a)
	}
}

// TestRandomStreams receives random streams, and in the plain way, too.
func TestRandomStreams(t *testing.T) {
	b, seed := newBase(t), oracle.Seed(t)
	rounds := 8
	switch {
	case raceDetector:
		rounds = 3
	case oracle.Soak():
		rounds = 1500
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			s := &randomStream{script: newScript(t, 2), Rand: rand.New(rand.NewPCG(uint64(seed), uint64(round)))}
			s.subvolAs("s", uuidB)
			blue := 1 + s.IntN(30) // one in so many comes out of the blue
			for range 1 << (3 + s.IntN(9)) {
				if s.IntN(blue) == 0 {
					s.anything()
				} else {
					s.newInode()
				}
			}
			in := bytes.Clone(s.end())
			_ = b.receive(t, in, receive.Options{MaxErrors: -1}, true)
			b.likePlain(t, in)
		})
	}
}
