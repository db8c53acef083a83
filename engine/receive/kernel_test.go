package receive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"imgtool/engine/internal/mutate"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/receive"
)

// pair is a subvolume of the kernel's and how it was sent.
type pair struct {
	name     string
	stream   []byte
	manifest []byte
}

// kernelPairs lets the kernel make a subvolume, change it n times, and send a snapshot after each.
func kernelPairs(t *testing.T, seed int64, n int, mount, flags []string) []pair {
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 512<<20)
	m := oracle.Mount(t, img, oracle.Opts(mount...))
	defer m.Unmount()
	m.KernelSubvolume("a")
	mut := mutate.New(t, seed, 0, m.Path("a"))
	var pairs []pair
	parent := ""
	for i := range n {
		mut.Steps(120)
		if i == 0 { // one file that is surely compressed, if any is
			if err := os.WriteFile(m.Path("a", "zeros"), make([]byte, 100000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		name := fmt.Sprint("s", i)
		m.KernelSnapshot("a", name, true)
		pairs = append(pairs, pair{name, m.KernelSend(name, parent, flags...), noInos(m.ManifestOf(name))})
		parent = name
	}
	t.Logf("%v", mut.Done)
	return pairs
}

// TestKernelStreams receives what the kernel sends of random changes: our manifest and the kernel's of what we have made
// equal the source's, btrfs check accepts it, and the kernel goes on from it: it sends incrementally between subvolumes
// that we have received, and with one of them as parent.
func TestKernelStreams(t *testing.T) {
	oracle.NeedRoot(t)
	v2 := []string{"--proto", "2", "--compressed-data"}
	rounds := 1
	if oracle.Soak() {
		rounds = 125
	}
	seed := oracle.Seed(t)
	for round := range rounds {
		for i, c := range []struct {
			name         string
			mount, flags []string
			o            receive.Options
			keeps        bool // compressed extents as they are
		}{
			{"v1", nil, nil, receive.Options{}, false},
			{"zstd", []string{"compress-force=zstd"}, v2, receive.Options{}, true},
			{"lzo", []string{"compress-force=lzo"}, v2, receive.Options{}, true},
			{"zlib, unpacked", []string{"compress-force=zlib"}, v2, receive.Options{ForceDecompress: true}, false},
		} {
			t.Run(fmt.Sprintf("%s/%d", c.name, round), func(t *testing.T) {
				kernelStreams(t, kernelPairs(t, seed+int64(4*round+i), 3, c.mount, c.flags), c.o, c.keeps)
			})
		}
	}
}

// kernelReceives is the manifest of the last pair after the kernel has received them all.
func kernelReceives(t *testing.T, pairs []pair) []byte {
	img := filepath.Join(t.TempDir(), "img")
	oracle.Mkfs(t, img, 512<<20)
	m := oracle.Mount(t, img)
	defer m.Unmount()
	for _, p := range pairs {
		m.KernelReceive("", p.stream)
	}
	return noInos(m.ManifestOf(pairs[len(pairs)-1].name))
}

func kernelStreams(t *testing.T, pairs []pair, o receive.Options, keeps bool) {
	im := newImage(t, 512<<20)
	for i, p := range pairs {
		im.receive(p.stream, o)
		if diff := oracle.ManifestDiff(im.manifest(p.name), p.manifest); diff != "" {
			// The kernel forgets the truncate behind a compressed inline extent that is shorter than its file, and so the
			// stream is to blame if its own receive makes the same of it.
			pairs[i].manifest = kernelReceives(t, pairs[:i+1])
			if d := oracle.ManifestDiff(im.manifest(p.name), pairs[i].manifest); d != "" {
				t.Fatalf("%s: ours (-), the source (+):\n%s\nours (-), received by the kernel (+):\n%s", p.name, diff, d)
			}
			t.Logf("%s: received (-) unlike the source (+), by the kernel too:\n%s", p.name, diff)
		}
	}
	if c := im.compressed(pairs[0].name); (c > 0) != keeps {
		t.Errorf("%d compressed extents", c)
	}
	path := im.close()
	m := oracle.Mount(t, path)
	for _, p := range pairs {
		if diff := oracle.ManifestDiff(noInos(m.ManifestOf(p.name)), p.manifest); diff != "" {
			t.Fatalf("%s: the kernel's (-), the source (+):\n%s", p.name, diff)
		}
	}
	// The kernel's streams of what we have received, the last with a change of its own, go into another image.
	m.KernelSnapshot("s2", "w", false)
	mutate.New(t, 1, 10000, m.Path("w")).Steps(40)
	m.KernelSnapshot("w", "s3", true)
	streams := [][]byte{m.KernelSend("s0", ""), m.KernelSend("s2", "s0"), m.KernelSend("s3", "s2")}
	want := noInos(m.ManifestOf("s3"))
	m.Unmount()
	again := newImage(t, 512<<20)
	for _, s := range streams {
		again.receive(s, receive.Options{})
	}
	if diff := oracle.ManifestDiff(again.manifest("s3"), want); diff != "" {
		t.Fatalf("received again: ours (-), the source (+):\n%s", diff)
	}
	again.close()
}
