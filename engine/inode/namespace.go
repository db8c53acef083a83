package inode

import (
	"context"
	"fmt"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Resolver knows how file trees hang together: what the root tree's ROOT_REF and ROOT_BACKREF items say.
type Resolver interface {
	// Tree opens a subvolume's tree, fserr.ErrNotFound if there is none.
	Tree(ctx context.Context, id ondisk.TreeID) (FileReader, error)
	// Leads reports whether the entry of a directory that names subvolume id is the one by which that subvolume is
	// reached (its ROOT_REF says so). A snapshot has copies of its source's entries that lead nowhere.
	Leads(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, name string, id ondisk.TreeID) (bool, error)
	// Above tells where a subvolume's own entry is, fserr.ErrNotFound if it has none.
	Above(ctx context.Context, id ondisk.TreeID) (parent ondisk.TreeID, dir ondisk.ObjectID, name string, err error)
}

// PlaceholderIno is the inode number under which an entry shows that names a subvolume and leads nowhere
// (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID): an empty directory.
const PlaceholderIno ondisk.ObjectID = 2

// Node is one inode of a Namespace.
type Node struct {
	Tree FileReader
	Ino  ondisk.ObjectID // PlaceholderIno of a placeholder, in the tree that holds its entry
	up   ondisk.ObjectID // of a placeholder: the directory of its entry
}

// IsPlaceholder reports whether the node is the empty directory that stands for a subvolume that is not there.
func (n Node) IsPlaceholder() bool { return n.Ino == PlaceholderIno }

// Inode returns the node's inode item. A placeholder's is made up as the kernel does: mode 0755, the owner of the
// directory that it lies in, no times.
func (n Node) Inode(ctx context.Context) (ondisk.InodeItem, error) {
	if !n.IsPlaceholder() {
		return n.Tree.Inode(ctx, n.Ino)
	}
	dir, err := n.Tree.Inode(ctx, n.up)
	var it ondisk.InodeItem
	it.SetMode(ondisk.ModeDir | 0o755)
	it.SetNLink(1)
	it.SetUID(dir.UID())
	it.SetGID(dir.GID())
	return it, err
}

// Namespace walks paths over the trees of a file system, from the top directory of one of them: as in a mount of that
// subvolume nothing above it can be reached. It is as safe for concurrent use as its Resolver.
type Namespace struct {
	res Resolver
	top Node
}

// NewNamespace makes the namespace of a subvolume.
func NewNamespace(ctx context.Context, res Resolver, top ondisk.TreeID) (*Namespace, error) {
	tree, err := res.Tree(ctx, top)
	if err != nil {
		return nil, fmt.Errorf("subvolume %v: %w", top, err)
	}
	return &Namespace{res: res, top: Node{Tree: tree, Ino: RootDir}}, nil
}

// Top is the top directory.
func (ns *Namespace) Top() Node { return ns.top }

// maxSymlinks is how many symbolic links one walk follows, as in Linux.
const maxSymlinks = 40

// Walk finds the node of a path, slash-separated, from the top. Empty parts and "." mean nothing, ".." goes up, across
// subvolumes too and not beyond the top; symbolic links on the way are followed, the last part only with follow.
// Errors: fserr.ErrNotFound, ErrNotDir, ErrLoop.
func (ns *Namespace) Walk(ctx context.Context, path string, follow bool) (Node, error) {
	w := walk{ns: ns, at: ns.top, follow: follow}
	if err := w.run(ctx, path); err != nil {
		return Node{}, fmt.Errorf("%s: %w", path, err)
	}
	return w.at, nil
}

// WalkParent finds the directory in which the last part of a path is, or would be, and that part's name. fserr.ErrInvalid
// if the path has no last part that is a name.
func (ns *Namespace) WalkParent(ctx context.Context, path string) (dir Node, name string, err error) {
	trimmed := strings.TrimRight(path, "/")
	i := strings.LastIndexByte(trimmed, '/')
	if name = trimmed[i+1:]; name == "" || name == "." || name == ".." {
		return Node{}, "", fmt.Errorf("%s: ends in no name: %w", path, fserr.ErrInvalid)
	}
	dir, err = ns.Walk(ctx, trimmed[:i+1], true)
	return dir, name, err
}

// walk is one walk in progress.
type walk struct {
	ns     *Namespace
	at     Node
	follow bool
	links  int
}

func (w *walk) run(ctx context.Context, path string) error {
	rest := path
	for rest != "" {
		var part string
		var slash bool // a slash behind the last name asks for what the name leads to
		part, rest, slash = strings.Cut(rest, "/")
		var err error
		switch part {
		case "", ".":
			continue
		case "..":
			w.at, err = w.ns.parent(ctx, w.at)
		default:
			rest, err = w.step(ctx, part, rest, slash || w.follow)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step goes to a name, and puts the target of a symbolic link in front of what is still to be walked.
func (w *walk) step(ctx context.Context, name, rest string, follow bool) (string, error) {
	next, typ, err := w.ns.Child(ctx, w.at, name)
	if err != nil {
		return "", err
	}
	if typ != ondisk.FTSymlink || !follow {
		w.at = next
		return rest, nil
	}
	if w.links++; w.links > maxSymlinks {
		return "", fserr.ErrLoop
	}
	target, err := next.Tree.Readlink(ctx, next.Ino)
	if err != nil {
		return "", err
	}
	if strings.HasPrefix(target, "/") {
		w.at = w.ns.top
	}
	if rest == "" {
		return target, nil
	}
	return target + "/" + rest, nil
}

// Child finds a name in a directory and tells its type. fserr.ErrNotDir if dir is something else.
func (ns *Namespace) Child(ctx context.Context, dir Node, name string) (Node, uint8, error) {
	if dir.IsPlaceholder() {
		return Node{}, 0, fmt.Errorf("%q in the place of a subvolume that is not there: %w", name, fserr.ErrNotFound)
	}
	e, err := dir.Tree.Lookup(ctx, dir.Ino, name)
	if err != nil {
		if isNotFound(err) {
			it, ierr := dir.Tree.Inode(ctx, dir.Ino)
			if ierr == nil && it.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
				return Node{}, 0, fserr.ErrNotDir
			}
		}
		return Node{}, 0, err
	}
	n, err := ns.Enter(ctx, dir, &e)
	return n, e.Type, err
}

// Enter is the node that an entry of a directory leads to.
func (ns *Namespace) Enter(ctx context.Context, dir Node, e *Entry) (Node, error) {
	if !e.IsSubvol() {
		return Node{Tree: dir.Tree, Ino: e.Ino()}, nil
	}
	there, err := ns.res.Leads(ctx, dir.Tree.ID(), dir.Ino, e.Name, e.Subvol())
	if err != nil {
		return Node{}, err
	}
	if !there {
		return Node{Tree: dir.Tree, Ino: PlaceholderIno, up: dir.Ino}, nil
	}
	tree, err := ns.res.Tree(ctx, e.Subvol())
	return Node{Tree: tree, Ino: RootDir}, err
}

// parent is the directory above a directory.
func (ns *Namespace) parent(ctx context.Context, n Node) (Node, error) {
	switch {
	case n.IsPlaceholder():
		return Node{Tree: n.Tree, Ino: n.up}, nil
	case n.Ino != RootDir:
		it, err := n.Tree.Inode(ctx, n.Ino)
		if err != nil {
			return n, err
		}
		if it.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
			return n, fserr.ErrNotDir
		}
		up, err := n.Tree.Parent(ctx, n.Ino)
		return Node{Tree: n.Tree, Ino: up}, err
	case n.Tree.ID() == ns.top.Tree.ID():
		return n, nil
	}
	id, dir, _, err := ns.res.Above(ctx, n.Tree.ID())
	if err != nil {
		return n, err
	}
	tree, err := ns.res.Tree(ctx, id)
	return Node{Tree: tree, Ino: dir}, err
}
