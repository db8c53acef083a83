package inode

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Insert waits for the data, makes the inodes and names, and ends the operation. fserr.ErrOverflow, or an error of
// writing the data, has changed nothing; any other has aborted the transaction.
func (k *Bulk) Insert(ctx context.Context) error {
	defer k.locks.unlock()
	err := k.wait()
	if err == nil {
		err = k.checkRoom(ctx)
	}
	if err != nil {
		k.unalloc()
	} else {
		err = k.insert(k.o.start(ctx))
	}
	if err != nil {
		err = fmt.Errorf("%d new inodes of tree %v: %w", len(k.b.Entries), k.o.t.id, err)
	}
	return k.o.end(ctx, err)
}

// Abandon ends the operation in place of Insert: nothing has changed.
func (k *Bulk) Abandon(ctx context.Context) error {
	defer k.locks.unlock()
	_ = k.wait() // nobody is told of the data
	k.unalloc()
	return k.o.end(ctx, nil)
}

// checkRoom finds out whether the names fit the DIR_ITEMs of their hashes, which would otherwise show when half of the
// batch is in the tree.
func (k *Bulk) checkRoom(ctx context.Context) error {
	limit := ondisk.MaxItemSize(k.o.t.cfg.NodeSize)
	sizes := make(map[ondisk.Key]int, len(k.b.Entries))
	born := map[ondisk.ObjectID]bool{}
	for i := range k.b.Entries {
		e := &k.b.Entries[i]
		if e.Attr.Mode&ondisk.ModeFmt == ondisk.ModeDir || len(k.b.Attrs) > 0 {
			born[e.Ino] = true
		}
		key := dirItemKey(e.Dir, []byte(e.Name))
		size, seen := sizes[key]
		if !seen && !born[e.Dir] {
			var err error
			if size, err = k.dirItemSize(ctx, key); err != nil {
				return err
			}
		}
		size += ondisk.DirItemSize + len(e.Name)
		if sizes[key] = size; size > limit {
			return fmt.Errorf("%q in directory %d: names of equal hash fill an item: %w", e.Name, e.Dir, fserr.ErrOverflow)
		}
	}
	return k.checkAttrs(ctx, born)
}

// checkAttrs finds out whether the inodes are there whose attributes are to change.
func (k *Bulk) checkAttrs(ctx context.Context, born map[ondisk.ObjectID]bool) error {
	for i := range k.b.Attrs {
		ino := k.b.Attrs[i].Ino
		if s, ok := k.o.t.dirs.get(ino); born[ino] || ok && s.flags&(ondisk.InodeImmutable|ondisk.InodeAppend) == 0 {
			continue
		}
		it, err := k.o.t.Inode(ctx, ino)
		if err == nil {
			err = k.o.t.checkSettable(ino, &it)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// setAttrs changes the attributes of inodes.
func (k *Bulk) setAttrs(ctx context.Context) error {
	for i := range k.b.Attrs {
		a := &k.b.Attrs[i]
		if a.Set.Mode != nil || a.Set.GID != nil {
			k.o.t.dirs.forget(a.Ino)
		}
		if err := k.o.updateInode(ctx, a.Ino, func(it *ondisk.InodeItem) { a.Set.apply(it, k.o.now) }); err != nil {
			return err
		}
	}
	return nil
}

// dirItemSize is how long a DIR_ITEM is, 0 if there is none.
func (k *Bulk) dirItemSize(ctx context.Context, key ondisk.Key) (size int, err error) {
	s, err := k.o.t.dir(ctx, key.ObjectID)
	if err != nil || s.next == 2 {
		return 0, err // a directory without names
	}
	err = k.o.t.tree.View(ctx, key, func(item []byte) error {
		size = len(item)
		return nil
	})
	if isNotFound(err) {
		err = nil
	}
	return size, err
}

// insert gathers the items of all directories and inodes, and puts them into the tree in the order of their keys.
func (k *Bulk) insert(ctx context.Context) error {
	k.items = make([]Item, 0, 5*len(k.b.Entries))
	k.fresh = map[ondisk.ObjectID]*ondisk.InodeItem{}
	for rest := k.b.Entries; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Dir == rest[0].Dir {
			n++
		}
		first, flags, err := k.names(ctx, rest[:n])
		if err != nil {
			return err
		}
		for i := range rest[:n] {
			if err := k.inode(&rest[i], first+uint64(i), flags); err != nil {
				return err
			}
		}
		rest = rest[n:]
	}
	slices.SortFunc(k.items, func(a, b Item) int { return a.Key.Compare(b.Key) })
	if err := k.o.t.tree.InsertBatch(ctx, k.o.tx, k.items); err != nil {
		return err
	}
	if err := k.setAttrs(ctx); err != nil {
		return err
	}
	return k.o.addSums(ctx, k.pieces, k.b.Sums)
}

// names adds the names of one directory and returns the index of the first, and the directory's flags.
func (k *Bulk) names(ctx context.Context, es []BulkEntry) (first, dirFlags uint64, err error) {
	o, dir := &k.o, es[0].Dir
	var s dirState
	if it := k.fresh[dir]; it != nil {
		s = dirState{next: 2, mode: it.Mode(), gid: it.GID(), flags: it.Flags()}
	} else if s, err = o.t.dir(ctx, dir); err != nil {
		return 0, 0, err
	}
	first = s.next
	size, bytes := 0, 0
	for i := range es {
		bytes += ondisk.DirItemSize + len(es[i].Name)
	}
	space := make([]byte, 0, bytes)
	hashed := make([]Item, len(es))
	for i := range es {
		e := &es[i]
		at := len(space)
		space = o.makeEntry(space, inodeKey(e.Ino), ondisk.ModeToFT(e.Attr.Mode), e.Name)
		entry := space[at:len(space):len(space)]
		hashed[i] = Item{Key: dirItemKey(dir, entry[ondisk.DirItemSize:]), Data: entry}
		k.items = append(k.items, Item{Key: typeKey(dir, ondisk.DirIndexKey, first+uint64(i)), Data: entry})
		size += len(e.Name)
	}
	if err := k.hashedNames(ctx, hashed, first == 2); err != nil {
		return 0, 0, err
	}
	s.next += uint64(len(es))
	o.t.dirs.put(dir, s)
	touch := k.b.Exclusive || dir == k.b.Existing
	grow := func(it *ondisk.InodeItem) {
		it.SetSize(it.Size() + uint64(2*size))
		if touch {
			it.SetCTime(o.now)
			it.SetMTime(o.now)
		}
	}
	if it := k.fresh[dir]; it != nil { // born in this batch
		grow(it)
		return first, s.flags, nil
	}
	return first, s.flags, o.updateInode(ctx, dir, grow)
}

// hashedNames adds DIR_ITEMs. In a directory without names only these can share a hash; elsewhere each may have to go
// to an item that is there.
func (k *Bulk) hashedNames(ctx context.Context, names []Item, empty bool) error {
	if !empty {
		for _, it := range names {
			if err := k.o.addName(ctx, it.Key.ObjectID, it.Data[ondisk.DirItemSize:], it.Data); err != nil {
				return err
			}
		}
		return nil
	}
	slices.SortStableFunc(names, func(a, b Item) int { return cmp.Compare(a.Key.Offset, b.Key.Offset) })
	for i, it := range names {
		last := &k.items[len(k.items)-1]
		if i > 0 && last.Key == it.Key {
			last.Data = append(clip(last.Data), it.Data...)
			continue
		}
		k.items = append(k.items, it)
	}
	return nil
}

// inode gathers the items of one new inode and queues the references of its data.
func (k *Bulk) inode(e *BulkEntry, index, dirFlags uint64) error {
	o := &k.o
	n := newInode{Attr: e.Attr, mode: e.Attr.Mode, rdev: e.Rdev, link: e.Target}
	isReg := n.mode&ondisk.ModeFmt == ondisk.ModeReg
	if !k.b.Exclusive {
		n.Flags |= inheritedFlags(dirFlags, isReg)
	}
	if isReg && n.Flags&ondisk.InodeNoDataCow != 0 && e.Size > uint64(len(e.Inline)) {
		// The batch's checksums are of all its data, and a file without checksums must have none at all: it stays one
		// that has them, as if it had been moved here.
		n.Flags &^= ondisk.InodeNoDataCow | ondisk.InodeNoDataSum
	}
	var it *ondisk.InodeItem
	k.items, it = o.inodeItems(k.items, e.Ino, e.Dir, index, e.Name, &n)
	if !isReg {
		if n.mode&ondisk.ModeFmt == ondisk.ModeDir {
			k.fresh[e.Ino] = it
			o.t.dirs.put(e.Ino, dirState{next: 2, mode: n.mode, gid: n.GID, flags: n.Flags})
		}
		return nil
	}
	it.SetSize(e.Size)
	if len(e.Inline) > 0 {
		it.SetNBytes(uint64(len(e.Inline)))
		k.items = append(k.items, Item{Key: typeKey(e.Ino, ondisk.ExtentDataKey, 0), Data: o.inlineItem(e.Inline)})
		return nil
	}
	it.SetNBytes(alignUp(e.Size))
	return k.extents(e)
}

// extents gathers the EXTENT_DATA items of a file whose content was placed.
func (k *Bulk) extents(e *BulkEntry) error {
	if e.Size == 0 {
		return nil
	}
	parts := e.Parts
	if parts == nil {
		parts = []BulkPart{e.plain()}
	}
	for i := range parts {
		var err error
		if parts[i].Algorithm == ondisk.CompressNone {
			err = k.plainPart(e.Ino, &parts[i])
		} else {
			err = k.framePart(e.Ino, &parts[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// plainPart is one extent, or more where free space was in pieces.
func (k *Bulk) plainPart(ino ondisk.ObjectID, part *BulkPart) error {
	at, end := uint64(part.DataOff), uint64(part.DataOff+part.Disk)
	for _, p := range k.pieces {
		from, to := max(at, p.Start), min(end, p.Start+p.DiskLen)
		if from >= to {
			continue
		}
		n := to - from
		err := k.extent(ino, &Extent{Start: uint64(part.Off) + from - at, Len: n, Type: ondisk.FileExtentReg,
			Addr: p.Addr + ondisk.Logical(from-p.Start), DiskLen: n, RAMBytes: n})
		if err != nil {
			return err
		}
	}
	return nil
}

// framePart is one extent in one piece, as checkPlaced has seen.
func (k *Bulk) framePart(ino ondisk.ObjectID, part *BulkPart) error {
	at := uint64(part.DataOff)
	for _, p := range k.pieces {
		if at >= p.Start && at < p.Start+p.DiskLen {
			return k.extent(ino, &Extent{Start: uint64(part.Off), Len: alignUp(uint64(part.Len)), Type: ondisk.FileExtentReg,
				Compression: part.Algorithm, Addr: p.Addr + ondisk.Logical(at-p.Start), DiskLen: uint64(part.Disk),
				Offset: part.RAMOff, RAMBytes: alignUp(part.RAMLen)})
		}
	}
	return fmt.Errorf("internal: no piece has byte %d of the data: %w", at, fserr.ErrInvalid)
}

// extent gathers one EXTENT_DATA item and queues its reference.
func (k *Bulk) extent(ino ondisk.ObjectID, x *Extent) error {
	r := x.ref()
	if err := k.o.t.cfg.Store.AddDataRef(k.o.tx, r.addr, r.n, k.o.t.id, ino, r.offset, true); err != nil {
		return err
	}
	k.items = append(k.items, Item{Key: typeKey(ino, ondisk.ExtentDataKey, x.Start),
		Data: x.put(new([ondisk.FileExtentItemSize]byte), k.o.tx.Generation())})
	return nil
}
