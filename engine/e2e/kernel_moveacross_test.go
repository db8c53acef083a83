package e2e

import (
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine/internal/oracle"
)

// subvolMoves is a list of renamings between subvolumes, and removals of empty ones.
var subvolMoves = []op{
	{kind: opMkdir, path: "d", mode: 0o755},
	{kind: opSubvolume, path: "a"},
	{kind: opSubvolume, path: "b"},
	{kind: opSubvolume, path: "c"},
	{kind: opSubvolume, path: "empty"},
	{kind: opSubvolume, path: "empty2"},
	{kind: opCreate, path: "a/in-a", mode: 0o644},
	{kind: opCreate, path: "b/in-b", mode: 0o644},
	{kind: opCreate, path: "c/in-c", mode: 0o644},
	{kind: opMkdir, path: "a/dir", mode: 0o755},
	{kind: opMkdir, path: "a/full", mode: 0o755},
	{kind: opCreate, path: "a/full/x", mode: 0o644},
	{kind: opCreate, path: "a/file", mode: 0o644},
	{kind: opSetXattr, path: "a/dir", name: "user.x", value: []byte("y")},
	{kind: opSubvolume, path: "a/nested"},
	{kind: opCreate, path: "a/nested/in-nested", mode: 0o644},
	{kind: opSnapshotRW, path: "a", to: "snap"}, // with a placeholder
	{kind: opSnapshotRO, path: "c", to: "ro"},
	{kind: opSnapshotRO, path: "empty", to: "ro-empty"},
	// What stays where it is.
	{kind: opRename, path: "in-none", to: "a/x"},
	{kind: opRename, path: "d", to: "a/d"},
	{kind: opRename, path: "a/in-a", to: "b/in-a"},
	{kind: opExchange, path: "a/in-a", to: "b/in-b"},
	{kind: opExchange, path: "c", to: "a/in-a"},
	{kind: opExchange, path: "a/in-a", to: "c"},
	{kind: opExchange, path: "c", to: "a/none"},
	{kind: opRename, path: "a", to: "a/a"},
	{kind: opRename, path: "a", to: "a/nested/a"},
	{kind: opExchange, path: "a", to: "a/nested"},
	{kind: opExchange, path: "a/nested", to: "a"},
	{kind: opRename, path: "a/nested", to: "a"},
	{kind: opRename, path: "ro", to: "a/ro"},
	{kind: opRename, path: "c", to: "ro/c"},
	{kind: opRename, path: "ro", to: "a/file"}, // two reasons: first that it is no directory
	{kind: opRename, path: "ro", to: "a/full"},
	{kind: opRename, path: "ro", to: "ro/x"},
	{kind: opExchange, path: "ro", to: "a/file"},
	{kind: opExchange, path: "a/file", to: "ro"},
	{kind: opMkdir, path: "e", mode: 0o755},
	{kind: opMkdir, path: "e/full", mode: 0o755},
	{kind: opCreate, path: "e/full/x", mode: 0o644},
	{kind: opCreate, path: "e/file", mode: 0o644},
	{kind: opCreate, path: "file", mode: 0o644},
	{kind: opRename, path: "ro", to: "e/ro"},
	{kind: opRename, path: "ro", to: "e/file"},
	{kind: opRename, path: "ro", to: "e/full"},
	{kind: opRename, path: "ro", to: "file"},
	{kind: opRename, path: "file", to: "ro"},
	{kind: opRename, path: "e/file", to: "ro"},
	{kind: opExchange, path: "ro", to: "e/file"},
	{kind: opExchange, path: "e/file", to: "ro"},
	{kind: opExchange, path: "ro", to: "e/full"},
	{kind: opExchange, path: "ro", to: "a/nested"},
	{kind: opExchange, path: "a/nested", to: "ro"},
	{kind: opRename, path: "snap/nested", to: "snap/x"},
	{kind: opRename, path: "snap/nested", to: "x"},
	{kind: opExchange, path: "snap/nested", to: "c"},
	{kind: opRename, path: "c", to: "a/full"},
	{kind: opRename, path: "c", to: "a/file"},
	{kind: opRename, path: "c", to: "a/nested"},
	{kind: opRename, path: "c", to: "b"},
	{kind: opRename, path: "d", to: "b"},
	{kind: opRename, path: "d", to: "empty"},
	{kind: opRename, path: "c", to: "a/file", mode: unix.RENAME_NOREPLACE},
	// What moves: into another subvolume, over an empty directory, over a placeholder, and back.
	{kind: opRename, path: "c", to: "a/c"},
	{kind: opRename, path: "a/c", to: "b/c", mode: unix.RENAME_NOREPLACE},
	{kind: opRename, path: "b/c", to: "a/dir"},
	{kind: opRename, path: "b", to: "snap/nested"},
	{kind: opRename, path: "a/dir", to: "snap/nested/deep"},
	{kind: opExchange, path: "a/nested", to: "snap/nested"},
	{kind: opRename, path: "a/nested/deep", to: "deep"},
	{kind: opRename, path: "snap/nested", to: "a/nested/again"},
	{kind: opCreate, path: "a/nested/again/new", mode: 0o600},
	// What is removed, and what not.
	{kind: opRmdir, path: "a"},
	{kind: opRmdir, path: "a/nested"},
	{kind: opUnlink, path: "empty"},
	{kind: opRmdir, path: "empty"},
	{kind: opRmdir, path: "ro-empty"},
	{kind: opRmdir, path: "ro"},
	{kind: opRename, path: "empty2", to: "a/empty2"},
	{kind: opRmdir, path: "a/empty2"},
	{kind: opMkdir, path: "a/empty2", mode: 0o755},
	{kind: opRmdir, path: "empty"},
	{kind: opUnlink, path: "a/nested/again/new"},
	{kind: opUnlink, path: "a/nested/again/in-nested"},
	{kind: opRmdir, path: "a/nested/again"},
}

// TestSubvolumesMoveAsTheKernel does the same list on an image through a mount and on another through the engine: every
// operation ends in the same way, and the images hold the same in the end; then the kernel goes on with ours.
func TestSubvolumesMoveAsTheKernel(t *testing.T) {
	oracle.NeedRoot(t)
	theirImg := t.TempDir() + "/theirs"
	oracle.Mkfs(t, theirImg, 256<<20)
	m := oracle.Mount(t, theirImg)
	img, fs := create(t, 256<<20, nil)
	ours, theirs := engineTarget{t.Context(), fs}, kernelTarget{m.Dir}
	failed := 0
	for i, o := range subvolMoves {
		have, want := ours.do(o), theirs.do(o)
		if have != nil {
			have = errno(have)
		}
		if want != nil {
			failed++
		}
		if (have == nil) != (want == nil) || want != nil && have.Error() != want.Error() {
			t.Errorf("%d. %v: %v, the kernel: %v", i, o, have, want)
		}
		if i%5 == 0 {
			must(t, fs.Commit(t.Context()))
		}
	}
	t.Logf("%d operations, of which the kernel refused %d", len(subvolMoves), failed)
	want := timeless(t, m.ManifestOf(""))
	if d := oracle.ManifestDiff(want, timeless(t, engineManifest(t, fs))); d != "" {
		t.Errorf("the kernel (-) and the engine (+):\n%s", d)
	}
	m.Unmount()
	must(t, fs.CleanSubvolumes(t.Context()))
	finish(t, fs, img)
	m = oracle.Mount(t, img)
	if d := oracle.ManifestDiff(want, timeless(t, m.ManifestOf(""))); d != "" {
		t.Errorf("the kernel's image (-) and the mount of ours (+):\n%s", d)
	}
	for _, o := range []op{{kind: opRename, path: "deep", to: "a/back"}, {kind: opRename, path: "a/back", to: "back"}, {kind: opDeleteSubvol, path: "back"}} {
		if err := (kernelTarget{m.Dir}).do(o); err != nil {
			t.Errorf("the kernel on our image: %v: %v", o, err)
		}
	}
	m.Unmount()
	oracle.Check(t, img)
}
