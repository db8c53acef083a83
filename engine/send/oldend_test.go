package send_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
)

// TestOldEnd sends files that were cut off within a sector in the parent, and have what they had before again: by a clone
// from an older snapshot, or since what is sent is the older snapshot. Both trees have the same extent there. At the
// receiver what lies behind the parent's end is zeros, whatever the extent has.
func TestOldEnd(t *testing.T) {
	oracle.NeedRoot(t)
	for _, mount := range []string{"compress=no", "compress-force=zstd"} {
		t.Run(mount, func(t *testing.T) { oldEnd(t, mount) })
	}
}

func oldEnd(t *testing.T, mount string) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 512<<20)
	m := oracle.Mount(t, img, oracle.Opts(mount))
	m.KernelSubvolume("a")
	files := []struct {
		name      string
		size, cut int64
	}{{"sector", 4096, 100}, {"within", 4000, 100}, {"second", 8192, 5000}, {"more", 20000, 5000}, {"whole", 8192, 4096}, {"again", 8192, 5000}}
	noise := rand.NewChaCha8([32]byte{1})
	for _, f := range files {
		data := make([]byte, f.size)
		_, _ = noise.Read(data)
		must(os.WriteFile(m.Path("a", f.name), data, 0o644))
		must(os.WriteFile(m.Path("a", f.name+"-soft"), bytes.Repeat([]byte(f.name), int(f.size))[:f.size], 0o644))
	}
	m.KernelSnapshot("a", "s0", true)
	each := func(fn func(path, name string, size, cut int64)) {
		for _, f := range files {
			for _, name := range []string{f.name, f.name + "-soft"} {
				fn(m.Path("a", name), name, f.size, f.cut)
			}
		}
	}
	each(func(path, _ string, _, cut int64) { must(os.Truncate(path, cut)) })
	m.KernelSnapshot("a", "s1", true)
	each(func(path, name string, size, _ int64) {
		must(os.Truncate(path, 0))
		to, err := os.OpenFile(path, os.O_RDWR, 0)
		must(err)
		from, err := os.Open(m.Path("s0", name))
		must(err)
		must(unix.IoctlFileClone(int(to.Fd()), int(from.Fd())))
		if size == 8192 { // its second sector once more, behind something new: it may be cloned within the file
			_, err = to.WriteAt(bytes.Repeat([]byte("new"), 5000), size)
			must(err)
			must(to.Sync())
			must(unix.IoctlFileCloneRange(int(to.Fd()), &unix.FileCloneRange{Src_fd: int64(from.Fd()), Src_offset: 4096, Src_length: 4096, Dest_offset: 32768}))
		}
		must(from.Close())
		must(to.Close())
	})
	m.KernelSnapshot("a", "s2", true)
	m.KernelSnapshot("s0", "s3", true) // and back again
	s := &snapshots{image: img, names: []string{"s0", "s1", "s2", "s1", "s3"}, streams: map[string][]byte{}, want: map[string][]byte{}}
	for i, name := range s.names {
		s.want[name] = noInos(m.ManifestOf(name))
		for _, c := range modes {
			if i > 0 {
				s.streams[fmt.Sprint(i, c.name)] = m.KernelSend(name, s.names[i-1], c.flags...)
			}
		}
	}
	m.Unmount()

	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	must(err)
	ours := map[string][]byte{}
	for _, c := range modes {
		for i, name := range s.names {
			key := fmt.Sprint(i, c.name)
			ours[key] = s.sent(t, fs, i, c.o)
			if i == 0 {
				continue
			}
			want := samestream.SameRanges
			if name == "s2" || name == "s3" {
				want = samestream.OldEnd
			}
			if l, where := samestream.Compare(t, ours[key], s.streams[key]); l > want {
				t.Errorf("%s of %s: the streams are %v, want %v: %s", c.name, name, l, want, where)
			}
		}
	}
	must(fs.Close())
	for _, c := range modes[:3] {
		for _, receiver := range []string{"kernel", "imgtool"} {
			if receiver == "imgtool" && c.name == "v2" {
				continue // nothing that the others have not
			}
			img := filepath.Join(t.TempDir(), "img")
			oracle.Mkfs(t, img, 512<<20)
			if receiver == "imgtool" {
				to, err := engine.Open(t.Context(), img, engine.OpenOptions{})
				must(err)
				for i := range s.names {
					if i != 3 { // it is there
						_, err := to.Receive(t.Context(), bytes.NewReader(ours[fmt.Sprint(i, c.name)]), engine.ReceiveOptions{})
						must(err)
					}
				}
				must(to.Close())
				oracle.Check(t, img)
			}
			m := oracle.Mount(t, img)
			for i, name := range s.names {
				if receiver == "kernel" && i != 3 {
					m.KernelReceive("", ours[fmt.Sprint(i, c.name)])
				}
				if diff := oracle.ManifestDiff(noInos(m.ManifestOf(name)), s.want[name]); diff != "" {
					t.Errorf("%s of %s by %s: received (-), the source (+):\n%s", c.name, name, receiver, diff)
				}
			}
			m.Unmount()
			must(os.Remove(img))
		}
	}
}
