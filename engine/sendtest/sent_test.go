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
	"imgtool/engine/send"
)

// sentPair is a pair with the streams of its snapshots "a", full, and "b", incremental, by us and by the kernel.
type sentPair struct {
	*pair
	ours, kernels [2][]byte
}

// TestOurs sends pairs. Our streams equal the kernel's of the same snapshots, command for command; the kernel receives
// them, and we do, and what either has then equals the source. A sample of what we have received the kernel mounts,
// changes, and sends on.
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
			toOurs(t, c, sent, i%sampled == 0)
		})
	}
	t.Logf("%d pairs sent; streams: %v", n*pairs, alike)
}

// sampled is how many batches there are to one that goes on from what we have received.
const sampled = 3

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
	for _, p := range list {
		for i, so := range p.sends(c) {
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

// sends are the two sends of a pair as we make them.
func (p *pair) sends(c config) []engine.SendOptions {
	o := send.Options{Version: uint32(c.proto), Compressed: c.encoded}
	if c.encoded {
		o.Version = 2
	}
	return []engine.SendOptions{
		{Path: p.prefix + "a", Options: o},
		{Path: p.prefix + "b", ParentPath: p.prefix + "a", Options: o},
	}
}

// expected is what a receiver of our stream i is to show: the source, but for the top's times where nothing sets them.
func (p *sentPair) expected(t *testing.T, i int, letter string, got []byte) (seen, want []byte) {
	t.Helper()
	got, want = p.seen(got, letter), p.manifests[letter]
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
			// Where our stream is the kernel's to the byte, a fault of its content is the kernel's; but none is known.
			whose := "our stream, which is not its own"
			if bytes.Equal(p.ours[i], p.kernels[i]) {
				whose = "our stream, which is its own to the byte"
			}
			if err := m.KernelReceiveErr("", p.ours[i]); err != nil {
				p.fail(t, "%s: the kernel does not receive %s: %v", letter, whose, err)
				break
			}
			got, want := p.expected(t, i, letter, linked(m.ManifestOf(p.prefix+letter)))
			if d := oracle.ManifestDiff(got, want); d != "" {
				p.fail(t, "%s: the kernel makes (-) of %s, the source (+):\n%s", letter, whose, d)
				break
			}
		}
	}
}

// toOurs receives our streams by ourselves, and, with on, lets the kernel go on from there.
func toOurs(t *testing.T, c config, list []*sentPair, on bool) {
	t.Helper()
	mem, fs := newMem(t, c.options(t))
	received := &source{config: c}
	for _, p := range list {
		own := *p.pair
		own.manifests = maps.Clone(p.manifests)
		received.pairs = append(received.pairs, &own)
		r := &reception{pair: &own, fs: fs, ours: true}
		r.both(t, p.ours)
	}
	if path := sound(t, mem, fs); on && !t.Failed() {
		goOn(t, received, path)
	}
}
