//go:build !race

package disk

import "golang.org/x/sys/unix"

// newSlab maps n bytes at a multiple of slabSize: it asks for slabSize more and uses what is aligned. The rest is never
// touched, so it costs addresses and no memory.
func newSlab(n int) (*slab, error) {
	raw, err := unix.Mmap(-1, 0, n+slabSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	return &slab{raw: raw, mem: alignTo(raw, n)}, nil
}

// release unmaps the slab.
func (s *slab) release() error { return unix.Munmap(s.raw) }
