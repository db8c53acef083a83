package hostile

import (
	"math/rand/v2"
	"testing"

	"imgtool/disk"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// spoil changes bytes of tree blocks, six bytes of change at a time: which block, which place, what is xored in.
func spoil(t testing.TB, im *image, change []byte, super uint8) {
	for ; len(change) >= 6; change = change[6:] {
		im.edit(t, (int(change[0])<<8|int(change[1]))%len(im.blocks), func(b ondisk.Block) {
			i := (int(change[2])<<8 | int(change[3])) % (len(b) - 1)
			b[i] ^= change[4]
			b[i+1] ^= change[5]
		})
	}
	if super > 0 {
		im.super(t, func(sb *ondisk.SuperBlock) { sb[48+int(super)*3] ^= super })
	}
}

// TestRandom reads random images with every command. Whatever a command meets, it gives its memory back.
func TestRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 3))
	n := 25
	if oracle.Soak() {
		n = 20_000
	}
	newImage(t) // what it is a copy of is made once
	before := disk.Mapped()
	for range n {
		change := make([]byte, 6*(1+rng.IntN(4)))
		for i := range change {
			change[i] = byte(rng.Uint32())
		}
		for i := 2; i < len(change); i += 6 {
			if rng.IntN(2) == 0 {
				change[i] = byte(rng.IntN(3)) // headers and the first items
			}
		}
		im := newImage(t)
		spoil(t, im, change, uint8(max(0, rng.IntN(400)-200)))
		readAll(t, im)
		if now := disk.Mapped(); now != before {
			t.Errorf("%d bytes of buffers are mapped, %d before", now, before)
		}
		if t.Failed() {
			t.Fatalf("change %x", change)
		}
	}
}

// FuzzImage is TestRandom with a mind.
func FuzzImage(f *testing.F) {
	f.Add([]byte{0, 0, 0, 101, 0, 5}, uint8(0))
	f.Add([]byte{0, 1, 0, 96, 255, 255, 0, 2, 0, 100, 7, 0}, uint8(1))
	f.Add([]byte{0, 7, 0, 150, 8, 8, 0, 9, 1, 0, 1, 1, 0, 15, 15, 100, 255, 0}, uint8(2))
	f.Fuzz(func(t *testing.T, change []byte, super uint8) {
		im := newImage(t)
		spoil(t, im, change, super)
		readAll(t, im)
	})
}
