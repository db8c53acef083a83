// Package subvol creates, snapshots, lists and deletes subvolumes.
//
// A subvolume is a file tree with a ROOT_ITEM in the root tree, a directory entry in its parent (DIR_ITEM and DIR_INDEX
// whose location is the ROOT_ITEM's key), a ROOT_REF from the parent and a ROOT_BACKREF to it, and an item in the UUID
// tree that maps its UUID to its id.
//
// A snapshot is made inside the commit, when no writer is left (a pending operation, Snapshot): the source's root block
// is copied under the new id, everything below is shared. A deletion has two parts: Delete takes the entry and the
// references away and leaves an orphan item; Drop then takes the tree apart, in many transactions if it must, and
// survives crashes.
//
// A subvolume that is being sent, or that a send is made against, stays as it is: BeginSend counts the sends, and while
// the count is not zero deletion and the flip to writable are refused.
//
// A subvolume that is received takes many transactions too. Until it is complete it is an Incoming, which a crash makes a
// deleted one. So is a Hidden, the read-only snapshot through which a writable subvolume is sent.
package subvol

import (
	"context"
	"sync"

	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
)

// Manager does all that to the subvolumes of one open file system. It is safe for concurrent use.
type Manager struct {
	db    *txn.DB
	trees func(ctx context.Context, id ondisk.TreeID) (*inode.FileTree, error)

	incoming incomings
	moveMu   sync.Mutex    // one subvolume at a time moves into another; outside all inode locks
	dropping chan struct{} // holds one token while trees are dropped: two droppers of one tree would drop its blocks twice
	sends    sends
}

// New returns a Manager. trees opens the file tree of a subvolume; the same id must always give the same *FileTree, for
// its inode locks live there.
func New(db *txn.DB, trees func(ctx context.Context, id ondisk.TreeID) (*inode.FileTree, error)) *Manager {
	return &Manager{db: db, trees: trees, dropping: make(chan struct{}, 1)}
}

// lockDropping makes the caller the only one who drops trees, until done is called.
func (m *Manager) lockDropping(ctx context.Context) (done func(), err error) {
	select {
	case m.dropping <- struct{}{}:
		return func() { <-m.dropping }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Place is where a subvolume stands or shall stand: a name in a directory of a subvolume.
type Place struct {
	Tree ondisk.TreeID
	Dir  ondisk.ObjectID
	Name string
}
