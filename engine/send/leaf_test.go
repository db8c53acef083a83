package send_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"

	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
)

// itemModel is a tree as a sorted list.
type itemModel []struct {
	key  ondisk.Key
	data []byte
}

func (m itemModel) at(k ondisk.Key) int {
	return sort.Search(len(m), func(i int) bool { return !m[i].key.Less(k) })
}

// key is one that is there, or one beside it.
func (m itemModel) near(rng *rand.Rand, around int) ondisk.Key {
	k := m[min(max(around+rng.IntN(400)-200, 0), len(m)-1)].key
	switch rng.IntN(6) {
	case 0:
		k.Offset++
	case 1:
		k.Offset--
	case 2:
		k.ObjectID += ondisk.ObjectID(rng.IntN(3)) - 1
	}
	return k
}

// TestLookups compares the look-ups of a send, which keep the leaves used last, with a list of all items, while the
// subvolume is snapshotted, its root goes, and the ticket is given up and taken anew.
func TestLookups(t *testing.T) {
	l := newLab(t, 600)
	looks, err := send.OpenLookups(t.Context(), l.fs, l.id("/t"))
	l.must(err)
	defer looks.Close()
	var m itemModel
	l.must(looks.View().ScanOn(t.Context(), ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		m = append(m, struct {
			key  ondisk.Key
			data []byte
		}{k, bytes.Clone(item)})
		return true, nil
	}))
	seed := oracle.Seed(t)
	rng := rand.New(rand.NewPCG(uint64(seed), 7))
	around := 0
	for i := range 20000 {
		if i%50 == 0 {
			around = rng.IntN(len(m))
		}
		if i%4000 == 1 {
			l.must(l.storm("/t", 0))
			if i%8000 == 1 {
				looks.Leave()
			}
			l.must(looks.Quiesce())
		}
		if err := m.compare(looks, rng, around); err != nil {
			t.Fatalf("seed %d, step %d: %v", seed, i, err)
		}
	}
	st := looks.Stats()
	if st.CacheHits.Load() < st.Searches.Load() {
		t.Errorf("%d searches, only %d saved", st.Searches.Load(), st.CacheHits.Load())
	}
	if kept, inUse := looks.Kept(); kept != 8 || inUse != 0 || looks.Spare() > 3 {
		t.Errorf("%d leaves kept, %d in use, %d buffers to spare", kept, inUse, looks.Spare())
	}
	looks.Leave()
	l.close()
}

// compare makes one random look-up.
func (m itemModel) compare(looks *send.Lookups, rng *rand.Rand, around int) error {
	k := m.near(rng, around)
	i := m.at(k)
	there := i < len(m) && m[i].key == k
	switch rng.IntN(4) {
	case 0, 1:
		data, found, err := looks.Find(k)
		if err != nil || found != there || there && !bytes.Equal(data, m[i].data) {
			return fmt.Errorf("find %v: %d bytes, %v, %v", k, len(data), found, err)
		}
	case 2:
		k.Type = ondisk.ExtentDataKey
		start, ok, err := looks.LastExtent(k.ObjectID, k.Offset)
		i := m.at(k)
		if i == len(m) || m[i].key != k {
			i--
		}
		want := i >= 0 && m[i].key.ObjectID == k.ObjectID && m[i].key.Type == k.Type
		if err != nil || ok != want || ok && start != m[i].key.Offset {
			return fmt.Errorf("last extent before %v: at %d, %v, %v", k, start, ok, err)
		}
	case 3:
		return m.compareScan(looks, rng, k, i)
	}
	return nil
}

// compareScan goes through some items from a key on, looking others up in between.
func (m itemModel) compareScan(looks *send.Lookups, rng *rand.Rand, from ondisk.Key, i int) error {
	n := rng.IntN(300)
	to := ondisk.MaxKey
	if rng.IntN(3) > 0 {
		to = m.near(rng, i+n)
	}
	var got []ondisk.Key
	err := looks.Each(from, to, rng.IntN(2)*16, func(k ondisk.Key, data []byte) (bool, error) {
		if rng.IntN(10) == 0 {
			if _, _, err := looks.Find(m.near(rng, i)); err != nil {
				return false, err
			}
		}
		if at := m.at(k); at == len(m) || !bytes.Equal(m[at].data, data) {
			return false, fmt.Errorf("other bytes under %v", k)
		}
		got = append(got, k)
		return len(got) < n, nil
	})
	var want []ondisk.Key
	for ; i < len(m) && !to.Less(m[i].key) && len(want) < max(n, 1); i++ {
		want = append(want, m[i].key)
	}
	if err != nil || !slices.Equal(got, want) {
		return fmt.Errorf("items from %v to %v: %d, want %d, %v", from, to, len(got), len(want), err)
	}
	return nil
}
