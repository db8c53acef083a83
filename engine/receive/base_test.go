package receive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/btree"
	"imgtool/engine/check"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/manifest"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/receive"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

// base is an image that broken streams are received into, each into a copy of its own: it has the subvolumes that the
// seeds need as parents and sources of clones, and a bystander. New subvolumes come into the directory "in".
type base struct {
	mem       *disk.Mem
	roots     map[ondisk.TreeID]root
	top, in   []string // entries of the top directory and of "in"
	used      uint64   // bytes of data
	manifests map[string][]byte
}

// root is a subvolume's root item as far as nothing may change, and its content: a hash over all items, for a snapshot
// gives its source another root block.
type root struct {
	flags    uint64
	received ondisk.UUID
	items    uint64
}

// baseSize is the image's size in bytes.
const baseSize = 256 << 20

// newBase makes the image and receives streams into it.
func newBase(t testing.TB, streams ...[]byte) *base {
	t.Helper()
	ctx := context.Background()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mem := disk.NewMem("base", baseSize)
	fs, err := engine.FormatDevice(ctx, mem, engine.FormatOptions{Options: mkfs.Default(), Size: baseSize})
	must(err)
	_, err = fs.CreateSubvolume(ctx, "bystander", subvol.CreateOptions{})
	must(err)
	for _, in := range append([][]byte{bystander(t)}, streams...) {
		_, err := fs.Receive(ctx, bytes.NewReader(in), engine.ReceiveOptions{Options: receive.Options{MaxErrors: -1}})
		must(err)
	}
	tree, err := fs.Subvolume(ctx, ondisk.FSTree)
	must(err)
	_, err = tree.Mkdir(ctx, inode.RootDir, "in", inode.Attr{Mode: 0o755})
	must(err)
	ino, err := tree.Create(ctx, inode.RootDir, "file", inode.Attr{Mode: 0o644})
	must(err)
	_, err = tree.WriteAt(ctx, ino, bytes.Repeat([]byte("outside"), 3000), 0)
	must(err)
	must(tree.Fallocate(ctx, ino, 1<<20, 64<<10, true))
	must(fs.Commit(ctx))
	b := &base{used: fs.Usage().Data.Used}
	b.roots, b.top, b.in, b.manifests = rootsOf(t, fs), entriesOf(t, fs, ""), entriesOf(t, fs, "in"), map[string][]byte{}
	for _, name := range b.subvolumes(t, fs) {
		b.manifests[name] = manifestAt(t, fs, name)
	}
	must(fs.Close())
	b.mem = mem.Clone()
	if err := ownCheck(b.mem); err != nil {
		t.Fatal(err)
	}
	return b
}

// bystander is a subvolume with preallocated space and data of every kind.
func bystander(t testing.TB) []byte {
	return newScript(t, 2).subvolAs("victim", "VVVVVVVVVVVVVVVV").path(sendstream.CmdMkfile, "f").write("f", 0, strings.Repeat("victim", 5000)).
		do(sendstream.CmdFallocate, attrPath, "f", sendstream.AttrFallocateMode, 1, sendstream.AttrFileOffset, 1<<20, sendstream.AttrSize, 1<<16).
		path(sendstream.CmdMkfile, "inline").write("inline", 0, "small").path(sendstream.CmdMkdir, "d").end()
}

func (b *base) subvolumes(t testing.TB, fs *engine.FS) (names []string) {
	t.Helper()
	list, err := fs.Subvolumes(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		names = append(names, s.Path)
	}
	return names
}

func rootsOf(t testing.TB, fs *engine.FS) map[ondisk.TreeID]root {
	t.Helper()
	roots := map[ondisk.TreeID]root{}
	first := ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.FSTree), Type: ondisk.RootItemKey}
	last := ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.LastSubvolID), Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	err := fs.DB().RootTree().Scan(context.Background(), first, last, func(k ondisk.Key, _ []byte) (bool, error) {
		if id := ondisk.TreeID(k.ObjectID); k.Type == ondisk.RootItemKey && id.IsSubvolume() {
			roots[id] = root{}
		}
		return true, nil
	})
	for id := range roots {
		r, e := fs.DB().AnyRoot(context.Background(), id)
		if err = errors.Join(err, e); err == nil {
			it := r.Snapshot()
			roots[id] = root{it.Flags(), it.ReceivedUUID(), itemsOf(t, r.Tree)}
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return roots
}

// itemsOf hashes the items of a tree.
func itemsOf(t testing.TB, tree *btree.Tree) uint64 {
	t.Helper()
	h := fnv.New64a()
	err := tree.Scan(context.Background(), ondisk.Key{}, ondisk.MaxKey, func(k ondisk.Key, data []byte) (bool, error) {
		fmt.Fprint(h, k, len(data))
		h.Write(data)
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h.Sum64()
}

func entriesOf(t testing.TB, fs *engine.FS, path string) (names []string) {
	t.Helper()
	ctx := context.Background()
	ns, err := fs.Namespace(ctx, ondisk.FSTree)
	if err != nil {
		t.Fatal(err)
	}
	n, err := ns.Walk(ctx, path, true)
	if err != nil {
		t.Fatal(err)
	}
	es, err := n.Tree.Entries(ctx, n.Ino)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range es {
		names = append(names, string(e.Name))
	}
	slices.Sort(names)
	return names
}

func manifestAt(t testing.TB, fs *engine.FS, path string) []byte {
	t.Helper()
	ctx := context.Background()
	id, err := fs.SubvolumeAt(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := fs.Namespace(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := manifest.Write(ctx, &out, ns); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out.Bytes()
}

// ownCheck has imgtool's checker read an image, data included. Findings that are allowed do not count.
func ownCheck(mem *disk.Mem, allowed ...check.ID) error {
	rep, err := check.Image(context.Background(), []disk.Device{mem.Clone()}, check.Options{DataCsum: true})
	if err != nil {
		return err
	}
	for i := range rep.Findings {
		if f := &rep.Findings[i]; !slices.Contains(allowed, f.ID) {
			err = errors.Join(err, errors.New(f.String()))
		}
	}
	return err
}

// Bounds of one receiving of a stream of a few KiB into the base image.
const (
	maxWritten = 512 << 20       // bytes written to the device; it has 256 MiB
	patience   = 2 * time.Minute // only so that a loop without any work ends, too
)

// receive receives a stream into a copy of the image and holds it to what is promised of any stream: it succeeds, or
// fails and leaves no subvolume; nothing outside the new ones changes; the file system goes on. On a sample of the streams,
// or if thorough, checkers look at the image and the manifests of all that was there before are compared.
func (b *base) receive(t testing.TB, stream []byte, o receive.Options, thorough bool) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	mem := b.mem.Clone()
	fs, err := engine.OpenDevices(ctx, []disk.Device{mem}, engine.OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	subs, failed := fs.Receive(ctx, bytes.NewReader(stream), engine.ReceiveOptions{Path: "in", Options: o})
	switch {
	case ctx.Err() != nil:
		t.Fatalf("it does not come to an end: %v", failed)
	case mem.Stats().WriteBytes > maxWritten:
		t.Fatalf("%d bytes were written: %v", mem.Stats().WriteBytes, failed)
	case fs.DB().Err() != nil:
		t.Fatalf("the file system is aborted: %v", fs.DB().Err())
	case failed != nil && (strings.Contains(failed.Error(), "internal") || errors.Is(failed, fserr.ErrCorrupt)):
		t.Fatalf("the stream is blamed on the engine or the image: %v", failed)
	}
	b.compare(t, fs, subs, failed)
	h := fnv.New32()
	h.Write(stream)
	if thorough = thorough || h.Sum32()%32 == 0; thorough {
		b.compareAll(t, fs, failed)
	}
	if err := fs.Close(); err != nil {
		t.Fatal(err)
	}
	if thorough {
		if err := ownCheck(mem); err != nil {
			t.Fatalf("after %v: %v", failed, err)
		}
	}
	return failed
}

// compare is the cheap look: roots, names, space.
func (b *base) compare(t testing.TB, fs *engine.FS, subs []receive.Subvolume, failed error) {
	t.Helper()
	have, in := rootsOf(t, fs), slices.Clone(b.in)
	for _, s := range subs {
		if _, ok := have[s.ID]; !ok || b.roots[s.ID] != (root{}) {
			t.Fatalf("subvolume %d (%s) is not there, or was there before", s.ID, s.Name)
		}
		delete(have, s.ID)
		in = append(in, s.Name)
	}
	want := maps.Clone(b.roots)
	if len(subs) > 0 { // their entries are in the top tree
		delete(want, ondisk.FSTree)
		delete(have, ondisk.FSTree)
	}
	if !maps.Equal(want, have) {
		t.Fatalf("trees changed: %v\nbefore: %v\nthe receiving: %v", have, want, failed)
	}
	slices.Sort(in)
	if top, now := entriesOf(t, fs, ""), entriesOf(t, fs, "in"); !slices.Equal(top, b.top) || !slices.Equal(now, in) {
		t.Fatalf("entries %q and, in in, %q; want %q and %q", top, now, b.top, in)
	}
	first := ondisk.Key{ObjectID: ondisk.OrphanObjectID, Type: ondisk.OrphanItemKey}
	if k, _, ok, err := fs.DB().RootTree().SeekGE(context.Background(), first); err != nil || ok && k.ObjectID == first.ObjectID && k.Type == first.Type {
		t.Fatalf("orphan item %v is left (%v): %v", k, err, failed)
	}
	if used := fs.Usage().Data.Used; len(subs) == 0 && used != b.used {
		t.Fatalf("%d bytes of data in use, before: %d; %v", used, b.used, failed)
	}
}

// compareAll reads everything that was there before.
func (b *base) compareAll(t testing.TB, fs *engine.FS, failed error) {
	t.Helper()
	for name, want := range b.manifests {
		if got := manifestAt(t, fs, name); !bytes.Equal(got, want) {
			t.Fatalf("%s has changed:\n%s\nbefore:\n%s\nthe receiving: %v", name, got, want, failed)
		}
	}
}
