package txn

import (
	"context"

	"imgtool/engine/btree"
	"imgtool/engine/ondisk"
)

// lateAllocator hands a tree's requests to the extent manager, which is made after the trees that it needs itself.
type lateAllocator struct{ db *DB }

func (a lateAllocator) AllocTreeBlock(ctx context.Context, tx btree.Txn, r btree.AllocReq) (ondisk.Logical, error) {
	return a.db.extents.AllocTreeBlock(ctx, tx, r)
}

func (a lateAllocator) DropTreeBlock(ctx context.Context, tx btree.Txn, d btree.DropReq) (bool, error) {
	freed, err := a.db.extents.DropTreeBlock(ctx, tx, d)
	return freed, a.must(err)
}

func (a lateAllocator) ExtentInfo(ctx context.Context, tx btree.Txn, addr ondisk.Logical, level uint8) (refs, flags uint64, err error) {
	return a.db.extents.ExtentInfo(ctx, tx, addr, level)
}

func (a lateAllocator) ModChildRefs(ctx context.Context, tx btree.Txn, owner ondisk.TreeID, b ondisk.Block, add, full bool) error {
	return a.must(a.db.extents.ModChildRefs(ctx, tx, owner, b, add, full))
}

func (a lateAllocator) SetBlockFlags(tx btree.Txn, addr ondisk.Logical, level uint8, first ondisk.Key, flags uint64) error {
	return a.must(a.db.extents.SetBlockFlags(tx, addr, level, first, flags))
}

// must aborts when references could not be recorded: the trees say one thing then and the extent tree will say another
// (btree.ErrInconsistent), whoever called and whatever he makes of the error.
func (a lateAllocator) must(err error) error {
	if err != nil {
		a.db.Abort(err)
	}
	return err
}

// sysTrees gives the extent manager the trees that it keeps. Open has put all of them into the map before, where they
// stay until Close.
type sysTrees struct{ db *DB }

func (s sysTrees) Extent() *btree.Tree     { return s.db.systemTree(ondisk.ExtentTree) }
func (s sysTrees) FreeSpace() *btree.Tree  { return s.db.systemTree(ondisk.FreeSpaceTree) }
func (s sysTrees) BlockGroup() *btree.Tree { return s.db.systemTree(ondisk.BlockGroupTree) }
func (s sysTrees) Csum() *btree.Tree       { return s.db.systemTree(ondisk.CsumTree) }
func (s sysTrees) Dev() *btree.Tree        { return s.db.systemTree(ondisk.DevTree) }
func (s sysTrees) Chunk() *btree.Tree      { return s.db.chunkTree }
func (s sysTrees) Root() *btree.Tree       { return s.db.rootTree }

func (db *DB) systemTree(id ondisk.TreeID) *btree.Tree {
	if r := db.system[id]; r != nil { // id is a constant below 16
		return r.Tree
	}
	return nil
}
