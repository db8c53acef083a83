package btree

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Tree is one B-tree. Its methods are safe for concurrent use, but see SwitchCommitRoot.
type Tree struct {
	cfg Config

	// root is the current root, nil before the first use. It is replaced only by one who holds both the old root's
	// write lock and mu, so whoever holds the lock of a block and finds it here knows that it stays the root.
	root atomic.Pointer[extbuf.Buffer]

	// mu protects what follows, and the taking of a reference to the root. Innermost, but for the cache's own locks.
	mu     sync.Mutex
	addr   ondisk.Logical    // of the current root
	gen    ondisk.Generation // of the current root
	level  uint8             // of the current root
	commit *extbuf.Buffer    // commit root, nil before the first use and in a tree made in this transaction
	closed bool              // root and commit are nil for good

	// repairs is held for reading while a block is read that may be repaired: beneath the lock of the block's parent, and
	// never waited for there. retired is guarded by it.
	repairs sync.RWMutex
	retired bool

	loadMu sync.Mutex // held by the one who reads the root for the first time

	lastSnapshot atomic.Uint64 // generation of the root item's last_snapshot
	forceCOW     atomic.Bool   // copy even blocks of the running transaction

	data      any          // the owner's, set before the tree is shared
	usedDelta atomic.Int64 // bytes of blocks taken less those dropped since TakeUsedDelta
}

// New opens the tree whose root item holds addr, level and generation of the root. Nothing is read until the first
// use; Load does it at once.
func New(cfg Config, addr ondisk.Logical, level uint8, gen ondisk.Generation) *Tree {
	return &Tree{cfg: cfg, addr: addr, level: level, gen: gen}
}

// NewEmpty makes a new tree: an empty leaf as its root, and no commit root until SwitchCommitRoot.
func NewEmpty(ctx context.Context, cfg Config, tx Txn) (*Tree, error) {
	t := &Tree{cfg: cfg}
	b, err := t.allocBlock(ctx, tx, 0, 0, ondisk.Key{})
	if err != nil {
		return nil, err
	}
	t.setRoot(tx, b)
	b.Unlock()
	b.Release()
	return t, nil
}

// NewSnapshot makes the tree of a snapshot whose root CopyRoot has made. Its blocks below the root are the source's, many
// of them perhaps of this transaction, so the snapshot begins with LastSnapshot = T and ForceCOW set, as the source goes on.
func NewSnapshot(cfg Config, root *extbuf.Buffer) *Tree {
	t := NewWithRoot(cfg, root)
	t.lastSnapshot.Store(uint64(root.Generation()))
	t.forceCOW.Store(true)
	return t
}

// NewWithRoot makes a tree of which root is the current root, made by hand as mkfs does it; the tree takes a reference
// of its own. There is no commit root until SwitchCommitRoot.
func NewWithRoot(cfg Config, root *extbuf.Buffer) *Tree {
	t := &Tree{cfg: cfg, addr: root.Addr(), gen: root.Generation(), level: root.Level()}
	root.Ref()
	t.root.Store(root)
	return t
}

// ID returns the tree's object id.
func (t *Tree) ID() ondisk.TreeID { return t.cfg.ID }

// Shareable reports whether snapshots may share the tree's blocks.
func (t *Tree) Shareable() bool { return t.cfg.Shareable }

// Root returns what the root item has to say of the current root.
func (t *Tree) Root() (addr ondisk.Logical, level uint8, gen ondisk.Generation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addr, t.level, t.gen
}

// LastSnapshot returns the generation of the last snapshot of this tree.
func (t *Tree) LastSnapshot() ondisk.Generation { return ondisk.Generation(t.lastSnapshot.Load()) }

// SetLastSnapshot sets it; call it with the root item's value after New, before the first change.
func (t *Tree) SetLastSnapshot(g ondisk.Generation) { t.lastSnapshot.Store(uint64(g)) }

// ForceCOW reports whether blocks of the running transaction are copied too.
func (t *Tree) ForceCOW() bool { return t.forceCOW.Load() }

// SetForceCOW sets it: true right after the root was copied (CopyRoot does so), false when the root item has been
// written.
func (t *Tree) SetForceCOW(on bool) { t.forceCOW.Store(on) }

// Retire says that the tree is going to be taken apart without the locks of its blocks. When it returns no block of it
// is being repaired, and none will be: their addresses are about to be free. The caller holds no lock of a block.
func (t *Tree) Retire() {
	t.repairs.Lock()
	t.retired = true
	t.repairs.Unlock()
}

// Load reads the root if that has not been done. The error of a closed tree matches fserr.ErrClosed.
func (t *Tree) Load(ctx context.Context) error {
	if t.root.Load() != nil {
		return nil
	}
	t.loadMu.Lock()
	defer t.loadMu.Unlock()
	if t.root.Load() != nil {
		return nil
	}
	if err := t.closedErr(); err != nil {
		return err // its blocks may be another tree's by now
	}
	// Nobody changes a tree whose root was never read, so the fields are stable, and the root is the commit root.
	addr, level, gen := t.Root()
	if level >= ondisk.MaxLevel {
		return fserr.Corruptf("root item", uint64(t.cfg.ID), uint64(addr), "invalid level, have %d expect [0, 7]", level)
	}
	x := extbuf.Expect{Level: level, Gen: gen, RootOf: t.cfg.ID}
	if !t.cfg.Shareable {
		x.Owner = t.cfg.ID
	}
	// Nor is the address free before somebody has changed the tree, unless it is being taken apart.
	if x.Repair = t.repairs.TryRLock(); x.Repair {
		defer t.repairs.RUnlock()
		x.Repair = !t.retired
	}
	b, err := t.cfg.Cache.Read(ctx, addr, x)
	if err != nil {
		return fmt.Errorf("root of tree %d: %w", int64(t.cfg.ID), err)
	}
	t.mu.Lock()
	if t.closed { // meanwhile
		t.mu.Unlock()
		b.Release()
		return t.closedErr()
	}
	b.Ref()
	t.root.Store(b)
	t.commit = b
	t.mu.Unlock()
	return nil
}

// closedErr returns the error of using a closed tree, nil if this one is not. It is one that was dropped, or the file
// system is closed.
func (t *Tree) closedErr() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		return nil
	}
	return fmt.Errorf("tree %d: %w", int64(t.cfg.ID), fserr.ErrClosed)
}

// RootBuffer returns the current root with a reference that the caller releases. Without a lock it may stop being the
// root at any time.
func (t *Tree) RootBuffer(ctx context.Context) (*extbuf.Buffer, error) {
	if err := t.Load(ctx); err != nil {
		return nil, err
	}
	t.mu.Lock()
	b := t.root.Load()
	if b != nil {
		b.Ref()
	}
	t.mu.Unlock()
	if b == nil {
		return nil, t.closedErr()
	}
	return b, nil
}

// lockRoot returns the current root, locked for writing or reading, and referenced.
func (t *Tree) lockRoot(ctx context.Context, write bool) (*extbuf.Buffer, error) {
	for {
		b, err := t.RootBuffer(ctx)
		if err != nil {
			return nil, err
		}
		if write {
			b.Lock()
		} else {
			b.RLock()
		}
		if t.root.Load() == b {
			return b, nil
		}
		// Replaced while we waited; b may even be a block of another tree by now. It is not ours to look into.
		if write {
			b.Unlock()
		} else {
			b.RUnlock()
		}
		b.Release()
	}
}

// setRoot makes b the current root. The caller holds the write locks of b and of the present root, if there is one.
func (t *Tree) setRoot(tx Txn, b *extbuf.Buffer) {
	b.Ref()
	t.mu.Lock()
	old := t.root.Swap(b)
	t.addr, t.gen, t.level = b.Addr(), b.Generation(), b.Level()
	t.mu.Unlock()
	if old != nil {
		old.Release()
	}
	if t.cfg.OnDirty != nil {
		t.cfg.OnDirty(t, tx)
	}
}

// CommitRootBuffer returns the commit root, nil if the tree has none or was never read (see Load). It is borrowed: the
// caller holds commitRootMu or a handle, or takes a reference under either.
func (t *Tree) CommitRootBuffer() *extbuf.Buffer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.commit
}

// SwitchCommitRoot makes the current root the commit root. Only the commit calls it, for all trees together under
// commitRootMu (I8), when nobody is changing the tree. From then on the root's blocks are not changed any more, since
// they belong to a generation that is over (I4).
func (t *Tree) SwitchCommitRoot() {
	t.mu.Lock()
	b, old := t.root.Load(), t.commit
	if b == nil || b == old {
		t.mu.Unlock()
		return
	}
	b.Ref()
	t.commit = b
	t.mu.Unlock()
	if old != nil {
		old.Release()
	}
}

// SetData attaches what the tree's owner wants to find again in Config.OnDirty; once, before others see the tree.
func (t *Tree) SetData(v any) { t.data = v }

// Data returns what SetData attached.
func (t *Tree) Data() any { return t.data }

// TakeUsedDelta returns by how many bytes the tree's blocks have become more since the last call, for the root item's
// bytes_used. A copy that takes the place of its original counts nothing.
func (t *Tree) TakeUsedDelta() int64 { return t.usedDelta.Swap(0) }

// Close gives back the tree's references to its roots. Nobody may be inside; who comes later, with a pointer from before,
// gets fserr.ErrClosed.
func (t *Tree) Close() {
	t.mu.Lock()
	b, c := t.root.Swap(nil), t.commit
	t.commit, t.closed = nil, true
	t.mu.Unlock()
	if b != nil {
		b.Release()
	}
	if c != nil {
		c.Release()
	}
}
