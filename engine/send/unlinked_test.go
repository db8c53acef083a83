package send_test

import (
	"bytes"
	"io"
	"testing"

	"imgtool/engine"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// TestCloneOfUnlinked sends clones of files that had lost their names, but were open, when the snapshots were taken: they
// are in the trees and nowhere at the receiver, so nothing can be cloned from them.
func TestCloneOfUnlinked(t *testing.T) {
	l := newLab(t, 1)
	ctx := t.Context()
	tree := l.subvolume("files")
	create := func(name string) ondisk.ObjectID {
		ino, err := tree.Create(ctx, inode.RootDir, name, inode.Attr{Mode: 0o644})
		l.must(err)
		return ino
	}
	clone := func(from, to ondisk.ObjectID) {
		l.must(tree.CloneRange(ctx, inode.Clone{Src: tree, SrcIno: from, Ino: to}))
	}
	data := map[string][]byte{}
	var open []*inode.File
	for i, name := range []string{"clone1", "clone2"} {
		data[name] = bytes.Repeat([]byte{byte(i), 7, 5}, 100_000)
		ino := create("source")
		_, err := tree.WriteAt(ctx, ino, data[name], 0)
		l.must(err)
		clone(ino, create(name))
		f, err := tree.Open(ctx, ino)
		l.must(err)
		open = append(open, f)
		l.must(tree.Unlink(ctx, inode.RootDir, "source"))
		l.snapshot("/files", "/"+name)
		if i == 0 { // to be found in the parent's file without a name, in the next snapshot
			data["clone3"] = data[name]
			clone(ino, create("clone3"))
		}
	}
	var streams bytes.Buffer
	l.must(l.send(&streams, engine.SendOptions{Path: "/clone1"}))
	l.must(l.send(&streams, engine.SendOptions{Path: "/clone2", ParentPath: "/clone1"}))
	top, err := l.fs.Subvolume(ctx, ondisk.FSTree)
	l.must(err)
	_, err = top.Mkdir(ctx, inode.RootDir, "to", inode.Attr{Mode: 0o755})
	l.must(err)
	_, err = l.fs.Receive(ctx, &streams, engine.ReceiveOptions{Path: "to"})
	l.must(err)
	got, err := l.fs.Subvolume(ctx, l.id("/to/clone2"))
	l.must(err)
	for name, want := range data {
		e, err := got.Lookup(ctx, inode.RootDir, name)
		l.must(err)
		f, err := got.Open(ctx, e.Ino())
		l.must(err)
		if have, err := io.ReadAll(f); err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s: %d bytes received, want the %d that were sent: %v", name, len(have), len(want), err)
		}
		l.must(f.Close())
	}
	for _, f := range open {
		l.must(f.Close())
	}
	l.close()
}
