package scrub

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/treecheck"
)

// trees walks all trees.
func (s *scrubber) trees(ctx context.Context) error {
	root := &want{addr: s.sb.ChunkRoot(), gen: s.sb.ChunkRootGeneration(), tree: ondisk.ChunkTree, level: s.sb.ChunkRootLevel()}
	b, err := s.good(ctx, root, false)
	if err != nil {
		return err
	}
	if b != nil {
		s.chunkUUID = b.Header().ChunkTreeUUID() // all blocks repeat it
		s.pool.Put(b)
	}
	if err := s.walk(ctx, root); err != nil {
		return err
	}
	if m := s.vol.Missing(); len(m) > 0 {
		return fmt.Errorf("device %d is missing: name it with --device", m[0])
	}
	roots := []*want{{addr: s.sb.Root(), gen: s.sb.Generation(), tree: ondisk.RootTree, level: s.sb.RootLevel()}}
	if l := s.sb.LogRoot(); l != 0 { // of the transaction that was running (fs/btrfs/disk-io.c, btrfs_replay_log)
		roots = append(roots, &want{addr: l, gen: s.sb.Generation() + 1, tree: ondisk.TreeLogTree, level: s.sb.LogRootLevel()})
	}
	if err := s.walk(ctx, roots...); err != nil {
		return err
	}
	// Last, since they skip what is gone: blocks that they share have been walked whole.
	return s.walk(ctx, s.later...)
}

// walk visits everything below the roots that has not been visited yet.
func (s *scrubber) walk(ctx context.Context, roots ...*want) error {
	for _, r := range roots {
		s.lead(r)
	}
	for len(s.next) > 0 {
		wave := s.next
		s.next = nil
		for _, w := range wave {
			if p := s.place(w.addr, 0); p.Dev != nil {
				w.devid, w.at = p.DevID, uint64(p.Offset)
			}
		}
		slices.SortFunc(wave, func(a, b *want) int { return cmp.Or(cmp.Compare(a.devid, b.devid), cmp.Compare(a.at, b.at)) })
		if err := each(ctx, s.o.Depth, wave, s.block); err != nil {
			return err
		}
		// In the order of the wave: of pointers that disagree it is always the same one that counts.
		for _, w := range wave {
			for _, k := range w.kids {
				s.lead(k)
			}
			s.later = append(s.later, w.halfDeleted...)
			w.kids, w.halfDeleted = nil, nil
		}
	}
	return nil
}

// push puts a block into the next wave, once: that ends walks in trees that loop. Its error says that an earlier pointer
// to the block means another one. The caller holds mu.
func (s *scrubber) push(w *want) error {
	first := s.seen[w.addr]
	if first == nil {
		s.seen[w.addr] = w
		s.next = append(s.next, w)
		return nil
	}
	switch {
	case first.gen != w.gen, first.level != w.level, first.keyed && w.keyed && first.key != w.key,
		!ownerFits(first.tree, w.tree) && !ownerFits(w.tree, first.tree):
		return fserr.Corruptf("block", uint64(w.tree), uint64(w.addr),
			"two pointers disagree: generation %d, level %d, key %s; in tree %d generation %d, level %d, key %s",
			uint64(w.gen), w.level, w.key, int64(first.tree), uint64(first.gen), first.level, first.key)
	}
	return nil
}

// visit goes on from a good block.
func (s *scrubber) visit(w *want, b ondisk.Block) error {
	if b.IsLeaf() {
		return s.leaf(w, b)
	}
	n := b.NrItems()
	for i := range n {
		if i+1 < n && b.Key(i+1).Compare(w.from) <= 0 {
			continue // deleted already; its blocks may be in use by others
		}
		w.kids = append(w.kids, &want{
			addr: b.BlockPtr(i), gen: b.PtrGeneration(i), key: b.Key(i), from: w.from, tree: w.tree, level: w.level - 1, keyed: true,
		})
	}
	return nil
}

// lead follows a pointer. One that disagrees with another counts as a bad block: there is nothing to repair from.
func (s *scrubber) lead(w *want) {
	s.mu.Lock()
	err := s.push(w)
	s.mu.Unlock()
	if err != nil {
		s.found(Finding{Kind: Metadata, Tree: w.tree, Addr: w.addr, Len: uint64(s.sb.NodeSize()), Copy: -1, Err: err}, 1)
	}
}

// leaf takes from a leaf what leads on. Its items have passed treecheck.
func (s *scrubber) leaf(w *want, b ondisk.Block) error {
	if w.tree == ondisk.CsumTree {
		s.mu.Lock()
		defer s.mu.Unlock()
		if b.NrItems() > 0 {
			s.csums = append(s.csums, csumLeaf{b.Key(0), w})
		}
		return nil
	}
	for i := range b.NrItems() {
		key := b.Key(i)
		switch {
		case w.tree == ondisk.ChunkTree && key.Type == ondisk.ChunkItemKey:
			if err := s.vol.AddChunk(ondisk.Logical(key.Offset), b.Item(i)); err != nil {
				return err
			}
		case (w.tree == ondisk.RootTree || w.tree == ondisk.TreeLogTree) && key.Type == ondisk.RootItemKey:
			w.root(key, b.Item(i))
		case w.tree == ondisk.ExtentTree && key.Type == ondisk.ExtentItemKey:
			if it := b.Item(i); len(it) >= ondisk.ExtentItemSize && ondisk.AsExtentItem(it).Flags()&ondisk.ExtentFlagData != 0 {
				s.mu.Lock()
				s.dataUsed += key.Offset
				s.mu.Unlock()
			}
		}
	}
	return nil
}

// root notes the tree of a root item.
func (w *want) root(key ondisk.Key, item []byte) {
	if len(item) < treecheck.LegacyRootItemSize {
		return // treecheck lets none through
	}
	r := ondisk.AsRootItem(append(slices.Clone(item), make([]byte, max(0, ondisk.RootItemSize-len(item)))...))
	if r.Bytenr() == 0 {
		return
	}
	k := &want{addr: r.Bytenr(), gen: r.Generation(), tree: ondisk.TreeID(key.ObjectID), level: r.Level()}
	if p := r.DropProgress(); p != (ondisk.Key{}) && k.tree != ondisk.TreeRelocTree {
		k.from = p
		w.halfDeleted = append(w.halfDeleted, k)
		return
	}
	w.kids = append(w.kids, k)
}
