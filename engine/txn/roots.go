package txn

import (
	"context"
	"fmt"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Root is an open tree with its ROOT_ITEM. Tree and Key never change; the item is read by Snapshot and changed by
// Update.
type Root struct {
	Tree *btree.Tree
	Key  ondisk.Key // of the ROOT_ITEM; Offset is the generation in which a snapshot was taken

	db       *DB
	Item     ondisk.RootItem // guarded by db.touchMu once the root is published
	touched  bool            // in db.touched; guarded by db.touchMu
	stale    bool            // Item differs from the one in the root tree; guarded by db.touchMu
	modified bool            // the tree's content changed since Item was last written; guarded by db.touchMu
}

// ID returns the tree's id.
func (r *Root) ID() ondisk.TreeID { return r.Tree.ID() }

// Snapshot returns a copy of the root item as it stands in memory.
func (r *Root) Snapshot() ondisk.RootItem {
	r.db.touchMu.Lock()
	defer r.db.touchMu.Unlock()
	return r.Item
}

// Update changes the root item; the commit of the handle's transaction writes it.
func (r *Root) Update(_ *Handle, fn func(*ondisk.RootItem)) {
	r.db.touchMu.Lock()
	defer r.db.touchMu.Unlock()
	fn(&r.Item)
	r.stale = true
	r.touchLocked()
}

func (r *Root) touchLocked() {
	if !r.touched {
		r.touched = true
		r.db.touched = append(r.db.touched, r)
	}
}

// Changed reports whether the tree or its item differs from what the last commit has: the running transaction is going
// to write it.
func (r *Root) Changed() bool {
	r.db.touchMu.Lock()
	defer r.db.touchMu.Unlock()
	return r.touched
}

// Quietly runs fn, which may COW the tree's root without changing content, as taking a snapshot does: the root item's
// ctransid stays as it was.
func (r *Root) Quietly(fn func() error) error {
	r.db.touchMu.Lock()
	before := r.modified
	r.db.touchMu.Unlock()
	err := fn()
	r.db.touchMu.Lock()
	r.modified = before
	r.db.touchMu.Unlock()
	return err
}

// config is the tree configuration for one id.
func (db *DB) config(id ondisk.TreeID) btree.Config {
	return btree.Config{ID: id, Cache: db.cache, Alloc: lateAllocator{db}, Tracer: db.tracer, Shareable: id.IsFileTree(),
		Tight: func() bool { return db.extents.MetadataTight() }, OnDirty: db.onDirty}
}

// onDirty is called when a tree's root was COWed, with tree blocks locked: it takes nothing but the leaf lock touchMu.
func (db *DB) onDirty(t *btree.Tree, _ btree.Txn) {
	if r, ok := t.Data().(*Root); ok {
		db.touchMu.Lock()
		r.touchLocked()
		r.modified = true
		db.touchMu.Unlock()
	} else {
		db.touchMu.Lock()
		db.touchBare(t)
		db.touchMu.Unlock()
	}
}

// touchBare notes a tree without a root item: the root tree and the chunk tree.
func (db *DB) touchBare(t *btree.Tree) {
	for _, r := range db.touched {
		if r.Tree == t {
			return
		}
	}
	db.touched = append(db.touched, &Root{Tree: t, db: db, touched: true})
}

// Root returns the open root of a tree, reading its ROOT_ITEM the first time. A tree that is missing, or whose item has
// no references left (it is being deleted), is ENOENT; use DeadRoot for the latter.
func (db *DB) Root(ctx context.Context, id ondisk.TreeID) (*Root, error) {
	r, err := db.AnyRoot(ctx, id)
	if err != nil {
		return nil, err
	}
	if id.IsSubvolume() {
		if it := r.Snapshot(); it.Refs() == 0 {
			return nil, fmt.Errorf("subvolume %d is being deleted: %w", id, fserr.ErrNotFound)
		}
	}
	return r, nil
}

// OpenRoot returns the root of a tree if it is open, nil otherwise. Its item may be newer than the one in the root tree.
func (db *DB) OpenRoot(id ondisk.TreeID) *Root {
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	return db.roots[id]
}

// AnyRoot is Root that also returns trees under deletion.
func (db *DB) AnyRoot(ctx context.Context, id ondisk.TreeID) (*Root, error) {
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	if r := db.roots[id]; r != nil {
		return r, nil
	}
	key, item, err := db.findRootItem(ctx, id)
	if err != nil {
		return nil, err
	}
	r := &Root{Key: key, db: db, Item: item}
	r.Tree = btree.New(db.config(id), item.Bytenr(), item.Level(), item.Generation())
	r.Tree.SetLastSnapshot(item.LastSnapshot())
	r.Tree.SetData(r)
	db.roots[id] = r
	return r, nil
}

// findRootItem reads the newest ROOT_ITEM of a tree.
func (db *DB) findRootItem(ctx context.Context, id ondisk.TreeID) (ondisk.Key, ondisk.RootItem, error) {
	var item ondisk.RootItem
	k, data, ok, err := db.rootTree.SeekLE(ctx, ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey, Offset: ^uint64(0)})
	if err != nil {
		return k, item, fmt.Errorf("root item of tree %v: %w", id, err)
	}
	if !ok || k.ObjectID != ondisk.ObjectID(id) || k.Type != ondisk.RootItemKey {
		return k, item, fmt.Errorf("tree %v has no root item: %w", id, fserr.ErrNotFound)
	}
	return k, DecodeRootItem(id, data), nil
}

// DecodeRootItem completes the short items of old kernels: when generation_v2 does not match, the fields behind it
// were never written or are out of date and count as zero (fs/btrfs/root-tree.c, btrfs_read_root_item). A subvolume's
// flags count only where its inode says that they were initialised, which btrfs-convert for one leaves out: the kernel
// takes them as zero then and says so from there on (btrfs_check_and_init_root_item), in snapshots of it, too.
func DecodeRootItem(id ondisk.TreeID, data []byte) ondisk.RootItem {
	var item ondisk.RootItem
	copy(item[:], data)
	if len(data) < ondisk.RootItemSize || item.GenerationV2() != item.Generation() {
		clear(item[239:])
	}
	if ino := item.Inode(); id.IsSubvolume() && ino.Flags()&ondisk.InodeRootInit == 0 {
		ino.SetFlags(ino.Flags() | ondisk.InodeRootInit)
		item.SetFlags(0)
		item.SetByteLimit(0)
	}
	return item
}

// Tree returns the open tree of a root.
func (db *DB) Tree(ctx context.Context, id ondisk.TreeID) (*btree.Tree, error) {
	switch id {
	case ondisk.RootTree:
		return db.rootTree, nil
	case ondisk.ChunkTree:
		return db.chunkTree, nil
	}
	r, err := db.Root(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.Tree, nil
}

// RootTree returns the tree of tree roots.
func (db *DB) RootTree() *btree.Tree { return db.rootTree }

// ChunkTree returns the chunk tree.
func (db *DB) ChunkTree() *btree.Tree { return db.chunkTree }

// NextSubvolID takes the next unused tree id.
func (db *DB) NextSubvolID() (ondisk.TreeID, error) {
	id := db.nextSubvol.Add(1) - 1
	if id > uint64(ondisk.LastSubvolID) {
		return 0, fmt.Errorf("no subvolume id is left: %w", fserr.ErrNoSpace)
	}
	return ondisk.TreeID(id), nil
}

// NewRoot creates a tree with an empty leaf, and its ROOT_ITEM from the given one, whose bytenr, level and generations
// it fills in.
func (db *DB) NewRoot(ctx context.Context, h *Handle, id ondisk.TreeID, item ondisk.RootItem) (*Root, error) {
	tree, err := btree.NewEmpty(ctx, db.config(id), h)
	if err != nil {
		return nil, err
	}
	r := &Root{Key: ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey}, db: db, Tree: tree, Item: item}
	r.fill(h.Generation())
	tree.SetData(r)
	if err := db.rootTree.Insert(ctx, h, r.Key, r.Item[:]); err != nil {
		return nil, err
	}
	db.treesMu.Lock()
	db.roots[id] = r
	db.treesMu.Unlock()
	db.touchMu.Lock()
	r.touchLocked()
	r.modified = true
	db.touchMu.Unlock()
	return r, nil
}

// ForgetRoot takes a tree whose ROOT_ITEM was deleted in h's transaction out of the map.
func (db *DB) ForgetRoot(_ *Handle, id ondisk.TreeID) {
	db.treesMu.Lock()
	defer db.treesMu.Unlock()
	r := db.roots[id]
	if r == nil {
		return
	}
	delete(db.roots, id)
	db.dropped = append(db.dropped, r)
	db.touchMu.Lock()
	defer db.touchMu.Unlock()
	for i, t := range db.touched {
		if t == r {
			db.touched = append(db.touched[:i], db.touched[i+1:]...)
			break
		}
	}
	r.touched = true // keeps a late OnDirty from listing it again
}

// fill brings the item up to the tree's root. Called by the committer, or before the root is published.
func (r *Root) fill(gen ondisk.Generation) {
	addr, level, rootGen := r.Tree.Root()
	r.Item.SetBytenr(addr)
	r.Item.SetLevel(level)
	r.Item.SetGeneration(rootGen)
	r.Item.SetGenerationV2(rootGen)
	r.Item.SetLastSnapshot(r.Tree.LastSnapshot())
	r.Item.SetBytesUsed(uint64(int64(r.Item.BytesUsed()) + r.Tree.TakeUsedDelta()))
	if r.modified && r.ID().IsSubvolume() {
		r.Item.SetCTransID(gen)
		r.Item.SetCTime(ondisk.TimeOf(r.db.now()))
	}
	r.modified = false
}

// current reports whether the item in the root tree says what the tree is. Called by the committer with touchMu held.
func (r *Root) current() bool {
	if r.Key.Type == 0 {
		return true // the super points to this one
	}
	addr, level, gen := r.Tree.Root()
	return !r.stale && r.Item.Bytenr() == addr && r.Item.Level() == level && r.Item.Generation() == gen
}

// writeRootItems writes the items of all roots that have changed since. No writer is left when the commit calls it.
func (db *DB) writeRootItems(c *commitRun) (bool, error) {
	db.touchMu.Lock()
	var due []*Root
	for _, r := range db.touched {
		if !r.current() || r.modified && r.Key.Type != 0 && r.ID().IsSubvolume() {
			due = append(due, r)
		}
	}
	db.touchMu.Unlock()
	for _, r := range due {
		db.touchMu.Lock()
		r.fill(c.t.gen)
		r.stale = false
		item := r.Item
		db.touchMu.Unlock()
		if err := db.rootTree.Put(c.ctx, c.h, r.Key, item[:]); err != nil {
			return false, fmt.Errorf("root item of tree %v: %w", r.ID(), err)
		}
	}
	return len(due) > 0, nil
}

// rootsDirty reports whether some root item is out of date.
func (db *DB) rootsDirty() bool {
	db.touchMu.Lock()
	defer db.touchMu.Unlock()
	for _, r := range db.touched {
		if !r.current() {
			return true
		}
	}
	return false
}
