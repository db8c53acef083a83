package btree

import (
	"context"
	"fmt"
	"unsafe"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Update changes an item in place, keeping its size: fn gets the item's bytes and is called once, under the leaf's
// write lock. It returns fserr.ErrNotFound when there is no such item. After an error of fn the item is what fn left.
func (t *Tree) Update(ctx context.Context, tx Txn, key ondisk.Key, fn func(item []byte) error) error {
	gen := tx.Generation()
	leaf, err := t.lockLeafInPlace(ctx, gen, &key)
	if err != nil {
		return err
	}
	if leaf != nil {
		defer func() { leaf.Unlock(); leaf.Release() }()
		return updateIn(leaf.Block(), &key, fn)
	}
	p := path{t: t, ctx: ctx, tx: tx, gen: gen}
	defer p.release()
	if err := p.descend(&key, 0); err != nil {
		return err
	}
	return updateIn(p.leaf(), &key, fn)
}

func updateIn(b ondisk.Block, key *ondisk.Key, fn func([]byte) error) error {
	slot, found := search(b, key)
	if !found {
		return fserr.ErrNotFound
	}
	return fn(b.Item(slot))
}

// Put inserts an item, or replaces the data of the one that is there.
func (t *Tree) Put(ctx context.Context, tx Txn, key ondisk.Key, data []byte) error {
	gen := tx.Generation()
	leaf, err := t.lockLeafInPlace(ctx, gen, &key)
	if err != nil {
		return err
	}
	if leaf != nil && putIn(leaf, &key, data) {
		return nil
	}
	p := path{t: t, ctx: ctx, tx: tx, gen: gen}
	defer p.release()
	if err := p.descend(&key, toInsert); err != nil {
		return err
	}
	slot, found := search(p.leaf(), &key)
	return p.put(change{key: key, slot: slot, size: len(data), replace: found}, data)
}

// putIn does Put in the leaf alone if that is possible. The leaf ends unlocked and released.
func putIn(leaf *extbuf.Buffer, key *ondisk.Key, data []byte) (done bool) {
	defer func() { leaf.Unlock(); leaf.Release() }()
	b := leaf.Block()
	slot, found := search(b, key)
	switch {
	case found && b.LeafFree() >= len(data)-b.ItemSize(slot):
		copy(leafResize(b, slot, len(data)), data)
		return true
	case !found && slot > 0 && b.LeafFree() >= ondisk.ItemSize+len(data):
		copy(leafInsert(b, slot, *key, len(data)), data)
		return true
	}
	return false
}

// Modify replaces an item by what fn makes of it: old is the item's bytes, nil if there is none; a nil result removes
// the item or leaves it absent; an empty one that is not nil is an item without data. fn runs under the leaf's write
// lock, must not keep or change old, and may be called again if the leaf has to be searched for once more, so it should
// do nothing but compute. The result may alias old.
func (t *Tree) Modify(ctx context.Context, tx Txn, key ondisk.Key, fn func(old []byte) ([]byte, error)) error {
	gen := tx.Generation()
	leaf, err := t.lockLeafInPlace(ctx, gen, &key)
	if err != nil {
		return err
	}
	if leaf != nil {
		done, err := t.modifyIn(leaf, &key, fn)
		if done || err != nil {
			return err
		}
	}
	p := path{t: t, ctx: ctx, tx: tx, gen: gen}
	defer p.release()
	if err := p.descend(&key, toInsert|toDelete); err != nil {
		return err
	}
	b := p.leaf()
	slot, old := lookup(b, &key)
	data, err := fn(old)
	switch {
	case err != nil:
		return err
	case data != nil:
		data = detach(data, old)
		return p.put(change{key: key, slot: slot, size: len(data), replace: old != nil}, data)
	case old != nil:
		leafDelete(b, slot, slot+1)
		return p.deleted(slot == 0)
	}
	return nil
}

// lookup returns the slot of key, and its item, which is nil if there is none, and not nil if it is empty.
func lookup(b ondisk.Block, key *ondisk.Key) (slot int, item []byte) {
	slot, found := search(b, key)
	if found {
		item = b.Item(slot)
	}
	return slot, item
}

// detach returns data, copied if it lies in the memory of old: the item is about to move.
func detach(data, old []byte) []byte {
	at, lo := uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(unsafe.Pointer(unsafe.SliceData(old)))
	if at < lo || at >= lo+uintptr(cap(old)) {
		return data
	}
	return append(make([]byte, 0, len(data)), data...)
}

// modifyIn does Modify in the leaf alone if that is possible. The leaf ends unlocked and released.
func (t *Tree) modifyIn(leaf *extbuf.Buffer, key *ondisk.Key, fn func(old []byte) ([]byte, error)) (done bool, err error) {
	defer func() { leaf.Unlock(); leaf.Release() }()
	b := leaf.Block()
	slot, old := lookup(b, key)
	if old == nil && slot == 0 {
		return false, nil
	}
	data, err := fn(old)
	switch {
	case err != nil:
		return false, err
	case data == nil && old == nil:
		return true, nil
	case data == nil:
		if slot == 0 || t.sparseLeaf(b, ondisk.ItemSize+len(old)) {
			return false, nil
		}
		leafDelete(b, slot, slot+1)
	case old == nil:
		if b.LeafFree() < ondisk.ItemSize+len(data) {
			return false, nil
		}
		copy(leafInsert(b, slot, *key, len(data)), data)
	default:
		if b.LeafFree() < len(data)-len(old) {
			return false, nil
		}
		data = detach(data, old)
		copy(leafResize(b, slot, len(data)), data)
	}
	return true, nil
}

// SetKey changes the key of an item, which must keep its place in the order: fserr.ErrInvalid if another key stands
// between, fserr.ErrNotFound if there is no item of the old key.
func (t *Tree) SetKey(ctx context.Context, tx Txn, old, key ondisk.Key) error {
	p := path{t: t, ctx: ctx, tx: tx, gen: tx.Generation()}
	defer p.release()
	if err := p.descend(&old, toDelete); err != nil {
		return err
	}
	b := p.leaf()
	slot, found := search(b, &old)
	if !found {
		return fserr.ErrNotFound
	}
	if key == old {
		return nil
	}
	disorder := fmt.Errorf("%w: key %v cannot become %v in tree %d, another item stands between",
		fserr.ErrInvalid, old, key, int64(t.cfg.ID))
	if key.Less(old) {
		if slot == 0 && p.nodes[1] != nil {
			return t.moveBefore(ctx, tx, &p, old, key, disorder)
		}
		if slot > 0 && !b.Key(slot-1).Less(key) {
			return disorder
		}
	} else if slot+1 < b.NrItems() && !key.Less(b.Key(slot+1)) || slot+1 == b.NrItems() && p.bounds && !key.Less(p.bound) {
		return disorder
	}
	b.SetKey(slot, key)
	if slot == 0 {
		p.carryFirstKey(0)
	}
	return nil
}

// moveBefore is SetKey for the first item of a leaf and a smaller key, which may belong into the leaf before. The item
// is inserted under its new key before it goes under the old one.
func (t *Tree) moveBefore(ctx context.Context, tx Txn, p *path, old, key ondisk.Key, disorder error) error {
	_, item := lookup(p.leaf(), &old)
	data := append([]byte(nil), item...)
	p.release()
	before, ok := prevKey(old)
	if !ok {
		return disorder
	}
	k, ok, err := t.KeyLE(ctx, before)
	if err != nil {
		return err
	}
	if ok && !k.Less(key) {
		return disorder
	}
	if err := t.Insert(ctx, tx, key, data); err != nil {
		return err
	}
	return t.Delete(ctx, tx, old)
}
