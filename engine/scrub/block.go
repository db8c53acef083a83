package scrub

import (
	"context"
	"errors"
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// want is a tree block as the pointer to it describes it.
type want struct {
	addr  ondisk.Logical
	gen   ondisk.Generation
	key   ondisk.Key    // first key; only with keyed
	from  ondisk.Key    // where an interrupted deletion goes on: what lies before it is gone
	tree  ondisk.TreeID // that the pointer belongs to
	level uint8
	keyed bool // roots have nobody who knows their first key
	at    uint64
	devid uint64

	// Where the block leads, noted by the goroutine that visits it, and followed when its wave is done. Those that are half
	// deleted come last.
	kids, halfDeleted []*want
}

// errNoGood is why nothing was repaired.
var errNoGood = errors.New("no good copy")

// block verifies all copies of a tree block, repairs the bad ones, and visits a good one.
func (s *scrubber) block(ctx context.Context, w *want) error {
	b, err := s.good(ctx, w, true)
	if b == nil || err != nil {
		return err
	}
	defer s.pool.Put(b)
	return s.visit(w, b)
}

// good returns a good copy of a tree block in a buffer of the pool, nil if there is none. With report all copies are
// verified, reported and repaired; without it the first good one will do.
func (s *scrubber) good(ctx context.Context, w *want, report bool) (ondisk.Block, error) {
	n := s.vol.Copies(w.addr)
	size := int(s.sb.NodeSize())
	var good ondisk.Block
	bad := make([]error, n)
	for i := range n {
		b := ondisk.Block(s.pool.Get(size)[:size])
		bad[i] = s.vol.ReadCopy(ctx, w.addr, b, i)
		if err := ctx.Err(); err != nil {
			s.pool.Put(b)
			if good != nil {
				s.pool.Put(good)
			}
			return nil, err
		}
		if bad[i] == nil {
			bad[i] = s.verify(b, w)
		}
		if bad[i] != nil || good != nil {
			s.pool.Put(b)
			continue
		}
		if good = b; !report {
			return good, nil
		}
	}
	if !report {
		return nil, nil
	}
	f := Finding{Kind: Metadata, Tree: w.tree, Addr: w.addr, Len: uint64(size)}
	if n == 0 {
		f.Copy, f.Err = -1, fserr.Corruptf("block", uint64(w.tree), uint64(w.addr), "no chunk covers it")
		s.found(f, 1)
		return nil, nil
	}
	s.verified(Metadata, uint64(size), uint64(n))
	for i, err := range bad {
		if err == nil {
			continue
		}
		f.Copy, f.Err, f.Place, f.Repaired, f.NoRepair = i, err, s.place(w.addr, i), false, nil
		if s.o.Repair {
			if f.NoRepair = errNoGood; good != nil {
				f.NoRepair = s.repair(ctx, w.addr, good, i)
			}
			f.Repaired = f.NoRepair == nil
		}
		s.found(f, 1)
	}
	return good, nil
}

// verify says what is wrong with a copy: nothing, if the pointer means this very block (I9).
func (s *scrubber) verify(b ondisk.Block, w *want) error {
	bad := func(format string, args ...any) error {
		return fserr.Corruptf("block", uint64(w.tree), uint64(w.addr), format, args...)
	}
	h := b.Header()
	switch {
	case !s.sb.Checksum().BlockCsumOK(b):
		return bad("checksum verify failed")
	case h.Bytenr() != w.addr:
		return bad("bad bytenr, have %d", uint64(h.Bytenr()))
	case h.FSID() != s.sb.MetadataFSID():
		return bad("bad fsid, have %s expect %s", h.FSID(), s.sb.MetadataFSID())
	case !s.chunkUUID.IsZero() && h.ChunkTreeUUID() != s.chunkUUID:
		return bad("bad chunk_tree_uuid, have %s expect %s", h.ChunkTreeUUID(), s.chunkUUID)
	case h.Generation() != w.gen:
		return bad("parent transid verify failed, have %d expect %d", uint64(h.Generation()), uint64(w.gen))
	case h.Level() != w.level:
		return bad("level verify failed, have %d expect %d", h.Level(), w.level)
	case !ownerFits(h.Owner(), w.tree):
		return bad("owner mismatch, have %d", int64(h.Owner()))
	}
	if err := treecheck.Block(b, s.check); err != nil {
		return err
	}
	if w.keyed && (b.NrItems() == 0 || b.Key(0) != w.key) {
		have := "none"
		if b.NrItems() > 0 {
			have = fmt.Sprint(b.Key(0))
		}
		return bad("first key mismatch, have %s expect %s", have, w.key)
	}
	return nil
}

// ownerFits tells whether a block of one owner may be reached through a tree: subvolumes share blocks, and a relocation
// tree is the copy of any tree (fs/btrfs/tree-checker.c, btrfs_check_eb_owner).
func ownerFits(owner, tree ondisk.TreeID) bool {
	return owner == tree || tree == ondisk.TreeRelocTree || owner.IsSubvolume() && tree.IsSubvolume()
}
