package send_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// TestTimesOfTheGone: a directory is left by one that has to wait for another, and goes, and its number is another
// directory's. It has no times to be set.
func TestTimesOfTheGone(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	format := func(name string) (*disk.Mem, *engine.FS) {
		mem := disk.NewMem(name, 160<<20)
		fs, err := engine.FormatDevice(ctx, mem, engine.FormatOptions{Options: mkfs.Default()})
		must(err)
		return mem, fs
	}
	mem, fs := format(filepath.Base(t.Name()))
	id, err := fs.CreateSubvolume(ctx, "s", subvol.CreateOptions{})
	must(err)
	tree, err := fs.Subvolume(ctx, id)
	must(err)
	mkdir := func(name string) ondisk.ObjectID {
		ino, err := tree.Mkdir(ctx, inode.RootDir, name, inode.Attr{Mode: 0o755})
		must(err)
		return ino
	}
	rename := func(from ondisk.ObjectID, name string, to ondisk.ObjectID, as string) {
		must(tree.Rename(ctx, from, name, to, as, inode.RenameReplace))
	}
	mkdir("child") // lower than the one that it waits for
	later, gone := mkdir("later"), mkdir("gone")
	rename(inode.RootDir, "child", gone, "child")
	_, err = fs.Snapshot(ctx, "s", "one", true)
	must(err)
	rename(inode.RootDir, "later", inode.RootDir, "moved")
	rename(gone, "child", later, "child")
	must(tree.Rmdir(ctx, inode.RootDir, "gone"))
	must(fs.Commit(ctx))

	raw := mem.Clone() // opened anew, it uses the highest number again
	must(fs.Close())
	fs, err = engine.OpenDevices(ctx, []disk.Device{raw}, engine.OpenOptions{})
	must(err)
	tree, err = fs.Subvolume(ctx, id)
	must(err)
	if ino := mkdir("new"); ino != gone {
		t.Fatalf("the new directory has number %d, not %d: nothing is shown", ino, gone)
	}
	_, err = fs.Snapshot(ctx, "s", "two", true)
	must(err)
	var streams bytes.Buffer
	must(fs.Send(ctx, &streams, engine.SendOptions{Path: "one"}))
	must(fs.Send(ctx, &streams, engine.SendOptions{Path: "two", ParentPath: "one"}))
	must(fs.Close())

	_, to := format("received")
	_, err = to.Receive(ctx, &streams, engine.ReceiveOptions{})
	must(err)
	ns, err := to.Namespace(ctx, ondisk.FSTree)
	must(err)
	for _, path := range []string{"two/moved/child", "two/new"} {
		if _, err := ns.Walk(ctx, path, true); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(to.Close())
}
