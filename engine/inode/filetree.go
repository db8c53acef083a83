package inode

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// DefaultMaxInline is the largest file, in bytes, whose data goes into its EXTENT_DATA item (mount option max_inline).
const DefaultMaxInline = 2048

// Config is what all file trees of one file system have in common. It must not change once a FileTree uses it.
type Config struct {
	Store        Store
	NodeSize     int
	Csum         ondisk.CsumType
	NoHoles      bool             // holes have no items
	ExtendedIref bool             // INODE_EXTREF may be written
	MaxInline    int              // bytes; 0 takes DefaultMaxInline, below 0 inlines nothing but symbolic links
	Now          func() time.Time // clock of the time stamps; nil takes time.Now
	// MoveSubvol rewrites the ROOT_REF and ROOT_BACKREF of a subvolume whose entry Rename has moved within its parent
	// tree; nil refuses such renames with fserr.ErrBusy. MayMoveSubvol is asked first, before anything is changed (the
	// new index is not known yet), and returns what stands against it.
	MoveSubvol    func(ctx context.Context, tx Txn, m SubvolMove) error
	MayMoveSubvol func(ctx context.Context, m SubvolMove) error
	// RmdirSubvol deletes an empty subvolume whose entry, which leads to it, Rmdir is to remove; nil refuses with
	// fserr.ErrBusy. Called without locks.
	RmdirSubvol func(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, name string, id ondisk.TreeID) error
	// Leads is Resolver's: whether an entry that names a subvolume leads there. One that does not is an empty directory
	// and Rmdir removes it; with nil it removes none.
	Leads func(ctx context.Context, parent ondisk.TreeID, dir ondisk.ObjectID, name string, id ondisk.TreeID) (bool, error)
	Pool  *disk.Pool // buffers of data; nil takes the Go heap
}

func (c *Config) now() ondisk.Timespec {
	if c.Now != nil {
		return ondisk.TimeOf(c.Now())
	}
	return ondisk.TimeOf(time.Now())
}

// maxInline is the size in bytes up to which a file may lie inline.
func (c *Config) maxInline() uint64 {
	n := c.MaxInline
	if n == 0 {
		n = DefaultMaxInline
	}
	return uint64(max(0, min(n, sectorSize-1, ondisk.MaxItemSize(c.NodeSize)-ondisk.FileExtentInlineStart)))
}

// FileTree is the current tree of one subvolume, for reading and changing. There must be one FileTree per tree: it
// holds the inode locks, the next free inode number and the open files. It is safe for concurrent use; see the package
// comment for the order of locks.
type FileTree struct {
	Reader
	cfg  *Config
	tree Tree

	locks    [lockStripes]sync.RWMutex // by inode number; see lockset
	renameMu sync.Mutex                // a directory changing its parent has it, inside no inode lock
	readOnly atomic.Bool               // the subvolume's flag; set under gate
	gate     sync.RWMutex              // read-held by each changing operation, inside its inode locks, around its handle

	inoMu    sync.Mutex    // guards the first look for nextIno
	nextIno  atomic.Uint64 // 0: not known yet
	inoKnown atomic.Bool

	dirs dirCache

	openMu sync.Mutex // guards open; inside inode locks
	open   map[ondisk.ObjectID]int
}

// New makes the FileTree of a subvolume's tree.
func New(cfg *Config, tree Tree) *FileTree {
	src := liveSource{Tree: tree, DataIO: cfg.Store, CsumReader: cfg.Store}
	return &FileTree{
		Reader: Reader{src: src, id: tree.ID(), csum: cfg.Csum, pool: cfg.Pool},
		cfg:    cfg, tree: tree,
		open: map[ondisk.ObjectID]int{},
	}
}

// SetReadOnly sets whether the subvolume refuses changes with fserr.ErrReadOnly, and waits for the changes under way:
// when it returns none is left. The caller holds no handle.
func (t *FileTree) SetReadOnly(ro bool) {
	t.gate.Lock()
	t.readOnly.Store(ro)
	t.gate.Unlock()
}

// ReadOnly reports whether the subvolume refuses changes.
func (t *FileTree) ReadOnly() bool { return t.readOnly.Load() }

// newIno returns a free inode number: one more than the highest ever used since the tree was opened.
func (t *FileTree) newIno(ctx context.Context) (ondisk.ObjectID, error) {
	if !t.inoKnown.Load() {
		if err := t.findNextIno(ctx); err != nil {
			return 0, err
		}
	}
	n := ondisk.ObjectID(t.nextIno.Add(1) - 1)
	if n > ondisk.LastFreeObjectID {
		return 0, fmt.Errorf("tree %v has no free inode number: %w", t.id, fserr.ErrNoSpace)
	}
	return n, nil
}

func (t *FileTree) findNextIno(ctx context.Context) error {
	t.inoMu.Lock()
	defer t.inoMu.Unlock()
	if t.inoKnown.Load() {
		return nil
	}
	k, _, ok, err := t.tree.SeekLE(ctx, ondisk.Key{ObjectID: ondisk.LastFreeObjectID, Type: 255, Offset: ^uint64(0)})
	if err != nil {
		return err
	}
	next := uint64(RootDir) + 1
	if ok && k.ObjectID >= RootDir {
		next = uint64(k.ObjectID) + 1
	}
	t.nextIno.Store(next)
	t.inoKnown.Store(true)
	return nil
}

// dirState is what creating and removing names needs to know of a directory. It is used and changed under the
// directory's exclusive lock.
type dirState struct {
	next  uint64 // index of the next name
	mode  uint32
	gid   uint32
	flags uint64 // inode flags
}

// dirCacheLimit bounds the directories remembered.
const dirCacheLimit = 4096

// dirCache remembers directories, so that creating a file need not search for the last index. mu guards the map; the
// content of an entry belongs to the holder of the directory's lock.
type dirCache struct {
	mu sync.Mutex
	m  map[ondisk.ObjectID]dirState
}

func (c *dirCache) get(dir ondisk.ObjectID) (dirState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.m[dir]
	return s, ok
}

func (c *dirCache) put(dir ondisk.ObjectID, s dirState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || len(c.m) >= dirCacheLimit {
		c.m = make(map[ondisk.ObjectID]dirState)
	}
	c.m[dir] = s
}

func (c *dirCache) forget(ino ondisk.ObjectID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, ino)
}

// dir returns what is known of a directory. fserr.ErrNotDir if the inode is something else, fserr.ErrNotFound if it
// is not there or has been removed. The caller holds the directory's exclusive lock, or nobody else changes the tree.
func (t *FileTree) dir(ctx context.Context, dir ondisk.ObjectID) (dirState, error) {
	if s, ok := t.dirs.get(dir); ok {
		return s, nil
	}
	s, err := t.readDir(ctx, dir)
	if err == nil {
		t.dirs.put(dir, s)
	}
	return s, err
}

// peekDir is dir for callers without the lock. What it finds may be out of date before it returns, and so it is not
// remembered: the next name would get the index of one that has come meanwhile.
func (t *FileTree) peekDir(ctx context.Context, dir ondisk.ObjectID) (dirState, error) {
	if s, ok := t.dirs.get(dir); ok {
		return s, nil
	}
	return t.readDir(ctx, dir)
}

func (t *FileTree) readDir(ctx context.Context, dir ondisk.ObjectID) (dirState, error) {
	it, err := t.Inode(ctx, dir)
	if err != nil {
		return dirState{}, err
	}
	if it.Mode()&ondisk.ModeFmt != ondisk.ModeDir {
		return dirState{}, t.at(dir, fserr.ErrNotDir)
	}
	if it.NLink() == 0 {
		return dirState{}, t.at(dir, fserr.ErrNotFound)
	}
	s := dirState{next: 2, mode: it.Mode(), gid: it.GID(), flags: it.Flags()}
	k, _, ok, err := t.tree.SeekLE(ctx, typeKey(dir, ondisk.DirIndexKey, ^uint64(0)))
	if err != nil {
		return s, t.at(dir, err)
	}
	if ok && k.ObjectID == dir && k.Type == ondisk.DirIndexKey {
		s.next = k.Offset + 1
	}
	return s, nil
}

// checkDirChange refuses changes of a directory's names that its flags forbid: an immutable one keeps all, an
// append-only one takes new names and loses none.
func (t *FileTree) checkDirChange(dir ondisk.ObjectID, s dirState, removes bool) error {
	if s.flags&ondisk.InodeImmutable != 0 || removes && s.flags&ondisk.InodeAppend != 0 {
		return fmt.Errorf("directory %d of tree %v is immutable or append-only: %w", dir, t.id, fserr.ErrPerm)
	}
	return nil
}

// isNotFound reports whether an error says that an item or name is not there.
func isNotFound(err error) bool { return errors.Is(err, fserr.ErrNotFound) }
