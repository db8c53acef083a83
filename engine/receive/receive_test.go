package receive_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

const (
	attrPath   = sendstream.AttrPath
	attrPathTo = sendstream.AttrPathTo
	attrLink   = sendstream.AttrPathLink
)

// full is a stream with most commands.
func full(t testing.TB) *script {
	return newScript(t, 2).subvol("s").path(sendstream.CmdMkdir, "d").path(sendstream.CmdMkfile, "d/f").
		write("d/f", 0, strings.Repeat("x", 40000)).write("d/f", 40000, strings.Repeat("y", 40000)).
		do(sendstream.CmdRename, attrPath, "d", attrPathTo, "e").
		do(sendstream.CmdLink, attrPath, "hard", attrLink, "e/f").
		do(sendstream.CmdSymlink, attrPath, "link", attrLink, "../../etc").
		path(sendstream.CmdMkfile, "g").
		do(sendstream.CmdClone, attrPath, "g", sendstream.AttrFileOffset, 0, sendstream.AttrCloneLen, 8192, sendstream.AttrCloneUUID, uuidA,
			sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, "e/f", sendstream.AttrCloneOffset, 36864).
		do(sendstream.CmdTruncate, attrPath, "g", sendstream.AttrSize, 5000).
		do(sendstream.CmdSetXattr, attrPath, "g", sendstream.AttrXattrName, "user.a", sendstream.AttrXattrData, "v").
		do(sendstream.CmdChmod, attrPath, "", sendstream.AttrMode, 0o750)
}

// TestFullAndIncremental: content, identity, and a second stream on top of the first.
func TestFullAndIncremental(t *testing.T) {
	im := newImage(t, 256<<20)
	subs := im.receive(full(t).end(), receive.Options{})
	if len(subs) != 1 || subs[0].Name != "s" || subs[0].Parent != 0 {
		t.Fatal(subs)
	}
	next := newScript(t, 1).snapshot("s2", uuidA).path(sendstream.CmdUnlink, "hard").write("e/f", 10, "new").
		do(sendstream.CmdRename, attrPath, "e/f", attrPathTo, "g").path(sendstream.CmdRmdir, "e").end()
	im.receive(next, receive.Options{})
	if got := readFile(t, im, "s/g"); got != strings.Repeat("x", 40000-36864)+strings.Repeat("y", 5000-40000+36864) {
		t.Error("clone: ", len(got))
	}
	want := strings.Repeat("x", 10) + "new" + strings.Repeat("x", 40000-13) + strings.Repeat("y", 40000)
	if readFile(t, im, "s2/g") != want || readFile(t, im, "s/e/f") == want {
		t.Error("the snapshot's write is not its own")
	}
	a, err := im.fs.SubvolumeInfo(t.Context(), "s")
	im.must(err)
	b, err := im.fs.SubvolumeInfo(t.Context(), "s2")
	im.must(err)
	if string(a.ReceivedUUID[:]) != uuidA || a.STransID != 7 || !a.Readonly || a.RTransID == 0 || a.Receive.IsZero() ||
		string(b.ReceivedUUID[:]) != uuidB || b.ParentUUID != a.UUID || !b.Readonly || b.UUID == a.UUID {
		t.Errorf("%+v\n%+v", a, b)
	}
	im.close()
}

// TestCut cuts a stream at each command, and a few bytes into it: an error, no subvolume, nothing in use that was not.
func TestCut(t *testing.T) {
	im := newImage(t, 256<<20)
	s := full(t)
	s.end()
	im.receive(newScript(t, 1).subvol("other").end(), receive.Options{})
	for _, at := range s.starts[:len(s.starts)-1] {
		for _, cut := range []int{at, at + 5} {
			if err := im.errReceive(s.out.Bytes()[:cut], receive.Options{}); !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, sendstream.ErrDamaged) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if got := im.subvolumes(); !slices.Equal(got, []string{"other"}) {
				t.Fatalf("cut at %d: %v", cut, got)
			}
		}
	}
	if u := im.fs.Usage(); u.Data.Used != 0 {
		t.Errorf("%d bytes of data are in use", u.Data.Used)
	}
	im.close()
}

// TestUnsafe: paths that lead out are refused, wherever they stand, and nothing outside changes.
func TestUnsafe(t *testing.T) {
	im := newImage(t, 256<<20)
	_, err := im.fs.CreateSubvolume(t.Context(), "victim", subvol.CreateOptions{})
	im.must(err)
	im.must(im.fs.Commit(t.Context()))
	for _, p := range []string{"..", "../victim/x", "/victim", "d/../../victim/x", "link/x", "link/../x", "d//x", "d/.", "./x", "d/", "", "f/x",
		strings.Repeat("n", 256)} {
		start := func() *script {
			return newScript(t, 1).subvol("s").path(sendstream.CmdMkdir, "d").path(sendstream.CmdMkfile, "f").
				do(sendstream.CmdSymlink, attrPath, "link", attrLink, "../victim")
		}
		for name, s := range map[string]*script{
			"mkfile":   start().path(sendstream.CmdMkfile, p),
			"mkdir":    start().path(sendstream.CmdMkdir, p),
			"rename":   start().do(sendstream.CmdRename, attrPath, "f", attrPathTo, p),
			"link to":  start().do(sendstream.CmdLink, attrPath, p, attrLink, "f"),
			"unlink":   start().path(sendstream.CmdUnlink, p),
			"symlink":  start().do(sendstream.CmdSymlink, attrPath, p, attrLink, "x"),
			"truncate": start().do(sendstream.CmdTruncate, attrPath, p, sendstream.AttrSize, 0),
			"write":    start().write(p, 0, "data"),
			"clone": start().do(sendstream.CmdClone, attrPath, "f", sendstream.AttrFileOffset, 0, sendstream.AttrCloneLen, 1, sendstream.AttrCloneUUID, uuidA,
				sendstream.AttrCloneCTransID, 7, sendstream.AttrClonePath, p, sendstream.AttrCloneOffset, 0),
		} {
			if err := im.errReceive(s.end(), receive.Options{}); err == nil {
				t.Errorf("%s of %q: done", name, p)
			}
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "/a", "../a"} {
		if err := im.errReceive(newScript(t, 1).subvol(name).end(), receive.Options{}); !errors.Is(err, fserr.ErrInvalid) {
			t.Errorf("subvolume %q: %v", name, err)
		}
	}
	if got := im.subvolumes(); !slices.Equal(got, []string{"victim"}) {
		t.Error(got)
	}
	tree, err := im.fs.SubvolumeAt(t.Context(), "victim")
	im.must(err)
	victim, err := im.fs.Subvolume(t.Context(), tree)
	im.must(err)
	if es, err := victim.Entries(t.Context(), 256); err != nil || len(es) > 0 {
		t.Error(es, err)
	}
	im.close()
}

// TestUnsafeNested: a subvolume within the parent of a stream is none of the stream's directories. Its entry names a tree by
// a number, which would be an inode's in the subvolume that is made.
func TestUnsafeNested(t *testing.T) {
	im := newImage(t, 256<<20)
	_, err := im.fs.CreateSubvolume(t.Context(), "p", subvol.CreateOptions{})
	im.must(err)
	id, err := im.fs.CreateSubvolume(t.Context(), "p/nested", subvol.CreateOptions{})
	im.must(err)
	tree, err := im.fs.SubvolumeAt(t.Context(), "p")
	im.must(err)
	p, err := im.fs.Subvolume(t.Context(), tree)
	im.must(err)
	for ino := ondisk.ObjectID(0); ino < ondisk.ObjectID(id); { // a directory whose number is that of the nested one's tree
		ino, err = p.Mkdir(t.Context(), inode.RootDir, fmt.Sprint("dir", ino), inode.Attr{Mode: 0o755})
		im.must(err)
	}
	_, err = im.fs.Snapshot(t.Context(), "p", "parent", true)
	im.must(err)
	im.must(im.fs.Commit(t.Context()))
	info, err := im.fs.SubvolumeInfo(t.Context(), "parent")
	im.must(err)
	before := im.manifest("parent")
	start := func() *script { return newScript(t, 1).snapshot("s", string(info.UUID[:])) }
	im.receive(start().path(sendstream.CmdMkfile, "x").end(), receive.Options{}) // the parent is one
	im.must(im.fs.DeleteSubvolume(t.Context(), "s"))
	for name, s := range map[string]*script{
		"mkfile":    start().path(sendstream.CmdMkfile, "nested/x"),
		"rename":    start().path(sendstream.CmdMkfile, "x").do(sendstream.CmdRename, attrPath, "x", attrPathTo, "nested/x"),
		"chmod":     start().do(sendstream.CmdChmod, attrPath, "nested", sendstream.AttrMode, 0o700),
		"set xattr": start().do(sendstream.CmdSetXattr, attrPath, "nested", sendstream.AttrXattrName, "user.x", sendstream.AttrXattrData, "y"),
	} {
		if err := im.errReceive(s.end(), receive.Options{}); !errors.Is(err, fserr.ErrCrossDevice) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if diff := oracle.ManifestDiff(before, im.manifest("parent")); diff != "" {
		t.Errorf("the parent has changed:\n%s", diff)
	}
	im.close()
}

// TestCrash takes the power away between two commits of a receiving: the next opening drops what was there.
func TestCrash(t *testing.T) {
	for _, incremental := range []bool{false, true} {
		t.Run(fmt.Sprint(incremental), func(t *testing.T) {
			im := newImage(t, 256<<20)
			s := full(t)
			if incremental {
				im.receive(newScript(t, 1).subvol("p").path(sendstream.CmdMkfile, "old").end(), receive.Options{})
				s = newScript(t, 1).snapshot("s", uuidA).path(sendstream.CmdMkfile, "f").write("f", 0, strings.Repeat("z", 20000))
			}
			before := im.subvolumes()
			whole := len(s.out.Bytes())
			var copied *image
			var crashed string
			in := io.MultiReader(bytes.NewReader(s.out.Bytes()[:whole]), readerFunc(func([]byte) (int, error) {
				if copied == nil {
					im.must(im.fs.CleanSubvolumes(t.Context())) // it leaves alone what is under way
					im.must(im.fs.Commit(t.Context()))
					crashed = filepath.Join(t.TempDir(), "crashed")
					im.must(im.mem.Clone().WriteFile(crashed))
					copied = im.openCopy()
				}
				return 0, io.EOF
			}))
			_, err := im.fs.Receive(t.Context(), in, engine.ReceiveOptions{Options: receive.Options{KeepPartial: true}})
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			if got := im.subvolumes(); !slices.Equal(got, append(before, "s")) {
				t.Errorf("kept: %v", got)
			}
			if got := copied.subvolumes(); !slices.Equal(got, before) {
				t.Errorf("after the crash: %v", got)
			}
			info, err := im.fs.SubvolumeInfo(t.Context(), "s")
			im.must(err)
			if info.Readonly || !info.ReceivedUUID.IsZero() {
				t.Errorf("%+v", info)
			}
			im.close()
			im.must(copied.fs.Commit(t.Context()))
			copied.close()
			kernelCleans(t, crashed)
		})
	}
}

// kernelCleans has btrfs check look at an image as a crash left it, and the kernel mount it, which drops what is dead.
func kernelCleans(t *testing.T, img string) {
	oracle.Check(t, img)
	oracle.NeedRoot(t)
	m := oracle.Mount(t, img, oracle.Opts("commit=1")) // how often the cleaner wakes up, in seconds
	m.Btrfs("subvolume", "sync", m.Dir)
	m.Unmount()
	oracle.Check(t, img)
	fs, err := engine.Open(t.Context(), img, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
	if k, _, ok, err := fs.DB().RootTree().SeekGE(t.Context(), first); err != nil || ok && k.Type == first.Type && k.ObjectID == first.ObjectID {
		t.Errorf("orphan item %v is left: %v", k, err)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestRefused: what stands against a subvolume as a whole.
func TestRefused(t *testing.T) {
	im := newImage(t, 256<<20)
	im.receive(newScript(t, 1).subvol("s").end(), receive.Options{})
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"empty":     {nil, sendstream.ErrDamaged},
		"taken":     {newScript(t, 1).subvol("s").end(), fserr.ErrExist},
		"no parent": {newScript(t, 1).snapshot("n", "CCCCCCCCCCCCCCCC").end(), fserr.ErrNotFound},
		"no subvol": {newScript(t, 1).path(sendstream.CmdMkfile, "f").end(), sendstream.ErrDamaged},
	} {
		if err := im.errReceive(c.in, receive.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	id, err := im.fs.SubvolumeAt(t.Context(), "s")
	im.must(err)
	im.must(im.fs.SetReadonly(t.Context(), id, false))
	if err := im.errReceive(newScript(t, 1).snapshot("n", uuidA).end(), receive.Options{}); !errors.Is(err, fserr.ErrNotFound) {
		t.Errorf("parent that was received and made writable: %v", err)
	}
	in, err := im.fs.SubvolumeInfo(t.Context(), "s")
	im.must(err)
	if !in.ReceivedUUID.IsZero() || in.STransID != 0 || in.RTransID != 0 || in.Sent.Unix() != 0 || in.Receive.Unix() != 0 {
		t.Errorf("made writable, it says that it was received: %+v", in)
	}
	if err := im.errReceive(newScript(t, 1).snapshot("n", string(in.UUID[:])).end(), receive.Options{}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("writable parent: %v", err)
	}
	im.close()
}

// TestErrorsAndStreams: tolerated errors, several subvolumes in one stream and several streams, and stopping behind one.
func TestErrorsAndStreams(t *testing.T) {
	im := newImage(t, 256<<20)
	bad := newScript(t, 1).subvol("a").path(sendstream.CmdRmdir, "no").path(sendstream.CmdUnlink, "no").path(sendstream.CmdMkdir, "d").end()
	if err := im.errReceive(bad, receive.Options{MaxErrors: 2}); !errors.Is(err, fserr.ErrNotFound) || len(im.subvolumes()) > 0 {
		t.Error(err, im.subvolumes())
	}
	// An attribute that no item holds is no lack of space, which would end it.
	large := newScript(t, 2).subvolAs("large", uuidB).path(sendstream.CmdMkfile, "f").
		do(sendstream.CmdSetXattr, attrPath, "f", sendstream.AttrXattrName, "user.x", sendstream.AttrXattrData, strings.Repeat("v", 30000)).
		path(sendstream.CmdMkfile, "g").end()
	if err := im.errReceive(large, receive.Options{}); !errors.Is(err, fserr.ErrNoSpace) {
		t.Error(err)
	}
	im.receive(large, receive.Options{MaxErrors: -1})
	im.must(im.fs.DeleteSubvolume(t.Context(), "large"))
	failed := 0
	im.receive(bad, receive.Options{MaxErrors: 3, Failed: func(error) { failed++ }})
	two := newScript(t, 1).subvol("b").snapshot("c", uuidA).end()
	in := bytes.NewReader(append(bytes.Clone(two), newScript(t, 1).subvol("d").end()...))
	_, err := im.fs.Receive(t.Context(), in, engine.ReceiveOptions{Options: receive.Options{OneStream: true}})
	im.must(err)
	if got := im.subvolumes(); failed != 2 || !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Error(failed, got)
	}
	_, err = im.fs.Receive(t.Context(), in, engine.ReceiveOptions{})
	im.must(err)
	if got := im.subvolumes(); !slices.Equal(got, []string{"a", "b", "c", "d"}) {
		t.Error(got)
	}
	im.close()
}

// TestStats: what came, and what became of it.
func TestStats(t *testing.T) {
	before, list := seeds(t)
	for _, force := range []bool{false, true} {
		im, st := newImage(t, 256<<20), new(receive.Stats)
		im.receive(before[0], receive.Options{})
		in := append(bytes.Clone(list[3]), list[5]...)
		cmds := append(takeApart(list[3]).cmds, takeApart(list[5]).cmds...)
		in = append(in, newScript(t, 1).subvolAs("y", "YYYYYYYYYYYYYYYY").path(sendstream.CmdUnlink, "no").end()...)
		im.receive(in, receive.Options{ForceDecompress: force, MaxErrors: -1, Stats: st})
		encoded, clones, data := uint64(0), uint64(0), uint64(0)
		for _, c := range cmds {
			switch sendstream.Cmd(c.num) {
			case sendstream.CmdEncodedWrite:
				encoded++
				data += c.get(sendstream.AttrUnencodedFileLen).number()
			case sendstream.CmdClone:
				clones++
			case sendstream.CmdWrite:
				data += uint64(len(c.get(sendstream.AttrData).val))
			}
		}
		stored, unpacked := encoded, uint64(0)
		if force {
			stored, unpacked = 0, encoded
		}
		if encoded == 0 || clones == 0 {
			t.Fatalf("%d encoded writes, %d clones in the seeds", encoded, clones)
		}
		if got, want := fmt.Sprint(st.Commands.Load(), st.Bytes.Load(), st.Data.Load(), st.Clones.Load(), st.Stored.Load(), st.Unpacked.Load(),
			st.Subvolumes.Load(), st.Errors.Load()), fmt.Sprint(len(cmds)+3, len(in), data, clones, stored, unpacked, 3, 1); got != want {
			t.Errorf("commands, bytes, data, clones, stored, unpacked, subvolumes, errors: %s, want %s", got, want)
		}
		im.close()
	}
}
