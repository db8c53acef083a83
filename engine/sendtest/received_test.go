package sendtest

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
	"imgtool/engine/mkfs"
	"imgtool/engine/sendstream"
)

// TestKernelToOurs receives what the kernel sends: our manifests and the kernel's of what was received equal the
// source's, btrfs check and imgtool check find nothing, and the kernel goes on from what was received, and sends that
// incrementally on top of it, which is received again.
func TestKernelToOurs(t *testing.T) {
	oracle.NeedRoot(t)
	n, pairs := batches()
	seed := testSeed(t)
	total := 0
	for i := range n {
		c := configOf(seed, i, pairs)
		t.Run(fmt.Sprint(i), func(t *testing.T) { kernelToOurs(t, c) })
		total += pairs
	}
	t.Logf("%d pairs", total)
}

func kernelToOurs(t *testing.T, c config) {
	streams := map[*pair][2][]byte{}
	s := makeSource(t, c, func(m *oracle.Mounted, p *pair) {
		streams[p] = [2][]byte{m.KernelSend(p.prefix+"a", "", c.flags()...), m.KernelSend(p.prefix+"b", p.prefix+"a", c.flags()...)}
	})
	mem, fs := newMem(t, c.options(t))
	for _, p := range s.pairs {
		r := &reception{pair: p, fs: fs}
		r.both(t, streams[p])
	}
	if path := sound(t, mem, fs); !t.Failed() {
		goOn(t, s, path)
	}
}

// sound closes an image, lets it be checked, and returns where it is.
func sound(t *testing.T, mem *disk.Mem, fs *engine.FS) (path string) {
	t.Helper()
	must(t, fs.Close())
	path = filepath.Join(t.TempDir(), "received")
	must(t, mem.WriteFile(path))
	oracle.Check(t, path)
	return path
}

// reception is how one pair is received by us.
type reception struct {
	*pair
	fs      *engine.FS
	streams [][]byte // so far
	ours    bool     // they are our own: what the kernel makes of them excuses nothing
	broken  bool     // by a stream that could not be received
}

// both receives the two snapshots of a pair.
func (r *reception) both(t *testing.T, streams [2][]byte) {
	t.Helper()
	r.receive(t, "a", streams[0])
	r.receive(t, "b", streams[1])
}

// receive receives one snapshot and compares it with the source.
func (r *reception) receive(t *testing.T, letter string, stream []byte) {
	t.Helper()
	if r.broken {
		return
	}
	r.streams = append(r.streams, stream)
	if _, err := r.fs.Receive(t.Context(), bytes.NewReader(stream), engine.ReceiveOptions{}); err != nil {
		r.broken = true
		kernels := "which the kernel receives"
		if _, k := r.byKernel(t, letter); k != nil {
			if !r.ours && (goneTimes(err, k) || !oracle.Soak() && sameErrno(err, k)) {
				t.Logf("pair of seed %d, %s: nobody receives it: %v", r.seed, letter, err)
				delete(r.manifests, letter)
				return
			}
			kernels = fmt.Sprintf("and neither does the kernel: %v", k)
		}
		r.fail(t, "receive %s: %v, %s", letter, err, kernels)
		delete(r.manifests, letter)
		return
	}
	if !setsRootTimes(t, stream) {
		r.manifests[letter] = noRootTime(r.manifests[letter])
	}
	got := r.seen(ours(t, r.fs, r.prefix+letter), letter)
	diff := oracle.ManifestDiff(got, r.manifests[letter])
	if diff == "" {
		return
	}
	// If the kernel makes the same of its own stream, then that is what we are to make of it, too. The long run also demands
	// that it be one of the faults that are known of the kernel.
	kernels, err := r.byKernel(t, letter)
	if err != nil {
		r.fail(t, "%s: ours (-), the source (+), and the kernel refuses the stream, %v:\n%s", letter, err, diff)
		return
	}
	kernels = r.seen(kernels, letter)
	if d := oracle.ManifestDiff(got, kernels); d != "" {
		r.fail(t, "%s: ours (-), the source (+):\n%s\nours (-), received by the kernel (+):\n%s", letter, diff, d)
		return
	}
	if r.ours || oracle.Soak() && !r.cutShort(t, got, letter) && !r.oldEnd(t, got, letter) {
		r.fail(t, "%s: received (-) unlike the source (+), by the kernel too:\n%s", letter, diff)
		return
	}
	r.manifests[letter] = kernels
	t.Logf("pair of seed %d, %s: received (-) unlike the source (+), by the kernel too:\n%s", r.seed, letter, diff)
}

// goneTimes reports whether ours and the kernel's receiver both refuse the times of a directory that is gone: the kernel
// has such streams, see samestream.GoneTimes.
func goneTimes(ours, kernels error) bool {
	name := timesOfTemporary.FindStringSubmatch(ours.Error())
	return name != nil && errors.Is(ours, fserr.ErrNotFound) &&
		strings.Contains(kernels.Error(), "utimes "+name[1]+" failed: No such file or directory")
}

// sameErrno reports whether both receivers refuse for the same reason: what a stream of the kernel leaves out may be in
// the way of what follows. The long run does not take that for an answer.
func sameErrno(ours, kernels error) bool {
	var errno syscall.Errno
	if !errors.As(ours, &errno) {
		return false
	}
	text := strings.TrimSpace(kernels.Error())
	return len(text) > len(errno.Error()) && strings.HasSuffix(strings.ToLower(text), ": "+errno.Error())
}

func TestSameErrno(t *testing.T) {
	kernels := errors.New("btrfs receive d: exit status 1\nstdout:\n\nstderr:\nAt subvol p0b\nERROR: failed to clone extents to f/c: Invalid argument\n")
	for ours, want := range map[error]bool{
		fmt.Errorf("clone: %w", fserr.ErrInvalid): true, fmt.Errorf("clone: %w", fserr.ErrNotFound): false, errors.New("Invalid argument"): false,
	} {
		if got := sameErrno(ours, kernels); got != want {
			t.Errorf("%v: %v", ours, got)
		}
	}
}

var timesOfTemporary = regexp.MustCompile(`: utimes "(o\d+-\d+-\d+)": `)

// cutShort reports whether what was received differs from the source in nothing but the data and the size of files, and
// this stream or one before it has compressed inline extents, behind which the kernel forgets what else a file holds
// (samestream.ShortInline). What one stream has left out is still missing after the next.
func (r *reception) cutShort(t *testing.T, got []byte, letter string) bool {
	t.Helper()
	return slices.ContainsFunc(r.streams, func(stream []byte) bool {
		return slices.ContainsFunc(samestream.Commands(t, stream), func(c sendstream.Command) bool {
			return c.Cmd == sendstream.CmdEncodedWrite && c.Uint(sendstream.AttrFileOffset) == 0 && c.Uint(sendstream.AttrUnencodedFileLen) < 4096
		})
	}) && bytes.Equal(dataFields.ReplaceAll(got, nil), dataFields.ReplaceAll(r.manifests[letter], nil))
}

// oldEnd reports whether what was received differs from the source in nothing but the data of files, and this stream or one
// before it makes files longer without data: the kernel forgets the sector of the parent's end (samestream.OldEnd).
func (r *reception) oldEnd(t *testing.T, got []byte, letter string) bool {
	t.Helper()
	return slices.ContainsFunc(r.streams, func(stream []byte) bool {
		return slices.ContainsFunc(samestream.Commands(t, stream), func(c sendstream.Command) bool { return c.Cmd == sendstream.CmdTruncate })
	}) && bytes.Equal(hashFields.ReplaceAll(got, nil), hashFields.ReplaceAll(r.manifests[letter], nil))
}

var hashFields = regexp.MustCompile(`,"sha256":"[0-9a-f]*"`)

var dataFields = regexp.MustCompile(`,"(size":\d+|sha256":"[0-9a-f]*")`)

// seen is a manifest of the received snapshot as it is to be compared with the expected one.
func (p *pair) seen(m []byte, letter string) []byte {
	if p.nested {
		m = withoutSubvols(m)
	}
	if bytes.Contains(p.manifests[letter], rootNoTime) {
		return noRootTime(m)
	}
	return m
}

var (
	rootTime   = regexp.MustCompile(`(?m)^({"path":".",.*"mtime":)\d+`)
	rootNoTime = []byte(`"mtime":"now"`)
)

func noRootTime(m []byte) []byte { return rootTime.ReplaceAll(m, []byte(`${1}"now"`)) }

// setsRootTimes reports whether a stream sets the times of the top directory. The kernel's does not where that has not
// changed, though the temporary names that it makes there do change it on the other side.
func setsRootTimes(t *testing.T, stream []byte) bool {
	t.Helper()
	for _, c := range samestream.Commands(t, stream) {
		if c.Cmd == sendstream.CmdUtimes && c.String(sendstream.AttrPath) == "" {
			return true
		}
	}
	return false
}

// byKernel is the manifest of what the kernel makes of the streams so far, and its error.
func (r *reception) byKernel(t *testing.T, letter string) ([]byte, error) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "kernel")
	oracle.Mkfs(t, img, imageSize)
	m := oracle.Mount(t, img)
	defer m.Unmount()
	for _, s := range r.streams {
		if err := m.KernelReceiveErr("", s); err != nil {
			return nil, err
		}
	}
	return linked(m.ManifestOf(r.prefix + letter)), nil
}

// lostFlag reports a clone between files with and without checksums, which Linux refuses: streams do not say which files
// had none (the NODATACOW flag), so that a received file always has them, and one that is made next to it may not.
func lostFlag(o op, err error) bool { return o.kind == opClone && errors.Is(err, unix.EINVAL) }

// goOn lets the kernel mount what was received, change it, and send the changes from the received snapshots; those go
// into another image.
func goOn(t *testing.T, s *source, path string) {
	m := oracle.Mount(t, path)
	mem, fs := newMem(t, mkfs.Default())
	for _, p := range s.pairs {
		for letter, want := range p.manifests {
			if diff := oracle.ManifestDiff(p.seen(linked(m.ManifestOf(p.prefix+letter)), letter), want); diff != "" {
				p.fail(t, "%s: the kernel's (-), the source (+):\n%s", letter, diff)
			}
		}
		if p.manifests["b"] == nil {
			continue
		}
		if err := makePair(&kernelMaker{m: m}, p.prefix, "b", p.tail, lostFlag); err != nil {
			p.fail(t, "%v\nmore operations:\n%s", err, text(p.tail))
			continue
		}
		p.manifests["c"] = linked(m.ManifestOf(p.prefix + "c"))
		r := &reception{pair: p, fs: fs}
		r.receive(t, "a", m.KernelSend(p.prefix+"a", "", s.flags()...))
		r.receive(t, "b", m.KernelSend(p.prefix+"b", p.prefix+"a", s.flags()...))
		r.receive(t, "c", m.KernelSend(p.prefix+"c", p.prefix+"b", s.flags()...))
	}
	m.Unmount()
	sound(t, mem, fs)
}
