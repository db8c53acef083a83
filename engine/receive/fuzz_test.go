package receive_test

import (
	"testing"

	"imgtool/engine/receive"
)

// FuzzReceive receives streams that are changed byte by byte, and in ways that make sense (see parts.edit), with their
// checksums mended: see base.receive for what must be true of each. The bits of options: 1 unpacks, 2 keeps what is
// partial, 4 tolerates errors and compares with the plain way, 8 stops behind the first end.
func FuzzReceive(f *testing.F) {
	before, list := seeds(f)
	b := newBase(f, before...)
	var donors []*parts
	for _, in := range list {
		donors = append(donors, takeApart(in))
	}
	for i, in := range list {
		f.Add(in, []byte{}, uint8(0))
		for op := range byte(20) { // each kind of change, somewhere
			f.Add(in, []byte{op, op*5 + byte(i), 0, op, byte(i)*3 + op, 2, 1, op}, op)
		}
	}
	f.Fuzz(func(t *testing.T, stream, program []byte, options uint8) {
		if len(stream) > 1<<20 || len(program) > 8*64 {
			return
		}
		p := takeApart(stream)
		p.edit(program, donors)
		o := receive.Options{ForceDecompress: options&1 != 0, KeepPartial: options&2 != 0, OneStream: options&8 != 0}
		if options&4 != 0 {
			o.MaxErrors = -1
		}
		in := p.join()
		_ = b.receive(t, in, o, false)
		if o.MaxErrors < 0 {
			b.likePlain(t, in)
		}
	})
}
