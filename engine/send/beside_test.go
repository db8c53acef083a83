package send_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/commitview"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/send"
	"imgtool/engine/subvol"
	"imgtool/engine/trace"
)

// lab is a file system in memory with a subvolume /a, its snapshot /s, and /t, a snapshot after changes.
type lab struct {
	testing.TB
	fs    *engine.FS
	mem   *disk.Mem
	hook  atomic.Pointer[func(trace.Event)]
	churn *inode.FileTree
	n     int
}

// Trace implements trace.Tracer.
func (l *lab) Trace(e trace.Event) {
	if fn := l.hook.Load(); fn != nil {
		(*fn)(e)
	}
}

func newLab(t testing.TB, files int) *lab {
	t.Helper()
	l := &lab{TB: t, mem: disk.NewMem(filepath.Base(t.Name()), 160<<20)}
	fo := engine.FormatOptions{Options: mkfs.Default(), OpenOptions: engine.OpenOptions{Tracer: l}}
	var err error
	l.fs, err = engine.FormatDevice(t.Context(), l.mem, fo)
	l.must(err)
	l.churn = l.subvolume("churn")
	a := l.subvolume("a")
	ctx := t.Context()
	dir := ondisk.ObjectID(inode.RootDir)
	for i := range files {
		if i%50 == 0 {
			dir, err = a.Mkdir(ctx, inode.RootDir, fmt.Sprint("dir", i), inode.Attr{Mode: 0o755})
			l.must(err)
		}
		ino, err := a.Create(ctx, dir, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		l.must(err)
		_, err = a.WriteAt(ctx, ino, bytes.Repeat([]byte{byte(i)}, 100*(i%70)), 0)
		l.must(err)
		_, err = a.Symlink(ctx, dir, fmt.Sprint("link", i), "target", inode.Attr{})
		l.must(err)
	}
	l.snapshot("/a", "/s")
	for i := range files / 2 {
		if i%25 == 0 && i > 0 {
			l.must(a.Rename(ctx, inode.RootDir, fmt.Sprint("dir", i*2), inode.RootDir, fmt.Sprint("moved", i), inode.RenameReplace))
		}
		ino, err := a.Create(ctx, dir, fmt.Sprint("new", i), inode.Attr{Mode: 0o600})
		l.must(err)
		_, err = a.WriteAt(ctx, ino, []byte("new"), 0)
		l.must(err)
	}
	l.snapshot("/a", "/t")
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) subvolume(name string) *inode.FileTree {
	l.Helper()
	id, err := l.fs.CreateSubvolume(l.Context(), name, subvol.CreateOptions{})
	l.must(err)
	tree, err := l.fs.Subvolume(l.Context(), id)
	l.must(err)
	return tree
}

func (l *lab) snapshot(src, dst string) {
	l.Helper()
	_, err := l.fs.Snapshot(l.Context(), src, dst, true)
	l.must(err)
}

func (l *lab) id(path string) ondisk.TreeID {
	l.Helper()
	id, err := l.fs.SubvolumeAt(l.Context(), path)
	l.must(err)
	return id
}

// close lets btrfs check see what the commits beside the sends have made.
func (l *lab) close() {
	l.Helper()
	l.must(l.fs.Close())
	path := filepath.Join(l.TempDir(), "image")
	l.must(l.mem.WriteFile(path))
	oracle.Check(l, path)
}

// fill makes the space for tree blocks so scarce that addresses come round again soon.
func (l *lab) fill() {
	l.Helper()
	tree := l.subvolume("filler")
	for i := 0; ; i++ {
		ino, err := tree.Create(l.Context(), inode.RootDir, fmt.Sprint(i), inode.Attr{})
		l.must(err)
		_, err = tree.WriteAt(l.Context(), ino, make([]byte, 2000), 0)
		l.must(err)
		if i%500 == 0 {
			l.must(l.fs.Commit(l.Context()))
			if u := l.fs.Usage().Metadata; u.Free() < 10<<20 {
				return
			}
		}
	}
}

func (l *lab) send(w io.Writer, o engine.SendOptions) error { return l.fs.Send(l.Context(), w, o) }

// gate is an output whose reader takes its time: fn is called at each write.
type gate struct {
	bytes.Buffer
	fn func(n int) error
	n  int
}

func (g *gate) Write(p []byte) (int, error) {
	g.n++
	if err := g.fn(g.n); err != nil {
		return 0, err
	}
	return g.Buffer.Write(p)
}

// TestBlocked sends to a reader that does not read. The sender holds no ticket then: commits go by, and what they free
// comes back at once.
func TestBlocked(t *testing.T) {
	defer send.SmallSegments(512)()
	for _, o := range []engine.SendOptions{{Path: "/s"}, {Path: "/t", ParentPath: "/s"}} {
		l := newLab(t, 400)
		var quiet bytes.Buffer
		l.must(l.send(&quiet, o))
		var stats send.Stats
		o.Stats = &stats
		blocked := 0
		out := &gate{fn: func(n int) error {
			if n > 3 {
				return nil
			}
			for stats.Waits.Load() < uint64(n) { // the sender has filled all segments and waits for this one
				if err := t.Context().Err(); err != nil {
					return err
				}
				runtime.Gosched()
			}
			blocked++
			if st := l.fs.DB().Pin().Stats(); st.Tickets != 0 {
				return fmt.Errorf("%d tickets while the sender waits", st.Tickets)
			}
			if err := l.storm(o.Path, 0); err != nil {
				return err
			}
			if st := l.fs.DB().Pin().Stats(); st.Held() != 0 {
				return fmt.Errorf("%d bytes are held while the sender waits", st.Held())
			}
			return nil
		}}
		if err := l.send(out, o); err != nil || !bytes.Equal(out.Bytes(), quiet.Bytes()) {
			t.Errorf("%v, %d bytes, in silence %d", err, out.Len(), quiet.Len())
		}
		if blocked != 3 || stats.Refreshes.Load() == 0 {
			t.Errorf("blocked %d times, %d new tickets", blocked, stats.Refreshes.Load())
		}
		l.close()
	}
}

// TestBlockedAtEnd sends to a reader that has not read yet when the sender has nothing left to do: all of the stream fits
// into memory. No ticket waits for the reader then either.
func TestBlockedAtEnd(t *testing.T) {
	for _, o := range []engine.SendOptions{{Path: "/s"}, {Path: "/t", ParentPath: "/s"}} {
		l := newLab(t, 100)
		var quiet bytes.Buffer
		l.must(l.send(&quiet, o))
		out := &gate{fn: func(n int) error {
			if n > 1 {
				return fmt.Errorf("the stream comes in more than one segment")
			}
			if err := l.storm(o.Path, 0); err != nil {
				return err
			}
			if st := l.fs.DB().Pin().Stats(); st.Tickets != 0 || st.Held() != 0 {
				return fmt.Errorf("%d tickets hold %d bytes while the sender waits for the writer", st.Tickets, st.Held())
			}
			return nil
		}}
		if err := l.send(out, o); err != nil || !bytes.Equal(out.Bytes(), quiet.Bytes()) {
			t.Errorf("%v, %d bytes, in silence %d", err, out.Len(), quiet.Len())
		}
		l.close()
	}
}

// TestCounted asks for the deletion of what is being sent, and for its flip to writable: refused, naming the send, until
// it is done.
func TestCounted(t *testing.T) {
	defer send.SmallSegments(4 << 10)()
	l := newLab(t, 60)
	ctx := t.Context()
	l.snapshot("/a", "/c")
	s, c, tt := l.id("/s"), l.id("/c"), l.id("/t")
	out := &gate{fn: func(n int) error {
		if n != 1 {
			return nil
		}
		for _, id := range []ondisk.TreeID{s, c, tt} {
			for what, err := range map[string]error{"delete": l.fs.DeleteSubvolumeID(ctx, id), "flip": l.fs.SetReadonly(ctx, id, false)} {
				if !errors.Is(err, fserr.ErrPerm) || !strings.Contains(err.Error(), fmt.Sprintf("the send of subvolume %d", tt)) {
					return fmt.Errorf("%s of %d: %w, want EPERM that names the send", what, id, err)
				}
			}
		}
		return nil
	}}
	l.must(l.send(out, engine.SendOptions{Path: "/t", ParentPath: "/s", ClonePaths: []string{"/c"}}))
	l.must(l.fs.SetReadonly(ctx, c, false))
	l.must(l.fs.SetReadonly(ctx, c, true))
	for _, p := range []string{"/s", "/c", "/t"} {
		l.must(l.fs.DeleteSubvolume(ctx, p))
	}
	for _, o := range []engine.SendOptions{{Path: "/s"}, {Path: "/a"}, {Path: "/"}} {
		if err := l.send(io.Discard, o); err == nil {
			t.Errorf("%s has been sent", o.Path)
		}
	}
	if err := l.send(io.Discard, engine.SendOptions{Path: "/a"}); !errors.Is(err, fserr.ErrPerm) {
		t.Errorf("send of a writable subvolume: %v, want EPERM", err)
	}
	l.close()
}

// TestBeginFails: a send that fails between its count and its beginning, since there is no name for what it sends or since
// what has to be committed first cannot be, is counted no more.
func TestBeginFails(t *testing.T) {
	l := newLab(t, 5)
	ctx := t.Context()
	l.must(l.fs.SetReadonly(ctx, ondisk.FSTree, true))
	if err := l.send(io.Discard, engine.SendOptions{Path: "/"}); !errors.Is(err, fserr.ErrNotFound) {
		t.Errorf("send of the top-level subvolume: %v, want ENOENT", err)
	}
	l.must(l.fs.SetReadonly(ctx, ondisk.FSTree, false))
	l.must(l.fs.SetReadonly(ctx, l.id("/a"), true))
	enough := errors.New("enough")
	l.fs.DB().Abort(enough)
	if err := l.send(io.Discard, engine.SendOptions{Path: "/a"}); !errors.Is(err, enough) {
		t.Errorf("send of what cannot be committed: %v, want what has ended the file system", err)
	}
	for _, id := range []ondisk.TreeID{ondisk.FSTree, l.id("/a")} {
		if left := l.fs.Subvols().Sends(id); len(left) > 0 {
			t.Errorf("subvolume %d: %v are still counted", id, left)
		}
	}
	l.close()
}

// TestMany sends the same subvolume many times at once, beside commits.
func TestMany(t *testing.T) {
	l := newLab(t, 100)
	o := engine.SendOptions{Path: "/t", ParentPath: "/s"}
	var quiet bytes.Buffer
	l.must(l.send(&quiet, o))
	stop := make(chan struct{})
	var storms, senders sync.WaitGroup
	storms.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := l.storm("/t", 0); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 6 {
		senders.Go(func() {
			o := o
			o.Policy = []commitview.Policy{commitview.Epoch, commitview.CloneRoot}[i%2]
			for range 5 {
				var out bytes.Buffer
				if err := l.send(&out, o); err != nil || !bytes.Equal(out.Bytes(), quiet.Bytes()) {
					t.Errorf("sender %d: %v, %d bytes, in silence %d", i, err, out.Len(), quiet.Len())
				}
			}
		})
	}
	senders.Wait()
	close(stop)
	storms.Wait()
	l.close()
}

// TestChangedRoot sends a subvolume whose flag was set in the running transaction, and one that a snapshot has just been
// made of: the send commits first.
func TestChangedRoot(t *testing.T) {
	l := newLab(t, 5)
	a := l.id("/a")
	tree, err := l.fs.Subvolume(t.Context(), a)
	l.must(err)
	_, err = tree.Create(t.Context(), inode.RootDir, "late", inode.Attr{Mode: 0o644})
	l.must(err)
	l.must(l.fs.SetReadonly(t.Context(), a, true))
	var out bytes.Buffer
	l.must(l.send(&out, engine.SendOptions{Path: "/a"}))
	if !bytes.Contains(out.Bytes(), []byte("late")) {
		t.Error("what the running transaction had made is not in the stream")
	}
	l.close()
}

// TestROSnapshot sends a writable subvolume through a snapshot, which is gone afterwards, also after a failure.
func TestROSnapshot(t *testing.T) {
	l := newLab(t, 20)
	before, err := l.fs.Subvolumes(t.Context())
	l.must(err)
	o := engine.SendOptions{Path: "/a", ForceROSnapshot: true}
	var out bytes.Buffer
	l.must(l.send(&out, o))
	if !bytes.Contains(out.Bytes()[:60], []byte("\x01\x00a")) {
		t.Errorf("the stream does not begin with the subvolume's name: %q", out.Bytes()[:60])
	}
	broken := errors.New("broken pipe")
	if err := l.send(&gate{fn: func(int) error { return broken }}, o); !errors.Is(err, broken) {
		t.Errorf("%v, want the writer's error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := l.fs.Send(ctx, &gate{fn: func(int) error { cancel(); return nil }}, o); !errors.Is(err, context.Canceled) {
		t.Logf("the send was done before it was cancelled: %v", err)
	}
	after, err := l.fs.Subvolumes(t.Context())
	l.must(err)
	if len(after) != len(before) {
		t.Errorf("%d subvolumes, %d before", len(after), len(before))
	}
	l.close()
}

// TestHiddenSnapshot: the snapshot through which a writable subvolume is sent is seen by nobody, cleaners leave it alone,
// the stream is that of an ordinary snapshot, and a crash meanwhile leaves nothing of it.
func TestHiddenSnapshot(t *testing.T) {
	defer send.SmallSegments(512)()
	for _, policy := range []commitview.Policy{commitview.Epoch, commitview.CloneRoot} {
		t.Run(policy.String(), func(t *testing.T) {
			l := newLab(t, 300)
			before, err := l.fs.Subvolumes(t.Context())
			l.must(err)
			used := l.fs.Usage()
			o := engine.SendOptions{Path: "/a", ParentPath: "/s", ForceROSnapshot: true, Options: send.Options{Policy: policy}}
			var hidden, seen, full bytes.Buffer
			var crashed *disk.Mem
			meanwhile := func(n int) error {
				if crashed != nil {
					return nil
				}
				list, err := l.fs.Subvolumes(t.Context())
				l.must(err)
				if len(list) != len(before) {
					t.Errorf("%d subvolumes are seen, before: %d", len(list), len(before))
				}
				l.must(l.fs.CleanSubvolumes(t.Context()))
				l.snapshot("/a", "/meanwhile") // a commit
				l.must(l.fs.DeleteSubvolume(t.Context(), "/meanwhile"))
				l.must(l.fs.CleanSubvolumes(t.Context()))
				l.must(l.fs.Commit(t.Context()))
				crashed = l.mem.Clone()
				return nil
			}
			l.must(l.fs.Send(t.Context(), io.MultiWriter(&gate{fn: meanwhile}, &hidden), o))
			o.ParentPath = ""
			l.must(l.fs.Send(t.Context(), &full, o))
			first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
			k, _, ok, err := l.fs.DB().RootTree().SeekGE(t.Context(), first)
			l.must(err)
			if now := l.fs.Usage(); now.Data.Used != used.Data.Used || ok && k.ObjectID == first.ObjectID && k.Type == first.Type {
				t.Errorf("%d bytes of data in use, before the sends %d; first orphan item: %v", now.Data.Used, used.Data.Used, k)
			}
			l.snapshot("/a", "/ordinary")
			o.Path, o.ForceROSnapshot, o.Name = "/ordinary", false, "a"
			for _, c := range []struct {
				parent string
				got    *bytes.Buffer
			}{{"/s", &hidden}, {"", &full}} {
				seen.Reset()
				o.ParentPath = c.parent
				l.must(l.fs.Send(t.Context(), &seen, o))
				if a, b := withoutUUID(c.got.Bytes()), withoutUUID(seen.Bytes()); !bytes.Equal(a, b) {
					t.Errorf("parent %q: %d bytes of the hidden snapshot, %d of an ordinary one", c.parent, len(a), len(b))
				}
			}
			l.close()
			path := filepath.Join(t.TempDir(), "crashed")
			l.must(crashed.WriteFile(path))
			oracle.Check(t, path)
			if n := orphans(t, path); n != 1 {
				t.Errorf("the crash left %d dead subvolumes, want the hidden snapshot", n)
			}
			again, err := engine.Open(t.Context(), path, engine.OpenOptions{})
			l.must(err)
			list, err := again.Subvolumes(t.Context())
			l.must(err)
			if now := again.Usage(); len(list) != len(before) || now.Data.Used != used.Data.Used {
				t.Errorf("after the crash: %d subvolumes, %d bytes of data; before the send %d and %d", len(list), now.Data.Used, len(before), used.Data.Used)
			}
			l.must(again.Commit(t.Context()))
			l.must(again.Close())
			oracle.Check(t, path)
			if n := orphans(t, path); n != 0 {
				t.Errorf("%d dead subvolumes are left", n)
			}
			kernelCleans(t, crashed)
		})
	}
}

// kernelCleans has the kernel mount an image as a crash left it, which drops what is dead.
func kernelCleans(t *testing.T, crashed *disk.Mem) {
	t.Helper()
	oracle.NeedRoot(t)
	path := filepath.Join(t.TempDir(), "mounted")
	if err := crashed.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	m := oracle.Mount(t, path, oracle.Opts("commit=1")) // how often the cleaner wakes up, in seconds
	m.Btrfs("subvolume", "sync", m.Dir)
	m.Unmount()
	oracle.Check(t, path)
	if n := orphans(t, path); n != 0 {
		t.Errorf("the kernel has left %d dead subvolumes", n)
	}
}

// orphans counts the orphan items of an image's root tree: its dead subvolumes.
func orphans(t *testing.T, path string) (n int) {
	t.Helper()
	fs, err := engine.Open(t.Context(), path, engine.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
	last := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey, Offset: ^uint64(0)}
	err = fs.DB().RootTree().Scan(t.Context(), first, last, func(ondisk.Key, []byte) (bool, error) {
		n++
		return true, nil
	})
	if err := errors.Join(err, fs.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// withoutUUID is a stream without its first command's checksum and the UUID of the subvolume, which each snapshot has
// anew: "subvol" and "snapshot" begin with the path, here of one byte, and go on with it.
func withoutUUID(stream []byte) []byte {
	b := bytes.Clone(stream)
	clear(b[17+6 : 17+10])
	clear(b[17+10+5+4:][:16])
	return b
}
