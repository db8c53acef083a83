package send_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
)

var topLines = regexp.MustCompile(`(?m)^\{"path":"(\.|s0)".*\n`)

// noTop takes the top directory out of a manifest, in which the second snapshot has a stub of the first that is not sent.
func noTop(m []byte) []byte { return topLines.ReplaceAll(m, nil) }

// TestMkfsRootdir sends what mkfs.btrfs --rootdir has made, whose inodes are all of generation 0 and whose symbolic links
// hold the NUL behind their target, too: as it is, and against it what the kernel has changed. Our streams are the
// kernel's, and both sides receive them.
func TestMkfsRootdir(t *testing.T) {
	oracle.NeedRoot(t)
	src := t.TempDir()
	for _, dir := range []string{"a/b", "c", "gone/deep"} {
		if err := os.MkdirAll(filepath.Join(src, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"one", "two"} {
			if err := os.WriteFile(filepath.Join(src, dir, name), bytes.Repeat([]byte(name), 5000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	oracle.Run(t, "sh", "-ec", `cd "$0"; ln a/b/one c/hard; ln -s ../a/b c/soft; ln -s c top; mkfifo c/pipe`, src)
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 512<<20, "--rootdir", src)
	oracle.Check(t, img)

	m := oracle.Mount(t, img)
	m.KernelSnapshot("", "s0", true)
	oracle.Run(t, "sh", "-ec", `cd "$0"; mv a/b c/b; mv c a/c; rm -r gone; mkdir gone; ln -s x gone/new; mv top a/c/top; rm a/c/hard; echo more >>a/c/b/two`, m.Dir)
	m.KernelSnapshot("", "s1", true)
	names := []string{"s0", "s1"}
	want, kernel := map[string][]byte{}, map[string][]byte{}
	parent := ""
	for _, name := range names {
		want[name] = noInos(m.ManifestOf(name))
		for _, c := range modes[:2] {
			kernel[name+c.name] = m.KernelSend(name, parent, c.flags...)
		}
		parent = name
	}
	m.Unmount()

	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	s := &snapshots{names: names}
	for _, c := range modes[:2] {
		for i, name := range names {
			ours := s.sent(t, fs, i, c.o)
			if l, where := samestream.Compare(t, ours, kernel[name+c.name]); l != samestream.SameBytes {
				t.Errorf("%s of %s: the streams are not the same bytes: %v %s", c.name, name, l, where)
			}
		}
		back := filepath.Join(t.TempDir(), "back"+c.name)
		oracle.Mkfs(t, back, 512<<20)
		to, err := engine.Open(t.Context(), back, engine.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := to.Receive(t.Context(), bytes.NewReader(kernel[name+c.name]), engine.ReceiveOptions{}); err != nil {
				t.Errorf("%s of %s: %v", c.name, name, err)
			}
		}
		if err := to.Close(); err != nil {
			t.Fatal(err)
		}
		m := oracle.Mount(t, back)
		for _, name := range names {
			if diff := oracle.ManifestDiff(noTop(noInos(m.ManifestOf(name))), noTop(want[name])); diff != "" {
				t.Errorf("%s of %s: received (-), the source (+):\n%s", c.name, name, diff)
			}
		}
		m.Unmount()
	}
}
