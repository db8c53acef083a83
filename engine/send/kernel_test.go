package send_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/mutate"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
	"imgtool/engine/send"
)

// mode is one way of sending.
type mode struct {
	name  string
	flags []string // of btrfs send
	o     send.Options
}

var modes = []mode{
	{"v1", nil, send.Options{Version: 1}},
	{"v2", []string{"--proto", "2"}, send.Options{Version: 2}},
	{"compressed", []string{"--compressed-data"}, send.Options{Version: 2, Compressed: true}},
	{"no-data", []string{"--no-data"}, send.Options{NoData: true}},
}

// snapshots is an image with snapshots of one subvolume that the kernel has made and changed, and what the kernel sends
// of them.
type snapshots struct {
	image   string
	names   []string
	streams map[string][]byte // by name and mode
	want    map[string][]byte // manifests
}

var inoField = regexp.MustCompile(`,"ino":\d+`)

func noInos(m []byte) []byte { return inoField.ReplaceAll(m, nil) }

// making is how kernelSnapshots makes them.
type making struct {
	n, steps int
	only     string // operations, see mutate.Mutator
	apart    bool   // not snapshots of one subvolume, but subvolumes of their own: the same numbers are other inodes
	mkfs     []string
}

func kernelSnapshots(t *testing.T, seed int64, k making, mount ...string) *snapshots {
	s := &snapshots{image: filepath.Join(t.TempDir(), "img"), streams: map[string][]byte{}, want: map[string][]byte{}}
	oracle.Mkfs(t, s.image, 512<<20, k.mkfs...)
	m := oracle.Mount(t, s.image, oracle.Opts(append(mount, "noatime")...))
	m.KernelSubvolume("a")
	mut := mutate.New(t, seed, 0, m.Path("a"))
	mut.Only = k.only
	for i := range k.n {
		if k.apart && i > 0 {
			m.KernelSync() // another generation
			m.KernelSubvolume(fmt.Sprint("a", i))
			mut.Dir, mut.N = m.Path(fmt.Sprint("a", i)), 0
		}
		mut.Steps(k.steps)
		name := fmt.Sprint("s", i)
		m.KernelSnapshot(filepath.Base(mut.Dir), name, true)
		s.names = append(s.names, name)
		s.want[name] = noInos(m.ManifestOf(name))
	}
	// Now that all is done: which of several clone sources is taken depends on the references at the time.
	parent := ""
	for _, name := range s.names {
		for _, c := range modes {
			s.streams[name+c.name] = m.KernelSend(name, parent, c.flags...)
		}
		parent = name
	}
	last := s.names[len(s.names)-1]
	s.streams["sources"] = m.KernelSend(last, s.names[1], "-c", m.Path(s.names[0]), "-c", m.Path(s.names[1]))
	m.Unmount()
	return s
}

// sent is what we send.
func (s *snapshots) sent(t *testing.T, fs *engine.FS, i int, o send.Options) []byte {
	t.Helper()
	so := engine.SendOptions{Path: s.names[i], Options: o}
	if i > 0 {
		so.ParentPath = s.names[i-1]
	}
	var out bytes.Buffer
	if err := fs.Send(t.Context(), &out, so); err != nil {
		t.Fatalf("%s: %v", s.names[i], err)
	}
	return out.Bytes()
}

// TestKernel compares our streams of what the kernel has made with the kernel's own, byte by byte, and lets the kernel
// receive ours.
func TestKernel(t *testing.T) {
	oracle.NeedRoot(t)
	rounds := 1
	if oracle.Soak() {
		rounds = 100
	}
	seed := oracle.Seed(t)
	for round := range rounds {
		for i, mount := range []string{"compress=no", "compress-force=zstd", "compress-force=lzo"} {
			t.Run(fmt.Sprintf("%s/%d", mount, round), func(t *testing.T) {
				kernelRound(t, seed+int64(3*round+i), making{n: 3, steps: 120}, mount)
			})
		}
	}
}

// TestKernelNames is TestKernel with names and directories only, and many of them, with subvolumes that have nothing to
// do with one another, and with small blocks.
func TestKernelNames(t *testing.T) {
	oracle.NeedRoot(t)
	rounds := 1
	if oracle.Soak() {
		rounds = 150
	}
	seed := oracle.Seed(t)
	const dirs = " mkdir movedir exchange remove rename small link replace retype "
	for round := range rounds {
		for i, k := range []making{
			{n: 3, steps: 120, only: dirs},
			{n: 3, steps: 60, only: " mkdir movedir exchange "},
			{n: 3, steps: 80, apart: true},
			{n: 3, steps: 60, only: dirs, apart: true},
			{n: 3, steps: 120, mkfs: []string{"-n", "4096", "-O", "^no-holes"}}, // explicit holes, and trees of three levels
		} {
			if !oracle.Soak() && i%2 == 1 {
				continue
			}
			t.Run(fmt.Sprintf("%d/%d", i, round), func(t *testing.T) { kernelRound(t, seed+int64(4*round+i), k, "compress=no") })
		}
	}
}

func kernelRound(t *testing.T, seed int64, k making, mount string) {
	s := kernelSnapshots(t, seed, k, mount)
	fs, err := engine.Open(t.Context(), s.image, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string][]byte{}
	sameBytes := 0
	for _, c := range modes {
		for i, name := range s.names {
			ours[name+c.name] = s.sent(t, fs, i, c.o)
			if bytes.Equal(ours[name+c.name], s.streams[name+c.name]) {
				sameBytes++
			} else if l, where := samestream.Compare(t, ours[name+c.name], s.streams[name+c.name]); l == samestream.Different {
				t.Errorf("seed %d: %s of %s: the streams differ %s", seed, c.name, name, where)
			} else {
				t.Logf("seed %d: %s of %s: %v %s", seed, c.name, name, l, where)
			}
		}
	}
	var out bytes.Buffer
	err = fs.Send(t.Context(), &out, engine.SendOptions{Path: s.names[len(s.names)-1], ParentPath: s.names[1], ClonePaths: s.names[:2]})
	if err != nil {
		t.Fatal(err)
	}
	if l, where := samestream.Compare(t, out.Bytes(), s.streams["sources"]); l == samestream.Different {
		t.Errorf("seed %d: with clone sources: the streams differ %s", seed, where)
	} else if l != samestream.SameBytes {
		t.Logf("seed %d: with clone sources: %v %s", seed, l, where)
	}
	t.Logf("%d of %d streams are the same bytes", sameBytes, len(ours))
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range modes[:3] {
		img := filepath.Join(t.TempDir(), "img")
		oracle.Mkfs(t, img, 512<<20)
		m := oracle.Mount(t, img)
		for _, name := range s.names {
			m.KernelReceive("", ours[name+c.name])
			if diff := oracle.ManifestDiff(noInos(m.ManifestOf(name)), s.want[name]); diff != "" {
				t.Errorf("seed %d: %s of %s: received (-), the source (+):\n%s", seed, c.name, name, diff)
			}
		}
		m.Unmount()
		if err := os.Remove(img); err != nil {
			t.Fatal(err)
		}
	}
}
