package commitview_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

var _ inode.Source = (*commitview.View)(nil)

// lab is a file system in memory.
type lab struct {
	*testing.T
	f   *engine.FS
	ctx context.Context
}

func newLab(t *testing.T, size int64, o engine.OpenOptions) *lab {
	t.Helper()
	fo := engine.FormatOptions{Options: mkfs.Default(), OpenOptions: o}
	fo.Meta = 0
	f, err := engine.FormatDevice(t.Context(), disk.NewMem(filepath.Base(t.Name()), size), fo)
	l := &lab{T: t, f: f, ctx: t.Context()}
	l.must(err)
	t.Cleanup(func() {
		if err := f.Close(); err != nil { // lists what was not given back (I12)
			t.Error(err)
		}
	})
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) subvolume(name string) (*inode.FileTree, ondisk.TreeID) {
	l.Helper()
	id, err := l.f.Subvols().Create(l.ctx, subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: name}, subvol.CreateOptions{})
	l.must(err)
	tree, err := l.f.Subvolume(l.ctx, id)
	l.must(err)
	return tree, id
}

func (l *lab) snapshot(src ondisk.TreeID, name string, readonly bool) ondisk.TreeID {
	l.Helper()
	id, err := l.f.Subvols().Snapshot(l.ctx, subvol.SnapshotSpec{
		Source: src, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: inode.RootDir, Name: name}, Readonly: readonly,
	})
	l.must(err)
	return id
}

func (l *lab) commit() {
	l.Helper()
	l.must(l.f.Commit(l.ctx))
}

func (l *lab) open(id ondisk.TreeID, o commitview.Options) *commitview.View {
	l.Helper()
	v, err := commitview.Open(l.ctx, l.f.DB(), id, o)
	l.must(err)
	return v
}

type kv struct {
	key  ondisk.Key
	item string
}

// scanner is what the view and the live tree have in common.
type scanner interface {
	Scan(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (bool, error)) error
}

func (l *lab) items(s scanner) (out []kv) {
	l.Helper()
	l.must(s.Scan(l.ctx, ondisk.MinKey, ondisk.MaxKey, func(k ondisk.Key, item []byte) (bool, error) {
		out = append(out, kv{k, string(item)})
		return true, nil
	}))
	return out
}

func (l *lab) live(id ondisk.TreeID) []kv {
	l.Helper()
	tree, err := l.f.DB().Tree(l.ctx, id)
	l.must(err)
	return l.items(tree)
}

// churn changes files of a tree.
func (l *lab) churn(tree *inode.FileTree, rng *rand.Rand, n int) {
	l.Helper()
	for range n {
		name := fmt.Sprintf("file-%d", rng.IntN(400))
		_, err := tree.Create(l.ctx, inode.RootDir, name, inode.Attr{Mode: 0o644, Xattrs: []inode.Xattr{{Name: "user.x", Value: make([]byte, rng.IntN(900))}}})
		if errors.Is(err, fserr.ErrExist) {
			err = tree.Unlink(l.ctx, inode.RootDir, name)
		}
		l.must(err)
	}
}

// TestModel compares every way to read a view with a sorted list of what the tree held when it was committed, while the
// tree and its neighbours change and commit.
func TestModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 0))
	l := newLab(t, 256<<20, engine.OpenOptions{})
	tree, id := l.subvolume("source")
	l.churn(tree, rng, 400)
	l.commit()
	want := l.live(id)
	v := l.open(id, commitview.Options{})
	frozen := l.snapshot(id, "frozen", true)
	frozenWant := l.live(frozen)
	fixed := []*commitview.View{v}
	for _, p := range commitview.Policies() {
		fixed = append(fixed, l.open(frozen, commitview.Options{Policy: p, AllowUnsafe: true}))
	}
	for round := range 12 {
		l.churn(tree, rng, 60)
		if round%3 == 2 {
			l.snapshot(frozen, fmt.Sprintf("again-%d", round), true) // copies the root of what is being read
		} else {
			l.commit()
		}
		for _, v := range fixed {
			if v.ID() == id {
				l.compare(v, want, rng)
			} else {
				l.compare(v, frozenWant, rng)
			}
		}
		if round%4 == 3 { // a quiescent point: the view goes on to what was committed last
			before := v.Generation()
			moved, err := v.Quiesce(l.ctx)
			l.must(err)
			if !moved || v.Generation() <= before {
				t.Errorf("Quiesce did not move on from generation %d", before)
			}
			if moved, _ = v.Quiesce(l.ctx); moved {
				t.Error("Quiesce moved although nothing was committed")
			}
			want = l.live(id)
		}
	}
	for _, v := range fixed {
		for _, s := range v.Counters().Stats() {
			if s.Mismatches != 0 || s.Searches > 0 && s.Policy != v.Policy() {
				t.Errorf("view under %v: %+v", v.Policy(), s)
			}
			if s.Searches > 0 && (s.BytesCopied > 0) != (v.Policy() == commitview.CloneRoot) {
				t.Errorf("view under %v: %d bytes copied", v.Policy(), s.BytesCopied)
			}
		}
		v.Close()
	}
}

// compare asks v for keys in want and next to them.
func (l *lab) compare(v *commitview.View, want []kv, rng *rand.Rand) {
	l.Helper()
	if got := l.items(v); !slices.Equal(got, want) {
		l.Fatalf("view under %v shows %d items, expect %d", v.Policy(), len(got), len(want))
	}
	for range 40 {
		k := want[rng.IntN(len(want))].key
		k.Offset += uint64(rng.IntN(3)) - 1
		i, found := slices.BinarySearchFunc(want, k, func(a kv, k ondisk.Key) int { return a.key.Compare(k) })
		r, err := v.Search(l.ctx, k)
		switch {
		case found && (err != nil || string(r.Item) != want[i].item || r.Outcome != commitview.Found):
			l.Fatalf("Search(%v) = %+v, %v", k, r, err)
		case !found && (!errors.Is(err, fserr.ErrNotFound) || r.Outcome != commitview.NotFound):
			l.Fatalf("Search(%v) = %+v, %v: expect ENOENT", k, r, err)
		}
		l.expect(v.SeekGE, k, want, i)
		if !found {
			i--
		}
		l.expect(v.SeekLE, k, want, i)
	}
}

func (l *lab) expect(seek func(context.Context, ondisk.Key) (ondisk.Key, []byte, bool, error), k ondisk.Key, want []kv, i int) {
	l.Helper()
	got, item, ok, err := seek(l.ctx, k)
	l.must(err)
	if in := i >= 0 && i < len(want); ok != in || ok && (got != want[i].key || string(item) != want[i].item) {
		l.Fatalf("seek from %v = %v, %v; expect item %d of %d", k, got, ok, i, len(want))
	}
}

// TestPolicies: what is no read-only subvolume is read under epoch, also one that stops being read-only.
func TestPolicies(t *testing.T) {
	l := newLab(t, 256<<20, engine.OpenOptions{})
	tree, id := l.subvolume("source")
	l.commit()
	readonly := l.snapshot(id, "readonly", true)
	trees := []ondisk.TreeID{id, ondisk.FSTree, ondisk.RootTree, ondisk.ChunkTree, ondisk.ExtentTree, ondisk.DevTree, ondisk.CsumTree,
		ondisk.UUIDTree, ondisk.FreeSpaceTree, ondisk.BlockGroupTree, ondisk.DataRelocTree}
	for _, tr := range trees {
		v := l.open(tr, commitview.Options{Policy: commitview.CloneRoot})
		if v.Policy() != commitview.Epoch {
			t.Errorf("tree %v is read under %v", tr, v.Policy())
		}
		if got, want := l.items(v), l.live(tr); !slices.Equal(got, want) {
			t.Errorf("tree %v: the view shows %d items, expect %d", tr, len(got), len(want))
		}
		v.Close()
	}
	if _, err := commitview.Open(l.ctx, l.f.DB(), readonly, commitview.Options{Policy: commitview.Shared}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("shared without AllowUnsafe: %v", err)
	}
	if _, err := commitview.Open(l.ctx, l.f.DB(), 4711, commitview.Options{}); !errors.Is(err, fserr.ErrNotFound) {
		t.Errorf("a tree that is not there: %v", err)
	}
	v := l.open(readonly, commitview.Options{Policy: commitview.CloneRoot})
	defer v.Close()
	l.items(v)
	if v.Policy() != commitview.CloneRoot || v.Generation() != 0 {
		t.Errorf("read-only subvolume read under %v, generation %d", v.Policy(), v.Generation())
	}
	l.must(l.f.Subvols().SetReadonly(l.ctx, readonly, false))
	l.commit()
	if want := l.live(readonly); !slices.Equal(l.items(v), want) || v.Policy() != commitview.Epoch {
		t.Errorf("a subvolume that became writable is read under %v", v.Policy())
	}
	if _, err := tree.Create(l.ctx, inode.RootDir, "later", inode.Attr{}); err != nil {
		t.Fatal(err)
	}
	_, fresh := l.subvolume("not committed yet")
	if _, err := commitview.Open(l.ctx, l.f.DB(), fresh, commitview.Options{}); !errors.Is(err, fserr.ErrNotFound) {
		t.Errorf("a tree of the running transaction: %v", err)
	}
}

// TestDeleted: a view under epoch outlives the subvolume and the data that it shows.
func TestDeleted(t *testing.T) {
	l := newLab(t, 256<<20, engine.OpenOptions{})
	tree, id := l.subvolume("source")
	ino, err := tree.Create(l.ctx, inode.RootDir, "data", inode.Attr{Mode: 0o644})
	l.must(err)
	data := bytes.Repeat([]byte("held back for its reader "), 40_000)
	_, err = tree.WriteAt(l.ctx, ino, data, 0)
	l.must(err)
	l.commit()
	v := l.open(id, commitview.Options{})
	want := l.items(v)
	l.must(l.f.Subvols().Delete(l.ctx, id))
	l.must(l.f.Subvols().Clean(l.ctx))
	l.commit()
	other, _ := l.subvolume("other") // takes what is free
	for i := range 64 {
		o, err := other.Create(l.ctx, inode.RootDir, fmt.Sprint(i), inode.Attr{})
		l.must(err)
		_, err = other.WriteAt(l.ctx, o, bytes.Repeat([]byte{byte(i)}, 1<<20), 0)
		l.must(err)
	}
	l.commit()
	if held := l.f.DB().Pin().Stats().Held(); held < uint64(len(data)) {
		t.Errorf("%d bytes are held for the reader, its file alone has %d", held, len(data))
	}
	if got := l.items(v); !slices.Equal(got, want) {
		t.Errorf("the view shows %d items, expect %d", len(got), len(want))
	}
	sb := l.f.Super()
	r := inode.NewReader(v, inode.ReaderOptions{Csum: sb.Checksum(), Pool: l.f.Pool()})
	got := make([]byte, len(data))
	if n, err := r.ReadAt(l.ctx, ino, got, 0); n != len(data) || err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes of %d, %v; they are equal: %v", n, len(data), err, bytes.Equal(got, data))
	}
	if _, err := v.Quiesce(l.ctx); !errors.Is(err, fserr.ErrNotFound) {
		t.Errorf("Quiesce of a view whose tree is gone: %v", err)
	}
	if _, err := v.Get(l.ctx, want[0].key); !errors.Is(err, fserr.ErrViewExpired) {
		t.Errorf("a search without a ticket: %v", err)
	}
	if held := l.f.DB().Pin().Stats().Held(); held != 0 {
		t.Errorf("%d bytes are held for nobody", held)
	}
	v.Close()
	if _, err := v.Get(l.ctx, want[0].key); !errors.Is(err, fserr.ErrClosed) {
		t.Errorf("a search after Close: %v", err)
	}
	defer func() {
		if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "I12") {
			t.Errorf("the second Close ended with %v", p)
		}
	}()
	v.Close()
}

// TestExpired: a reader that holds back too much is asked to go, and goes on with a new ticket from its last key.
func TestExpired(t *testing.T) {
	rng := rand.New(rand.NewPCG(uint64(oracle.Seed(t)), 0))
	l := newLab(t, 256<<20, engine.OpenOptions{MaxHeld: 64 << 10})
	tree, id := l.subvolume("source")
	l.churn(tree, rng, 400)
	l.commit()
	readonly := l.snapshot(id, "readonly", true)
	want := l.live(readonly)
	v := l.open(readonly, commitview.Options{Name: "slow reader"})
	defer v.Close()

	disturb := func() { // frees much of what v can see; this goroutine holds no lock and no handle
		l.churn(tree, rng, 120)
		l.commit()
		l.churn(tree, rng, 120)
		l.commit()
	}
	disturb()
	if _, err := v.Get(l.ctx, want[0].key); !errors.Is(err, fserr.ErrViewExpired) {
		t.Fatalf("a view over the bound: %v, expect that it expires", err)
	}
	if st := l.f.DB().Pin().Stats(); st.Held() != 0 || st.Tickets != 0 || v.Generation() != 0 {
		t.Errorf("the view has expired, and there is still %v", st)
	}
	if _, err := v.Quiesce(l.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(l.ctx, want[0].key); err != nil {
		t.Fatal(err)
	}

	var got []kv
	plain := 0
	scan := func(k ondisk.Key, item []byte) (bool, error) {
		got = append(got, kv{k, string(item)})
		if len(got)%(len(want)/5) == 0 {
			disturb()
		}
		return true, nil
	}
	if err := v.Scan(l.ctx, ondisk.MinKey, ondisk.MaxKey, scan); !errors.Is(err, fserr.ErrViewExpired) {
		t.Errorf("Scan: %v after %d items of %d, expect that it expires", err, len(got), len(want))
	}
	plain, got = len(got), nil
	l.must(v.ScanOn(l.ctx, ondisk.MinKey, ondisk.MaxKey, scan))
	if !slices.Equal(got, want) || plain >= len(want) {
		t.Errorf("ScanOn showed %d items, expect %d; Scan %d", len(got), len(want), plain)
	}
	if n := v.Counters().Stats()[commitview.Epoch].Outcomes[commitview.Expired]; n < 2 {
		t.Errorf("%d searches expired", n)
	}
}
