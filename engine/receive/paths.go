package receive

import (
	"context"
	"fmt"
	"strings"

	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// paths walks the paths of a stream within one tree. Every part must be a name of at most 255 bytes that is not "." or
// "..", and every part but the last one a directory of this very tree.
type paths struct {
	tree *inode.FileTree
	// dirs knows directories by their paths. With a directory it knows all those above, so that a path that is not in it
	// has nothing below it in it either. Nobody else changes the tree, so what it knows stays true until a command says
	// otherwise.
	dirs  map[string]ondisk.ObjectID
	bytes int // of the paths in dirs
	// last is what was found last: the commands for one inode come together.
	last    string
	lastIno ondisk.ObjectID
	// coming is what is not in the tree yet; nil maps where nothing comes.
	coming coming
}

// coming is the new inodes of batches that are being gathered or on their way, and the directories among them. All names
// in such a directory are coming, too.
type coming struct {
	paths map[string]*entry
	dirs  map[ondisk.ObjectID]*entry
}

func (c *coming) add(e *entry) {
	c.paths[e.path] = e
	if e.isDir() {
		c.dirs[e.Ino] = e
	}
}

func (c *coming) remove(e *entry) {
	if c.paths[e.path] == e {
		delete(c.paths, e.path)
	}
	delete(c.dirs, e.Ino)
}

// maxDirs and maxDirBytes bound the memory of dirs.
var maxDirs = 1 << 16 // tests have fewer

const maxDirBytes = 8 << 20

// maxPath is the longest path that a stream may have, in bytes: PATH_MAX of Linux without the terminating NUL. Neither
// the kernel's send nor its receive know longer ones. It bounds how deep a path is walked, too.
const maxPath = 4095

// checkPaths refuses paths that are too long, before anything looks at them.
func checkPaths(c *sendstream.Command) error {
	for _, a := range c.Attrs {
		switch a.Type {
		case sendstream.AttrPath, sendstream.AttrPathTo, sendstream.AttrPathLink, sendstream.AttrClonePath:
			if len(a.Value) > maxPath {
				return fmt.Errorf("%v of %d bytes, at most %d are possible: %w", a.Type, len(a.Value), maxPath, fserr.ErrNameTooLong)
			}
		}
	}
	return nil
}

func newPaths(tree *inode.FileTree) *paths {
	p := &paths{tree: tree}
	p.forgetAll()
	return p
}

func (p *paths) forgetAll() {
	p.dirs, p.bytes = map[string]ondisk.ObjectID{"": inode.RootDir}, 0
	p.last, p.lastIno = "", inode.RootDir
}

// forget takes note that a path means something else from now on.
func (p *paths) forget(path string) {
	p.last, p.lastIno = "", inode.RootDir
	if _, known := p.dirs[path]; known {
		p.forgetAll()
	}
}

func (p *paths) know(path string, ino ondisk.ObjectID, dir bool) {
	p.last, p.lastIno = path, ino
	if dir {
		if len(p.dirs) >= maxDirs || p.bytes+len(path) > maxDirBytes {
			p.forgetAll()
			return
		}
		if _, known := p.dirs[path[:max(strings.LastIndexByte(path, '/'), 0)]]; !known {
			return // those above have just been forgotten, and none is known without them
		}
		p.dirs[path] = ino
		p.bytes += len(path)
	}
}

// checkName refuses what is no name of a directory entry.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..", strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("unsafe path: %q is no name: %w", name, fserr.ErrInvalid)
	case len(name) > ondisk.MaxNameLen:
		return fmt.Errorf("name of %d bytes: %w", len(name), fserr.ErrNameTooLong)
	}
	return nil
}

// parent returns the directory of a path's last part, and that part.
func (p *paths) parent(ctx context.Context, path string) (ondisk.ObjectID, string, error) {
	at := strings.LastIndexByte(path, '/')
	name := path[at+1:]
	if err := checkName(name); err != nil {
		return 0, "", err
	}
	if at == 0 {
		return 0, "", fmt.Errorf("unsafe path: it is absolute: %w", fserr.ErrInvalid)
	}
	dir, err := p.dir(ctx, path[:max(at, 0)])
	return dir, name, err
}

// dir returns the directory of a path; "" is the top one.
func (p *paths) dir(ctx context.Context, path string) (ondisk.ObjectID, error) {
	if ino, ok := p.dirs[path]; ok {
		return ino, nil
	}
	up, name, err := p.parent(ctx, path)
	if err != nil {
		return 0, err
	}
	e, err := p.lookup(ctx, path, up, name)
	if err != nil {
		return 0, err
	}
	switch e.typ {
	case ondisk.FTDir:
	case ondisk.FTSymlink:
		return 0, fmt.Errorf("unsafe path: %q is a symbolic link: %w", path, fserr.ErrNotDir)
	default:
		return 0, fmt.Errorf("%q: %w", path, fserr.ErrNotDir)
	}
	p.know(path, e.ino, true)
	return e.ino, nil
}

// found is what a path names.
type found struct {
	ino ondisk.ObjectID
	typ uint8 // ondisk.FTDir, ...
}

// lookup looks a name up, among what is coming first.
func (p *paths) lookup(ctx context.Context, path string, dir ondisk.ObjectID, name string) (found, error) {
	if e := p.coming.paths[path]; e != nil {
		return found{e.Ino, ondisk.ModeToFT(e.Attr.Mode)}, nil
	}
	if p.coming.dirs[dir] != nil {
		return found{}, fmt.Errorf("%q in a new directory: %w", name, fserr.ErrNotFound)
	}
	e, err := p.tree.Lookup(ctx, dir, name)
	if err != nil {
		return found{}, err
	}
	if e.IsSubvol() {
		return found{}, fmt.Errorf("unsafe path: %q is another subvolume: %w", path, fserr.ErrCrossDevice)
	}
	return found{e.Ino(), e.Type}, nil
}

// inode returns the inode of a path, which may be a directory or a symbolic link itself; "" is the top directory.
func (p *paths) inode(ctx context.Context, path string) (ondisk.ObjectID, error) {
	if path == p.last {
		return p.lastIno, nil
	}
	if ino, ok := p.dirs[path]; ok {
		return ino, nil
	}
	dir, name, err := p.parent(ctx, path)
	if err != nil {
		return 0, err
	}
	e, err := p.lookup(ctx, path, dir, name)
	if err != nil {
		return 0, err
	}
	p.know(path, e.ino, e.typ == ondisk.FTDir)
	return e.ino, nil
}
