package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
)

// imageCase is one way to make an image with mkfs.btrfs and to mount it.
type imageCase struct {
	mkfs  []string
	mount string
}

func (c imageCase) String() string { return strings.Join(append(c.mkfs, c.mount), " ") }

// imageCases has each node size with each checksum. Features, profiles and compressions take turns beside them, with
// periods that have no common factor, so that each meets many of the others.
func imageCases() []imageCase {
	features := []string{"", "^no-holes", "^free-space-tree", "block-group-tree", "^extref", "^skinny-metadata",
		"^free-space-tree,^no-holes,^extref,^skinny-metadata", "block-group-tree,^extref,^skinny-metadata"}
	compress := []string{"compress=zlib", "compress-force=lzo", "compress-force=zstd:15", "compress=no",
		"compress-force=zlib:1", "compress=zstd", "compress=lzo"}
	var list []imageCase
	for _, node := range []string{"4096", "8192", "16384", "32768", "65536"} {
		for _, csum := range []string{"crc32c", "xxhash", "sha256", "blake2"} {
			i := len(list)
			c := imageCase{mkfs: []string{"-n", node, "--csum", csum, "-m", []string{"dup", "single", "dup"}[i%3]},
				mount: compress[i%len(compress)]}
			f := features[(i+i/8)%len(features)]
			if f != "" {
				c.mkfs = append(c.mkfs, "-O", f)
			}
			if strings.Contains(f, "^free-space-tree") {
				c.mount += []string{",space_cache=v1", ",nospace_cache"}[i/8%2]
			}
			list = append(list, c)
		}
	}
	// A free-space cache of version 1 with the node size at which it is most common.
	return append(list, imageCase{[]string{"-O", "^free-space-tree"}, "compress=zstd,space_cache=v1"},
		imageCase{[]string{"-d", "dup", "-m", "dup"}, "nodatasum"}, imageCase{[]string{"-n", "4096"}, "nodatacow,max_inline=0"},
		imageCase{[]string{"-O", "quota"}, "compress=lzo"})
}

// TestKernelImages reads and changes images that mkfs.btrfs has made and the kernel has written. Without
// IMGTOOL_SOAK it takes some of them, chosen by the seed.
func TestKernelImages(t *testing.T) {
	oracle.NeedRoot(t, "setfacl", "chattr")
	seed := oracle.Seed(t)
	cases := imageCases()
	if !oracle.Soak() {
		rand.New(rand.NewPCG(uint64(seed), 3)).Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
		cases = cases[:4]
	}
	for _, c := range cases {
		t.Run(c.String(), func(t *testing.T) { kernelImage(t, c, uint64(seed)) })
	}
}

func kernelImage(t *testing.T, c imageCase, seed uint64) {
	ctx := t.Context()
	a := &alternation{t: t, rnd: rand.New(rand.NewPCG(seed, 5)), chunks: chunkCounter{n: map[string]int{}}}
	a.m = newModel(a.rnd, 300, 3000)
	a.img = filepath.Join(t.TempDir(), "image")
	oracle.Mkfs(t, a.img, 600<<20, c.mkfs...)
	want := a.kernelWrites(c)
	if d := oracle.ManifestDiff(imageManifest(t, a.img), want); d != "" {
		t.Fatalf("the engine (-) and the mount (+):\n%s", d)
	}

	low := oracle.CheckOptions{LowMem: true, NoDataCsum: true}
	lowmem := oracle.CheckErr(t, low, a.img) == nil // it has false findings, see alternate
	fs, err := engine.Open(ctx, a.img, engine.OpenOptions{Tracer: &a.chunks})
	must(t, err)
	defer func() { _ = fs.Close() }()
	a.everyKind(engineTarget{ctx, fs}, 0)
	a.random(engineTarget{ctx, fs}, 0, 150, func(i int) {
		if i%50 == 49 {
			must(t, fs.Commit(ctx))
		}
	})
	must(t, fs.Commit(ctx))
	want = engineManifest(t, fs)
	must(t, fs.Close())
	oracle.Check(t, a.img)
	if lowmem {
		oracle.CheckWith(t, low, a.img)
	} else {
		t.Log("btrfs check --mode=lowmem does not accept what the kernel wrote, and is not asked again")
	}

	m := a.mount(oracle.Opts(c.mount))
	if d := oracle.ManifestDiff(want, m.ManifestOf("")); d != "" {
		t.Fatalf("the engine (-) and the mount (+):\n%s", d)
	}
	a.random(kernelTarget{m.Dir}, 1, 80, func(int) {})
	m.KernelBalance("-m", "-dusage=80")
	a.random(kernelTarget{m.Dir}, 1, 40, func(int) {})
	m.KernelScrub()
	m.KernelSync()
	want = m.ManifestOf("")
	a.unmount(m)
	oracle.Check(t, a.img)
	if d := oracle.ManifestDiff(imageManifest(t, a.img), want); d != "" {
		t.Fatalf("after the kernel's second turn, the engine (-) and the mount (+):\n%s", d)
	}
}

// kernelWrites lets the kernel write something of everything, and returns the manifest of the mount. Subvolumes are
// snapshotted and their blocks relocated while shared, after which they are changed again: so there are blocks with
// full backrefs, and extents with shared data refs.
func (a *alternation) kernelWrites(c imageCase) []byte {
	t := a.t
	t.Helper()
	m := a.mount(oracle.Opts(c.mount))
	k := kernelTarget{m.Dir}
	a.special(m)
	a.everyKind(k, 1)
	a.random(k, 1, 200, func(i int) {
		switch i {
		case 80:
			m.KernelSnapshot("sub", "shared", false)
			m.KernelSync()
			m.KernelBalance("-m", "-d")
		case 120:
			// Half of what is shared changes, on both sides.
			for i := range 100 {
				must(t, os.Chmod(m.Path([]string{"sub", "shared"}[i%2], fmt.Sprint("small", i)), 0o640))
			}
		case 160:
			oracle.Run(t, "btrfs", "filesystem", "defragment", "-r", m.Dir)
			m.KernelSync()
			m.KernelBalance("-m")
		}
	})
	m.KernelSync()
	want := m.ManifestOf("")
	a.unmount(m)
	oracle.Check(t, a.img)
	return want
}

// special makes what the random operations do not: ACLs, NODATACOW, capabilities, many small files in a subvolume,
// data of all kinds, preallocated space that is partly written, a file of one extent in many pieces.
func (a *alternation) special(m *oracle.Mounted) {
	t := a.t
	t.Helper()
	k := kernelTarget{m.Dir}
	ok := func(o op) {
		t.Helper()
		if err := k.do(o); err != nil {
			t.Fatalf("%v: %v", o, err)
		}
	}
	m.KernelSubvolume("sub")
	for i := range 200 {
		p := fmt.Sprint("sub/small", i)
		ok(op{kind: opCreate, path: p, mode: 0o644})
		ok(op{kind: opWrite, path: p, n: int64(i * 37), seed: uint64(i)})
	}
	ok(op{kind: opMkdir, path: "special", mode: 0o755})
	ok(op{kind: opMkdir, path: "special/nocow", mode: 0o755})
	oracle.Run(t, "chattr", "+C", m.Path("special", "nocow"))
	for i, p := range []string{"special/nocow/file", "special/prealloc", "special/pieces", "special/plain"} {
		ok(op{kind: opCreate, path: p, mode: 0o644})
		if p == "special/prealloc" {
			ok(op{kind: opFallocate, path: p, n: 1 << 20})
			ok(op{kind: opFallocate, path: p, off: 2 << 20, n: 1 << 20, mode: unix.FALLOC_FL_KEEP_SIZE})
		}
		ok(op{kind: opWrite, path: p, off: 100 << 10, n: 500 << 10, seed: uint64(i)})
	}
	m.KernelSync()
	for off := int64(0); off < 400<<10; off += 20 << 10 {
		ok(op{kind: opWrite, path: "special/pieces", off: 110<<10 + off, n: 1000, seed: uint64(off)})
		ok(op{kind: opPunch, path: "special/plain", off: 100<<10 + off, n: 9000})
		if off%(40<<10) == 0 {
			m.KernelSync()
		}
	}
	ok(op{kind: opWrite, path: "special/nocow/file", off: 120 << 10, n: 5000, seed: 9})
	ok(op{kind: opCreate, path: "special/acl", mode: 0o640})
	oracle.Run(t, "setfacl", "-m", "u:1234:rw,g:99:r", m.Path("special", "acl"))
	oracle.Run(t, "setfacl", "-d", "-m", "u:1234:rwx", m.Path("special"))
	ok(op{kind: opMkdir, path: "special/inherits", mode: 0o755})
	ok(op{kind: opSetXattr, path: "special/plain", name: "security.capability",
		value: []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}})
	for i, name := range equalHashNames(30) {
		ok(op{kind: opLink, path: "special/plain", to: "special/" + name})
		ok(op{kind: opSetXattr, path: "special/acl", name: "user." + name, value: fmt.Append(nil, i)})
	}
}

// everyKind does each kind of operation once, so that none is missing where few are drawn by chance.
func (a *alternation) everyKind(target opTarget, who int) {
	t := a.t
	t.Helper()
	d := fmt.Sprintf("every%d-%d/", who, len(a.log))
	for _, o := range []op{
		{kind: opMkdir, path: d[:len(d)-1], mode: 0o755}, {kind: opCreate, path: d + "f", mode: 0o640},
		{kind: opWrite, path: d + "f", n: 50000, seed: 3}, {kind: opOverwrite, path: d + "f", off: 10001, n: 9000, seed: 4},
		{kind: opTruncate, path: d + "f", n: 45001}, {kind: opPunch, path: d + "f", off: 5000, n: 8192},
		{kind: opFallocate, path: d + "f", off: 40000, n: 60000}, {kind: opLink, path: d + "f", to: d + "g"},
		{kind: opRename, path: d + "g", to: d + "h"}, {kind: opSubvolume, path: d + "s"},
		{kind: opCreate, path: d + "s/i", mode: 0o600}, {kind: opReflink, path: d + "s/i", to: d + "f", n: 8192},
		{kind: opSnapshotRO, path: d + "s", to: d + "ro"}, {kind: opSnapshotRW, path: d + "s", to: d + "rw"},
		{kind: opWrite, path: d + "rw/i", n: 5000, seed: 5}, {kind: opUnlink, path: d + "s/i"},
		{kind: opDeleteSubvol, path: d + "ro"}, {kind: opSymlink, path: d + "l", name: "f"},
		{kind: opMknod, path: d + "b", mode: unix.S_IFBLK | 0o660, rdev: unix.Mkdev(8, 1)},
		{kind: opExchange, path: d + "b", to: d + "s"}, {kind: opSetXattr, path: d + "f", name: "user.a", value: []byte("1")},
		{kind: opSetXattr, path: d + "f", name: "user.b", value: testData(1, 2900)},
		{kind: opRemoveXattr, path: d + "f", name: "user.a"}, {kind: opChmod, path: d + "f", mode: 0o711},
		{kind: opChown, path: d + "f", uid: 12, gid: 4_000_000_000}, {kind: opUtimes, path: d + "f", sec: -5},
		{kind: opMkdir, path: d + "e", mode: 0o700}, {kind: opRmdir, path: d + "e"},
	} {
		if err := target.do(o); err != nil {
			t.Fatalf("%v: %v", o, err)
		}
	}
}
