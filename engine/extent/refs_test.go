package extent

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"imgtool/delayedref"
	"imgtool/engine/btree"
	"imgtool/engine/ondisk"
)

// TestRefsModel drops and adds references of all four kinds at random, through delayed refs into real trees, and
// compares every commit with a naive model: references, free space, free-space tree, block groups, superblock.
func TestRefsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		o := defaultFixture
		o.nodesize = rapid.SampledFrom([]int{4096, 16384}).Draw(rt, "nodesize")
		o.skinny = rapid.Bool().Draw(rt, "skinny")
		o.noFST, o.noBGT = rapid.Bool().Draw(rt, "noFST"), rapid.Bool().Draw(rt, "noBGT")
		o.discard = rapid.Bool().Draw(rt, "discard")
		f := newFixture(rt, o)
		w := &refWalk{f: f, model: refModel{}, rt: rt, steps: 60, extents: 40, different: 12}
		if rapid.Bool().Draw(rt, "hot") { // few extents with many references, which go to items of their own
			w.steps, w.extents, w.different = 250, 2, 60
		}
		for range rapid.IntRange(1, 4).Draw(rt, "transactions") {
			w.tx = f.begin()
			for range rapid.IntRange(1, w.steps).Draw(rt, "steps") {
				w.step()
			}
			f.commit(w.tx)
			w.levels = w.levels.keep(w.model)
			f.verify(w.model)
			if rapid.IntRange(0, 3).Draw(rt, "reopen") == 0 {
				f.reopen()
				f.verify(w.model)
			}
		}
	})
}

type levelsOf map[uint64]uint8

func (l levelsOf) keep(m refModel) levelsOf {
	maps.DeleteFunc(l, func(addr uint64, _ uint8) bool { return m[addr] == nil })
	return l
}

type refWalk struct {
	f      *fixture
	rt     *rapid.T
	tx     txn
	model  refModel
	levels levelsOf

	steps, extents int // at most, in a transaction
	different      uint64
}

func (w *refWalk) step() {
	op := rapid.IntRange(0, 9).Draw(w.rt, "op")
	if op < 3 && len(w.model) >= w.extents {
		op = 9
	}
	switch op {
	case 0, 1:
		w.newData()
	case 2:
		w.newBlock()
	case 3:
		w.f.check(w.f.m.RunDelayedRefs(w.f.ctx, w.tx, rapid.IntRange(-1, 8).Draw(w.rt, "max")))
	case 4:
		w.info()
	case 5:
		w.change(-1)
	default:
		w.change(+1)
	}
}

func (w *refWalk) newData() {
	n := uint64(rapid.IntRange(1, 64).Draw(w.rt, "sectors")) * ondisk.SectorSize
	addr, got, err := w.f.m.AllocData(w.f.ctx, w.tx, ondisk.SectorSize, n, 0)
	w.f.check(err)
	if rapid.IntRange(0, 9).Draw(w.rt, "fail") == 0 {
		w.f.m.UnallocData(addr, got)
		return
	}
	r := delayedref.Ref{Kind: delayedref.ExtentData, Root: 5, Objectid: 257, Offset: 0}
	w.f.check(w.f.m.AddDataRef(w.tx, addr, got, 5, 257, 0, true))
	w.model[uint64(addr)] = &extentModel{n: got, data: true, refs: map[delayedref.Ref]int{r: 1}}
}

func (w *refWalk) newBlock() {
	level := uint8(rapid.IntRange(0, 3).Draw(w.rt, "level"))
	addr, err := w.f.m.AllocTreeBlock(w.f.ctx, w.tx, btree.AllocReq{Owner: 300, Level: level})
	w.f.check(err)
	r := delayedref.Ref{Kind: delayedref.TreeBlock, Root: 300}
	w.model[uint64(addr)] = &extentModel{n: uint64(w.f.o.nodesize), refs: map[delayedref.Ref]int{r: 1}}
	if w.levels == nil {
		w.levels = levelsOf{}
	}
	w.levels[uint64(addr)] = level
}

func (w *refWalk) pick() (uint64, *extentModel) {
	if len(w.model) == 0 {
		return 0, nil
	}
	addrs := slices.Sorted(maps.Keys(w.model))
	addr := rapid.SampledFrom(addrs).Draw(w.rt, "extent")
	return addr, w.model[addr]
}

func (w *refWalk) change(sign int) {
	addr, e := w.pick()
	if e == nil {
		return
	}
	r := drawRefOf(e.data, w.different).Draw(w.rt, "ref")
	if sign < 0 {
		refs := slices.SortedFunc(maps.Keys(e.refs), delayedref.Ref.Compare)
		r = rapid.SampledFrom(refs).Draw(w.rt, "drop")
	} else if !e.data && e.refs[r] > 0 {
		return
	}
	if e.data {
		w.changeData(addr, e, r, sign)
	} else {
		w.changeBlock(addr, r, sign)
	}
	if e.refs[r] += sign; e.refs[r] == 0 {
		delete(e.refs, r)
	}
	if len(e.refs) == 0 {
		delete(w.model, addr)
	}
}

func (w *refWalk) changeData(addr uint64, e *extentModel, r delayedref.Ref, sign int) {
	if sign > 0 {
		if r.Kind == delayedref.SharedData {
			w.f.check(w.f.m.refs.Load().Add(addr, e.n, r, delayedref.AddOptions{}))
			return
		}
		w.f.check(w.f.m.AddDataRef(w.tx, ondisk.Logical(addr), e.n, ondisk.TreeID(r.Root), ondisk.ObjectID(r.Objectid), r.Offset, false))
		return
	}
	w.f.check(w.f.m.DropDataRef(w.tx, ondisk.Logical(addr), e.n, ondisk.TreeID(r.Root), ondisk.ObjectID(r.Objectid), r.Offset, ondisk.Logical(r.Parent)))
}

func (w *refWalk) changeBlock(addr uint64, r delayedref.Ref, sign int) {
	r.Level = w.levels[addr]
	if sign > 0 {
		w.f.check(w.f.m.refs.Load().Add(addr, uint64(w.f.o.nodesize), r, delayedref.AddOptions{}))
		return
	}
	_, err := w.f.m.DropTreeBlock(w.f.ctx, w.tx, btree.DropReq{
		Addr: ondisk.Logical(addr), Owner: ondisk.TreeID(r.Root), Parent: ondisk.Logical(r.Parent), Level: r.Level, Born: 0})
	w.f.check(err)
}

// info asks for the number of references of a tree block at a random moment (I6).
func (w *refWalk) info() {
	addr, e := w.pick()
	if e == nil || e.data {
		return
	}
	if rapid.Bool().Draw(w.rt, "flag") {
		w.f.check(w.f.m.SetBlockFlags(w.tx, ondisk.Logical(addr), w.levels[addr], ondisk.Key{}, ondisk.ExtentFlagFullBackref))
		_, flags, err := w.f.m.ExtentInfo(w.f.ctx, w.tx, ondisk.Logical(addr), w.levels[addr])
		w.f.check(err)
		if flags&ondisk.ExtentFlagFullBackref == 0 {
			w.f.t.Fatalf("block %d: flags %#x", addr, flags)
		}
	}
	refs, _, err := w.f.m.ExtentInfo(w.f.ctx, w.tx, ondisk.Logical(addr), w.levels[addr])
	w.f.check(err)
	if int(refs) != len(e.refs) {
		w.f.t.Fatalf("block %d has %d refs, model %d", addr, refs, len(e.refs))
	}
}
