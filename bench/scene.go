package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/subvol"
)

// scene is the subvolumes of one replay: one that is read-only and being read, and others that change.
type scene struct {
	dir      ondisk.ObjectID // of FS_TREE; holds all of them
	readonly ondisk.TreeID
	others   []other
	absent   ondisk.Key // in the read-only subvolume, not in the others
	common   ondisk.Key // in all of them
}

// other is a subvolume whose tree is one leaf, so that each change in a transaction copies its root.
type other struct {
	tree *inode.FileTree
	file ondisk.ObjectID
}

const (
	otherSubvols = 48
	readerUID    = 1000 // owner of the files of the read-only subvolume
	otherUID     = 2000 // of the others'
)

// setScene makes the subvolumes in a new directory and commits. How many files and how many other blocks there are
// depends on rng, and with it where the root of the read-only subvolume comes to lie.
func setScene(ctx context.Context, f *engine.FS, rng *rand.Rand, name string) (*scene, error) {
	top, err := f.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	s := &scene{}
	for n := 1; ; n++ { // an image may have seen this replay before
		unique := name
		if n > 1 {
			unique = fmt.Sprintf("%s.%d", name, n)
		}
		if s.dir, err = top.Mkdir(ctx, inode.RootDir, unique, inode.Attr{Mode: 0o755}); err == nil {
			break
		} else if !errors.Is(err, fserr.ErrExist) {
			return nil, err
		}
	}
	for i := range otherSubvols {
		o, err := s.addOther(ctx, f, fmt.Sprintf("other-%d", i))
		if err != nil {
			return nil, err
		}
		s.others = append(s.others, o)
	}
	if err := f.Commit(ctx); err != nil {
		return nil, err
	}
	for range rng.IntN(4 * otherSubvols) { // moves the allocator on
		if err := s.others[rng.IntN(len(s.others))].change(ctx, rng.Int()); err != nil {
			return nil, err
		}
		if rng.IntN(otherSubvols) == 0 {
			if err := f.Commit(ctx); err != nil {
				return nil, err
			}
		}
	}
	return s, s.addReadonly(ctx, f, 40+rng.IntN(200))
}

func (s *scene) addOther(ctx context.Context, f *engine.FS, name string) (o other, err error) {
	id, err := f.Subvols().Create(ctx, subvol.Place{Tree: ondisk.FSTree, Dir: s.dir, Name: name}, subvol.CreateOptions{})
	if err != nil {
		return o, err
	}
	if o.tree, err = f.Subvolume(ctx, id); err != nil {
		return o, err
	}
	o.file, err = o.tree.Create(ctx, inode.RootDir, "file", inode.Attr{Mode: 0o644, UID: otherUID, GID: otherUID})
	return o, err
}

// change is one small operation on the subvolume's file.
func (o other) change(ctx context.Context, n int) error {
	return o.tree.Chmod(ctx, o.file, uint32(0o600|n&0o77))
}

// addReadonly fills a subvolume with files and takes a read-only snapshot of it.
func (s *scene) addReadonly(ctx context.Context, f *engine.FS, files int) error {
	id, err := f.Subvols().Create(ctx, subvol.Place{Tree: ondisk.FSTree, Dir: s.dir, Name: "source"}, subvol.CreateOptions{})
	if err != nil {
		return err
	}
	tree, err := f.Subvolume(ctx, id)
	if err != nil {
		return err
	}
	var first, last ondisk.ObjectID
	for i := range files {
		last, err = tree.Create(ctx, inode.RootDir, fmt.Sprintf("file-%d", i), inode.Attr{Mode: 0o400, UID: readerUID, GID: readerUID})
		if err != nil {
			return err
		}
		if i == 0 {
			first = last
		}
	}
	s.readonly, err = f.Subvols().Snapshot(ctx, subvol.SnapshotSpec{
		Source: id, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: s.dir, Name: "readonly"}, Readonly: true,
	})
	if err != nil {
		return err
	}
	if first != s.others[0].file || last == first {
		return fmt.Errorf("internal: first files have inode numbers %d and %d", first, s.others[0].file)
	}
	s.common = ondisk.Key{ObjectID: first, Type: ondisk.InodeItemKey}
	s.absent = ondisk.Key{ObjectID: last, Type: ondisk.InodeItemKey}
	return nil
}

// snapshot takes a snapshot of the read-only subvolume, which is durable when it returns.
func (s *scene) snapshot(ctx context.Context, f *engine.FS) error {
	_, err := f.Subvols().Snapshot(ctx, subvol.SnapshotSpec{
		Source: s.readonly, Dest: subvol.Place{Tree: ondisk.FSTree, Dir: s.dir, Name: "snapshot"}, Readonly: true,
	})
	return err
}

// metadataBlocks is how many tree blocks the metadata chunks have room for.
func (s *scene) metadataBlocks(f *engine.FS) int {
	n := uint64(0)
	for _, c := range f.Volume().Chunks() {
		if c.Type&ondisk.BGMetadata != 0 {
			n += c.Length / uint64(f.DB().Cache().NodeSize())
		}
	}
	return int(n)
}
