package extent

import (
	"context"
	"errors"
	"sync"
	"testing"

	"imgtool/engine/btree"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// TestReserveData promises no more than there is, and finds again what a commit gives back.
func TestReserveData(t *testing.T) {
	o := defaultFixture
	o.size = 200 << 20
	f := newFixture(t, o)
	tx, model := f.begin(), refModel{}
	got := f.fill(tx, model)
	f.commit(tx)
	commits := 0
	tx = f.begin()
	f.m.reclaim = func(context.Context) error {
		commits++
		f.commit(tx)
		tx = f.begin()
		return nil
	}
	if _, err := f.m.ReserveData(f.ctx, 4096); !errors.Is(err, fserr.ErrNoSpace) {
		t.Fatalf("full, but %v", err)
	}
	last := got[0]
	f.check(f.m.DropDataRef(tx, ondisk.Logical(last.start), last.n, 5, 257, last.start))
	delete(model, last.start)
	r, err := f.m.ReserveData(f.ctx, last.n)
	f.check(err)
	if commits == 0 {
		t.Error("no commit was asked for")
	}
	if _, err := f.m.ReserveData(f.ctx, 4096); !errors.Is(err, fserr.ErrNoSpace) {
		t.Errorf("promised twice: %v", err)
	}
	r.Release()
	r, err = f.m.ReserveData(f.ctx, 4096)
	f.check(err)
	r.Release()
	if u := f.m.Usage(); u.Data.Promised != 0 {
		t.Errorf("%d bytes are still promised", u.Data.Promised)
	}
}

// TestReserveAsksReader: before ENOSPC, who holds the space is asked to go.
func TestReserveAsksReader(t *testing.T) {
	o := defaultFixture
	o.size = 200 << 20
	f := newFixture(t, o)
	tx := f.begin()
	got := f.fill(tx, refModel{})
	f.commit(tx)
	reader := f.pin.Enter(func() uint64 { return uint64(f.gen) })
	tx = f.begin()
	for _, r := range got {
		f.check(f.m.DropDataRef(tx, ondisk.Logical(r.start), r.n, 5, 257, r.start))
	}
	f.commit(tx)
	asked := make(chan error, 1)
	go func() {
		r, err := f.m.ReserveData(context.Background(), got[0].n)
		r.Release()
		asked <- err
	}()
	for !reader.Asked() {
		select {
		case err := <-asked:
			t.Fatalf("the reservation did not wait: %v", err)
		default:
		}
	}
	reader.Leave()
	f.check(<-asked)
}

// TestReserveKinds: deletions get what others leave, and the commit's own need is nobody's.
func TestReserveKinds(t *testing.T) {
	o := defaultFixture
	o.size = 200 << 20
	f := newFixture(t, o)
	f.begin() // sizes the global reserve
	take := func(kind ReserveKind) (n int) {
		for {
			if _, err := f.m.Reserve(f.ctx, kind, 1); err != nil {
				if !errors.Is(err, fserr.ErrNoSpace) {
					t.Fatal(err)
				}
				return n
			}
			n++
		}
	}
	normal, freeing := take(ReserveNormal), take(ReserveFreeing)
	if normal == 0 || freeing == 0 {
		t.Fatalf("%d normal and then %d freeing reservations", normal, freeing)
	}
	u := f.m.Usage()
	left := u.Metadata.Free() + f.m.spaces[kindMetadata].allocatable.Load() - u.Metadata.Promised
	if need := f.m.commitNeed(); left < need || left >= need+f.m.ItemBytes(1) {
		t.Errorf("%d bytes are left, a commit needs %d", left, need)
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	f := newFixture(t, defaultFixture)
	r, err := f.m.Reserve(f.ctx, ReserveNormal, 1)
	f.check(err)
	r.Release()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	r.Release()
}

// TestParallel allocates, adds and drops from many goroutines while delayed refs are run early by some of them, and
// asks for true reference counts all the while (I6).
func TestParallel(t *testing.T) {
	f := newFixture(t, defaultFixture)
	model := refModel{}
	var mu sync.Mutex
	for range 3 {
		tx := f.begin()
		var wg sync.WaitGroup
		for w := range 6 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				mine := refModel{}
				if err := f.worker(tx, uint64(w), mine); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for a, e := range mine {
					model[a] = e
				}
			}()
		}
		wg.Wait()
		f.commit(tx)
		f.verify(model)
	}
}

func (f *fixture) worker(tx txn, w uint64, mine refModel) error {
	for i := range 60 {
		addr, n, err := f.m.AllocData(f.ctx, tx, 4096, 32768, 0)
		if err != nil {
			return err
		}
		if err := f.m.AddCsums(f.ctx, tx, addr, make([]byte, n/ondisk.SectorSize*4)); err != nil {
			return err
		}
		if err := f.m.AddDataRef(tx, addr, n, 5, 257, uint64(addr), true); err != nil {
			return err
		}
		if i%3 == 0 {
			if err := f.m.DropDataRef(tx, addr, n, 5, 257, uint64(addr)); err != nil {
				return err
			}
		} else {
			mine.add(uint64(addr), n)
		}
		if err := f.blockLife(tx, i); err != nil {
			return err
		}
		if i%10 == int(w) {
			if err := f.m.RunDelayedRefs(f.ctx, tx, 20); err != nil {
				return err
			}
		}
	}
	return nil
}

// blockLife makes a tree block, shares it, asks for its references, and drops it.
func (f *fixture) blockLife(tx txn, i int) error {
	addr, err := f.m.AllocTreeBlock(f.ctx, tx, btree.AllocReq{Owner: 300, Level: 1})
	if err != nil {
		return err
	}
	b := make(ondisk.Block, f.o.nodesize)
	b.Init(1<<40, tx.Generation(), 301, 2, ondisk.UUID{}, ondisk.UUID{})
	b.SetNrItems(1)
	b.SetPtr(0, ondisk.Key{}, addr, tx.Generation())
	if err := f.m.ModChildRefs(f.ctx, tx, 301, b, true, i%2 == 0); err != nil {
		return err
	}
	refs, _, err := f.m.ExtentInfo(f.ctx, tx, addr, 1)
	if err != nil {
		return err
	}
	if refs != 2 {
		return errors.New("a block with two references does not have two")
	}
	if err := f.m.ModChildRefs(f.ctx, tx, 301, b, false, i%2 == 0); err != nil {
		return err
	}
	_, err = f.m.DropTreeBlock(f.ctx, tx, btree.DropReq{Addr: addr, Born: tx.Generation(), Owner: 300, Level: 1, Last: true})
	return err
}

// TestModLeafRefs: a leaf refers to the regular and preallocated extents of its files, not to holes and inline data.
func TestModLeafRefs(t *testing.T) {
	f := newFixture(t, defaultFixture)
	tx, model := f.begin(), refModel{}
	addr, n, err := f.m.AllocData(f.ctx, tx, 65536, 65536, 0)
	f.check(err)
	f.check(f.m.AddDataRef(tx, addr, n, 5, 257, uint64(addr), true))
	model.add(uint64(addr), n)
	b := make(ondisk.Block, f.o.nodesize)
	b.Init(1<<40, tx.Generation(), 5, 0, ondisk.UUID{}, ondisk.UUID{})
	end := ondisk.LeafDataSize(len(b))
	for i, e := range []struct {
		typ  uint8
		disk ondisk.Logical
		off  uint64
	}{{ondisk.FileExtentInline, 0, 0}, {ondisk.FileExtentReg, 0, 0}, {ondisk.FileExtentReg, addr, 4096}, {ondisk.FileExtentPrealloc, addr, 0}} {
		end -= ondisk.FileExtentItemSize
		b.SetNrItems(i + 1)
		b.SetItem(i, ondisk.Key{ObjectID: 260, Type: ondisk.ExtentDataKey, Offset: uint64(i) << 16}, end, ondisk.FileExtentItemSize)
		it := ondisk.AsFileExtentItem(b.Item(i))
		it.SetType(e.typ)
		it.SetDiskBytenr(e.disk)
		it.SetDiskNumBytes(n)
		it.SetOffset(e.off)
	}
	refs := model[uint64(addr)].refs
	f.check(f.m.ModChildRefs(f.ctx, tx, 300, b, true, false))
	refs[dataRef(300, 260, 2<<16-4096, 0)] = 1
	refs[dataRef(300, 260, 3<<16, 0)] = 1
	f.check(f.m.ModChildRefs(f.ctx, tx, 300, b, true, true))
	refs[dataRef(0, 0, 0, 1<<40)] = 2
	f.commit(tx)
	f.verify(model)
	tx = f.begin()
	f.check(f.m.ModChildRefs(f.ctx, tx, 300, b, false, true))
	delete(refs, dataRef(0, 0, 0, 1<<40))
	f.commit(tx)
	f.verify(model)
}

// TestWrongDrop: a reference that is not there is a finding about the disk, not a panic.
func TestWrongDrop(t *testing.T) {
	f := newFixture(t, defaultFixture)
	tx := f.begin()
	f.check(f.m.DropDataRef(tx, 1<<40, 4096, 5, 257, 0))
	if err := f.m.RunDelayedRefs(f.ctx, tx, -1); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("outside all block groups: %v", err)
	}
	f = newFixture(t, defaultFixture)
	tx = f.begin()
	addr, n, err := f.m.AllocData(f.ctx, tx, 4096, 4096, 0)
	f.check(err)
	f.check(f.m.DropDataRef(tx, addr, n, 5, 257, 0))
	if err := f.m.RunDelayedRefs(f.ctx, tx, -1); !errors.Is(err, fserr.ErrCorrupt) {
		t.Errorf("no extent item: %v", err)
	}
}
