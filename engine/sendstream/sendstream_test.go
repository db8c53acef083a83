package sendstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"imgtool/engine/fserr"
)

// sample is a stream with every command that a version has, and hard values.
func sample(t testing.TB, version uint32) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, version)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Header(); err != nil {
		t.Fatal(err)
	}
	values := map[AttrType]string{AttrPath: "dir x/a\tb\\c\xc3\xa9\x01", AttrPathTo: "to \n", AttrPathLink: "../li nk", AttrClonePath: "fr om",
		AttrXattrName: "user.a b", AttrXattrData: "v \x00\xff", AttrData: "12345", AttrVeritySalt: "salt", AttrVeritySig: ""}
	for c := CmdSubvol; c.info() != nil && c.info().version <= version; c++ {
		if c == CmdEnd {
			continue
		}
		w.Begin(c)
		if c >= CmdMkfile && c <= CmdSymlink {
			w.Uint(AttrIno, 257) // btrfs wants it and does nothing with it
		}
		for i, a := range c.info().needs {
			switch size := a.info().size; size {
			case 16:
				w.Bytes(a, bytes.Repeat([]byte{byte(c), 0xab}, 8))
			case 12:
				w.Time(a, 1700000000+int64(c), 999999999)
			case 0:
				v := values[a]
				if c == CmdSubvol || c == CmdSnapshot {
					v = "sub"
				}
				w.String(a, v)
			default:
				w.Uint(a, uint64(40+i))
			}
		}
		if err := w.End(); err != nil {
			t.Fatal(c, err)
		}
	}
	w.Begin(CmdEnd)
	if err := w.End(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// copyStream reads all streams and writes them again.
func copyStream(in []byte) ([]byte, int, error) {
	r := NewReader(bytes.NewReader(in))
	var out bytes.Buffer
	n := 0
	for {
		if err := r.Begin(); err == io.EOF {
			return out.Bytes(), n, nil
		} else if err != nil {
			return out.Bytes(), n, err
		}
		w, err := NewWriter(&out, r.Version())
		if err != nil {
			return nil, n, err
		}
		if err := w.Header(); err != nil {
			return nil, n, err
		}
		for end := false; !end; n++ {
			c, err := r.Next()
			if err != nil {
				return out.Bytes(), n, err
			}
			if err := w.Command(c); err != nil {
				return nil, n, err
			}
			end = c.Cmd == CmdEnd
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for version, commands := range map[uint32]int{1: 22, 2: 25, 3: 26} {
		in := sample(t, version)
		in = append(in, in...) // two streams in one input
		out, n, err := copyStream(in)
		if err != nil || n != 2*commands || !bytes.Equal(in, out) {
			t.Errorf("version %d: %d commands, %d bytes became %d: %v", version, n, len(in), len(out), err)
		}
	}
}

// raw is a stream of one command with the given body and a good checksum.
func raw(version uint32, c Cmd, body string) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(magic), version)
	h := make([]byte, cmdSize)
	binary.LittleEndian.PutUint32(h, uint32(len(body)))
	binary.LittleEndian.PutUint16(h[4:], uint16(c))
	binary.LittleEndian.PutUint32(h[6:], checksum(checksum(0, h), []byte(body)))
	return append(append(b, h...), body...)
}

const path = "\x0f\x00\x01\x00p"

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		name, want string
		in         []byte
	}{
		{"no magic", "no send stream begins here", []byte("btrfs-strean\x00\x01\x00\x00\x00")},
		{"short header", "breaks off in the stream's header", []byte("btrfs-str")},
		{"no end", "offset 17: the stream breaks off before the end command", raw(1, CmdEnd, "")[:17]},
		{"short command", "breaks off in a command's header", raw(1, CmdEnd, "")[:20]},
		{"short body", "offset 17: the stream breaks off in mkfile", raw(1, CmdMkfile, path)[:29]},
		{"no body", "breaks off in mkfile", raw(1, CmdMkfile, path)[:27]},
		{"command 0", "it is unknown", raw(1, 0, "")},
		{"command 27", "command 27: it is unknown", raw(3, 27, "")},
		{"newer command", "belongs to version 2", raw(1, CmdFallocate, "")},
		{"too long", "at most 65526", append(raw(1, CmdMkfile, "")[:17], 0xff, 0xff, 0, 0, 3, 0, 0, 0, 0, 0)},
		{"far too long", "at most 1048566", append(raw(2, CmdMkfile, "")[:17], 0xff, 0xff, 0xff, 0xff, 3, 0, 0, 0, 0, 0)},
		{"checksum", "checksum", append(raw(1, CmdMkfile, path)[:31], 'q')},
		{"type 0", "type 0", raw(1, CmdMkfile, path+"\x00\x00\x00\x00")},
		{"one byte", "attribute at byte 15: one byte", raw(1, CmdMkfile, path+"\x0f")},
		{"no length", "has no length", raw(1, CmdMkfile, path+"\x10\x00\x00")},
		{"value too long", "of 2 bytes, 1 are left", raw(1, CmdMkfile, "\x0f\x00\x02\x00p")},
		{"wrong size", "size of 7 bytes, it has 8", raw(1, CmdTruncate, path+"\x04\x00\x07\x00\x00\x00\x00\x00\x00\x00\x00")},
		{"twice", "path is there twice", raw(1, CmdMkfile, path+path)},
		{"missing", "no path", raw(1, CmdMkfile, "")},
		{"NUL", "NUL", raw(1, CmdMkfile, "\x0f\x00\x01\x00\x00")},
		{"nanoseconds", "nanoseconds", raw(1, CmdUtimes, path+"\x0b\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xca\x9a\x3b")},
	} {
		_, _, err := copyStream(c.in)
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for _, v := range []byte{0, 4} {
		if _, _, err := copyStream(append([]byte(magic), v, 0, 0, 0)); !errors.Is(err, fserr.ErrNotSup) {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// TestUnknownAttribute: it is kept, and what is known is found behind it.
func TestUnknownAttribute(t *testing.T) {
	r := NewReader(bytes.NewReader(raw(1, CmdMkfile, "\x63\x00\x02\x00xy"+path)))
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	c, err := r.Next()
	if err != nil || c.String(AttrPath) != "p" || c.String(99) != "xy" || c.Offset != 17 {
		t.Fatal(c, err)
	}
}

// TestTargetWithNUL: a link's target may have one at its end, which does not belong to it.
func TestTargetWithNUL(t *testing.T) {
	r := NewReader(bytes.NewReader(raw(1, CmdSymlink, path+"\x11\x00\x02\x00t\x00")))
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	c, err := r.Next()
	if err != nil || c.String(AttrPathLink) != "t" {
		t.Fatal(c, err)
	}
	for _, bad := range []string{"\x11\x00\x03\x00t\x00\x00", "\x11\x00\x03\x00t\x00u"} {
		if _, _, err := copyStream(raw(1, CmdSymlink, path+bad)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestCut: a stream cut anywhere is refused, but for a cut between two streams.
func TestCut(t *testing.T) {
	in := sample(t, 2)
	for n := 1; n < len(in); n++ {
		if _, _, err := copyStream(in[:n]); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	for name, fn := range map[string]func(w *Writer){
		"newer command":  func(w *Writer) { w.Begin(CmdEncodedWrite) },
		"long attribute": func(w *Writer) { w.Begin(CmdWrite); w.Bytes(AttrData, make([]byte, 1<<16)) },
		"long command": func(w *Writer) {
			w.Begin(CmdWrite)
			w.Bytes(AttrXattrData, make([]byte, 1<<15))
			w.Bytes(AttrData, make([]byte, 1<<15))
		},
		"number of a string": func(w *Writer) { w.Begin(CmdMkfile); w.Uint(AttrPath, 1) },
	} {
		var out bytes.Buffer
		w, err := NewWriter(&out, 1)
		if err != nil {
			t.Fatal(err)
		}
		fn(w)
		if err := w.End(); err == nil || out.Len() > 0 {
			t.Errorf("%s: written", name)
		}
	}
	if _, err := NewWriter(io.Discard, 4); !errors.Is(err, fserr.ErrNotSup) {
		t.Error(err)
	}
}

// FuzzReader: error or success, never a panic, and what is read becomes the same bytes when written.
func FuzzReader(f *testing.F) {
	for v := uint32(1); v <= MaxVersion; v++ {
		f.Add(sample(f, v))
	}
	f.Add(raw(2, CmdMkfile, "\x63\x00\x02\x00xy"+path))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, _, err := copyStream(in)
		if err == nil && !bytes.Equal(in, out) || !bytes.HasPrefix(in, out) {
			t.Fatalf("%x became %x: %v", in, out, err)
		}
		// The same with checksums mended, so that more than the checksum is put to the test.
		mended := mend(in)
		if out, _, _ := copyStream(mended); !bytes.HasPrefix(mended, out) {
			t.Fatalf("%x became %x", mended, out)
		}
		r, d := NewReader(bytes.NewReader(mended)), NewDumper(io.Discard, time.UTC)
		for r.Begin() == nil {
			for c, err := r.Next(); err == nil; c, err = r.Next() {
				if err := d.Print(c); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// mend gives the commands of a stream good checksums as far as their lengths can be followed.
func mend(in []byte) []byte {
	b := bytes.Clone(in)
	for at := headerSize; at+cmdSize <= len(b); {
		n := uint64(binary.LittleEndian.Uint32(b[at:]))
		if n > uint64(len(b)-at-cmdSize) {
			break
		}
		clear(b[at+6 : at+10])
		end := at + cmdSize + int(n)
		binary.LittleEndian.PutUint32(b[at+6:], checksum(0, b[at:end]))
		at = end
	}
	return b
}
