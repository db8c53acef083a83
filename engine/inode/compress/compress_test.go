package compress

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"imgtool/engine/ondisk"
)

const sector = 4096

func sample(n int) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.IntN(3) * rng.IntN(50))
	}
	return b
}

func packZlib(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packZstd(t testing.TB, b []byte) []byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

// literal is an LZO1X stream that holds b, at least 4 bytes, as one run of literals.
func literal(b []byte) []byte {
	var out []byte
	if n := len(b); n <= 238 {
		out = append(out, byte(n+17))
	} else {
		out = append(out, 0)
		for n -= 18; n > 255; n -= 255 {
			out = append(out, 0)
		}
		out = append(out, byte(n))
	}
	return append(append(out, b...), 0x11, 0, 0) // end: a long match at distance 16384
}

// packLZO frames b as btrfs does, in segments of piece bytes (a sector's, in the kernel), and returns where they begin.
func packLZO(b []byte, piece int) (frame []byte, segments []int) {
	frame = make([]byte, lzoLen)
	for at := 0; at < len(b); at += piece {
		if left := sector - len(frame)%sector; left < lzoLen {
			frame = append(frame, make([]byte, left)...)
		}
		segments = append(segments, len(frame))
		seg := literal(b[at:min(at+piece, len(b))])
		frame = binary.LittleEndian.AppendUint32(frame, uint32(len(seg)))
		frame = append(frame, seg...)
	}
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)))
	return frame, segments
}

func pack(t testing.TB, alg uint8, b []byte) []byte {
	switch alg {
	case ondisk.CompressZlib:
		return packZlib(t, b)
	case ondisk.CompressZstd:
		return packZstd(t, b)
	}
	f, _ := packLZO(b, sector)
	return f
}

var algorithms = []uint8{ondisk.CompressZlib, ondisk.CompressLZO, ondisk.CompressZstd}

// TestRoundTrip unpacks frames of many sizes, without padding and with padding of every kind, into buffers of their
// size, shorter (an extent used in part is unpacked as a whole, but a reader may want less) and longer (zeros).
func TestRoundTrip(t *testing.T) {
	junk := []byte("padding is whatever was in memory")
	for _, alg := range algorithms {
		for _, size := range []int{4, 5, 300, 4095, 4096, 4097, 8191, 20000, 131072} {
			want := sample(size)
			frame := pack(t, alg, want)
			for _, pad := range [][]byte{nil, {0}, {0, 0, 0}, make([]byte, sector), junk} {
				src := append(frame[:len(frame):len(frame)], pad...)
				for _, n := range []int{size, size / 2, size + 100} {
					dst := bytes.Repeat([]byte{0xaa}, n)
					if err := Decompress(alg, dst, src, sector); err != nil {
						t.Fatalf("%s of %d bytes, padding %d, into %d: %v", Name(alg), size, len(pad), n, err)
					}
					expect := append(want[:min(n, size):min(n, size)], make([]byte, max(0, n-size))...)
					if !bytes.Equal(dst, expect) {
						t.Fatalf("%s of %d bytes, padding %d, into %d: differs", Name(alg), size, len(pad), n)
					}
				}
			}
		}
	}
}

// TestLZOHeaderNeverCrossesSector unpacks frames in which the length field of a segment skips the end of a sector.
func TestLZOHeaderNeverCrossesSector(t *testing.T) {
	skipped := 0
	b := sample(60000)
	for piece := 300; piece < 700; piece++ {
		frame, segments := packLZO(b, piece)
		for _, at := range segments {
			if at%sector == 0 {
				skipped++
			}
		}
		dst := make([]byte, len(b))
		if err := Decompress(ondisk.CompressLZO, dst, frame, sector); err != nil || !bytes.Equal(dst, b) {
			t.Fatalf("segments of %d bytes: %v", piece, err)
		}
	}
	if skipped < 10 {
		t.Fatalf("%d segments behind the start of a sector, not enough to prove anything", skipped)
	}
}

// TestDamage is a table of frames that must be refused.
func TestDamage(t *testing.T) {
	lzo := func(change func(f []byte) []byte) []byte {
		f, _ := packLZO(sample(9000), sector)
		return change(f)
	}
	le := binary.LittleEndian
	for _, c := range []struct {
		name string
		alg  uint8
		src  []byte
		want string
	}{
		{"unknown", 9, nil, "not known"},
		{"empty zlib", ondisk.CompressZlib, nil, "zlib"},
		{"cut zlib", ondisk.CompressZlib, packZlib(t, sample(9000))[:900], "ends early"},
		{"cut zstd", ondisk.CompressZstd, packZstd(t, sample(9000))[:900], "zstd"},
		{"no zstd", ondisk.CompressZstd, make([]byte, 4096), "zstd"},
		{"short lzo", ondisk.CompressLZO, []byte{8, 0, 0}, "ends early"},
		{"lzo total too long", ondisk.CompressLZO, lzo(func(f []byte) []byte { le.PutUint32(f, uint32(len(f)+1)); return f }), "total length"},
		{"lzo total of nothing", ondisk.CompressLZO, lzo(func(f []byte) []byte { le.PutUint32(f, 0); return f }), "total length"},
		{"lzo segment too long", ondisk.CompressLZO, lzo(func(f []byte) []byte { le.PutUint32(f[4:], 1<<31); return f }), "segment"},
		{"lzo segment cut", ondisk.CompressLZO, lzo(func(f []byte) []byte { le.PutUint32(f, 4000); return f }), "segment"},
		{"lzo garbage", ondisk.CompressLZO, lzo(func(f []byte) []byte { copy(f[8:], "\xff\xff\xff\xff"); return f }), "lzo"},
	} {
		err := Decompress(c.alg, make([]byte, 9000), c.src, sector)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", c.name, err, c.want)
		}
	}
}

// FuzzDecompress: whatever a frame holds, the answer is data or an error.
func FuzzDecompress(f *testing.F) {
	for _, alg := range algorithms {
		f.Add(alg, uint16(300), pack(f, alg, sample(300)))
		f.Add(alg, uint16(9000), append(pack(f, alg, sample(9000)), 0, 0, 0, 0, 0))
	}
	f.Fuzz(func(t *testing.T, alg uint8, n uint16, src []byte) {
		if len(src) > ondisk.MaxCompressed {
			return
		}
		dst := make([]byte, n)
		if err := Decompress(alg%4, dst, src, sector); err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}
