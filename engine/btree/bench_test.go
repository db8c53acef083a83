package btree

import (
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"imgtool/engine/extbuf"
	"imgtool/engine/ondisk"
)

// Benchmarks use the usual node size of 16 KiB and trees of three levels.

const benchNode = 16384

var data160 [160]byte

func benchTree(b *testing.B, items, size int) (*world, *Tree) {
	b.Helper()
	w := newWorld(b)
	w.cache = extbuf.NewCache(extbuf.Options{IO: w.io, NodeSize: benchNode, Limit: 4 << 30, FSID: ondisk.UUID{1}})
	w.alloc.step = benchNode
	t := w.tree(ondisk.FSTree)
	batch := make([]Item, items)
	for i := range batch {
		batch[i] = Item{seqKey(i), make([]byte, size)}
	}
	if err := t.InsertBatch(ctx, w.gen, batch); err != nil {
		b.Fatal(err)
	}
	return w, t
}

func BenchmarkGet(b *testing.B) {
	const n = 200_000
	_, t := benchTree(b, n, 60)
	rng := rand.New(rand.NewPCG(1, 1))
	b.Run("copy", func(b *testing.B) {
		b.ReportAllocs()
		buf := make([]byte, 0, 100)
		for b.Loop() {
			if _, err := t.AppendItem(ctx, buf, seqKey(rng.IntN(n))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := t.View(ctx, seqKey(rng.IntN(n)), func([]byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		var seed atomic.Uint64
		b.RunParallel(func(pb *testing.PB) {
			rng := rand.New(rand.NewPCG(seed.Add(1), 1))
			for pb.Next() {
				if err := t.View(ctx, seqKey(rng.IntN(n)), func([]byte) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	t.SwitchCommitRoot()
	r := CommitReader{t.cfg.Cache}
	b.Run("commit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Get(ctx, t.CommitRootBuffer(), seqKey(rng.IntN(n))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	const n = 200_000
	_, t := benchTree(b, n, 60)
	for b.Loop() {
		i := 0
		if err := t.Scan(ctx, ondisk.MinKey, ondisk.MaxKey, func(ondisk.Key, []byte) (bool, error) { i++; return true, nil }); err != nil || i != n {
			b.Fatal(i, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/item")
}

func BenchmarkInsert(b *testing.B) {
	data := make([]byte, 60)
	b.Run("ascending", func(b *testing.B) {
		w, t := benchTree(b, 1, 60)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			if err := t.Insert(ctx, w.gen, seqKey(i), data); err != nil {
				b.Fatal(err)
			}
		}
		reportFill(b, t)
	})
	b.Run("random", func(b *testing.B) {
		w, t := benchTree(b, 100_000, 60)
		rng := rand.New(rand.NewPCG(1, 1))
		b.ReportAllocs()
		i := uint64(0)
		for b.Loop() {
			i++
			k := ondisk.Key{ObjectID: ondisk.ObjectID(256 + rng.IntN(100_000)), Type: 2, Offset: i}
			if err := t.Insert(ctx, w.gen, k, data); err != nil {
				b.Fatal(err)
			}
		}
		reportFill(b, t)
	})
	b.Run("files", func(b *testing.B) { // what creating files in one directory inserts, per file
		w, t := benchTree(b, 1, 60)
		rng := rand.New(rand.NewPCG(1, 1))
		b.ReportAllocs()
		i := uint64(0)
		for b.Loop() {
			i++
			ino := ondisk.ObjectID(1000 + i)
			for _, it := range []struct {
				k ondisk.Key
				n int
			}{
				{ondisk.Key{ObjectID: ino, Type: ondisk.InodeItemKey}, 160},
				{ondisk.Key{ObjectID: ino, Type: ondisk.InodeRefKey, Offset: 256}, 20},
				{ondisk.Key{ObjectID: 256, Type: ondisk.DirItemKey, Offset: uint64(rng.Uint32())<<20 + i}, 40},
				{ondisk.Key{ObjectID: 256, Type: ondisk.DirIndexKey, Offset: i}, 40},
			} {
				if err := t.Insert(ctx, w.gen, it.k, data160[:it.n]); err != nil {
					b.Fatal(err)
				}
			}
		}
		reportFill(b, t)
	})
	b.Run("cow", func(b *testing.B) { // every path is copied first
		w, t := benchTree(b, 200_000, 60)
		rng := rand.New(rand.NewPCG(1, 1))
		b.ReportAllocs()
		t.SetForceCOW(true)
		for b.Loop() {
			if err := t.Update(ctx, w.gen, seqKey(rng.IntN(200_000)), func(d []byte) error { d[0]++; return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func reportFill(b *testing.B, t *Tree) {
	s, err := t.CheckShape(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(100*float64(s.Used)/float64(s.Room), "%full")
}

func BenchmarkDelete(b *testing.B) {
	b.Run("single", func(b *testing.B) {
		var w *world
		var t *Tree
		i := 200_000
		b.ReportAllocs()
		for b.Loop() {
			if i == 200_000 {
				b.StopTimer()
				w, t = benchTree(b, 200_000, 60)
				i = 0
				b.StartTimer()
			}
			if err := t.Delete(ctx, w.gen, seqKey(i*7919%200_000)); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
	b.Run("range", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			w, t := benchTree(b, 200_000, 60)
			b.StartTimer()
			if err := t.DeleteRange(ctx, w.gen, ondisk.MinKey, ondisk.MaxKey, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/200_000, "ns/item")
	})
}

func BenchmarkMixed(b *testing.B) {
	const n = 200_000
	w, t := benchTree(b, n, 60)
	data := make([]byte, 60)
	var seed atomic.Uint64
	b.RunParallel(func(pb *testing.PB) {
		me := seed.Add(1)
		rng := rand.New(rand.NewPCG(me, 1))
		i := me << 40
		for pb.Next() {
			i++
			id := ondisk.ObjectID(256 + rng.IntN(n))
			k := ondisk.Key{ObjectID: id, Type: 2, Offset: i}
			if err := t.Insert(ctx, w.gen, k, data); err != nil {
				b.Fatal(err)
			}
			if err := t.View(ctx, ondisk.Key{ObjectID: id, Type: 1}, func([]byte) error { return nil }); err != nil {
				b.Fatal(err)
			}
			if err := t.Delete(ctx, w.gen, k); err != nil {
				b.Fatal(err)
			}
		}
	})
}
