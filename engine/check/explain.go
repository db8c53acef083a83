package check

import (
	"cmp"
	"fmt"
	"slices"

	"imgtool/engine/ondisk"
)

// maxExplained bounds the extents whose backrefs are listed one by one, maxClaims the references collected for them.
const (
	maxExplained = 20_000
	maxClaims    = 1 << 20
)

// claim is one side's word about a reference to an extent.
type claim struct {
	ext          uint32
	ref          ref
	listed, made uint32
	from         uint32 // block that makes it
}

// String names a backref in the words of the format.
func (r ref) String() string {
	switch r.kind {
	case ondisk.TreeBlockRefKey:
		return fmt.Sprintf("tree block backref root %d", int64(r.a))
	case ondisk.SharedBlockRefKey:
		return fmt.Sprintf("shared block backref parent %d", r.a)
	case ondisk.SharedDataRefKey:
		return fmt.Sprintf("shared data backref parent %d", r.a)
	}
	return fmt.Sprintf("data backref root %d inode %d offset %d", int64(r.a), int64(r.ino), int64(r.offset))
}

// refFindings are the ids for a reference that is listed and not made, made and not listed, and counted wrong.
var refFindings = map[ondisk.ItemType][3]ID{
	ondisk.TreeBlockRefKey:   {TreeRefExtra, TreeRefMissing, TreeRefCount},
	ondisk.SharedBlockRefKey: {SharedRefExtra, SharedRefMissing, TreeRefCount},
	ondisk.ExtentDataRefKey:  {DataRefExtra, DataRefMissing, DataRefCount},
	ondisk.SharedDataRefKey:  {SharedDataRefExtra, SharedDataRefMissing, SharedDataRefCount},
}

// refs lists what differs between the backrefs of extents and the references that trees make. It reads the trees again,
// but only if a balance is not zero.
func (c *checker) refs() error {
	bad := map[uint32]bool{}
	for i := range c.extents {
		if c.extents[i].balance != 0 && len(bad) < maxExplained {
			bad[uint32(i)] = true
		}
	}
	if len(bad) == 0 || c.lost.in(ondisk.ExtentTree) {
		return nil
	}
	claims, err := c.claims(bad)
	if err != nil {
		return err
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.ext, b.ext), cmp.Compare(a.ref.kind, b.ref.kind), cmp.Compare(a.ref.a, b.ref.a),
			cmp.Compare(a.ref.ino, b.ref.ino), cmp.Compare(a.ref.offset, b.ref.offset))
	})
	for len(claims) > 0 {
		n := 1
		for n < len(claims) && claims[n].ext == claims[0].ext {
			n++
		}
		c.explainExtent(claims[:n])
		claims = claims[n:]
	}
	return nil
}

// explainExtent reports what differs for one extent.
func (c *checker) explainExtent(claims []claim) {
	e := &c.extents[claims[0].ext]
	at := Finding{Root: ondisk.ExtentTree, Block: ondisk.Logical(uint64(e.at) * c.sector), Extent: ondisk.Logical(e.addr)}
	var made uint32
	for i := range claims {
		made += claims[i].made
	}
	if made == 0 {
		if !c.lost.any() {
			at.ID = ExtentUnused
			c.found(at, "%s of %d bytes with %d references, but no tree refers to it", kindOfExtent(e.tree), e.length, e.refs)
		}
		return
	}
	for len(claims) > 0 {
		sum, n := claims[0], 1
		for n < len(claims) && claims[n].ref == sum.ref {
			sum.listed += claims[n].listed
			sum.made += claims[n].made
			if claims[n].made > 0 {
				sum.from = claims[n].from
			}
			n++
		}
		claims = claims[n:]
		ids := refFindings[sum.ref.kind]
		switch {
		case sum.listed == sum.made:
		case sum.made == 0:
			if !c.lost.any() { // who makes it may be in a lost block
				at.ID = ids[0]
				c.found(at, "%v is listed, but no tree makes this reference", sum.ref)
			}
		case sum.listed == 0:
			at.ID = ids[1]
			c.found(at, "block %d makes a reference that is not listed: %v", uint64(c.blocks[sum.from].addr), sum.ref)
		case !c.lost.any() || sum.made > sum.listed:
			at.ID = ids[2]
			c.found(at, "%v is listed %d times and made %d times", sum.ref, sum.listed, sum.made)
		}
	}
}

// claims collects all that is said about some extents.
func (c *checker) claims(bad map[uint32]bool) ([]claim, error) {
	var list []claim
	add := func(k claim) {
		if bad[k.ext] && len(list) < maxClaims {
			list = append(list, k)
		}
	}
	for i := range c.blocks {
		if b := &c.blocks[i]; b.state == good && b.level > 0 && b.tree != ondisk.TreeLogTree {
			r := ref{kind: ondisk.TreeBlockRefKey, a: uint64(b.owner)}
			if b.ext >= 0 && c.extents[b.ext].full {
				r = ref{kind: ondisk.SharedBlockRefKey, a: uint64(b.addr)}
			}
			for _, kid := range c.children(b) {
				if e := c.blocks[kid].ext; e >= 0 {
					add(claim{ext: uint32(e), ref: r, made: 1, from: uint32(i)})
				}
			}
		}
	}
	for _, r := range c.allRoots() {
		if e := c.blocks[r.block].ext; e >= 0 {
			add(claim{ext: uint32(e), ref: r.ref(), made: 1, from: r.block})
		}
	}
	err := c.readAgain(func(b *block) bool {
		return b.tree == ondisk.ExtentTree || b.tree == ondisk.RootTree || b.tree.IsFileTree()
	},
		func(id uint32, b ondisk.Block) []claim { return c.leafClaims(id, b, bad) }, add)
	return list, err
}

// leafClaims returns what a leaf says about some extents, be it as part of the extent tree or of a file tree.
func (c *checker) leafClaims(id uint32, b ondisk.Block, bad map[uint32]bool) []claim {
	var list []claim
	inExtentTree := c.blocks[id].tree == ondisk.ExtentTree
	full := c.isFull(c.blocks[id].addr)
	for i := range b.NrItems() {
		k := b.Key(i)
		if !inExtentTree {
			if k.Type != ondisk.ExtentDataKey {
				continue
			}
			if r, ok := dataRefOf(b.Header().Owner(), k, b.Item(i)); ok {
				if full {
					r.shared(c.blocks[id].addr)
				}
				if e, ok := c.extentAt.get(r.addr); ok && bad[e] {
					list = append(list, claim{ext: e, ref: r.ref, made: 1, from: id})
				}
			}
			continue
		}
		e, ok := c.extentAt.get(uint64(k.ObjectID))
		if !ok || !bad[e] {
			continue
		}
		say := func(r ref, n uint32) { list = append(list, claim{ext: e, ref: r, listed: n}) }
		switch k.Type {
		case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
			_ = c.eachInlineRef(k, b.Item(i), say)
		case ondisk.TreeBlockRefKey, ondisk.SharedBlockRefKey, ondisk.SharedDataRefKey, ondisk.ExtentDataRefKey:
			eachKeyedRef(k, b.Item(i), say)
		}
	}
	return list
}

// readAgain reads the good leaves that pass want once more and hands what look makes of each to add, one at a time.
func (c *checker) readAgain(want func(*block) bool, look func(uint32, ondisk.Block) []claim, add func(claim)) error {
	var ids []uint32
	for i := range c.blocks {
		if b := &c.blocks[i]; b.state == good && b.level == 0 && want(b) {
			ids = append(ids, uint32(i))
		}
	}
	slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(c.blocks[a].addr, c.blocks[b].addr) })
	workers := make([]*worker, c.o.Workers)
	for i := range workers {
		workers[i] = &worker{c: c}
	}
	err := c.readRuns(workers, ids, false, func(w *worker, id uint32, b ondisk.Block) {
		w.claims = append(w.claims, look(id, b)...)
	})
	for _, w := range workers {
		for _, k := range w.claims {
			add(k)
		}
	}
	return err
}
