package commitview

import (
	"fmt"

	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
)

// promise is what a pointer says of the block that it leads to (I9). owner is 0 where blocks may be shared: below the
// root of a file tree any ancestor's id may stand there.
type promise struct {
	addr  ondisk.Logical
	gen   ondisk.Generation
	level uint8
	owner ondisk.TreeID
	first ondisk.Key
	child bool // first is known
}

// ofPointer returns the promise of pointer slot of a node.
func ofPointer(node ondisk.Block, slot int) promise {
	return promise{addr: node.BlockPtr(slot), gen: node.PtrGeneration(slot), level: node.Level() - 1, first: node.Key(slot), child: true}
}

// ofBuffer returns what a buffer says of itself now, for a root that was taken from a place that cannot lie.
func ofBuffer(b *extbuf.Buffer) promise {
	return promise{addr: b.Addr(), gen: b.Generation(), level: b.Level(), owner: b.Owner()}
}

// expect is the promise as the cache wants it. The result points into p.
func (p *promise) expect() extbuf.Expect {
	e := extbuf.Expect{Level: p.level, Gen: p.gen, Owner: p.owner}
	if p.child {
		e.FirstKey = &p.first
	} else {
		e.RootOf = p.owner
	}
	return e
}

// kept reports whether the block is what was promised.
func (p *promise) kept(b ondisk.Block) bool {
	h := b.Header()
	return h.Generation() == p.gen && h.Level() == p.level && h.Bytenr() == p.addr &&
		(p.owner == 0 || h.Owner() == p.owner) &&
		(!p.child || ondisk.GetKey(b[ondisk.HeaderSize:]) == p.first)
}

// broken says in words what kept found.
func (p *promise) broken(b ondisk.Block) string {
	h := b.Header()
	s := fmt.Sprintf("have owner %d generation %d level %d", int64(h.Owner()), h.Generation(), h.Level())
	if p.child {
		s += fmt.Sprintf(" first key %v", ondisk.GetKey(b[ondisk.HeaderSize:]))
	}
	s += fmt.Sprintf(", expect generation %d level %d", p.gen, p.level)
	if p.owner != 0 {
		s += fmt.Sprintf(" owner %d", int64(p.owner))
	}
	if p.child {
		s += fmt.Sprintf(" first key %v", p.first)
	}
	return s
}
