package modeltest

import (
	"context"
	"fmt"
	"io"
	"strings"

	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

// loadVol reads a whole file tree into the model's form.
func loadVol(ctx context.Context, r inode.FileReader, ro bool) (*vol, error) {
	v := &vol{id: r.ID(), ro: ro, nodes: map[ondisk.ObjectID]*node{}}
	if err := loadNode(ctx, r, v, inode.RootDir); err != nil {
		return nil, fmt.Errorf("subvolume %d: %w", r.ID(), err)
	}
	return v, nil
}

// loadNode reads an inode and what is below it.
func loadNode(ctx context.Context, r inode.FileReader, v *vol, ino ondisk.ObjectID) error {
	if v.nodes[ino] != nil {
		return nil
	}
	n, err := loadInode(ctx, r, ino)
	if err != nil {
		return err
	}
	v.nodes[ino] = n
	if !n.isDir() {
		return nil
	}
	if n.parent, err = r.Parent(ctx, ino); err != nil {
		return err
	}
	list, err := r.Entries(ctx, ino)
	if err != nil {
		return err
	}
	for _, e := range list {
		if n.entries == nil {
			n.entries = map[string]ondisk.ObjectID{}
		}
		if _, twice := n.entries[e.Name]; twice {
			return fmt.Errorf("directory %d lists %q twice", ino, e.Name)
		}
		n.entries[e.Name] = e.Ino()
		// The listing goes by DIR_INDEX, the look-up by DIR_ITEM.
		found, err := r.Lookup(ctx, ino, e.Name)
		if err != nil || found.Location != e.Location || found.Type != e.Type {
			return fmt.Errorf("directory %d lists %q as %v, its look-up gives %v, %w", ino, e.Name, e.Location, found.Location, orNil(err))
		}
		if err := loadNode(ctx, r, v, e.Ino()); err != nil {
			return err
		}
		if t := ondisk.ModeToFT(v.nodes[e.Ino()].mode); t != e.Type {
			return fmt.Errorf("entry %q of directory %d has type %d, its inode %d", e.Name, ino, e.Type, t)
		}
	}
	return nil
}

func orNil(err error) error {
	if err == nil {
		return fserr.ErrInvalid
	}
	return err
}

// loadInode reads one inode with its content.
func loadInode(ctx context.Context, r inode.FileReader, ino ondisk.ObjectID) (*node, error) {
	it, err := r.Inode(ctx, ino)
	if err != nil {
		return nil, err
	}
	mtime := it.MTime()
	n := &node{ino: ino, mode: it.Mode(), uid: it.UID(), gid: it.GID(), nlink: int(it.NLink()), mtime: &mtime,
		nocow: it.Flags()&ondisk.InodeNoDataCow != 0}
	xs, err := r.Xattrs(ctx, ino)
	if err != nil {
		return nil, err
	}
	for _, x := range xs {
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[x.Name] = string(x.Value)
	}
	switch n.typ() {
	case ondisk.ModeReg:
		n.data = make([]byte, it.Size())
		if got, err := r.ReadAt(ctx, ino, n.data, 0); err != nil && err != io.EOF {
			return nil, err
		} else if got != len(n.data) {
			return nil, fmt.Errorf("inode %d: %d bytes read of %d", ino, got, len(n.data))
		}
	case ondisk.ModeLnk:
		n.target, err = r.Readlink(ctx, ino)
	case ondisk.ModeChr, ondisk.ModeBlk:
		n.rdev = it.Rdev()
	}
	return n, err
}

// loadStates reads what belongs to each client: the subvolumes whose names in the top directory begin with its prefix.
func loadStates(ctx context.Context, fs *engine.FS, clients int) ([]state, error) {
	top, err := fs.Subvolume(ctx, ondisk.FSTree)
	if err != nil {
		return nil, err
	}
	list, err := top.Entries(ctx, inode.RootDir)
	if err != nil {
		return nil, err
	}
	infos, err := fs.Subvolumes(ctx)
	if err != nil {
		return nil, err
	}
	readonly := map[ondisk.TreeID]bool{}
	for _, i := range infos {
		readonly[i.ID] = i.Readonly
	}
	states := make([]state, clients)
	for i := range states {
		states[i] = state{}
	}
	for _, e := range list {
		var c int
		if _, err := fmt.Sscanf(strings.SplitN(e.Name, "-", 2)[0], "c%d", &c); err != nil || c >= clients || !e.IsSubvol() {
			return nil, fmt.Errorf("the top directory has an entry %q that nobody made", e.Name)
		}
		tree, err := fs.Subvolume(ctx, e.Subvol())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		v, err := loadVol(ctx, tree, readonly[e.Subvol()])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		states[c][e.Name] = v
	}
	return states, nil
}
