//go:build race

package disk

// newSlab takes n bytes at a multiple of slabSize from the Go heap, where the race detector has shadow memory for
// them. Objects of this size do not move.
func newSlab(n int) (*slab, error) {
	raw := make([]byte, n+slabSize)
	return &slab{raw: raw, mem: alignTo(raw, n)}, nil
}

// release leaves the slab to the collector.
func (s *slab) release() error {
	s.mem, s.raw = nil, nil
	return nil
}
