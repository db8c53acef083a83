package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/manifest"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// alternation is one image on which the kernel and the engine take turns, and a shadow: a second file system on which
// the kernel does every operation, the engine's too. After each round three manifests must agree: what the engine
// reads, what a mount of the image shows, and, but for inode numbers and the time of day, what the shadow shows. The
// answers (done, or which error) must agree at every operation.
type alternation struct {
	t          *testing.T
	rnd        *rand.Rand
	img        string
	shadow     *oracle.Mounted
	m          *model
	chunks     chunkCounter
	done, fail [2][opKinds]int // by who did it: engine, kernel
	links      int             // hard links made in one directory
	log        []string        // what was done since the start
	big        []string        // directories of bigThings
}

// chunkCounter counts the chunks that the engine has made, by type.
type chunkCounter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *chunkCounter) Trace(e trace.Event) {
	if e.Kind == trace.ChunkAllocated {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.n[e.Note]++
	}
}

// alternateCase says how the image is made and how it is mounted in the kernel's rounds.
type alternateCase struct {
	name     string
	nodesize int
	mkfs     []string
	mounts   []string // taken in turn
	rounds   int
	ops      int
}

// TestAlternate lets the kernel and the engine change one image in turn.
func TestAlternate(t *testing.T) {
	oracle.NeedRoot(t)
	mounts := []string{"compress-force=zstd:3", "compress-force=lzo", "noatime", "compress-force=zlib:9", "autodefrag"}
	cases := []alternateCase{{"4k", 4096, nil, mounts, 4, 200}}
	if oracle.Soak() {
		cases = []alternateCase{
			{"4k", 4096, nil, mounts, 40, 400},
			{"16k-blake2", 16384, []string{"--csum", "blake2", "-O", "block-group-tree"}, mounts, 20, 250},
			{"16k-old", 16384, []string{"-O", "^no-holes,^free-space-tree", "-m", "single"}, mounts, 20, 250},
			{"64k-xxhash", 65536, []string{"--csum", "xxhash"}, mounts, 20, 250},
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { alternate(t, c) })
	}
}

func alternate(t *testing.T, c alternateCase) {
	seed := oracle.Seed(t)
	a := &alternation{t: t, rnd: rand.New(rand.NewPCG(uint64(seed), uint64(c.nodesize))), chunks: chunkCounter{n: map[string]int{}}}
	// What an item may hold, less its header and the xattr's (fs/btrfs/ctree.h, BTRFS_MAX_XATTR_SIZE).
	a.m = newModel(a.rnd, 2*c.ops, min(c.nodesize-101-25-30, 65536))
	args := append([]string{"-n", fmt.Sprint(c.nodesize)}, c.mkfs...)
	dir := t.TempDir()
	a.img = filepath.Join(dir, "image")
	// A small file system that has grown has small block groups, so that new chunks are needed early.
	oracle.Mkfs(t, a.img, 160<<20, args...)
	shadow := filepath.Join(dir, "shadow")
	oracle.Mkfs(t, shadow, 4<<30, args...)
	a.shadow = oracle.Mount(t, shadow, oracle.AllowComplaints())
	must(t, os.Truncate(a.img, 4<<30))
	m := a.mount()
	m.Btrfs("filesystem", "resize", "max", m.Dir)
	a.unmount(m)
	for round := range c.rounds {
		start := time.Now()
		if round%2 == 0 {
			a.engineRound(round, c.ops)
		} else {
			a.kernelRound(round, c.ops, c.mounts[round/2%len(c.mounts)])
		}
		ops := time.Since(start)
		a.compare(round)
		t.Logf("round %d: %v and %v to compare", round, ops.Round(time.Millisecond), (time.Since(start) - ops).Round(time.Millisecond))
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	a.unmount(a.shadow)
	// The low-memory mode of btrfs check 6.14 finds "errors found in fs roots", without saying which, in what the kernel
	// alone has written, too; it is only asked where it has nothing against the shadow.
	if low := (oracle.CheckOptions{LowMem: true}); oracle.CheckErr(t, low, shadow) == nil {
		must(t, oracle.CheckErr(t, low, a.img))
	}
	a.report(c)
}

// mount mounts the image. The kernel may say one thing about it that is no fault, see unmount.
func (a *alternation) mount(o ...oracle.MountOption) *oracle.Mounted {
	a.t.Helper()
	return oracle.Mount(a.t, a.img, append(o, oracle.AllowComplaints())...)
}

// unmount is oracle's Unmount, which also fails the test for what the kernel complained about, but for its warning that
// free-space caches of version 1 will not be supported forever.
func (a *alternation) unmount(m *oracle.Mounted) {
	a.t.Helper()
	m.Unmount()
	for _, c := range m.Complaints() {
		if !strings.Contains(c.Text, "space cache v1 is being deprecated") {
			a.t.Errorf("the kernel complains: %v", c)
		}
	}
}

// refusals are the errors that random operations may end with where there is no shadow to say which.
var refusals = []error{unix.EEXIST, unix.ENOTEMPTY, unix.EROFS, unix.EXDEV, unix.EINVAL, unix.EPERM, unix.EBUSY, unix.ENOSPC,
	unix.EOVERFLOW, unix.EISDIR, unix.ENOTDIR, unix.EMLINK, unix.E2BIG, unix.ERANGE, unix.EOPNOTSUPP, unix.EACCES, unix.EFBIG}

// both does an operation on the image and, if there is one, on the shadow.
func (a *alternation) both(target opTarget, who int, o op) {
	a.t.Helper()
	got := target.do(o)
	want := got
	if a.shadow != nil {
		want = kernelTarget{a.shadow.Dir}.do(o)
	} else if got != nil && !slices.Contains(refusals, got) {
		a.t.Fatalf("%v: %v", o, got)
	}
	// Of several reasons to refuse, the kernel gives the read-only snapshot first and the other subvolume last.
	if got != want && (got == nil || want == nil || want != error(unix.EROFS) && got != error(unix.EXDEV)) {
		a.t.Fatalf("%v: %s says %v, on the shadow the kernel says %v", o, []string{"engine", "kernel"}[who], got, want)
	}
	a.log = append(a.log, fmt.Sprintf("%v: %v", o, got))
	if got != nil {
		a.fail[who][o.kind]++
		return
	}
	a.done[who][o.kind]++
	a.m.applied(o)
}

func (a *alternation) random(target opTarget, who, n int, each func(i int)) {
	a.t.Helper()
	for i := range n {
		o := a.m.next()
		for !a.m.fits(o) {
			o = a.m.next()
		}
		before := a.done[who][o.kind]
		a.both(target, who, o)
		a.m.done[o.kind] += a.done[who][o.kind] - before
		each(i)
		if a.shadow != nil && i%25 == 0 {
			a.shadow.Complaints() // reads the kernel's log before it is overwritten
		}
	}
}

func (a *alternation) engineRound(round, n int) {
	t, ctx := a.t, a.t.Context()
	t.Helper()
	fs, err := engine.Open(ctx, a.img, engine.OpenOptions{Tracer: &a.chunks, MaxDirty: 1 << 20})
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer func() { _ = fs.Close() }()
	target := engineTarget{ctx, fs}
	if round == 0 {
		a.bigThings(target, 0)
	}
	if round == 4 {
		a.removeBigThings(target, 0)
	}
	a.random(target, 0, n, func(i int) {
		if i == n/2 && round%4 == 0 {
			a.forceChunks(fs) // the kernel balances them in its next round
		}
		if i%40 == 39 {
			must(t, fs.Commit(ctx))
		}
		if i%100 == 99 {
			must(t, fs.CleanSubvolumes(ctx))
		}
	})
	must(t, fs.Commit(ctx))
	live := engineManifest(t, fs)
	used(t, fs)
	must(t, fs.Close())
	oracle.Check(t, a.img)
	if d := oracle.ManifestDiff(live, imageManifest(t, a.img)); d != "" {
		t.Fatalf("round %d: the engine before closing and after:\n%s", round, d)
	}
}

func (a *alternation) kernelRound(round, n int, options string) {
	t := a.t
	t.Helper()
	m := a.mount(oracle.Opts(options, "commit=2"))
	target := kernelTarget{m.Dir}
	if round == 1 && oracle.Soak() {
		a.bigThings(target, 1)
	}
	a.random(target, 1, n, func(i int) {
		switch {
		case i == n/3:
			m.KernelBalance("-musage=100,limit=2", "-dusage=100,limit=2")
		case i == n/2 && round%4 == 1:
			m.KernelBalance("-s", "-f")
		case i == n*2/3:
			oracle.Run(t, "btrfs", "filesystem", "defragment", "-r", "-czstd", m.Dir)
			// Defragmenting leaves content and times alone.
		}
	})
	if round%4 == 1 {
		m.Btrfs("subvolume", "sync", m.Dir)
	} // otherwise the engine has to go on with what is not deleted yet
	a.unmount(m)
	oracle.Check(t, a.img)
}

// compare compares the three manifests.
func (a *alternation) compare(round int) {
	t := a.t
	t.Helper()
	ours := imageManifest(t, a.img)
	m := a.mount(oracle.Opts("ro"))
	kernel := oracle.Manifest(t, m.Dir)
	a.unmount(m)
	if d := oracle.ManifestDiff(ours, kernel); d != "" {
		t.Errorf("round %d: the engine (-) and the kernel's mount (+):\n%s\n%s", round, d, a.history(d))
	}
	shadow := oracle.Manifest(t, a.shadow.Dir)
	if d := oracle.ManifestDiff(timeless(t, ours), timeless(t, shadow)); d != "" {
		t.Errorf("round %d: the image (-) and the shadow (+):\n%s\n%s", round, d, a.history(d))
	}
}

// history lists what was done to the first path that a difference of manifests names, and to names like its last part.
func (a *alternation) history(diff string) string {
	_, rest, _ := strings.Cut(diff, `"path":"`)
	p, _, _ := strings.Cut(rest, `"`)
	var b strings.Builder
	fmt.Fprintf(&b, "%d operations; of %s:\n", len(a.log), p)
	for i, line := range a.log {
		if base := filepath.Base(p); strings.Contains(line, `/`+base+`"`) || strings.Contains(line, `"`+base+`"`) {
			fmt.Fprintf(&b, "%d %s\n", i, line)
		}
	}
	return b.String()
}

// bigThings are what no random operation would reach: 1,000 names of one inode in one directory, names of equal hash
// until their item is full, a file of more than 128 MiB (several extents, a new data chunk), and on the engine's turn
// so many small files that metadata needs a new chunk, too.
func (a *alternation) bigThings(target opTarget, who int) {
	t := a.t
	t.Helper()
	dir := fmt.Sprintf("big%d", who)
	ok := func(o op) {
		t.Helper()
		before := a.done[who][o.kind]
		a.both(target, who, o)
		if a.done[who][o.kind] == before {
			t.Fatalf("%v failed", o)
		}
	}
	done, fail := a.done, a.fail
	for _, d := range []string{dir, dir + "/links", dir + "/equal", dir + "/many"} {
		ok(op{kind: opMkdir, path: d, mode: 0o755})
	}
	ok(op{kind: opCreate, path: dir + "/file", mode: 0o644})
	for i := range 1000 {
		ok(op{kind: opLink, path: dir + "/file", to: fmt.Sprintf("%s/links/link number %d of the file", dir, i)})
		a.links++
	}
	for i, name := range equalHashNames(80) {
		o := op{kind: opCreate, path: dir + "/equal/" + name, mode: 0o600}
		if a.both(target, who, o); i == 60 && a.fail == fail {
			break // nodes larger than 4 KiB hold them all
		}
	}
	for i := range 50 {
		a.both(target, who, op{kind: opLink, path: dir + "/file", to: dir + "/equal/" + equalHashNames(200)[100+i]})
	}
	ok(op{kind: opCreate, path: dir + "/large", mode: 0o644})
	const large = 130 << 20
	for off := int64(0); off < large; off += 10 << 20 {
		ok(op{kind: opWrite, path: dir + "/large", off: off, n: 10 << 20, seed: uint64(off)>>20 + uint64(who)})
	}
	ok(op{kind: opWrite, path: dir + "/large", off: 300 << 20, n: 5000, seed: 1})
	if who == 0 {
		many := 3000
		if oracle.Soak() {
			many = 16000
		}
		for i := range many {
			p := fmt.Sprintf("%s/many/%d", dir, i)
			ok(op{kind: opCreate, path: p, mode: 0o644})
			ok(op{kind: opWrite, path: p, n: 1900, seed: uint64(i)})
		}
	}
	a.m.top.children[dir].hidden = true // the random operations leave it alone
	a.done, a.fail = done, fail         // and the mix is theirs
	a.big = append(a.big, dir)
}

// removeBigThings removes what bigThings made, so that later rounds are quick.
func (a *alternation) removeBigThings(target opTarget, who int) {
	a.t.Helper()
	done, fail := a.done, a.fail
	for _, dir := range a.big {
		top := a.m.top.children[dir]
		top.hidden = false
		for _, p := range slices.Backward(a.m.all()) {
			if p.path != dir && !strings.HasPrefix(p.path, dir+"/") {
				continue
			}
			kind := opUnlink
			if p.n.kind == nodeDir {
				kind = opRmdir
			}
			a.both(target, who, op{kind: kind, path: p.path})
		}
		if a.m.top.children[dir] != nil {
			a.t.Fatalf("%s is still there", dir)
		}
	}
	a.done, a.fail, a.big = done, fail, nil
}

// report prints the figures and holds them to what was promised.
func (a *alternation) report(c alternateCase) {
	t := a.t
	total, kinds := 0, [opKinds]int{}
	for who := range a.done {
		for k, n := range a.done[who] {
			kinds[k] += n
			total += n
		}
	}
	var mix strings.Builder
	for k := range opKinds {
		fmt.Fprintf(&mix, " %v %.1f%% (%d+%d, refused %d+%d)", k, 100*float64(kinds[k])/float64(total), a.done[0][k], a.done[1][k], a.fail[0][k], a.fail[1][k])
		if kinds[k]*100 < total {
			t.Errorf("only %d of %d operations were %v", kinds[k], total, k)
		}
	}
	t.Logf("%d rounds, %d operations done:%s", c.rounds, total, &mix)
	t.Logf("%d links in two directories; chunks made by the engine: %v", a.links, a.chunks.n)
	if a.chunks.n["Data"] == 0 {
		t.Error("the engine had no need of a data chunk")
	}
	if a.chunks.n["System"] == 0 {
		t.Error("the engine made no system chunk")
	}
	if oracle.Soak() && a.chunks.n["Metadata"] == 0 {
		t.Error("the engine had no need of a metadata chunk")
	}
}

func engineManifest(t testing.TB, fs *engine.FS) []byte {
	t.Helper()
	ns, err := fs.Namespace(t.Context(), ondisk.FSTree)
	must(t, err)
	return namespaceManifest(t, ns)
}

func namespaceManifest(t testing.TB, ns *inode.Namespace) []byte {
	t.Helper()
	var b bytes.Buffer
	must(t, manifest.Write(t.Context(), &b, ns))
	return b.Bytes()
}

// imageManifest is the manifest of an image opened for reading.
func imageManifest(t testing.TB, img string, others ...string) []byte {
	t.Helper()
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true, Devices: others})
	must(t, err)
	defer func() { must(t, fs.Close()) }()
	return engineManifest(t, fs)
}

// timeless takes out of a manifest what two file systems cannot have in common: inode numbers, and times unless they
// were set on purpose (to something in the last century).
func timeless(t testing.TB, m []byte) []byte {
	t.Helper()
	const century21 = 946_684_800_000_000_000
	var b bytes.Buffer
	for line := range bytes.Lines(m) {
		var e map[string]any
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		must(t, d.Decode(&e))
		delete(e, "ino")
		n, err := e["mtime"].(json.Number).Int64()
		must(t, err)
		if n > century21 {
			e["mtime"] = 0
		}
		out, err := json.Marshal(e)
		must(t, err)
		b.Write(append(out, '\n'))
	}
	return b.Bytes()
}
