package sendtest

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/internal/samestream"
	"imgtool/engine/mkfs"
	"imgtool/engine/send"
)

// sentPair is a pair with the streams of its snapshots "a", full, and "b", incremental, by us and by the kernel.
type sentPair struct {
	*pair
	ours, kernels [2][]byte
}

// TestOurs sends pairs. Our streams equal the kernel's of the same snapshots, command for command; the kernel receives
// them, and we do, and what either has then equals the source.
func TestOurs(t *testing.T) {
	oracle.NeedRoot(t)
	n, pairs := batches()
	seed := testSeed(t)
	alike := map[samestream.Likeness]int{}
	for i := range n {
		c := configOf(seed, i, pairs)
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			sent := sendBoth(t, c)
			for _, p := range sent {
				for j, letter := range []string{"a", "b"} {
					l, where := samestream.Compare(t, p.ours[j], p.kernels[j])
					alike[l]++
					if l == samestream.Different {
						p.fail(t, "%s: the streams differ %s", letter, where)
					} else if l != samestream.SameBytes {
						t.Logf("pair of seed %d, %s: %v %s", p.seed, letter, l, where)
					}
				}
			}
			toKernel(t, sent)
			toOurs(t, sent)
		})
	}
	t.Logf("%d pairs sent; streams: %v", n*pairs, alike)
}

// sendBoth makes pairs and sends them on both sides.
func sendBoth(t *testing.T, c config) (list []*sentPair) {
	t.Helper()
	s := makeSource(t, c, func(m *oracle.Mounted, p *pair) {
		list = append(list, &sentPair{pair: p, kernels: [2][]byte{
			m.KernelSend(p.prefix+"a", "", c.flags()...), m.KernelSend(p.prefix+"b", p.prefix+"a", c.flags()...),
		}})
	})
	fs, err := engine.Open(t.Context(), s.path, engine.OpenOptions{ReadOnly: true})
	must(t, err)
	o := send.Options{Version: uint32(c.proto), Compressed: c.encoded}
	if c.encoded {
		o.Version = 2
	}
	for _, p := range list {
		for i, so := range []engine.SendOptions{
			{Path: p.prefix + "a", Options: o},
			{Path: p.prefix + "b", ParentPath: p.prefix + "a", Options: o},
		} {
			var out bytes.Buffer
			if err := fs.Send(t.Context(), &out, so); err != nil {
				p.fail(t, "send %s: %v", so.Path, err)
			}
			p.ours[i] = out.Bytes()
		}
	}
	must(t, fs.Close())
	if t.Failed() {
		t.FailNow()
	}
	return list
}

// expected is what a receiver of our stream i is to show: the source, but for the top's times where nothing sets them.
func (p *sentPair) expected(t *testing.T, i int, letter string, got []byte) (seen, want []byte) {
	t.Helper()
	want = p.manifests[letter]
	for j := range i + 1 {
		if !setsRootTimes(t, p.ours[j]) {
			return noRootTime(got), noRootTime(want)
		}
	}
	return got, want
}

// toKernel lets the kernel receive our streams, all in one file system.
func toKernel(t *testing.T, list []*sentPair) {
	t.Helper()
	img := filepath.Join(t.TempDir(), "kernel")
	oracle.Mkfs(t, img, imageSize)
	m := oracle.Mount(t, img)
	defer m.Unmount()
	for _, p := range list {
		for i, letter := range []string{"a", "b"} {
			// Where our stream is the kernel's to the byte, a fault of its content is the kernel's.
			kernels := bytes.Equal(p.ours[i], p.kernels[i])
			if err := m.KernelReceiveErr("", p.ours[i]); err != nil {
				if !kernels {
					p.fail(t, "%s: the kernel does not receive our stream, which is not its own: %v", letter, err)
				} else {
					t.Logf("pair of seed %d, %s: the kernel does not receive its own stream: %v", p.seed, letter, err)
				}
				break
			}
			got, want := p.expected(t, i, letter, linked(m.ManifestOf(p.prefix+letter)))
			if d := oracle.ManifestDiff(got, want); d == "" {
				continue
			} else if !kernels {
				p.fail(t, "%s: received by the kernel (-), the source (+):\n%s", letter, d)
			} else {
				t.Logf("pair of seed %d, %s: the kernel's own stream makes (-) of the source (+):\n%s", p.seed, letter, d)
			}
			break
		}
	}
}

// toOurs receives our streams by ourselves.
func toOurs(t *testing.T, list []*sentPair) {
	t.Helper()
	mem, fs := newMem(t, mkfs.Default())
	for _, p := range list {
		own := *p.pair
		own.manifests = maps.Clone(p.manifests)
		r := &reception{pair: &own, fs: fs}
		for i, letter := range []string{"a", "b"} {
			r.receive(t, letter, p.ours[i])
			if r.broken {
				if !bytes.Equal(p.ours[i], p.kernels[i]) {
					p.fail(t, "%s: our stream, which is not the kernel's, cannot be received", letter)
				}
				break
			}
			got, want := p.expected(t, i, letter, ours(t, fs, p.prefix+letter))
			if d := oracle.ManifestDiff(got, want); d != "" && !bytes.Equal(p.ours[i], p.kernels[i]) {
				p.fail(t, "%s: received by us (-), the source (+):\n%s", letter, d)
			}
		}
	}
	must(t, fs.Close())
	path := filepath.Join(t.TempDir(), "received")
	must(t, mem.WriteFile(path))
	oracle.Check(t, path)
}
