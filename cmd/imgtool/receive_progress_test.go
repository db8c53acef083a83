package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"imgtool/engine/sendstream"
)

// testStream is a send stream under way: a subvolume, full or against a parent, with files of 48 KiB.
type testStream struct {
	*testing.T
	bytes.Buffer
	w        *sendstream.Writer
	commands int
}

// newTestStream begins a stream of the subvolume name with the UUID of sixteen times id, from the one of parent if that
// is not 0.
func newTestStream(t *testing.T, name string, id, parent byte) *testStream {
	s := &testStream{T: t}
	var err error
	if s.w, err = sendstream.NewWriter(&s.Buffer, 1); err == nil {
		err = s.w.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	s.subvol(name, id, parent)
	return s
}

func (s *testStream) subvol(name string, id, parent byte) *testStream {
	uuid := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	if parent == 0 {
		s.w.Begin(sendstream.CmdSubvol)
	} else {
		s.w.Begin(sendstream.CmdSnapshot)
		s.w.Bytes(sendstream.AttrCloneUUID, uuid(parent))
		s.w.Uint(sendstream.AttrCloneCTransID, 7)
	}
	s.w.String(sendstream.AttrPath, name)
	s.w.Bytes(sendstream.AttrUUID, uuid(id))
	s.w.Uint(sendstream.AttrCTransID, 7)
	return s.done()
}

func (s *testStream) done() *testStream {
	s.Helper()
	s.commands++
	if err := s.w.End(); err != nil {
		s.Fatal(err)
	}
	return s
}

// file makes a file.
func (s *testStream) file(name string) *testStream {
	s.w.Begin(sendstream.CmdMkfile)
	s.w.String(sendstream.AttrPath, name)
	s.done()
	s.w.Begin(sendstream.CmdWrite)
	s.w.String(sendstream.AttrPath, name)
	s.w.Uint(sendstream.AttrFileOffset, 0)
	s.w.Bytes(sendstream.AttrData, bytes.Repeat([]byte(name[:1]), 48<<10))
	return s.done()
}

func (s *testStream) end() *testStream {
	s.w.Begin(sendstream.CmdEnd)
	return s.done()
}

// TestReceiveProgress: a bar on a terminal while the stream comes, lines above it, and one at the end.
func TestReceiveProgress(t *testing.T) {
	img := filepath.Join(t.TempDir(), "a.img")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	master, slave := openTerminal(t)
	s := newTestStream(t, "s", 'A', 0)
	for s.Len() < 1<<20 {
		s.file(string(rune('a' + s.commands)))
	}
	cmd := exec.Command("imgtool", "receive", "--progress", img)
	cmd.Stderr = slave
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		_, err = in.Write(s.Bytes())
	}
	if err != nil {
		t.Fatal(err)
	}
	var shown []byte
	read := func(until string) {
		t.Helper()
		for buf := make([]byte, 1024); !strings.Contains(string(shown), until); {
			n, err := master.Read(buf)
			if shown = append(shown, buf[:n]...); err != nil || len(shown) > 1<<20 {
				t.Fatalf("no %q: %v, %q", until, err, shown)
			}
		}
	}
	read("receive 1.0 MiB")
	if !strings.Contains(string(shown), "At subvol s\r\n") {
		t.Errorf("no line above the bar: %q", shown)
	}
	s.Reset()
	if _, err := in.Write(s.end().Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	read("subvolumes received: 1;")
	checkImage(t, img)
}

// TestStreamSize: the total is known of what is left of a regular file.
func TestStreamSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Seek(300, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, c := range []struct {
		in   io.Reader
		want uint64
	}{{f, 700}, {r, 0}, {strings.NewReader("text"), 0}} {
		if got := streamSize(c.in); got != c.want {
			t.Errorf("%T: %d, want %d", c.in, got, c.want)
		}
	}
}

// TestReceiveOneStream: -e takes its stream and not a byte more, so that the next one gets the next.
func TestReceiveOneStream(t *testing.T) {
	dir := t.TempDir()
	img, path := filepath.Join(dir, "a.img"), filepath.Join(dir, "streams")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	var both []byte
	for _, name := range []string{"s", "t"} {
		both = append(both, newTestStream(t, name, name[0], 0).file("a").file("b").end().Bytes()...)
	}
	if err := os.WriteFile(path, append(both, "what follows"...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, name := range []string{"s", "t"} {
		cmd := exec.Command("imgtool", "receive", "-e", img)
		cmd.Stdin = f
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "At subvol "+name+"\n" {
			t.Errorf("%v: %s", err, out)
		}
	}
	if rest, err := io.ReadAll(f); err != nil || string(rest) != "what follows" {
		t.Errorf("%q is left: %v", rest, err)
	}
	checkImage(t, img)
}
