package btree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tidwall/btree"
	"pgregory.net/rapid"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

type kv struct {
	k ondisk.Key
	v []byte
}

// model is a sorted map that behaves as a tree should.
type model = btree.BTreeG[kv]

func newModel() *model { return btree.NewBTreeG(func(a, b kv) bool { return a.k.Less(b.k) }) }

// pair is a tree and its model.
type pair struct {
	t *Tree
	m *model
	c *model // what the commit root holds
}

// machine runs random operations on several trees that share blocks.
type machine struct {
	*world
	pairs []pair
	rng   *rand.Rand
	ids   ondisk.TreeID
	keys  uint64 // keys are drawn from about so many
	big   int    // data sizes are up to this
}

var ctx = context.Background()

func (m *machine) fatal(format string, args ...any) {
	m.tb.Helper()
	m.tb.Fatalf(format, args...)
}

func (m *machine) key() ondisk.Key {
	n := m.rng.Uint64N(m.keys)
	return ondisk.Key{ObjectID: ondisk.ObjectID(n / 16), Type: ondisk.ItemType(n % 4), Offset: n % 16 / 4}
}

func (m *machine) data() []byte {
	size := m.rng.IntN(m.big + 1)
	switch m.rng.IntN(60) {
	case 0:
		size = ondisk.MaxItemSize(testNode) - m.rng.IntN(3)
	case 1:
		size = 0
	}
	return fill(make([]byte, size), m.rng)
}

func fill(b []byte, rng *rand.Rand) []byte {
	x := byte(rng.Uint32())
	for i := range b {
		b[i] = x + byte(i)
	}
	return b
}

// want fails unless err is exactly what the model expects.
func (m *machine) want(what string, err, want error) {
	m.tb.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		m.fatal("%s: have error %v, expect %v", what, err, want)
	}
}

func (m *machine) insert(p pair) {
	k, d := m.key(), m.data()
	var want error
	if _, ok := p.m.Get(kv{k: k}); ok {
		want = fserr.ErrExist
	} else {
		p.m.Set(kv{k, d})
	}
	m.want("Insert", p.t.Insert(ctx, m.gen, k, d), want)
}

func (m *machine) put(p pair) {
	k, d := m.key(), m.data()
	p.m.Set(kv{k, d})
	m.want("Put", p.t.Put(ctx, m.gen, k, d), nil)
}

func (m *machine) del(p pair) {
	k := m.key()
	var want error
	if _, ok := p.m.Delete(kv{k: k}); !ok {
		want = fserr.ErrNotFound
	}
	m.want("Delete", p.t.Delete(ctx, m.gen, k), want)
}

func (m *machine) update(p pair) {
	k := m.key()
	old, ok := p.m.Get(kv{k: k})
	var want error
	d := fill(make([]byte, len(old.v)), m.rng)
	if ok {
		p.m.Set(kv{k, d})
	} else {
		want = fserr.ErrNotFound
	}
	m.want("Update", p.t.Update(ctx, m.gen, k, func(item []byte) error { copy(item, d); return nil }), want)
}

// modify appends to, shortens, replaces, makes or removes an item.
func (m *machine) modify(p pair) {
	k, d, kind := m.key(), m.data(), m.rng.IntN(5)
	change := func(old []byte) []byte {
		switch {
		case kind == 0:
			return nil
		case kind == 1 && len(old) > 0:
			return old[len(old)/2:]
		case kind == 2 && len(old) > 0:
			return old[:len(old)/2]
		case kind == 3 && len(old)+len(d) <= ondisk.MaxItemSize(testNode):
			return append(bytes.Clone(old), d...)
		}
		return d
	}
	old, ok := p.m.Get(kv{k: k})
	next := bytes.Clone(change(old.v))
	if next != nil {
		p.m.Set(kv{k, next})
	} else {
		p.m.Delete(kv{k: k})
	}
	m.want("Modify", p.t.Modify(ctx, m.gen, k, func(have []byte) ([]byte, error) {
		if (have != nil) != ok || !bytes.Equal(have, old.v) {
			return nil, fmt.Errorf("Modify of %v sees %d bytes, expect %d (%v)", k, len(have), len(old.v), ok)
		}
		return change(have), nil
	}), nil)
}

func (m *machine) batch(p pair) {
	var items []Item
	k := m.key()
	for range m.rng.IntN(100) {
		k.Offset += 1 + m.rng.Uint64N(3)
		if _, ok := p.m.Get(kv{k: k}); ok {
			break
		}
		items = append(items, Item{k, m.data()})
	}
	for _, it := range items {
		p.m.Set(kv{it.Key, it.Data})
	}
	m.want("InsertBatch", p.t.InsertBatch(ctx, m.gen, items), nil)
}

func (m *machine) setKey(p pair) {
	old, k := m.key(), m.key()
	var want error
	have, ok := p.m.Get(kv{k: old})
	if ok && m.rng.IntN(2) == 0 {
		k = old
		k.Offset += m.rng.Uint64N(4) - 2
	}
	if !ok {
		want = fserr.ErrNotFound
	} else {
		p.m.Delete(have)
		lo, hi := k, old
		if old.Less(k) {
			lo, hi = old, k
		}
		p.m.Ascend(kv{k: lo}, func(x kv) bool {
			if !hi.Less(x.k) {
				want = fserr.ErrInvalid
			}
			return false
		})
		if want == nil {
			p.m.Set(kv{k, have.v})
		} else {
			p.m.Set(have)
		}
	}
	m.want("SetKey", p.t.SetKey(ctx, m.gen, old, k), want)
}

func (m *machine) deleteRange(p pair) {
	from, to := m.key(), m.key()
	if to.Less(from) {
		from, to = to, from
	}
	keep, limit := m.rng.IntN(4), m.rng.IntN(400)
	var gone []kv
	n := 0
	decide := func(k ondisk.Key) (del, more bool) {
		n++
		return keep == 0 || int(k.Offset)%4 != keep, n < limit
	}
	p.m.Ascend(kv{k: from}, func(x kv) bool {
		if to.Less(x.k) {
			return false
		}
		del, more := decide(x.k)
		if del {
			gone = append(gone, x)
		}
		return more
	})
	for _, x := range gone {
		p.m.Delete(x)
	}
	seen := n
	n = 0
	m.want("DeleteRange", p.t.DeleteRange(ctx, m.gen, from, to, func(k ondisk.Key, _ []byte) (bool, bool, error) {
		del, more := decide(k)
		return del, more, nil
	}), nil)
	if n != seen {
		m.fatal("DeleteRange called fn %d times, expect %d", n, seen)
	}
}

func (m *machine) seek(p pair) {
	k := m.key()
	var want *kv
	p.m.Ascend(kv{k: k}, func(x kv) bool { want = &x; return false })
	have, d, ok, err := p.t.SeekGE(ctx, k)
	m.sameItem("SeekGE", want, have, d, ok, err)
	want = nil
	p.m.Descend(kv{k: k}, func(x kv) bool { want = &x; return false })
	have, d, ok, err = p.t.SeekLE(ctx, k)
	m.sameItem("SeekLE", want, have, d, ok, err)
	if at, found, err := p.t.KeyLE(ctx, k); at != have || found != ok || err != nil {
		m.fatal("KeyLE: have %v %v %v, expect %v", at, found, err, have)
	}
	x, found := p.m.Get(kv{k: k})
	d, err = p.t.Get(ctx, k)
	if found != (err == nil) || !bytes.Equal(d, x.v) {
		m.fatal("Get %v: %d bytes, %v; expect %v", k, len(d), err, found)
	}
}

func (m *machine) sameItem(what string, want *kv, k ondisk.Key, d []byte, ok bool, err error) {
	m.tb.Helper()
	if err != nil || ok != (want != nil) || ok && (k != want.k || !bytes.Equal(d, want.v)) {
		m.fatal("%s: have %v %v %v, expect %v", what, k, ok, err, want)
	}
}

// compare walks the whole tree in three ways.
func (m *machine) compare(p pair) {
	m.tb.Helper()
	want := p.m.Items()
	i := 0
	check := func(k ondisk.Key, d []byte) (bool, error) {
		if i < 0 || i >= len(want) || want[i].k != k || !bytes.Equal(want[i].v, d) {
			return false, fmt.Errorf("item %d is %v (%d bytes), the model has %v", i, k, len(d), describe(want, i))
		}
		i++
		return true, nil
	}
	if err := p.t.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, check); err != nil || i != len(want) {
		m.fatal("Scan of tree %d: %d of %d items, %v", p.t.ID(), i, len(want), err)
	}
	i = len(want) - 1
	if err := p.t.ScanRev(ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, d []byte) (bool, error) {
		more, err := check(k, d)
		i -= 2
		return more, err
	}); err != nil || i != -1 {
		m.fatal("ScanRev of tree %d: stopped at %d, %v", p.t.ID(), i, err)
	}
	m.walkCursor(p, want)
	m.compareCommitted(p)
}

// compareCommitted looks at what the last commit left.
func (m *machine) compareCommitted(p pair) {
	m.tb.Helper()
	root := p.t.CommitRootBuffer()
	if (root != nil) != (p.c != nil) {
		m.fatal("tree %d: commit root %v, expect %v", p.t.ID(), root != nil, p.c != nil)
	}
	if root == nil {
		return
	}
	r := CommitReader{m.cache}
	want := p.c.Items()
	i, step := 0, 1
	check := func(k ondisk.Key, d []byte) (bool, error) {
		if i < 0 || i >= len(want) || want[i].k != k || !bytes.Equal(want[i].v, d) {
			return false, fmt.Errorf("item %d is %v (%d bytes), the model has %v", i, k, len(d), describe(want, i))
		}
		i += step
		return true, nil
	}
	if err := r.Scan(ctx, root, ondisk.MinKey, ondisk.MaxKey, check); err != nil || i != len(want) {
		m.fatal("commit root of tree %d: %d of %d items, %v", p.t.ID(), i, len(want), err)
	}
	i, step = len(want)-1, -1
	if err := r.ScanRev(ctx, root, ondisk.MinKey, ondisk.MaxKey, check); err != nil || i != -1 {
		m.fatal("commit root of tree %d, backwards: stopped at %d, %v", p.t.ID(), i, err)
	}
	for range 20 {
		k := m.key()
		x, found := p.c.Get(kv{k: k})
		if d, err := r.Get(ctx, root, k); found != (err == nil) || !bytes.Equal(d, x.v) {
			m.fatal("commit root, Get %v: %d bytes, %v; expect %v", k, len(d), err, found)
		}
		var ge, le *kv
		p.c.Ascend(kv{k: k}, func(x kv) bool { ge = &x; return false })
		p.c.Descend(kv{k: k}, func(x kv) bool { le = &x; return false })
		have, d, ok, err := r.SeekGE(ctx, root, k)
		m.sameItem("commit root, SeekGE", ge, have, d, ok, err)
		have, d, ok, err = r.SeekLE(ctx, root, k)
		m.sameItem("commit root, SeekLE", le, have, d, ok, err)
		if at, found, err := r.KeyLE(ctx, root, k); at != have || found != ok || err != nil {
			m.fatal("commit root, KeyLE: have %v %v %v, expect %v", at, found, err, have)
		}
	}
}

func (m *machine) walkCursor(p pair, want []kv) {
	m.tb.Helper()
	c := NewCursor(ctx, p.t)
	defer c.Close()
	ok, err := c.Seek(ondisk.MinKey)
	for i := 0; ok && err == nil; i++ {
		if c.Key() != want[i].k || !bytes.Equal(c.Item(), want[i].v) {
			m.fatal("cursor of tree %d: item %d is %v", p.t.ID(), i, c.Key())
		}
		if m.rng.IntN(8) == 0 { // back and forth
			if ok, err = c.Prev(); err != nil || ok != (i > 0) {
				m.fatal("Prev from %d: %v %v", i, ok, err)
			}
			if !ok {
				ok, err = c.Seek(ondisk.MinKey)
			} else {
				ok, err = c.Next()
			}
			if !ok || err != nil || c.Key() != want[i].k {
				m.fatal("cursor lost its way at %d: %v", i, err)
			}
		}
		if ok, err = c.Next(); !ok && i != len(want)-1 {
			m.fatal("cursor ends at %d of %d", i, len(want))
		}
	}
	if err != nil {
		m.fatal("cursor: %v", err)
	}
}

func (m *machine) step() {
	p := m.pairs[m.rng.IntN(len(m.pairs))]
	switch m.rng.IntN(12) {
	case 0, 1, 2:
		m.insert(p)
	case 3, 4:
		m.del(p)
	case 5:
		m.put(p)
	case 6:
		m.update(p)
	case 7, 8:
		m.modify(p)
	case 9:
		m.seek(p)
	case 10:
		m.setKey(p)
	case 11:
		if m.rng.IntN(8) == 0 {
			m.batch(p)
		}
	}
}

// batchOf runs n steps of one kind of work, and checks everything.
func (m *machine) work(kind, n int) {
	p := m.pairs[m.rng.IntN(len(m.pairs))]
	switch kind {
	case 0, 1, 2:
		for range n {
			m.step()
		}
	case 3:
		for range n {
			m.insert(p)
		}
	case 4:
		for range n {
			m.del(p)
		}
	case 5:
		for range 1 + n/64 {
			m.deleteRange(p)
		}
	case 6:
		for range 1 + n/32 {
			m.batch(p)
		}
	case 7:
		m.commit()
		for i := range m.pairs {
			m.pairs[i].c = m.pairs[i].m.Copy()
		}
	case 8:
		if len(m.pairs) < 5 {
			m.ids++
			m.pairs = append(m.pairs, pair{m.snapshot(p.t, m.ids), p.m.Copy(), nil})
		}
	case 9:
		if _, err := m.cache.WriteSome(ctx, ondisk.Generation(m.gen), 1+m.rng.IntN(20)); err != nil {
			m.fatal("WriteSome: %v", err)
		}
	}
}

func runMachine(tb failer, seed uint64, steps []int, id ondisk.TreeID, keys uint64, big int) {
	w := newWorld(tb)
	m := &machine{world: w, rng: rand.New(rand.NewPCG(seed, 1)), ids: 1000, keys: keys, big: big}
	w.tight = func() bool { return m.rng.IntN(3) == 0 }
	m.pairs = []pair{{w.tree(id), newModel(), nil}}
	for i, s := range steps {
		kind, n := s%10, 1+s/10
		if kind == 8 && !id.IsFileTree() {
			kind = 7
		}
		m.work(kind, n)
		m.checkAll()
		if i%8 == 7 {
			for _, p := range m.pairs {
				m.compare(p)
			}
		}
	}
	for _, p := range m.pairs {
		m.compare(p)
		m.want("DeleteRange", p.t.DeleteRange(ctx, m.gen, ondisk.MinKey, ondisk.MaxKey, nil), nil)
		if s, err := p.t.CheckShape(ctx); err != nil || s != (Shape{Levels: 1, Leaves: 1, Room: int64(ondisk.LeafDataSize(testNode))}) {
			m.fatal("an emptied tree has shape %+v, %v", s, err)
		}
	}
	m.checkAll()
	m.done()
}

// TestModel runs random operations, commits and snapshots on trees that share blocks, against sorted maps.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.IntRange(0, 3000), 1, 30).Draw(rt, "steps")
		id := rapid.SampledFrom([]ondisk.TreeID{ondisk.FSTree, 300, ondisk.ExtentTree}).Draw(rt, "tree")
		keys := rapid.SampledFrom([]uint64{100, 2000, 20000}).Draw(rt, "keys")
		big := rapid.SampledFrom([]int{20, 200, 1500}).Draw(rt, "big")
		runMachine(rt, seed, steps, id, keys, big)
	})
}

func describe(items []kv, i int) string {
	if i < 0 || i >= len(items) {
		return "none"
	}
	return fmt.Sprintf("%v (%d bytes)", items[i].k, len(items[i].v))
}

// TestModelDeep is TestModel with enough work for trees of three and four levels.
func TestModelDeep(t *testing.T) {
	base := rand.Uint64()
	for i := range uint64(3) {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Logf("seed %d", base+i)
			rng := rand.New(rand.NewPCG(base+i, 2))
			steps := make([]int, 40)
			for j := range steps {
				steps[j] = rng.IntN(4000)
				if j < 15 && steps[j]%10 == 4 {
					steps[j]++ // grow first
				}
			}
			id := []ondisk.TreeID{ondisk.FSTree, ondisk.ExtentTree, 300}[rng.IntN(3)]
			runMachine(t, base+i, steps, id, 1000<<rng.IntN(4), []int{100, 1500, 3000}[rng.IntN(3)])
		})
	}
}
