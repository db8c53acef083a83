package e2e

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
)

// TestSubvolumesMove renames subvolumes within their parent, which changes their ROOT_REF and ROOT_BACKREF, and removes
// what a snapshot has in place of a nested one.
func TestSubvolumesMove(t *testing.T) {
	img, fs := create(t, 256<<20, nil)
	e := engineTarget{t.Context(), fs}
	for _, c := range []struct {
		op   op
		want error
	}{
		{op{kind: opMkdir, path: "d", mode: 0o755}, nil},
		{op{kind: opSubvolume, path: "a"}, nil},
		{op{kind: opSubvolume, path: "b"}, nil},
		{op{kind: opCreate, path: "a/in-a", mode: 0o644}, nil},
		{op{kind: opCreate, path: "b/in-b", mode: 0o644}, nil},
		{op{kind: opSubvolume, path: "a/nested"}, nil},
		{op{kind: opSnapshotRO, path: "a", to: "ro"}, nil},
		{op{kind: opSnapshotRW, path: "a", to: "rw"}, nil},
		// Within a directory, into another, and two that change places.
		{op{kind: opRename, path: "a", to: "a2"}, nil},
		{op{kind: opRename, path: "a2", to: "d/a3"}, nil},
		{op{kind: opExchange, path: "d/a3", to: "b"}, nil},
		{op{kind: opRename, path: "b/nested", to: "b/renamed"}, nil},
		// A subvolume with a directory.
		{op{kind: opMkdir, path: "plain", mode: 0o711}, nil},
		{op{kind: opExchange, path: "plain", to: "d/a3"}, nil},
		// A read-only one keeps its directory, since its ".." must stay; its name is its parent's.
		{op{kind: opRename, path: "ro", to: "d/ro"}, fserr.ErrReadOnly},
		{op{kind: opExchange, path: "ro", to: "d/a3"}, fserr.ErrReadOnly},
		{op{kind: opRename, path: "ro", to: "ro2"}, nil},
		// Placeholders can be removed, but not moved, and not in a read-only snapshot.
		{op{kind: opRename, path: "rw/nested", to: "rw/x"}, fserr.ErrNotEmpty},
		{op{kind: opRmdir, path: "ro2/nested"}, fserr.ErrReadOnly},
		{op{kind: opRmdir, path: "rw/nested"}, nil},
		{op{kind: opRmdir, path: "b"}, fserr.ErrNotEmpty},
		{op{kind: opRmdir, path: "b/renamed"}, nil}, // a subvolume that is there, and empty
		{op{kind: opMkdir, path: "rw/nested", mode: 0o700}, nil},
	} {
		if err := e.do(c.op); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Fatalf("%v: %v, want %v", c.op, err, c.want)
		}
	}
	must(t, fs.Commit(t.Context()))
	want := engineManifest(t, fs)
	finish(t, fs, img)

	m := oracle.Mount(t, img)
	defer m.Unmount()
	if d := oracle.ManifestDiff(want, m.ManifestOf("")); d != "" {
		t.Errorf("the engine (-) and the mount (+):\n%s", d)
	}
	for _, p := range []string{"b/in-a", "plain/in-b", "ro2/nested"} {
		var st unix.Stat_t
		if err := unix.Lstat(m.Path(p), &st); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}
