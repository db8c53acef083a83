package send_test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/mutate"
	"imgtool/engine/internal/oracle"
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

// dumped is what btrfs receive --dump makes of a stream.
func dumped(t *testing.T, stream []byte) []string {
	t.Helper()
	cmd := exec.Command("btrfs", "receive", "--dump")
	cmd.Stdin = bytes.NewReader(stream)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("btrfs receive --dump: %v", err)
	}
	return strings.Split(string(out), "\n")
}

var dataCommand = regexp.MustCompile(`^(?:write|clone|update_extent|encoded_write) +(.*\S) +offset=(\d+) len=(\d+)(?: unencoded_file_len=(\d+))?`)

// merged replaces writes and clones by the ranges of files that they bring, neighbours joined: where there are several
// places with the same data any of them may be cloned from, and what is cloned in one piece from one may take two from
// another.
func merged(lines []string) []string {
	var out []string
	path, from, to := "", uint64(0), uint64(0)
	flush := func() {
		if path != "" {
			out = append(out, fmt.Sprintf("data %s [%d, %d)", path, from, to))
		}
		path = ""
	}
	for _, l := range lines {
		m := dataCommand.FindStringSubmatch(l)
		if m == nil {
			flush()
			out = append(out, l)
			continue
		}
		var off, n uint64
		_, _ = fmt.Sscan(m[2], &off)
		_, _ = fmt.Sscan(cmp.Or(m[4], m[3]), &n)
		if m[1] != path || off != to {
			flush()
			path, from = m[1], off
		}
		to = off + n
	}
	flush()
	return out
}

// sameCommands reports whether two streams are the same, byte by byte or but for how the data gets there.
func sameCommands(t *testing.T, a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, y := merged(dumped(t, a)), merged(dumped(t, b))
	short := map[string]bool{}
	for _, l := range dumped(t, b) {
		if m := shortInline.FindStringSubmatch(l); m != nil {
			short[m[1]] = true
		}
	}
	forgotten := func(l string) bool {
		m := dataOrSize.FindStringSubmatch(l)
		return m != nil && short[m[1]]
	}
	return slices.Equal(slices.DeleteFunc(x, forgotten), slices.DeleteFunc(y, forgotten))
}

// shortInline is a compressed inline extent, dataOrSize what may follow it: where it unpacks to less than its range the
// kernel forgets to send the rest, or the file's size, and we do not. The manifests tell who is right.
var (
	shortInline = regexp.MustCompile(`^encoded_write +(.*\S) +offset=0 len=\d+ unencoded_file_len=(?:\d{1,3}|[123]\d{3}) `)
	dataOrSize  = regexp.MustCompile(`^(?:data|truncate) +(.*\S) +(?:\[\d+, \d+\)|size=\d+)$`)
)

// firstDifference says where two streams differ, as form shows their dumps.
func firstDifference(form func([]string) []string, t *testing.T, ours, theirs []byte) string {
	a, b := form(dumped(t, ours)), form(dumped(t, theirs))
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			from := max(0, i-6)
			return fmt.Sprintf("at line %d of %d and %d\nours:\n%s\nthe kernel's:\n%s", i, len(a), len(b),
				strings.Join(a[from:min(i+6, len(a))], "\n"), strings.Join(b[from:min(i+6, len(b))], "\n"))
		}
	}
	return fmt.Sprintf("%d and %d lines, %d and %d bytes", len(a), len(b), len(ours), len(theirs))
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
			} else if !sameCommands(t, ours[name+c.name], s.streams[name+c.name]) {
				t.Errorf("seed %d: %s of %s: the streams differ: %s", seed, c.name, name, firstDifference(merged, t, ours[name+c.name], s.streams[name+c.name]))
			} else {
				t.Logf("seed %d: %s of %s: %s", seed, c.name, name, firstDifference(slices.Clone[[]string], t, ours[name+c.name], s.streams[name+c.name]))
			}
		}
	}
	var out bytes.Buffer
	err = fs.Send(t.Context(), &out, engine.SendOptions{Path: s.names[len(s.names)-1], ParentPath: s.names[1], ClonePaths: s.names[:2]})
	if err != nil || !sameCommands(t, out.Bytes(), s.streams["sources"]) {
		t.Errorf("seed %d: with clone sources: %v, the streams differ: %s", seed, err, firstDifference(merged, t, out.Bytes(), s.streams["sources"]))
	} else if !bytes.Equal(out.Bytes(), s.streams["sources"]) {
		t.Logf("seed %d: with clone sources: %s", seed, firstDifference(slices.Clone[[]string], t, out.Bytes(), s.streams["sources"]))
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
