package sendtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
)

// imageSize is that of all images, in bytes; they are sparse.
const imageSize = 2 << 30

// config is how a batch of pairs is made and sent.
type config struct {
	seed     uint64 // of the first pair; the others follow
	pairs    int
	byEngine bool
	mkfs     []string // for mkfs.btrfs
	compress string   // of the kernel's mount, "" for none
	proto    int
	encoded  bool // --compressed-data
}

func (c config) String() string {
	return fmt.Sprintf("seed %d, %d pairs, by the engine %v, mkfs %v, compress %q, protocol %d, --compressed-data %v",
		c.seed, c.pairs, c.byEngine, c.mkfs, c.compress, c.proto, c.encoded)
}

// flags are those of `btrfs send`.
func (c config) flags() []string {
	if c.encoded {
		return []string{"--proto", "2", "--compressed-data"}
	}
	return []string{"--proto", fmt.Sprint(c.proto)}
}

// configOf varies what a batch is made with: 24 in a row have each maker with each way of sending and each compression.
func configOf(seed uint64, i, pairs int) config {
	way, more := i/2%3, i/6 // v1, v2, v2 with --compressed-data
	c := config{seed: seed + uint64(i)*1000, pairs: pairs, byEngine: i%2 == 1, proto: min(1+way, 2), encoded: way == 2}
	c.compress = []string{"", "zstd", "lzo", "zlib"}[(way+more)%4]
	c.mkfs = [][]string{nil, {"-n", "4096"}, {"-O", "^no-holes,^block-group-tree"}}[(way+more)%3]
	return c
}

// options are mkfs for our own.
func (c config) options(t testing.TB) mkfs.Options {
	t.Helper()
	o := mkfs.Default()
	for i := 0; i+1 < len(c.mkfs); i += 2 {
		switch c.mkfs[i] {
		case "-n":
			o.NodeSize = 4096
		case "-O":
			must(t, o.Features.Parse(c.mkfs[i+1]))
		}
	}
	return o
}

// pair is one that was made.
type pair struct {
	prefix    string
	seed      uint64
	ops, tail []op
	manifests map[string][]byte // of the snapshots, by letter
	inos      map[string]uint64 // of the paths of snapshot a
	scene     string            // of oddScenes, in place of the seed
	nested    bool              // there are subvolumes in it
}

// source is an image with pairs in it, not mounted and not open.
type source struct {
	config
	path  string
	pairs []*pair
}

// makeSource makes pairs. with is called while the image is mounted, when all are there.
func makeSource(t *testing.T, c config, with func(m *oracle.Mounted, p *pair)) *source {
	t.Helper()
	t.Log(c)
	s := &source{config: c, path: filepath.Join(t.TempDir(), "source")}
	for i := range c.pairs {
		p := &pair{prefix: fmt.Sprint("p", i), seed: c.seed + uint64(i), manifests: map[string][]byte{}}
		p.ops, p.tail = generate(p.seed)
		s.pairs = append(s.pairs, p)
	}
	if c.byEngine {
		mem, fs := newMem(t, c.options(t))
		s.make(t, &engineMaker{ctx: t.Context(), fs: fs, compress: c.compress != ""})
		must(t, fs.CleanSubvolumes(t.Context()))
		must(t, fs.Commit(t.Context()))
		must(t, fs.Close())
		must(t, mem.WriteFile(s.path))
		oracle.Check(t, s.path)
	} else {
		oracle.Mkfs(t, s.path, imageSize, c.mkfs...)
	}
	var opts []oracle.MountOption
	if c.compress != "" {
		opts = append(opts, oracle.Opts("compress-force="+c.compress))
	}
	m := oracle.Mount(t, s.path, opts...)
	if !c.byEngine {
		s.make(t, &kernelMaker{m: m})
	}
	for _, p := range s.pairs {
		for _, letter := range []string{"a", "b"} {
			raw := m.ManifestOf(p.prefix + letter)
			if letter == "a" {
				p.inos = inosOf(t, raw)
			}
			p.manifests[letter] = linked(raw)
		}
		if with != nil {
			with(m, p)
		}
	}
	m.Unmount()
	return s
}

func (s *source) make(t *testing.T, m maker) {
	t.Helper()
	for _, p := range s.pairs {
		if err := makePair(m, p.prefix, "", p.ops, nil); err != nil {
			t.Fatalf("pair of seed %d: %v\n%s", p.seed, err, text(p.ops))
		}
	}
}

// fail reports what is wrong with a pair, with all that it takes to repeat it.
func (p *pair) fail(t *testing.T, format string, args ...any) {
	t.Helper()
	if p.scene != "" {
		t.Errorf("pair %s, %s: %s", p.prefix, p.scene, fmt.Sprintf(format, args...))
		return
	}
	t.Errorf("pair %s of seed %d: %s\noperations:\n%s\nand up to c:\n%s", p.prefix, p.seed, fmt.Sprintf(format, args...), text(p.ops), text(p.tail))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newMem formats a device in memory.
func newMem(t testing.TB, o mkfs.Options) (*disk.Mem, *engine.FS) {
	t.Helper()
	mem := disk.NewMem("received", imageSize)
	fs, err := engine.FormatDevice(t.Context(), mem, engine.FormatOptions{Options: o, Size: imageSize})
	must(t, err)
	return mem, fs
}

// ours is the engine's manifest of a subvolume.
func ours(t testing.TB, fs *engine.FS, name string) []byte {
	t.Helper()
	id, err := fs.SubvolumeAt(t.Context(), name)
	must(t, err)
	ns, err := fs.Namespace(t.Context(), id)
	must(t, err)
	var out bytes.Buffer
	must(t, manifest.Write(t.Context(), &out, ns))
	return linked(out.Bytes())
}

var inoField = regexp.MustCompile(`"ino":(\d+)`)

// linked numbers the inodes of a manifest in the order in which they come. A receiver has numbers of its own, but what
// was one inode is one inode.
func linked(m []byte) []byte {
	numbers := map[string]string{}
	return inoField.ReplaceAllFunc(m, func(f []byte) []byte {
		n, ok := numbers[string(f)]
		if !ok {
			n = fmt.Sprintf(`"ino":%d`, len(numbers))
			numbers[string(f)] = n
		}
		return []byte(n)
	})
}

// inosOf are the inode numbers of a manifest by path; the top is "".
func inosOf(t testing.TB, m []byte) map[string]uint64 {
	t.Helper()
	inos := map[string]uint64{}
	for line := range bytes.Lines(m) {
		var l struct {
			Path string
			Ino  uint64
		}
		must(t, json.Unmarshal(line, &l))
		inos[strings.TrimPrefix(l.Path, ".")] = l.Ino
	}
	return inos
}

// TestGenerator: the same seed gives the same pair, and the hard cases all come up.
func TestGenerator(t *testing.T) {
	seed := uint64(oracle.Seed(t))
	kinds := map[kind]int{}
	for i := range uint64(300) {
		a, tail := generate(seed + i)
		b, _ := generate(seed + i)
		if text(a) != text(b) {
			t.Fatal("not the same")
		}
		for _, o := range append(a, tail...) {
			kinds[o.kind]++
		}
	}
	var names []string
	for k := range kindNames {
		names = append(names, fmt.Sprintf("%s %d", kindNames[k], kinds[kind(k)]))
		if kinds[kind(k)] == 0 {
			t.Errorf("%s never comes", kindNames[k])
		}
	}
	t.Log(strings.Join(names, ", "))
}

// batches are the numbers of batches and of pairs in each.
func batches() (n, pairs int) {
	if oracle.Soak() {
		return 24, 21 // 504 pairs
	}
	return 6, 2
}

func testSeed(t *testing.T) uint64 {
	return rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 3)).Uint64() >> 20
}
