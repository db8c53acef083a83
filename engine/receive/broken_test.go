package receive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
)

// broken is a base image with the seeds and where their commands begin.
type broken struct {
	*base
	list   [][]byte
	starts [][]int // of each, with the end of the last command
}

func newBroken(t *testing.T) *broken {
	before, list := seeds(t)
	b := &broken{base: newBase(t, before...), list: list}
	for _, in := range list {
		var starts []int
		for at := headerLen; at+cmdLen <= len(in) && string(in[at:min(len(in), at+4)]) != "btrf"; {
			starts = append(starts, at)
			at += cmdLen + int(binary.LittleEndian.Uint32(in[at:]))
		}
		last := starts[len(starts)-1]
		b.starts = append(b.starts, append(starts, last+cmdLen+int(binary.LittleEndian.Uint32(in[last:]))))
	}
	return b
}

// each calls f for every command: the stream that it is in, where it begins and ends.
func (b *broken) each(f func(in []byte, from, to int)) {
	for i, in := range b.list {
		for j := range len(b.starts[i]) - 1 {
			f(in, b.starts[i][j], b.starts[i][j+1])
		}
	}
}

// values lists the attributes of a command as ranges of the stream: of the header (type and length), of the value.
func values(in []byte, from, to int) (list [][3]int) {
	version := in[13]
	for at := from + cmdLen; at+4 <= to; {
		head, n := 4, int(binary.LittleEndian.Uint16(in[at+2:]))
		if binary.LittleEndian.Uint16(in[at:]) == uint16(sendstream.AttrData) && version >= 2 {
			head, n = 2, to-at-2
		}
		list = append(list, [3]int{at, at + head, at + head + n})
		at += head + n
	}
	return list
}

// places are the bytes of a command that are worth a flip: all of the header but for the checksum and of the attributes'
// headers, all of short values, the ends and a few more of long ones.
func places(in []byte, from, to int) []int {
	at := []int{from, from + 1, from + 2, from + 3, from + 4, from + 5}
	for _, v := range values(in, from, to) {
		step := 1
		for i := v[0]; i < v[2]; i += step {
			at = append(at, i)
			if step = 1; v[2]-v[1] > 64 && i >= v[1]+8 && i < v[2]-8 {
				step = max(1, (v[2]-v[1])/16)
			}
		}
	}
	return at
}

// TestEveryByte flips every bit of what streams mean, with the checksums mended: each bit under soak, else of each command
// one of the header and three others.
func TestEveryByte(t *testing.T) {
	b, rng := newBroken(t), rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 11))
	flips, failed := 0, 0
	flip := func(in []byte, at int, bit byte) {
		bad := bytes.Clone(in)
		bad[at] ^= bit
		o := receive.Options{ForceDecompress: flips%3 == 1, KeepPartial: flips%5 == 4, MaxErrors: flips % 7 % 2 * -1}
		flips++
		if b.receive(t, mendAll(bad), o, false) != nil {
			failed++
		}
	}
	b.each(func(in []byte, from, to int) {
		at := places(in, from, to)
		if !oracle.Soak() {
			at[0] = at[rng.IntN(6)]
			for i := 1; i < min(4, len(at)); i++ {
				at[i] = at[rng.IntN(len(at))]
			}
			at = at[:min(4, len(at))]
		}
		for _, i := range at {
			defer func() {
				if t.Failed() {
					t.Logf("byte %d of a stream of %d bytes", i, len(in))
				}
			}()
			if !oracle.Soak() {
				flip(in, i, 1<<rng.IntN(8))
				continue
			}
			for bit := range 8 {
				flip(in, i, 1<<bit)
			}
		}
	})
	t.Logf("%d flips, %d streams failed", flips, failed)
	if failed == 0 || failed == flips {
		t.Errorf("%d of %d streams failed: the flips do not meet what they are to meet", failed, flips)
	}
}

// TestLengths sets the length of each command and of each attribute to 0, one less, one more, and all ones, with the
// checksums mended: no such stream can be taken. Under soak all of them, else a seventh.
func TestLengths(t *testing.T) {
	b, seed := newBroken(t), int(uint64(oracle.Seed(t))%7)
	n := 0
	b.each(func(in []byte, from, to int) {
		try := func(at int, size int) {
			var old [8]byte
			copy(old[:size], in[at:])
			v := binary.LittleEndian.Uint64(old[:])
			for _, w := range []uint64{0, v - 1, v + 1, 1<<(8*size) - 1} {
				w &= 1<<(8*size) - 1
				if n++; w == v || !oracle.Soak() && n%7 != seed {
					continue
				}
				bad := bytes.Clone(in)
				var new [8]byte
				binary.LittleEndian.PutUint64(new[:], w)
				copy(bad[at:], new[:size])
				if err := b.receive(t, mendAll(bad), receive.Options{}, false); !errors.Is(err, sendstream.ErrDamaged) {
					t.Errorf("length at byte %d of %d set from %d to %d: %v", at, len(in), v, w, err)
				}
			}
		}
		try(from, 4)
		for _, v := range values(in, from, to) {
			if v[1]-v[0] == 4 {
				try(v[0]+2, 2)
			}
		}
	})
	t.Logf("%d lengths", n)
}

// TestCutAnywhere cuts the seeds at each command, in its header and in the middle of it.
func TestCutAnywhere(t *testing.T) {
	b := newBroken(t)
	b.each(func(in []byte, from, to int) {
		for _, cut := range []int{from, from + 5, min((from+cmdLen+to)/2, to-1)} {
			err := b.receive(t, in[:cut], receive.Options{KeepPartial: cut%2 == 0}, false)
			if !errors.Is(err, sendstream.ErrDamaged) {
				t.Fatalf("cut at %d of %d: %v", cut, len(in), err)
			}
		}
	})
}

// TestLongPaths: a path has at most 4095 bytes, wherever it stands; a longer one is refused in few words, and a tree that
// is as deep as that allows goes through.
func TestLongPaths(t *testing.T) {
	b := newBase(t)
	deep := strings.Repeat("a/", 1<<15)[:1<<16-1]
	start := func() *script { return newScript(t, 2).subvol("s").path(sendstream.CmdMkfile, "f") }
	for name, s := range map[string]*script{
		"subvol":   newScript(t, 2).subvol(deep),
		"mkfile":   start().path(sendstream.CmdMkfile, deep),
		"symlink":  start().do(sendstream.CmdSymlink, attrPath, "l", attrLink, deep),
		"rename":   start().do(sendstream.CmdRename, attrPath, "f", attrPathTo, deep),
		"link":     start().do(sendstream.CmdLink, attrPath, "l", attrLink, deep),
		"truncate": start().do(sendstream.CmdTruncate, attrPath, deep, sendstream.AttrSize, 0),
		"4096":     start().do(sendstream.CmdTruncate, attrPath, deep[:4096], sendstream.AttrSize, 0),
		"clone": start().do(sendstream.CmdClone, attrPath, "f", sendstream.AttrFileOffset, 0, sendstream.AttrCloneLen, 1, sendstream.AttrCloneUUID, uuidA,
			sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, deep, sendstream.AttrCloneOffset, 0),
	} {
		err := b.receive(t, s.end(), receive.Options{}, true)
		if !errors.Is(err, fserr.ErrNameTooLong) || len(err.Error()) > 600 {
			t.Errorf("%s: %v", name, err)
		}
	}
	im := newImage(t, 256<<20)
	s := start()
	for n := 1; n < 4095; n += 2 {
		s.path(sendstream.CmdMkdir, deep[:n])
	}
	im.receive(s.path(sendstream.CmdMkfile, deep[:4095]).write(deep[:4095], 0, "bottom").end(), receive.Options{})
	var sent bytes.Buffer
	im.must(im.fs.Send(t.Context(), &sent, engine.SendOptions{Path: "s"}))
	to := newImage(t, 256<<20)
	to.receive(sent.Bytes(), receive.Options{})
	below := func(m []byte) []byte { return m[bytes.IndexByte(m, '\n')+1:] } // the top's times are not sent again after 64 others, as with the kernel
	if diff := oracle.ManifestDiff(below(to.manifest("s")), below(im.manifest("s"))); diff != "" {
		t.Errorf("sent and received again (-) it is not what it was (+):\n%.2000s", diff)
	}
	im.close()
	to.close()
}

// TestBusyStream: what a stream can ask for in a few bytes takes no more time and memory than those few bytes are worth,
// or is refused.
func TestBusyStream(t *testing.T) {
	b := newBase(t)
	const huge = 1<<63 - 4097 // the largest file
	start := func() *script {
		return newScript(t, 2).subvol("s").path(sendstream.CmdMkfile, "f").write("f", 0, "data")
	}
	falloc := func(mode, off, n int) *script {
		return start().do(sendstream.CmdFallocate, attrPath, "f", sendstream.AttrFallocateMode, mode, sendstream.AttrFileOffset, off, sendstream.AttrSize, n)
	}
	for _, c := range []struct {
		name string
		s    *script
		want error // nil: it is done
	}{
		{"truncate", start().do(sendstream.CmdTruncate, attrPath, "f", sendstream.AttrSize, huge), nil},
		{"truncate by one more", start().do(sendstream.CmdTruncate, attrPath, "f", sendstream.AttrSize, huge+1), fserr.ErrFileTooBig},
		{"truncate beyond", start().do(sendstream.CmdTruncate, attrPath, "f", sendstream.AttrSize, -1), fserr.ErrFileTooBig},
		{"write at the end", start().write("f", huge-4, "data"), nil},
		{"write beyond", start().write("f", huge-3, "data"), fserr.ErrFileTooBig},
		{"preallocate all", falloc(0, 0, huge), fserr.ErrNoSpace},
		{"punch all", falloc(3, 0, huge), nil},
		{"another mode", falloc(16, 0, 4096), fserr.ErrNotSup},
	} {
		if err := b.receive(t, c.s.end(), receive.Options{}, true); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestEdited changes streams in ways that make sense, some commands at a time, and receives them in the plain way, too.
func TestEdited(t *testing.T) {
	b, rng := newBroken(t), rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 12))
	n := 300
	if oracle.Soak() {
		n = 40_000
	}
	var donors []*parts
	for _, in := range b.list {
		donors = append(donors, takeApart(in))
	}
	for range n {
		i := rng.IntN(len(b.list))
		program := make([]byte, 8*(1+rng.IntN(12)))
		for j := range program {
			program[j] = byte(rng.Uint32())
		}
		p := takeApart(b.list[i])
		p.edit(program, donors)
		stream := p.join()
		t.Run(fmt.Sprintf("%d-%x", i, program), func(t *testing.T) {
			_ = b.receive(t, stream, receive.Options{MaxErrors: -1}, false)
			b.likePlain(t, stream)
		})
	}
}
