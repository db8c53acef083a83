package receive

import (
	"cmp"
	"context"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
)

// pathMax is the length of the longest target of a symbolic link, and one.
const pathMax = 4096

// open begins the pipeline of the subvolume under way.
func (r *receiver) open(ctx context.Context) error {
	tree := r.sub.Tree
	top, err := tree.Inode(ctx, inode.RootDir)
	if err != nil {
		return err
	}
	const inherited = ondisk.InodeNoDataCow | ondisk.InodeCompress | ondisk.InodeNoCompress
	r.plain = top.Flags()&inherited == 0 && top.Mode()&modeSetGID == 0
	r.paths.coming = coming{paths: map[string]*entry{}, dirs: map[ondisk.ObjectID]*entry{}}
	r.settable = map[ondisk.ObjectID]bool{}
	if r.buffers = tree.Config().Pool; r.buffers == nil {
		r.buffers = disk.NewPool()
	}
	r.pipe, r.cur, r.behind = newPipeline(tree, r.buffers, r.writeFrame), newBatch(r.buffers, tree), false
	return nil
}

// close ends the pipeline, if there is one. What is gathered and was not shipped is dropped.
func (r *receiver) close() error {
	if r.pipe == nil {
		return nil
	}
	r.pipe.close()
	r.pipe = nil
	r.buffers.Put(r.cur.buf)
	if r.gather.buf != nil {
		r.buffers.Put(r.gather.buf)
		r.gather = gather{}
	}
	if r.buffers != r.sub.Tree.Config().Pool {
		return r.buffers.Close()
	}
	return nil
}

// ship sends the batch that was gathered on its way, and begins another.
func (r *receiver) ship(ctx context.Context) {
	if r.cur.empty() {
		return
	}
	b := r.cur
	r.cur = newBatch(r.buffers, r.sub.Tree)
	r.send(ctx, b)
}

func (r *receiver) send(ctx context.Context, b *batch) {
	b.close()
	r.behind = true
	r.pipe.queue <- step{ctx: ctx, b: b}
}

// after sends an operation on its way, behind what was gathered. buf is what it needs of the pool, if it is not nil.
func (r *receiver) after(ctx context.Context, buf []byte, op func(context.Context) error) {
	r.ship(ctx)
	r.behind = true
	r.pipe.queue <- step{ctx: ctx, op: op, buf: buf}
}

// later is after with the command's place in the error.
func (r *receiver) later(ctx context.Context, c *sendstream.Command, op func(context.Context) error) {
	at := placeOf(c)
	r.after(ctx, nil, func(ctx context.Context) error { return at.wrap(op(ctx)) })
}

// settle waits until everything so far is in the tree, so that names can be changed there. Its error is fatal.
func (r *receiver) settle(ctx context.Context) error {
	if r.pipe == nil {
		return nil
	}
	r.flush(ctx)
	r.ship(ctx)
	if r.behind {
		done := make(chan struct{})
		r.pipe.queue <- step{ctx: ctx, settled: done}
		<-done
		r.behind = false
	}
	return r.collect(ctx)
}

// collect takes note of what the pipeline has done. Its error is fatal.
func (r *receiver) collect(ctx context.Context) error {
	failed, finished := r.pipe.news()
	for _, b := range finished {
		for _, e := range b.entries {
			r.paths.coming.remove(e)
		}
	}
	for _, err := range failed {
		if err := r.tolerate(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// newEntry is what a command that makes an inode asks for.
func newEntry(c *sendstream.Command, dir ondisk.ObjectID, name string) (*entry, error) {
	e := &entry{path: c.String(sendstream.AttrPath), at: placeOf(c)}
	e.Dir, e.Name = dir, name
	var err error
	switch c.Cmd {
	case sendstream.CmdMkfile:
		e.Attr.Mode = ondisk.ModeReg | 0o600
	case sendstream.CmdMkdir:
		e.Attr.Mode = ondisk.ModeDir | 0o700
	case sendstream.CmdSymlink:
		e.Attr.Mode, e.Target = ondisk.ModeLnk|0o777, c.String(sendstream.AttrPathLink)
	default:
		e.Attr.Mode, e.Rdev, err = special(c)
	}
	return e, err
}

// sound is false for what creating it by itself would refuse, which then says so.
func (e *entry) sound() bool {
	return e.Attr.Mode&ondisk.ModeFmt != ondisk.ModeLnk || e.Target != "" && len(e.Target) < pathMax
}

// addEntry adds a new inode to the batch.
func (r *receiver) addEntry(ctx context.Context, e *entry) (err error) {
	if e.Ino, err = r.sub.Tree.ReserveInos(ctx, 1); err != nil {
		return err
	}
	if r.cur.full() {
		r.ship(ctx)
	}
	r.cur.add(e)
	r.cur.touch(inode.RootDir, r.sub.Tree.Now(), e.at) // even if it does not stay there
	r.paths.coming.add(e)
	r.paths.last = "" // whatever had the path before
	r.paths.lastIno = inode.RootDir
	return nil
}

// entry returns the entry of the batch that a path names, nil if it names something else.
func (r *receiver) entry(path string) *entry {
	if e := r.paths.coming.paths[path]; e != nil && e.b == r.cur {
		return e
	}
	return nil
}

// moveEntry gives an entry another name, which is free.
func (r *receiver) moveEntry(e *entry, to string, dir ondisk.ObjectID, name string) {
	r.paths.coming.remove(e)
	r.paths.forget(e.path)
	r.paths.forget(to)
	e.path, e.Dir, e.Name = to, dir, name
	r.paths.coming.add(e)
	r.cur.gains(dir, r.sub.Tree.Now(), e.at)
}

// free reports whether a name can be taken by an entry of the batch: it is not there and its directory takes new names.
func (r *receiver) free(ctx context.Context, path string, dir ondisk.ObjectID, name string) (bool, error) {
	switch {
	case r.paths.coming.paths[path] != nil:
		return false, nil
	case r.paths.coming.dirs[dir] != nil:
		return true, nil // all its names are coming
	}
	if ok, err := r.maySet(ctx, "", dir); err != nil || !ok {
		return false, err
	}
	has, err := r.sub.Tree.Has(ctx, dir, name)
	return !has, err
}

// maySet reports whether the flags of an inode, which a path names, let its attributes and names be changed.
func (r *receiver) maySet(ctx context.Context, path string, ino ondisk.ObjectID) (bool, error) {
	if r.settable[ino] || r.paths.coming.paths[path] != nil {
		return true, nil
	}
	it, err := r.sub.Tree.Inode(ctx, ino)
	if err != nil {
		return false, err
	}
	ok := it.Flags()&(ondisk.InodeImmutable|ondisk.InodeAppend) == 0
	if ok {
		if len(r.settable) >= maxDirs {
			clear(r.settable)
		}
		r.settable[ino] = true
	}
	return ok, nil
}

// entryXattr gives an entry of the batch an attribute; false if there is no such entry, or none that can have it, or they
// have too many.
func (r *receiver) entryXattr(path string, x inode.Xattr) bool {
	e, n := r.entry(path), len(x.Name)+len(x.Value)
	if e == nil || len(e.Attr.Xattrs) >= entryXattrs || r.cur.xattrs+n > batchXattrs {
		return false
	}
	xs := make([]inode.Xattr, 0, len(e.Attr.Xattrs)+1)
	for _, old := range e.Attr.Xattrs {
		if old.Name != x.Name {
			xs = append(xs, old)
		}
	}
	if xs = append(xs, x); r.sub.Tree.CheckXattrs(xs) != nil {
		return false
	}
	e.Attr.Xattrs = xs
	r.cur.xattrs += n
	return true
}

// growing returns the entry of the batch whose content may grow at off, nil if a path names another, or no such end.
func (r *receiver) growing(path []byte, off int64) *entry {
	e := r.paths.coming.paths[string(path)]
	if e == nil || !r.cur.last(e) || uint64(off) != e.Size {
		return nil
	}
	return e
}

// makeRoom opens the content of an entry for n bytes more, in the batch or, if that is full, in the next one.
func (r *receiver) makeRoom(ctx context.Context, e *entry, n int) {
	if r.cur.room(e, n) {
		return
	}
	full := r.cur
	r.cur = newBatch(r.buffers, r.sub.Tree)
	full.moveOpen(r.cur)
	if i, ok := full.attrs[e.Dir]; ok { // its directory gains it only now, and keeps the times that the stream has given it
		r.cur.setAttrs(e.Dir, full.Attrs[i].Set, full.attrsAt[i])
	}
	r.send(ctx, full) // what is there besides took its room, so it is not empty
}

// entryData takes a piece of the content of an entry of the batch. It is false if that has to be written behind the
// batch: another place than the end, a file that is not the last entry, or a large one, whose content then moves there.
func (r *receiver) entryData(ctx context.Context, path []byte, off int64, data []byte) bool {
	e := r.growing(path, off)
	if e == nil {
		return false
	}
	if n := len(e.Parts); n > 0 && e.Parts[n-1].Algorithm != ondisk.CompressNone && off%sectorSize != 0 {
		return false
	}
	if held := r.cur.held(e); held+len(data) > largeFile {
		if held == 0 || e.Parts != nil {
			return false
		}
		buf := r.buffers.Get(gatherMax)
		n := copy(buf, r.cur.takeOpen())
		r.gather = gather{ino: e.Ino, at: e.at, buf: append(buf[:n], data...)}
		r.gather.at.path = e.path
		return true
	}
	r.makeRoom(ctx, e, len(data))
	r.cur.grow(data)
	e.touch(r.sub.Tree)
	return true
}

// entryFrame is entryData for a compressed piece. One that no extent can hold as it is, or that shall not stay as it is,
// is unpacked. The algorithm is known to the superblock when the batch is.
func (r *receiver) entryFrame(ctx context.Context, path []byte, f *frame) (bool, error) {
	e := r.growing(path, f.off)
	if e == nil || f.off%sectorSize != 0 {
		return false, nil
	}
	enc := f.encoded()
	if !f.keepable(&r.o) || enc.Check(len(f.data)) != nil {
		plain, err := f.unpack()
		if err != nil || !r.entryData(ctx, path, f.off, plain) {
			return false, err
		}
		r.o.Stats.Unpacked.Add(1)
		return true, nil
	}
	if r.cur.held(e)+len(f.data) > largeFile {
		return false, nil
	}
	if err := r.allow(ctx, f.algorithm); err != nil {
		return false, err
	}
	r.makeRoom(ctx, e, len(f.data))
	r.cur.growFrame(f)
	e.touch(r.sub.Tree)
	r.o.Stats.Stored.Add(1)
	return true, nil
}

// touch takes note of a change of the content behind the one of the times.
func (e *entry) touch(tree *inode.FileTree) {
	if e.Attr.Times != nil {
		e.Attr.Times.Modify = tree.Now()
	}
}

// set changes attributes of an inode that is still to be made.
func (e *entry) set(a *inode.SetAttr, now ondisk.Timespec) {
	if a.Mode != nil {
		e.Attr.Mode = e.Attr.Mode&^ondisk.ModePerm | *a.Mode&ondisk.ModePerm
	}
	if a.UID != nil {
		e.Attr.UID = *a.UID
	}
	if a.GID != nil {
		e.Attr.GID = *a.GID
	}
	if a.Access == nil && a.Modify == nil && a.Birth == nil {
		return
	}
	if e.Attr.Times == nil {
		e.Attr.Times = &inode.Times{Access: now, Change: now, Modify: now, Birth: now}
	}
	t := e.Attr.Times
	t.Access = *cmp.Or(a.Access, &t.Access)
	t.Modify = *cmp.Or(a.Modify, &t.Modify)
	t.Birth = *cmp.Or(a.Birth, &t.Birth)
}
