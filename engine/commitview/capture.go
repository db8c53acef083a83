package commitview

import (
	"context"
	"fmt"
	"sync"

	"imgtool/engine/extbuf"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
	"imgtool/engine/txn"
	"imgtool/pin"
)

// capture is one instant of the file system, held by a ticket: a generation and what is found from its root tree.
// What it holds does not change after resolve; users is guarded by its owner's lock.
type capture struct {
	db     *txn.DB
	gen    ondisk.Generation
	ticket *pin.Ticket
	users  int  // the view itself counts as one
	hidden bool // a subvolume without references counts as there

	roots, chunks rooted // commit roots of the root tree and the chunk tree
	target        rooted // the view's tree
	readonly      bool   // the target is a read-only subvolume

	csumMu sync.Mutex // guards csum, found at first use
	csum   rooted
}

// rooted is the root block of a tree with what its root item says; buf is nil while it is not known.
type rooted struct {
	buf *extbuf.Buffer
	promise
}

func (r *rooted) take(b *extbuf.Buffer, p promise) { r.buf, r.promise = b.Ref(), p }

func (r *rooted) drop() {
	if r.buf != nil {
		r.buf.Release()
		r.buf = nil
	}
}

// fill takes the capture. It runs inside DB.WithCommitRoots, which is the argument: gen, the roots and the ticket are
// of one instant.
func (c *capture) fill(db *txn.DB, gen ondisk.Generation, withTicket bool) {
	c.db, c.gen, c.users = db, gen, 1
	if b := db.RootTree().CommitRootBuffer(); b != nil {
		c.roots.take(b, ofBuffer(b))
	}
	if b := db.ChunkTree().CommitRootBuffer(); b != nil {
		c.chunks.take(b, ofBuffer(b))
	}
	if withTicket {
		c.enter()
	}
}

func (c *capture) enter() {
	c.ticket = c.db.Pin().Enter(func() uint64 { return uint64(c.gen) })
}

// asked reports whether the reader has to go. A nil capture is that of a policy without tickets.
func (c *capture) asked() bool { return c != nil && c.ticket != nil && c.ticket.Asked() }

// leave lets all go. The caller was the last user and holds no lock: what only this ticket held back is released here.
func (c *capture) leave() {
	for _, r := range []*rooted{&c.target, &c.csum, &c.roots, &c.chunks} {
		r.drop()
	}
	if c.ticket != nil {
		c.ticket.Leave()
	}
}

// find looks the root of a tree up. The result carries a reference. fserr.ErrNotFound if the tree is not there, or is
// being deleted.
func (c *capture) find(ctx context.Context, id ondisk.TreeID) (r rooted, flags uint64, err error) {
	switch {
	case c.roots.buf == nil || c.chunks.buf == nil:
		return r, 0, fmt.Errorf("internal: generation %d has no commit roots", c.gen)
	case id == ondisk.RootTree:
		r.take(c.roots.buf, c.roots.promise)
		return r, 0, nil
	case id == ondisk.ChunkTree:
		r.take(c.chunks.buf, c.chunks.promise)
		return r, 0, nil
	}
	item, err := c.rootItem(ctx, id)
	if err != nil {
		return r, 0, err
	}
	r.promise = promise{addr: item.Bytenr(), gen: item.Generation(), level: item.Level(), owner: id}
	r.buf, err = c.db.Cache().Read(ctx, r.addr, r.expect())
	if err != nil {
		return r, 0, fmt.Errorf("root of tree %v in generation %d: %w", id, c.gen, err)
	}
	return r, item.Flags(), nil
}

// rootItem reads the newest ROOT_ITEM of a tree from the captured root tree.
func (c *capture) rootItem(ctx context.Context, id ondisk.TreeID) (item ondisk.RootItem, err error) {
	w := c.walk(ondisk.RootTree, &c.roots)
	defer w.release()
	key := ondisk.Key{ObjectID: ondisk.ObjectID(id), Type: ondisk.RootItemKey, Offset: ^uint64(0)}
	if err := w.descend(ctx, &key); err != nil {
		return item, err
	}
	if k, _, ok := w.item(); !ok || k != key {
		w.leaf().slot-- // a leaf's first key is not above the key looked for, but for a key below all of the tree
	}
	k, data, ok := w.item()
	if !ok || k.ObjectID != key.ObjectID || k.Type != key.Type {
		return item, fmt.Errorf("tree %v is not in generation %d: %w", id, c.gen, fserr.ErrNotFound)
	}
	if w.check(); w.mismatches > 0 {
		return item, fserr.Corruptf("root tree", uint64(ondisk.RootTree), uint64(c.roots.addr),
			"a block of generation %d was re-used while a ticket of it lives", c.gen)
	}
	item = txn.DecodeRootItem(id, data)
	if id.IsSubvolume() && item.Refs() == 0 && !c.hidden {
		return item, fmt.Errorf("subvolume %d is being deleted: %w", id, fserr.ErrNotFound)
	}
	return item, nil
}

// walk begins a path at a captured root. It is for the capture's own look-ups, which are no searches of a view.
func (c *capture) walk(id ondisk.TreeID, r *rooted) *walk {
	w := &walk{db: walkDB{c.db.Cache(), c.db.Tracer()}, cap: c, tree: id, policy: Epoch, gen: c.gen}
	w.push(r.buf.Ref(), r.promise)
	return w
}

// resolve finds the view's tree.
func (c *capture) resolve(ctx context.Context, id ondisk.TreeID) error {
	r, flags, err := c.find(ctx, id)
	if err != nil {
		return err
	}
	c.target = r
	c.readonly = id.IsSubvolume() && flags&ondisk.RootSubvolReadonly != 0
	return nil
}

// csums returns the checksum tree of the capture.
func (c *capture) csums(ctx context.Context) (*rooted, error) {
	c.csumMu.Lock()
	defer c.csumMu.Unlock()
	if c.csum.buf == nil {
		r, _, err := c.find(ctx, ondisk.CsumTree)
		if err != nil {
			return nil, err
		}
		c.csum = r
	}
	return &c.csum, nil
}
