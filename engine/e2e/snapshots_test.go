package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestThousandSnapshots shares one subvolume of 10,000 files between 1,000 snapshots with changes between them, and
// deletes half of them, then all. Space in use is the same by three accounts at each step, and at the end what it was
// at the start, to the byte.
func TestThousandSnapshots(t *testing.T) {
	files, snaps := 10000, 1000
	if testing.Short() {
		files, snaps = 1000, 100
	}
	seed := oracle.Seed(t)
	rnd := rand.New(rand.NewPCG(uint64(seed), 4))
	ctx := t.Context()
	img, fs := create(t, 2<<30, nil)
	src, err := fs.CreateSubvolume(ctx, "src", subvol.CreateOptions{})
	must(t, err)
	_, err = fs.CreateSubvolume(ctx, "snaps", subvol.CreateOptions{})
	must(t, err)
	tree, err := fs.Subvolume(ctx, src)
	must(t, err)
	inos := make([]ondisk.ObjectID, files)
	for i := range inos {
		inos[i], err = tree.Create(ctx, 256, fmt.Sprintf("file-%05d", i), inode.Attr{Mode: 0o644})
		must(t, err)
		_, err = tree.WriteAt(ctx, inos[i], fmt.Appendf(nil, "content of %d", i), 0)
		must(t, err)
	}
	must(t, fs.Commit(ctx))
	start := used(t, fs)

	for i := range snaps {
		for range 3 {
			// The content changes, its length does not: the tree at the end is as large as at the start.
			n := rnd.IntN(files)
			_, err := tree.WriteAt(ctx, inos[n], fmt.Appendf(nil, "CONTENT of %d", n), 0)
			must(t, err)
		}
		_, err := fs.Snapshot(ctx, "src", fmt.Sprintf("snaps/%04d", i), i%2 == 0)
		must(t, err)
		if i%100 == 99 {
			used(t, fs)
		}
	}
	full := used(t, fs)
	remove := func(from, step int) {
		for i := from; i < snaps; i += step {
			must(t, fs.DeleteSubvolume(ctx, fmt.Sprintf("snaps/%04d", i)))
		}
		must(t, fs.CleanSubvolumes(ctx))
		must(t, fs.Commit(ctx))
	}
	remove(1, 2)
	half := used(t, fs)
	must(t, fs.Close())
	oracle.Check(t, img)

	fs = reopen(t, img)
	remove(0, 2)
	end := used(t, fs)
	finish(t, fs, img)
	t.Logf("in use: start %d, %d snapshots %d, half of them %d, none %d", start, snaps, full, half, end)
	if end != start {
		t.Errorf("in use at the end %d bytes, at the start %d", end, start)
	}
}

// TestSnapshotsInOneCommit takes three snapshots of one subvolume in one commit, one of them placed inside its own
// source, and a snapshot of one of these in the next; each equals the source at its moment.
func TestSnapshotsInOneCommit(t *testing.T) {
	ctx := t.Context()
	img, fs := create(t, 256<<20, nil)
	src, err := fs.CreateSubvolume(ctx, "src", subvol.CreateOptions{})
	must(t, err)
	tree, err := fs.Subvolume(ctx, src)
	must(t, err)
	write := func(text string) {
		for i := range 200 {
			name := fmt.Sprintf("f%d", i)
			e, err := tree.Lookup(ctx, 256, name)
			ino := e.Ino()
			if err != nil {
				ino, err = tree.Create(ctx, 256, name, inode.Attr{Mode: 0o600})
				must(t, err)
			}
			_, err = tree.WriteAt(ctx, ino, fmt.Appendf(nil, "%s %d", text, i), 0)
			must(t, err)
		}
	}
	write("first")
	_, err = fs.Snapshots(ctx, []engine.SnapshotPath{
		{Source: "src", Dest: "a", Readonly: true}, {Source: "src", Dest: "src/inside"}, {Source: "src", Dest: "b"}})
	must(t, err)
	write("secnd")
	_, err = fs.Snapshot(ctx, "src/inside", "c", true)
	must(t, err)
	write("third")
	finish(t, fs, img)

	m := oracle.Mount(t, img)
	read := func(path string) string { return oracle.Run(t, "cat", m.Path(path)) }
	for path, want := range map[string]string{"a/f7": "first 7", "src/inside/f7": "first 7", "b/f7": "first 7",
		"c/f7": "first 7", "src/f7": "third 7"} {
		if got := read(path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
	}
	// b was taken after "inside" had its entry, so it has a placeholder of that name; a and inside have none.
	if got := oracle.Run(t, "ls", m.Path("a")); len(got) == 0 {
		t.Error("a is empty")
	}
	oracle.Run(t, "test", "!", "-e", m.Path("a/inside"))
	oracle.Run(t, "test", "!", "-e", m.Path("src/inside/inside"))
	oracle.Run(t, "test", "-d", m.Path("b/inside"))
	m.Unmount()
	oracle.Check(t, img)
}

// TestReadonlyTop takes read-only snapshots of the top of a file system, of imgtool's own, of mkfs.btrfs, and of one whose
// root item does not say that its flags were initialised, as btrfs-convert leaves it. They are read-only to the kernel,
// which sends them.
func TestReadonlyTop(t *testing.T) {
	oracle.NeedRoot(t)
	for _, c := range []struct {
		name string
		make func(img string)
	}{
		{"imgtool", func(img string) { oracle.Run(t, imgtool(t), "mkfs", "-q", "-b", "300M", img) }},
		{"mkfs.btrfs", func(img string) { oracle.Mkfs(t, img, 300<<20) }},
		{"not initialised", func(img string) {
			oracle.Mkfs(t, img, 300<<20)
			fs, err := engine.Open(t.Context(), img, engine.OpenOptions{})
			must(t, err)
			root, err := fs.DB().Root(t.Context(), ondisk.FSTree)
			must(t, err)
			h, err := fs.DB().Start(t.Context(), 1)
			must(t, err)
			root.Update(h, func(it *ondisk.RootItem) {
				it.Inode().SetFlags(0)
				it.SetFlags(ondisk.RootSubvolReadonly) // means nothing
			})
			must(t, h.End(t.Context()))
			must(t, fs.Commit(t.Context()))
			must(t, fs.Close())
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			c.make(img)
			fs, err := engine.Open(t.Context(), img, engine.OpenOptions{})
			must(t, err)
			tree, err := fs.Subvolume(t.Context(), ondisk.FSTree)
			must(t, err)
			_, err = tree.Create(t.Context(), inode.RootDir, "file", inode.Attr{Mode: 0o644})
			must(t, err)
			_, err = fs.Snapshot(t.Context(), "/", "/snap", true)
			must(t, err)
			_, err = fs.Snapshot(t.Context(), "/snap", "/again", true)
			must(t, err)
			finish(t, fs, img)
			m := oracle.Mount(t, img)
			for _, name := range []string{"snap", "again"} {
				if err := os.WriteFile(m.Path(name, "new"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
					t.Errorf("writing into %s: %v, want EROFS", name, err)
				}
				m.KernelSend(name, "")
			}
			m.Unmount()
		})
	}
}
