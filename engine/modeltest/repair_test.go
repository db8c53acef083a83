package modeltest

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/scrub"
	"imgtool/engine/volume"
)

// spoilCopy changes a byte of one copy of every tree block below the roots' chunk, and says of how many.
func spoilCopy(t *testing.T, img *disk.Mem, copy int) (n int) {
	t.Helper()
	ctx := t.Context()
	vol, err := openVolume(ctx, img)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range vol.Chunks() {
		if c.NumCopies < 2 || c.Type&ondisk.BGMetadata == 0 {
			continue
		}
		p, err := vol.Place(c.Start, copy)
		if err != nil {
			t.Fatal(err)
		}
		block := make(ondisk.Block, 16384)
		for off := uint64(0); off < c.Length; off += uint64(len(block)) {
			at := int64(p.Offset) + int64(off)
			if _, err := img.ReadAt(ctx, block, at); err != nil {
				t.Fatal(err)
			}
			if block.Header().Bytenr() != c.Start+ondisk.Logical(off) {
				continue
			}
			block[300] ^= 0x10
			if _, err := img.WriteAt(ctx, block, at); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	return n
}

// untouched refuses everything that would change a device.
type untouched struct{ disk.Device }

var errTouched = errors.New("a file system opened for reading changes the device")

func (untouched) WriteAt(context.Context, []byte, int64) (int, error) { return 0, errTouched }
func (untouched) Discard(context.Context, int64, int64) error         { return errTouched }
func (untouched) Flush(context.Context) error                         { return errTouched }
func (untouched) Close() error                                        { return nil }

// badCopies counts what scrub finds wrong in the metadata.
func badCopies(t *testing.T, img *disk.Mem) uint64 {
	t.Helper()
	vol, err := volume.Open(t.Context(), []disk.Device{keepOpen{img}}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := scrub.Run(t.Context(), vol, scrub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return report.Counts[scrub.Metadata].Errors
}

// TestReadRepair reads an image whose first copy of all metadata is bad, in all the ways there are: a living tree below
// its locks and a view with a ticket repair what they meet, and nobody else does.
func TestReadRepair(t *testing.T) {
	base := firstCommit(t, deviceCase{meta: ondisk.BGDup})
	for _, c := range []struct {
		name     string
		readOnly bool
		abort    bool
		read     func(*testing.T, *engine.FS) error
		want     bool
	}{
		{name: "a living tree", want: true, read: func(t *testing.T, fs *engine.FS) error { return readAll(t.Context(), fs) }},
		{name: "a view with a ticket", want: true, read: readView},
		{name: "opened for reading", readOnly: true, read: func(t *testing.T, fs *engine.FS) error { return readAll(t.Context(), fs) }},
		{name: "after an abort", abort: true, read: func(t *testing.T, fs *engine.FS) error { return readAll(t.Context(), fs) }},
		{name: "a tree that is being dropped", read: func(t *testing.T, fs *engine.FS) error {
			for _, id := range []ondisk.TreeID{ondisk.FSTree, ondisk.CsumTree} { // whose addresses may be free soon
				root, err := fs.DB().Root(t.Context(), id)
				if err != nil {
					return err
				}
				root.Tree.Retire()
			}
			return readAll(t.Context(), fs)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := base.img.Clone()
			if spoilCopy(t, img, 0) < 10 {
				t.Fatal("there is nothing to repair")
			}
			before := badCopies(t, img)
			var dev disk.Device = keepOpen{img}
			if c.readOnly {
				dev = untouched{img}
			}
			fs, err := engine.OpenDevices(t.Context(), []disk.Device{dev}, engine.OpenOptions{CacheBytes: 1, ReadOnly: c.readOnly})
			if err != nil {
				t.Fatal(err)
			}
			defer fs.Close()
			if c.abort {
				fs.DB().Abort(errors.New("enough"))
			}
			was, opened := fs.Stats().Cache, badCopies(t, img)
			if err := c.read(t, fs); err != nil {
				t.Fatal(err)
			}
			st := fs.Stats().Cache
			if st.BadCopies == was.BadCopies {
				t.Error("no bad copy was met")
			}
			after := badCopies(t, img)
			if st.NotRepaired > 0 || opened-after > st.Repaired-was.Repaired {
				t.Errorf("%d bad copies before, %d after; %d repaired, %d not", opened, after, st.Repaired, st.NotRepaired)
			}
			if repaired := after < opened; repaired != c.want {
				t.Errorf("%d bad copies at first, %d when it was open, and %d afterwards; repaired %d", before, opened, after, st.Repaired)
			}
			if c.readOnly && (after != before || st.Repaired > 0) {
				t.Errorf("%d bad copies before, %d after", before, after)
			}
		})
	}
}

// readView reads the top subvolume's commit root.
func readView(t *testing.T, fs *engine.FS) error {
	v, err := commitview.Open(t.Context(), fs.DB(), ondisk.FSTree, commitview.Options{})
	if err != nil {
		return err
	}
	defer v.Close()
	_, err = loadVol(t.Context(), inode.NewReader(v, inode.ReaderOptions{Csum: ondisk.CRC32C}), false)
	return err
}

// rootsOf lists where the roots of all trees are.
func rootsOf(t *testing.T, fs *engine.FS) map[ondisk.TreeID]ondisk.Logical {
	t.Helper()
	db := fs.DB()
	roots := map[ondisk.TreeID]ondisk.Logical{}
	sb := fs.Super()
	roots[ondisk.RootTree], roots[ondisk.ChunkTree] = sb.Root(), sb.ChunkRoot()
	first, last := ondisk.Key{}, ondisk.Key{ObjectID: ^ondisk.ObjectID(0), Type: 255, Offset: ^uint64(0)}
	err := db.RootTree().Scan(t.Context(), first, last, func(k ondisk.Key, item []byte) (bool, error) {
		if k.Type == ondisk.RootItemKey {
			roots[ondisk.TreeID(k.ObjectID)] = ondisk.AsRootItem(item).Bytenr()
		}
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// copiesOf reads both copies of a block.
func copiesOf(t *testing.T, img *disk.Mem, vol *volume.Volume, addr ondisk.Logical) (at [2]int64, blocks [2]ondisk.Block) {
	t.Helper()
	for i := range at {
		p, err := vol.Place(addr, i)
		if err != nil {
			t.Fatal(err)
		}
		at[i], blocks[i] = int64(p.Offset), make(ondisk.Block, 16384)
		if _, err := img.ReadAt(t.Context(), blocks[i], at[i]); err != nil {
			t.Fatal(err)
		}
	}
	return at, blocks
}

// TestReadRepairRoots reads an image of which one copy of every root has rotted, of the trees that are read while the file
// system is opened and of those that come later: whoever opens it for writing repairs them all, and nobody else does.
func TestReadRepairRoots(t *testing.T) {
	base := firstCommit(t, deviceCase{meta: ondisk.BGDup})
	for _, c := range []struct {
		name     string
		readOnly bool
		view     bool // subvolumes are read by a view with a ticket only
	}{{name: "a living tree"}, {name: "view", view: true}, {name: "opened for reading", readOnly: true}} {
		t.Run(c.name, func(t *testing.T) {
			img := base.img.Clone()
			clean, err := engine.OpenDevices(t.Context(), []disk.Device{untouched{img}}, engine.OpenOptions{ReadOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			defer clean.Close()
			roots := rootsOf(t, clean)
			if len(roots) < 8 {
				t.Fatalf("only %d trees", len(roots))
			}
			want := map[ondisk.TreeID]ondisk.Block{}
			for id, addr := range roots {
				at, blocks := copiesOf(t, img, clean.Volume(), addr)
				want[id] = bytes.Clone(blocks[0])
				blocks[0][300] ^= 0x10
				if _, err := img.WriteAt(t.Context(), blocks[0], at[0]); err != nil {
					t.Fatal(err)
				}
			}
			var dev disk.Device = keepOpen{img}
			if c.readOnly {
				dev = untouched{img}
			}
			fs, err := engine.OpenDevices(t.Context(), []disk.Device{dev}, engine.OpenOptions{CacheBytes: 1, ReadOnly: c.readOnly})
			if err != nil {
				t.Fatal(err)
			}
			read := readAll
			if c.view {
				read = func(context.Context, *engine.FS) error { return readView(t, fs) }
			}
			if err := read(t.Context(), fs); err != nil {
				t.Fatal(err)
			}
			for id := range roots { // those that nobody has needed yet
				if root, err := fs.DB().AnyRoot(t.Context(), id); err == nil {
					if err := root.Tree.Load(t.Context()); err != nil {
						t.Errorf("tree %v: %v", id, err)
					}
				}
			}
			for id, addr := range roots {
				_, blocks := copiesOf(t, img, clean.Volume(), addr)
				if repaired := bytes.Equal(blocks[0], want[id]); repaired == c.readOnly {
					t.Errorf("tree %v: repaired %v", id, repaired)
				}
				if !bytes.Equal(blocks[1], want[id]) {
					t.Errorf("tree %v: the good copy has changed", id)
				}
			}
			if err := fs.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
