//go:build !race

package disk

import (
	"sync"

	"golang.org/x/sys/unix"
)

// spares are slabs of slabSize bytes whose pools are closed. Whoever opens many file systems one after the other, as
// tests and simulations do, does not have the kernel map and clear the same memory each time.
var spares struct {
	mu    sync.Mutex
	slabs [][]byte // raw mappings
}

// maxSpares bounds what is kept beyond all pools, to 16 MiB.
const maxSpares = 16

// newSlab maps n bytes at a multiple of slabSize: it asks for slabSize more and uses what is aligned. The rest is never
// touched, so it costs addresses and no memory.
func newSlab(n int) (*slab, error) {
	if raw := takeSpare(n); raw != nil {
		return &slab{raw: raw, mem: alignTo(raw, n)}, nil
	}
	raw, err := unix.Mmap(-1, 0, n+slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return &slab{raw: raw, mem: alignTo(raw, n)}, nil
}

func takeSpare(n int) []byte {
	if n != slabSize {
		return nil
	}
	spares.mu.Lock()
	defer spares.mu.Unlock()
	last := len(spares.slabs) - 1
	if last < 0 {
		return nil
	}
	raw := spares.slabs[last]
	spares.slabs = spares.slabs[:last]
	return raw
}

// release gives the slab to a later pool, or unmaps it.
func (s *slab) release() error {
	raw := s.raw
	s.mem, s.raw = nil, nil
	if len(raw) == 2*slabSize && keepSpare(raw) {
		return nil
	}
	return unix.Munmap(raw)
}

func keepSpare(raw []byte) bool {
	spares.mu.Lock()
	defer spares.mu.Unlock()
	if len(spares.slabs) >= maxSpares {
		return false
	}
	spares.slabs = append(spares.slabs, raw)
	return true
}
