package sendtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
)

// oddScene is content that generate does not make: how it is made in an empty subvolume, and what changes then.
type oddScene struct {
	name          string
	before, after func(o *odd)
	nested        bool // there are subvolumes in it
}

// odd carries one out.
type odd struct {
	t   *testing.T
	m   *oracle.Mounted
	dir string // the subvolume, below the mount
	fds []*os.File
}

func (o *odd) p(path string) string { return filepath.Join(o.m.Dir, o.dir) + "/" + path }

func (o *odd) do(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatalf("%s: %v", o.dir, err)
	}
}

func (o *odd) dirs(paths ...string) {
	for _, p := range paths {
		o.do(os.Mkdir(o.p(p), 0o755))
	}
}

func (o *odd) file(path string, n int64) {
	o.do(os.WriteFile(o.p(path), bytesOf(uint32(n)|1, n), 0o644))
}

func (o *odd) write(path string, off, n int64, seed uint32) {
	f, err := os.OpenFile(o.p(path), os.O_RDWR|os.O_CREATE, 0o644)
	o.do(err)
	_, err = f.WriteAt(bytesOf(seed, n), off)
	o.do(err)
	o.do(f.Close())
}

func (o *odd) sync(path string) {
	f, err := os.Open(o.p(path))
	o.do(err)
	o.do(f.Sync())
	o.do(f.Close())
}

func (o *odd) truncate(path string, n int64) { o.do(os.Truncate(o.p(path), n)) }

func (o *odd) falloc(path string, mode uint32, off, n int64) {
	f, err := os.OpenFile(o.p(path), os.O_RDWR|os.O_CREATE, 0o644)
	o.do(err)
	o.do(unix.Fallocate(int(f.Fd()), mode, off, n))
	o.do(f.Close())
}

func (o *odd) clone(from string, src, n int64, to string, off int64) {
	in, err := os.Open(o.p(from))
	o.do(err)
	f, err := os.OpenFile(o.p(to), os.O_RDWR|os.O_CREATE, 0o644)
	o.do(err)
	o.do(unix.IoctlFileCloneRange(int(f.Fd()), &unix.FileCloneRange{Src_fd: int64(in.Fd()), Src_offset: uint64(src), Src_length: uint64(n), Dest_offset: uint64(off)}))
	o.do(f.Close())
	o.do(in.Close())
}

func (o *odd) flags(path string, flags int) {
	f, err := os.Open(o.p(path))
	o.do(err)
	o.do(unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags))
	o.do(f.Close())
}

func (o *odd) xattr(path, name string, value []byte) {
	o.t.Helper()
	o.do(unix.Lsetxattr(o.p(path), name, value, 0))
}

func (o *odd) unxattr(path, name string) { o.do(unix.Lremovexattr(o.p(path), name)) }

func (o *odd) mv(from, to string) { o.do(os.Rename(o.p(from), o.p(to))) }
func (o *odd) rm(path string)     { o.do(os.Remove(o.p(path))) }
func (o *odd) ln(from, to string) { o.do(os.Link(o.p(from), o.p(to))) }
func (o *odd) swap(a, b string) {
	o.do(unix.Renameat2(unix.AT_FDCWD, o.p(a), unix.AT_FDCWD, o.p(b), unix.RENAME_EXCHANGE))
}
func (o *odd) chmod(path string, mode uint32) { o.do(unix.Chmod(o.p(path), mode)) }
func (o *odd) chown(path string, u, g int)    { o.do(os.Lchown(o.p(path), u, g)) }
func (o *odd) times(path string, a, m unix.Timespec) {
	o.do(unix.UtimesNanoAt(unix.AT_FDCWD, o.p(path), []unix.Timespec{a, m}, unix.AT_SYMLINK_NOFOLLOW))
}

// keep holds a file open until the snapshots are there.
func (o *odd) keep(f *os.File, err error) {
	o.do(err)
	o.fds = append(o.fds, f)
	o.t.Cleanup(func() { _ = f.Close() }) // of a scene that failed
}

// TestOdd sends content that random pairs do not have, in every direction, as TestOurs and TestKernelToOurs do.
func TestOdd(t *testing.T) {
	oracle.NeedRoot(t)
	configs := []config{
		{proto: 2, compress: "zstd", encoded: true, mkfs: []string{"-n", "4096"}},
		{proto: 1},
		{proto: 2, compress: "lzo", mkfs: []string{"-O", "^no-holes,^block-group-tree"}},
		{proto: 2, compress: "zlib", encoded: true},
	}
	if !oracle.Soak() {
		configs = configs[:1]
	}
	for i, c := range configs {
		t.Run(fmt.Sprint(i), func(t *testing.T) { sendOdd(t, c) })
	}
}

func sendOdd(t *testing.T, c config) {
	t.Log(c)
	img := filepath.Join(t.TempDir(), "source")
	oracle.Mkfs(t, img, imageSize, c.mkfs...)
	var opts []oracle.MountOption
	if c.compress != "" {
		opts = append(opts, oracle.Opts("compress-force="+c.compress))
	}
	m := oracle.Mount(t, img, opts...)
	var list []*sentPair
	for i, scene := range oddScenes {
		list = append(list, makeOdd(t, m, c, fmt.Sprint("p", i), scene))
	}
	m.Unmount()
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	must(t, err)
	alike := map[samestream.Likeness]int{}
	for _, p := range list {
		for i, so := range p.sends(c) {
			var out bytes.Buffer
			if err := fs.Send(t.Context(), &out, so); err != nil {
				p.fail(t, "send %s: %v", so.Path, err)
			}
			p.ours[i] = out.Bytes()
			l, where := samestream.Compare(t, p.ours[i], p.kernels[i])
			if alike[l]++; l == samestream.Different {
				p.fail(t, "%s: the streams differ %s", so.Path, where)
			}
		}
	}
	must(t, fs.Close())
	t.Logf("streams: %v", alike)
	toKernel(t, list)
	toOurs(t, c, list, false)
	mem, fs := newMem(t, c.options(t))
	for _, p := range list {
		r := &reception{pair: p.pair, fs: fs}
		r.both(t, p.kernels)
	}
	sound(t, mem, fs)
}

// makeOdd makes the two snapshots of a scene, and the kernel's streams.
func makeOdd(t *testing.T, m *oracle.Mounted, c config, prefix string, scene oddScene) *sentPair {
	p := &sentPair{pair: &pair{prefix: prefix, scene: scene.name, nested: scene.nested, manifests: map[string][]byte{}}}
	o := &odd{t: t, m: m, dir: prefix + "w"}
	m.KernelSubvolume(o.dir)
	scene.before(o)
	m.KernelSnapshot(o.dir, prefix+"a", true)
	scene.after(o)
	m.KernelSnapshot(o.dir, prefix+"b", true)
	for _, f := range o.fds {
		must(t, f.Close())
	}
	p.kernels = [2][]byte{m.KernelSend(prefix+"a", "", c.flags()...), m.KernelSend(prefix+"b", prefix+"a", c.flags()...)}
	for _, letter := range []string{"a", "b"} {
		p.manifests[letter] = p.seen(linked(m.ManifestOf(prefix+letter)), letter)
	}
	return p
}

var (
	subvolPlace = regexp.MustCompile(`(?m)^.*"type":"dir",.*"size":0,"mtime":0,.*\n`)
	dirSize     = regexp.MustCompile(`("type":"dir",.*"size":)\d+`)
)

// withoutSubvols is a manifest without the empty directories that stand for subvolumes, of which a stream tells nothing.
func withoutSubvols(m []byte) []byte {
	return linked(dirSize.ReplaceAll(subvolPlace.ReplaceAll(m, nil), []byte("${1}0")))
}
