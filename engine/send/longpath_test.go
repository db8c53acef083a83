package send_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestLongPath sends trees whose paths are as long as a stream can have, and longer, which is an error and no damage.
func TestLongPath(t *testing.T) {
	l := newLab(t, 1)
	for _, c := range []struct {
		path string // of the subvolume
		name string // of each directory
		n    int    // directories, one below the other
		last string // of the file in the last
		want error
	}{
		{"fits", "a", 2047, "f", nil},
		{"onemore", "a", 2047, "ff", fserr.ErrNameTooLong},
		{"deep", "a", 5000, "f", fserr.ErrNameTooLong},
		{"longnames", strings.Repeat("n", 255), 17, "f", fserr.ErrNameTooLong},
	} {
		id, err := l.fs.CreateSubvolume(t.Context(), c.path, subvol.CreateOptions{})
		l.must(err)
		tree, err := l.fs.Subvolume(t.Context(), id)
		l.must(err)
		dir := ondisk.ObjectID(inode.RootDir)
		for range c.n {
			dir, err = tree.Mkdir(t.Context(), dir, c.name, inode.Attr{Mode: 0o755})
			l.must(err)
		}
		_, err = tree.Create(t.Context(), dir, c.last, inode.Attr{Mode: 0o644})
		l.must(err)
		l.must(l.fs.SetReadonly(t.Context(), id, true))
		var out bytes.Buffer
		err = l.send(&out, engine.SendOptions{Path: c.path})
		if !errors.Is(err, c.want) || errors.Is(err, fserr.ErrCorrupt) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v", c.path, err)
		}
	}
	l.close()
}
