package inode_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
)

// oneTree resolves a single subvolume.
type oneTree struct{ tree *inode.FileTree }

func (o oneTree) Tree(_ context.Context, id ondisk.TreeID) (inode.FileReader, error) {
	if id != o.tree.ID() {
		return nil, fserr.ErrNotFound
	}
	return o.tree, nil
}

func (o oneTree) Leads(context.Context, ondisk.TreeID, ondisk.ObjectID, string, ondisk.TreeID) (bool, error) {
	return false, nil
}

func (o oneTree) Above(context.Context, ondisk.TreeID) (ondisk.TreeID, ondisk.ObjectID, string, error) {
	return 0, 0, "", fserr.ErrNotFound
}

// maker makes files and stops the test at the first error.
type maker struct {
	t    testing.TB
	tree *inode.FileTree
}

func (m maker) dir(parent ondisk.ObjectID, name string) ondisk.ObjectID {
	m.t.Helper()
	return m.ok(m.tree.Mkdir(context.Background(), parent, name, inode.Attr{Mode: 0o755}))
}

func (m maker) file(parent ondisk.ObjectID, name, content string) ondisk.ObjectID {
	m.t.Helper()
	ino := m.ok(m.tree.Create(context.Background(), parent, name, inode.Attr{Mode: 0o644}))
	if _, err := m.tree.WriteAt(context.Background(), ino, []byte(content), 0); err != nil {
		m.t.Fatal(err)
	}
	return ino
}

func (m maker) link(parent ondisk.ObjectID, name, target string) {
	m.t.Helper()
	m.ok(m.tree.Symlink(context.Background(), parent, name, target, inode.Attr{}))
}

func (m maker) ok(ino ondisk.ObjectID, err error) ondisk.ObjectID {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
	return ino
}

func TestFSView(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 256<<20, nil)
	m := maker{t, im.top()}
	a := m.dir(inode.RootDir, "a")
	b := m.dir(a, "b")
	m.file(b, "small", "hello")
	m.file(b, "large", strings.Repeat("0123456789", 1500))
	m.file(inode.RootDir, "empty", "")
	m.link(inode.RootDir, "rel", "a/b/small")
	m.link(b, "up", "../../rel")
	m.link(a, "abs", "/a/b")
	if _, err := m.tree.AddEntryForTest(ctx, inode.RootDir, "gone", 4711); err != nil {
		t.Fatal(err)
	}
	ns, err := inode.NewNamespace(ctx, oneTree{m.tree}, ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	if err := fstest.TestFS(inode.NewFSView(ctx, ns), "a/b/small", "a/b/large", "empty", "rel", "a/abs", "gone"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path   string
		follow bool
		want   string // path, or an error
	}{
		{"a/b/small", true, "a/b/small"}, {"/a//b/./small", true, "a/b/small"}, {"rel", true, "a/b/small"}, {"rel", false, "rel"},
		{"a/b/up", true, "a/b/small"}, {"a/abs/small", true, "a/b/small"}, {"a/abs/", false, "a/b"}, {"../..", true, ""},
		{"a/b/..", true, "a"}, {"gone/..", true, ""}, {"gone", true, "gone"}, {"gone/x", true, "ENOENT"},
		{"a/none", true, "ENOENT"}, {"a/none/x", true, "ENOENT"}, {"empty/x", true, "ENOTDIR"}, {"empty/..", true, "ENOTDIR"},
	} {
		n, err := ns.Walk(ctx, c.path, c.follow)
		got := ""
		switch {
		case errors.Is(err, fserr.ErrNotFound):
			got = "ENOENT"
		case errors.Is(err, fserr.ErrNotDir):
			got = "ENOTDIR"
		case err != nil:
			t.Fatal(c.path, err)
		case n.IsPlaceholder():
			got = "gone"
		default:
			if got, err = m.tree.PathOf(ctx, n.Ino); err != nil {
				t.Fatal(c.path, err)
			}
		}
		if got != c.want {
			t.Errorf("walk %q (follow %v): %q, expected %q", c.path, c.follow, got, c.want)
		}
	}
	m.link(inode.RootDir, "loop", "loop")
	if _, err := ns.Walk(ctx, "loop/x", true); !errors.Is(err, fserr.ErrLoop) {
		t.Errorf("a link to itself: %v", err)
	}
	if dir, name, err := ns.WalkParent(ctx, "/a/new/"); err != nil || dir.Ino != a || name != "new" {
		t.Errorf("WalkParent: %v %q %v", dir.Ino, name, err)
	}
}

// TestRefusals is a table of what operations must refuse, and with which error.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 256<<20, nil)
	m := maker{t, im.top()}
	tree := m.tree
	d := m.dir(inode.RootDir, "d")
	sub := m.dir(d, "sub")
	f := m.file(inode.RootDir, "f", "content")
	fixed := m.file(inode.RootDir, "fixed", "content")
	log := m.file(inode.RootDir, "log", "content")
	for ino, flags := range map[ondisk.ObjectID]uint64{fixed: ondisk.InodeImmutable, log: ondisk.InodeAppend} {
		if err := tree.SetFlags(ctx, ino, flags); err != nil {
			t.Fatal(err)
		}
	}
	create := func(dir ondisk.ObjectID, name string) error {
		_, err := tree.Create(ctx, dir, name, inode.Attr{})
		return err
	}
	write := func(ino ondisk.ObjectID, off int64) error {
		_, err := tree.WriteAt(ctx, ino, []byte("x"), off)
		return err
	}
	rename := func(od ondisk.ObjectID, on string, nd ondisk.ObjectID, nn string, mode inode.RenameMode) error {
		return tree.Rename(ctx, od, on, nd, nn, mode)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"empty name", create(inode.RootDir, ""), fserr.ErrInvalid},
		{"dot", create(inode.RootDir, "."), fserr.ErrInvalid},
		{"slash", create(inode.RootDir, "a/b"), fserr.ErrInvalid},
		{"nul", create(inode.RootDir, "a\x00"), fserr.ErrInvalid},
		{"long name", create(inode.RootDir, strings.Repeat("x", 256)), fserr.ErrNameTooLong},
		{"exists", create(inode.RootDir, "f"), fserr.ErrExist},
		{"in a file", create(f, "x"), fserr.ErrNotDir},
		{"in nothing", create(99999, "x"), fserr.ErrNotFound},
		{"unlink a directory", tree.Unlink(ctx, inode.RootDir, "d"), fserr.ErrIsDir},
		{"rmdir a file", tree.Rmdir(ctx, inode.RootDir, "f"), fserr.ErrNotDir},
		{"rmdir full", tree.Rmdir(ctx, inode.RootDir, "d"), fserr.ErrNotEmpty},
		{"unlink nothing", tree.Unlink(ctx, inode.RootDir, "nothing"), fserr.ErrNotFound},
		{"link a directory", tree.Link(ctx, d, inode.RootDir, "d2"), fserr.ErrPerm},
		{"into itself", rename(inode.RootDir, "d", sub, "x", inode.RenameReplace), fserr.ErrInvalid},
		{"file over directory", rename(inode.RootDir, "f", inode.RootDir, "d", inode.RenameReplace), fserr.ErrIsDir},
		{"directory over file", rename(inode.RootDir, "d", inode.RootDir, "f", inode.RenameReplace), fserr.ErrNotDir},
		{"no replace", rename(inode.RootDir, "f", inode.RootDir, "log", inode.RenameNoReplace), fserr.ErrExist},
		{"exchange with nothing", rename(inode.RootDir, "f", d, "x", inode.RenameExchange), fserr.ErrNotFound},
		{"write a directory", write(d, 0), fserr.ErrIsDir},
		{"write before 0", write(f, -1), fserr.ErrInvalid},
		{"write at the end of the world", write(f, 1<<63-1), fserr.ErrFileTooBig},
		{"write immutable", write(fixed, 0), fserr.ErrPerm},
		{"overwrite append-only", write(log, 0), fserr.ErrPerm},
		{"append", write(log, 7), nil},
		{"unlink immutable", tree.Unlink(ctx, inode.RootDir, "fixed"), fserr.ErrPerm},
		{"rename immutable", rename(inode.RootDir, "fixed", d, "x", inode.RenameReplace), fserr.ErrPerm},
		{"chmod immutable", tree.Chmod(ctx, fixed, 0), fserr.ErrPerm},
		{"truncate append-only", tree.Truncate(ctx, log, 0), fserr.ErrPerm},
		{"nodatacow of a file with data", tree.SetFlags(ctx, f, ondisk.InodeNoDataCow), fserr.ErrInvalid},
		{"xattr too large", tree.SetXattr(ctx, f, "user.x", make([]byte, 16384), inode.XattrAny), fserr.ErrNoSpace},
		{"xattr replace", tree.SetXattr(ctx, f, "user.x", nil, inode.XattrReplace), fserr.ErrNoData},
		{"symlink too long", func() error {
			_, err := tree.Symlink(ctx, d, "l", strings.Repeat("x", 4096), inode.Attr{})
			return err
		}(), fserr.ErrNameTooLong},
		{"cancelled", func() error {
			_, err := tree.Create(cancelled, d, "c", inode.Attr{})
			return err
		}(), context.Canceled},
	} {
		if c.want == nil && c.err != nil || !errors.Is(c.err, c.want) {
			t.Errorf("%s: %v, expected %v", c.what, c.err, c.want)
		}
	}
	tree.SetReadOnly(true)
	if err := create(d, "x"); !errors.Is(err, fserr.ErrReadOnly) {
		t.Errorf("read-only subvolume: %v", err)
	}
	if err := im.fs.DB().Err(); err != nil {
		t.Fatalf("a refusal aborted the transaction: %v", err)
	}
}

// TestOrphans: a file without a name lives as long as it is open, and after a crash it is removed at the next open.
func TestOrphans(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 512<<20, nil)
	m := maker{t, im.top()}
	content := strings.Repeat("data", 5000)
	closed, crashed := m.file(inode.RootDir, "closed", content), m.file(inode.RootDir, "crashed", content)
	many := m.file(inode.RootDir, "many", "")
	for i := range 700 { // so many extents that removal takes several operations
		if _, err := m.tree.WriteAt(ctx, many, []byte("x"), int64(i)*8192); err != nil {
			t.Fatal(err)
		}
	}
	var files []*inode.File
	for _, ino := range []ondisk.ObjectID{closed, crashed} {
		f, err := m.tree.Open(ctx, ino)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	for _, name := range []string{"closed", "crashed", "many"} {
		if err := m.tree.Unlink(ctx, inode.RootDir, name); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(ino ondisk.ObjectID, want bool) {
		t.Helper()
		if _, err := m.tree.Inode(ctx, ino); errors.Is(err, fserr.ErrNotFound) != want {
			t.Fatalf("inode %d: %v, expected to be gone: %v", ino, err, want)
		}
	}
	gone(many, true)
	gone(closed, false)
	p := make([]byte, 4)
	if _, err := files[0].WriteAt([]byte("DATA"), 8); err != nil {
		t.Fatal(err)
	}
	if _, err := files[0].ReadAt(p, 8); err != nil || string(p) != "DATA" {
		t.Fatalf("open file without a name: %q %v", p, err)
	}
	if err := files[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := files[0].Close(); !errors.Is(err, fserr.ErrClosed) {
		t.Fatalf("second close: %v", err)
	}
	gone(closed, true)
	if err := im.fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, im.file()) // with the orphan in it
	im.reopen()
	m.tree = im.top()
	gone(crashed, true)
	if n, err := m.tree.CleanOrphans(ctx); n != 0 || err != nil {
		t.Fatalf("%d orphans left: %v", n, err)
	}
	if err := im.fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, im.file())
}

// TestManyExtents cuts and punches a file of so many extents that it takes several operations.
func TestManyExtents(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 512<<20, nil)
	m := maker{t, im.top()}
	f := m.file(inode.RootDir, "f", "")
	for i := range 900 {
		if _, err := m.tree.WriteAt(ctx, f, []byte{byte(i), 1}, int64(i)*8192); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.tree.PunchHole(ctx, f, 100*8192, 300*8192); err != nil {
		t.Fatal(err)
	}
	g := m.file(inode.RootDir, "g", "")
	if err := m.tree.CloneRange(ctx, inode.Clone{Src: m.tree, SrcIno: f, Ino: g}); err != nil {
		t.Fatal(err)
	}
	if err := m.tree.Truncate(ctx, f, 10*8192+1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ino    ondisk.ObjectID
		size   uint64
		nbytes uint64
	}{{f, 10*8192 + 1, 11 * 4096}, {g, 899*8192 + 2, 600 * 4096}} {
		it, err := m.tree.Inode(ctx, c.ino)
		if err != nil || it.Size() != c.size || it.NBytes() != c.nbytes {
			t.Errorf("inode %d: size %d, nbytes %d, expected %d and %d: %v", c.ino, it.Size(), it.NBytes(), c.size, c.nbytes, err)
		}
	}
	p := make([]byte, 2)
	if _, err := m.tree.ReadAt(ctx, g, p, 700*8192); err != nil || !slices.Equal(p, []byte{byte(700 % 256), 1}) {
		t.Errorf("the clone reads %v: %v", p, err)
	}
	if err := im.fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	oracle.Check(t, im.file())
}

// TestHardLinks gives one file 1,000 names in a directory, which fills its INODE_REF, and drops them again; without
// extended references the item's end is the end.
func TestHardLinks(t *testing.T) {
	for _, extref := range []bool{true, false} {
		t.Run(fmt.Sprintf("extref=%v", extref), func(t *testing.T) {
			ctx := context.Background()
			im := newImage(t, 256<<20, func(o *engine.FormatOptions) { o.NodeSize = 4096; o.Features.ExtendedIref = extref })
			m := maker{t, im.top()}
			f := m.file(inode.RootDir, "first", "x")
			var names []string
			var err error
			for i := range 1000 {
				name := fmt.Sprintf("another-name-%d", i)
				if err = m.tree.Link(ctx, f, inode.RootDir, name); err != nil {
					break
				}
				names = append(names, name)
			}
			if extref && err != nil || !extref && (!errors.Is(err, fserr.ErrTooMany) || len(names) < 100) {
				t.Fatalf("after %d names: %v", len(names), err)
			}
			refs, err := m.tree.Refs(ctx, f)
			if err != nil || len(refs) != len(names)+1 {
				t.Fatalf("%d references for %d names: %v", len(refs), len(names)+1, err)
			}
			if err := im.fs.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			oracle.Check(t, im.file())
			rand.New(rand.NewPCG(3, 3)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
			for _, name := range names {
				if err := m.tree.Unlink(ctx, inode.RootDir, name); err != nil {
					t.Fatal(name, err)
				}
			}
			if it, err := m.tree.Inode(ctx, f); err != nil || it.NLink() != 1 {
				t.Fatalf("%d links left: %v", it.NLink(), err)
			}
			if err := im.fs.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			oracle.Check(t, im.file())
		})
	}
}

// TestParallel lets many goroutines work in one tree, with commits under way, each on names and a file of its own in
// shared directories.
func TestParallel(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 512<<20, nil)
	m := maker{t, im.top()}
	dirs := []ondisk.ObjectID{m.dir(inode.RootDir, "a"), m.dir(inode.RootDir, "b")}
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 5))
			for i := range 60 {
				if err := parallelStep(ctx, m.tree, rng, dirs, fmt.Sprintf("w%d-%d", w, i)); err != nil {
					t.Error(w, i, err)
					return
				}
			}
		})
	}
	for range 3 {
		if err := im.fs.Commit(ctx); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := im.fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		es, err := m.tree.Entries(ctx, d)
		it, ierr := m.tree.Inode(ctx, d)
		sum := 0
		for _, e := range es {
			sum += 2 * len(e.Name)
		}
		if err != nil || ierr != nil || it.Size() != uint64(sum) {
			t.Errorf("directory %d: size %d, names add up to %d: %v %v", d, it.Size(), sum, err, ierr)
		}
	}
	oracle.Check(t, im.file())
}

func parallelStep(ctx context.Context, tree *inode.FileTree, rng *rand.Rand, dirs []ondisk.ObjectID, name string) error {
	from, to := dirs[rng.IntN(2)], dirs[rng.IntN(2)]
	ino, err := tree.Create(ctx, from, name, inode.Attr{})
	if err != nil {
		return err
	}
	data := []byte(strings.Repeat(name, 1+rng.IntN(3000)))
	if _, err := tree.WriteAt(ctx, ino, data, 0); err != nil {
		return err
	}
	got := make([]byte, len(data))
	if _, err := tree.ReadAt(ctx, ino, got, 0); err != nil || !slices.Equal(got, data) {
		return fmt.Errorf("read back: %w", errors.Join(err, errors.New("differs")))
	}
	if err := tree.Rename(ctx, from, name, to, name+"-renamed", inode.RenameReplace); err != nil {
		return err
	}
	if err := tree.Link(ctx, ino, from, name+"-link"); err != nil {
		return err
	}
	if err := tree.Unlink(ctx, to, name+"-renamed"); err != nil || rng.IntN(2) == 0 {
		return err
	}
	return tree.Unlink(ctx, from, name+"-link")
}

// TestCheckNewEntryRemembersNothing: a question that is asked without the directory's lock may find what is out of date a
// moment later, and whoever makes the next name must not go by it, or an index is given twice and the transaction aborts.
func TestCheckNewEntryRemembersNothing(t *testing.T) {
	ctx := t.Context()
	im := newImage(t, 256<<20, nil)
	tree := im.top()
	dir := maker{t, tree}.dir(inode.RootDir, "d")
	for _, remembered := range []bool{true, false} {
		if !remembered {
			if err := tree.Chmod(ctx, dir, 0o700); err != nil { // forgets it
				t.Fatal(err)
			}
		}
		if err := tree.CheckNewEntry(ctx, dir, "new"); err != nil {
			t.Fatal(err)
		}
		if got := tree.RemembersForTest(dir); got != remembered {
			t.Errorf("remembered: %v, want %v", got, remembered)
		}
	}
}

// TestCopyFrom streams files of many sizes in and out.
func TestCopyFrom(t *testing.T) {
	ctx := context.Background()
	im := newImage(t, 512<<20, nil)
	m := maker{t, im.top()}
	rng := rand.New(rand.NewPCG(9, 9))
	for _, size := range []int{0, 1, 2048, 2049, 4096, 100000, 2 << 20, 8 << 20, 8<<20 + 1, 17<<20 + 5} {
		for _, known := range []int64{-1, int64(size)} {
			name := fmt.Sprintf("%d-%d", size, known)
			data := make([]byte, size)
			for i := 0; i < size; i += 1 + rng.IntN(100) {
				data[i] = byte(rng.Uint32())
			}
			ino := m.file(inode.RootDir, name, "")
			if n, err := m.tree.CopyFrom(ctx, ino, 0, strings.NewReader(string(data)), known); err != nil || n != int64(size) {
				t.Fatalf("%s: %d %v", name, n, err)
			}
			compareFile(t, m.tree, name, data)
			if it, err := m.tree.Inode(ctx, ino); err != nil || it.Size() != uint64(size) {
				t.Fatalf("%s: size %d %v", name, it.Size(), err)
			}
		}
	}
	if err := im.fs.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	path := im.file()
	oracle.Check(t, path)
	oracle.NeedRoot(t)
	mnt := oracle.Mount(t, path)
	defer mnt.Unmount()
	st, err := os.Stat(filepath.Join(mnt.Path(), "8388609-8388609"))
	if err != nil || st.Size() != 8<<20+1 {
		t.Fatal(st, err)
	}
}
