package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
)

// TestBackupRoot makes a dozen commits and then opens each root backup: it is the state that it was, or, since its
// blocks are free to be written over, an error of damage. That of the last commit but one is always there: what a
// commit frees is used by the commit after the next one at the earliest (I2).
func TestBackupRoot(t *testing.T) {
	ctx, img := t.Context(), filepath.Join(t.TempDir(), "img")
	fs, err := engine.Format(ctx, img, engine.FormatOptions{Options: mkfs.Default(), Size: 200 << 20})
	must(t, err)
	states := map[ondisk.Generation][]byte{}
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(t, err)
	state := func(fs *engine.FS) ([]byte, error) {
		ns, err := fs.Namespace(ctx, ondisk.FSTree)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		err = manifest.Write(ctx, &out, ns)
		return out.Bytes(), err
	}
	for i := range 12 {
		_, err := tree.Create(ctx, inode.RootDir, fmt.Sprint(i), inode.Attr{Mode: 0o644})
		must(t, err)
		must(t, fs.Commit(ctx))
		sb := fs.Super()
		states[sb.Generation()], err = state(fs)
		must(t, err)
	}
	sb := fs.Super()
	must(t, fs.Close())
	for n := range ondisk.NumBackupRoots {
		gen := sb.Backup(n).TreeRootGen()
		old, err := engine.Open(ctx, img, engine.OpenOptions{ReadOnly: true, BackupRoot: &n})
		var got []byte
		if err == nil {
			got, err = state(old)
			must(t, errors.Join(old.Close()))
		}
		switch {
		case err != nil && (gen+1 >= sb.Generation() || !errors.Is(err, fserr.ErrCorrupt)):
			t.Errorf("backup %d of generation %d, the last being %d: %v", n, gen, sb.Generation(), err)
		case err == nil && !bytes.Equal(got, states[gen]):
			t.Errorf("backup %d of generation %d:\n%s, it was\n%s", n, gen, got, states[gen])
		}
	}
	for _, n := range []int{-1, ondisk.NumBackupRoots} {
		if _, err := engine.Open(ctx, img, engine.OpenOptions{ReadOnly: true, BackupRoot: &n}); !errors.Is(err, fserr.ErrInvalid) {
			t.Errorf("backup %d: %v", n, err)
		}
	}
	zero := 0
	if _, err := engine.Open(ctx, img, engine.OpenOptions{BackupRoot: &zero}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("for writing: %v", err)
	}
}
