package pin

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// disk is a toy file system of one-byte extents: a table says which addresses
// are in use, each transaction moves some of them by copy-on-write, and readers
// walk the table of the generation they entered at. It checks soundness from the
// outside: what a reader can reach is not overwritten until it has left.
type disk struct {
	set   *Set
	cells []atomic.Uint64 // what is "on disk"; stamps never repeat

	freeMu sync.Mutex
	free   []uint64

	commitRootMu sync.RWMutex
	gen          uint64   // switched; under commitRootMu
	table        []extent // of gen; replaced, never changed, by Switch
}

type extent struct{ at, born, stamp uint64 }

func newDisk(cells, used int) *disk {
	d := &disk{cells: make([]atomic.Uint64, cells), gen: 1}
	d.set = New(Options{
		Release: func(list []Extent) {
			d.freeMu.Lock()
			defer d.freeMu.Unlock()
			for _, e := range list {
				d.free = append(d.free, e.Start)
			}
		},
		MaxHeld: func() uint64 { return uint64(cells / 4) },
	})
	for i := range cells {
		if i < used {
			d.cells[i].Store(uint64(i) + 1)
			d.table = append(d.table, extent{uint64(i), 1, uint64(i) + 1})
		} else {
			d.free = append(d.free, uint64(i))
		}
	}
	d.set.Release(1)
	return d
}

// alloc returns a free address, or false.
func (d *disk) alloc() (uint64, bool) {
	d.freeMu.Lock()
	defer d.freeMu.Unlock()
	if len(d.free) == 0 {
		return 0, false
	}
	at := d.free[len(d.free)-1] // last freed, first used: the worst for readers
	d.free = d.free[:len(d.free)-1]
	return at, true
}

// commit is one transaction: it moves n extents, switches and releases.
func (d *disk) commit(t *testing.T, r *rand.Rand, n int, stamp *uint64) {
	gen := d.gen + 1
	table := append([]extent(nil), d.table...)
	for range n {
		since := d.set.Changed()
		at, ok := d.alloc()
		if !ok {
			if again, err := d.set.WaitReleased(t.Context(), since); err != nil || !again {
				break // full: the transaction makes do with less
			}
			continue
		}
		*stamp++
		d.cells[at].Store(*stamp)
		old := &table[r.IntN(len(table))]
		if err := d.set.Pin(Extent{Start: old.at, Len: 1, Born: old.born, Died: gen}); err != nil {
			t.Error(err)
		}
		*old = extent{at, gen, *stamp}
	}
	d.commitRootMu.Lock()
	d.gen, d.table = gen, table
	d.commitRootMu.Unlock()
	d.set.Release(gen)
}

// view is a reader's search: it reports how many cells were not what the table
// said.
func (d *disk) view(r *rand.Rand, reads int) (mismatches int) {
	d.commitRootMu.RLock()
	var table []extent
	tk := d.set.Enter(func() uint64 { table = d.table; return d.gen })
	d.commitRootMu.RUnlock()
	defer tk.Leave()
	for range reads {
		if tk.Asked() {
			return mismatches
		}
		if e := table[r.IntN(len(table))]; d.cells[e.at].Load() != e.stamp {
			mismatches++
		}
	}
	return mismatches
}

func TestReadersAreSafe(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := newDisk(256, 100)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var views, bad atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(g)))
			for {
				select {
				case <-stop:
					return
				default:
					bad.Add(int64(d.view(r, 1+r.IntN(400))))
					views.Add(1)
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(seed, 99))
	stamp := uint64(1000)
	for n := 0; n < 500 || views.Load() < 1000; n++ {
		d.commit(t, r, 30, &stamp)
	}
	close(stop)
	wg.Wait()
	if bad.Load() != 0 {
		t.Errorf("%d reads of re-used extents in %d views", bad.Load(), views.Load())
	}
	st := d.set.Stats()
	if st.Pinned()+st.Held()+st.Releasing() != 0 || len(d.free) != 156 || st.Late != 0 {
		t.Errorf("at the end: %v, %d free", st, len(d.free))
	}
	t.Logf("%d views, %d commits, %d asked", views.Load(), d.gen, st.Asked)
}

// TestRegisteringLateIsUnsafe is the mutant: the reader captures under the lock,
// lets it go, and registers only then. Between the two a commit frees what it is
// about to read, and another re-uses it.
func TestRegisteringLateIsUnsafe(t *testing.T) {
	for _, late := range []bool{false, true} {
		d := newDisk(8, 4)
		r := rand.New(rand.NewPCG(5, 5))
		stamp := uint64(1000)
		d.commitRootMu.RLock()
		table, gen := d.table, d.gen
		var tk *Ticket
		if !late {
			tk = d.set.Enter(func() uint64 { return gen })
		}
		d.commitRootMu.RUnlock()
		for range 8 {
			d.commit(t, r, 1, &stamp)
		}
		if late {
			tk = d.set.Enter(func() uint64 { return gen })
		}
		mismatches := 0
		for _, e := range table {
			if d.cells[e.at].Load() != e.stamp {
				mismatches++
			}
		}
		if (mismatches > 0) != late || (d.set.Stats().Late > 0) != late {
			t.Errorf("late %v: %d mismatches, %+v", late, mismatches, d.set.Stats())
		}
		tk.Leave()
	}
}
