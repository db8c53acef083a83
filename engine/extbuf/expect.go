package extbuf

import (
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/trace"
)

// AnyLevel is the Level of an Expect that does not know.
const AnyLevel uint8 = 0xff

// Expect is what the pointer that led to a block promises of it (I9). Zero values mean "not known", but for Level,
// where AnyLevel does.
type Expect struct {
	Level    uint8
	Gen      ondisk.Generation
	FirstKey *ondisk.Key
	Owner    ondisk.TreeID
	// RootOf is the tree of which the block is the root: its pointer, a root item or the superblock, has no first key. It
	// only counts for a repair; Owner is what is compared.
	RootOf ondisk.TreeID
	// Repair is the caller's word that the address cannot be re-used while the call lasts: he holds the lock of the block
	// that the pointer stands in, of a tree that is alive, or a ticket of package pin that sees the block. Only then is a
	// bad copy written over, see Cache.Read.
	Repair bool
}

// clone returns an Expect that does not share the caller's key, for use after the caller has gone on. (Built member by
// member: then escape analysis sees that the caller's key stays on his stack, and a hit allocates nothing.)
func (e Expect) clone() Expect {
	return Expect{Level: e.Level, Gen: e.Gen, FirstKey: cloneKey(e.FirstKey), Owner: e.Owner, RootOf: e.RootOf, Repair: e.Repair}
}

func cloneKey(k *ondisk.Key) *ondisk.Key {
	if k == nil {
		return nil
	}
	c := *k
	return &c
}

// same reports whether two expectations promise the same, so that one read answers both.
func (e Expect) same(o Expect) bool {
	if e.Level != o.Level || e.Gen != o.Gen || e.Owner != o.Owner || (e.FirstKey == nil) != (o.FirstKey == nil) {
		return false
	}
	return e.FirstKey == nil || *e.FirstKey == *o.FirstKey
}

// ok is the comparison of the hot path; problem says what is wrong when it fails.
func (e *Expect) ok(b *Buffer) bool {
	if e.Level != AnyLevel && uint32(e.Level) != b.level.Load() {
		return false
	}
	if e.Gen != 0 && uint64(e.Gen) != b.gen.Load() {
		return false
	}
	if e.Owner != 0 && uint64(e.Owner) != b.owner.Load() {
		return false
	}
	// Key 0 stands at the same place in leaves and nodes. An empty block has zeros, or an old key, there; a block with
	// a parent is never empty, and the item count is not read because a writer who holds only this block may change it.
	return e.FirstKey == nil || ondisk.GetKey(b.block[ondisk.HeaderSize:]) == *e.FirstKey
}

// problem is ok in words, "" when there is none.
func (e *Expect) problem(b *Buffer) string {
	if e.Level != AnyLevel && uint32(e.Level) != b.level.Load() {
		return fmt.Sprintf("level mismatch, have %d expect %d", b.level.Load(), e.Level)
	}
	if e.Gen != 0 && uint64(e.Gen) != b.gen.Load() {
		return fmt.Sprintf("generation mismatch, have %d expect %d", b.gen.Load(), uint64(e.Gen))
	}
	if e.Owner != 0 && uint64(e.Owner) != b.owner.Load() {
		return fmt.Sprintf("owner mismatch, have %d expect %d", int64(b.owner.Load()), int64(e.Owner))
	}
	if e.FirstKey != nil {
		if k := ondisk.GetKey(b.block[ondisk.HeaderSize:]); k != *e.FirstKey {
			return fmt.Sprintf("first key mismatch, have %v expect %v", k, *e.FirstKey)
		}
	}
	return ""
}

// checkHit compares a buffer found in memory with what the caller's pointer promises (I9). It takes over the reference:
// a mismatch gives it back.
func (c *Cache) checkHit(b *Buffer, want Expect) (*Buffer, error) {
	if want.ok(b) {
		return b, nil
	}
	p := want.problem(b)
	if p == "" {
		return b, nil // it has changed between the two looks; only a reader without protection sees that
	}
	c.counters.mismatches.Add(1)
	err := corrupt(b, p+" (in memory)")
	trace.Emit(c.tracer, trace.Event{Kind: trace.Mismatch, Root: b.owner.Load(), Bytenr: uint64(b.addr), Note: p})
	b.Release()
	return nil, err
}

// corrupt makes a finding about the whole block, from the atomics beside it.
func corrupt(b *Buffer, msg string) *fserr.Corrupt {
	what := "leaf"
	if b.level.Load() != 0 {
		what = "node"
	}
	return fserr.Corruptf(what, b.owner.Load(), uint64(b.addr), "%s", msg)
}
