package sendstream

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"imgtool/engine/internal/oracle"
)

// dump is what a Dumper prints of all streams in in.
func dump(t *testing.T, in []byte) string {
	t.Helper()
	var out bytes.Buffer
	r, d := NewReader(bytes.NewReader(in)), NewDumper(&out, time.Local)
	for {
		if err := r.Begin(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for end := false; !end; {
			c, err := r.Next()
			if err == nil {
				err = d.Print(c)
			}
			if err != nil {
				t.Fatal(err)
			}
			end = c.Cmd == CmdEnd
		}
	}
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// compareDump compares with `btrfs receive --dump`.
func compareDump(t *testing.T, in []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stream")
	if err := os.WriteFile(file, in, 0o600); err != nil {
		t.Fatal(err)
	}
	want, got := oracle.Btrfs(t, "receive", "--dump", "-f", file), dump(t, in)
	if got != want {
		w, g := bytes.Split([]byte(want), []byte("\n")), bytes.Split([]byte(got), []byte("\n"))
		for i := range min(len(w), len(g)) {
			if !bytes.Equal(w[i], g[i]) {
				t.Fatalf("line %d:\n%s\nbtrfs prints:\n%s", i+1, g[i], w[i])
			}
		}
		t.Fatalf("%d lines, btrfs prints %d", len(g), len(w))
	}
}

// TestDump compares the text of every command, with hard names, with that of btrfs-progs.
func TestDump(t *testing.T) {
	oracle.NeedProgs(t, 6, 14)
	for v := uint32(1); v <= 2; v++ {
		compareDump(t, sample(t, v))
	}
}

// TestKernelStreams reads what the kernel sends, writes it again byte for byte, and prints it as btrfs does.
func TestKernelStreams(t *testing.T) {
	oracle.NeedProgs(t, 6, 14)
	oracle.NeedRoot(t)
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 256<<20)
	m := oracle.Mount(t, img, oracle.Opts("compress-force=zstd"))
	m.KernelSubvolume("a")
	oracle.Run(t, "sh", "-ec", `cd "$1"; mkdir d; echo hi >d/f; seq 1 90000 >big; cp --reflink=always big d/clone; ln d/f 'd/a b'
		ln -s ../x link; mknod c c 300 70000; mkfifo p; setfattr -n user.x -v 'a b' d/f; truncate -s 1M hole; fallocate -l 64k pre`,
		"sh", m.Path("a"))
	m.KernelSnapshot("a", "s1", true)
	oracle.Run(t, "sh", "-ec", `cd "$1"; mv d e; rm p; chmod 600 big; fallocate -p -o 65536 -l 65536 big; setfattr -x user.x e/f; chattr +A e/f`,
		"sh", m.Path("a"))
	m.KernelSnapshot("a", "s2", true)
	for _, parent := range []string{"", "s1"} {
		for _, flags := range [][]string{nil, {"--no-data"}, {"--proto", "2"}, {"--proto", "2", "--compressed-data"}} {
			in := m.KernelSend("s2", parent, flags...)
			out, n, err := copyStream(in)
			if err != nil || n < 10 || !bytes.Equal(in, out) {
				t.Fatalf("parent %q %v: %d commands, %d bytes became %d: %v", parent, flags, n, len(in), len(out), err)
			}
			compareDump(t, in)
		}
	}
}
