package receive

import (
	"bytes"
	"cmp"
	"slices"

	"imgtool/disk"
	"imgtool/engine/inode"
	"imgtool/engine/ondisk"
)

const (
	batchData    = 2 << 20 // bytes of data of a batch, at most
	batchEntries = 512
	batchAttrs   = 512
	batchXattrs  = 1 << 20   // bytes of extended attributes, at most, and
	entryXattrs  = 64        // how many an entry has; what is more is set behind the batch
	largeFile    = 512 << 10 // bytes; a file that grows beyond gets its data behind the batch
)

// entry is a new inode that a batch is to make. Until the batch is on its way, commands for the inode change the entry.
type entry struct {
	inode.BulkEntry
	b      *batch
	path   string // in the stream, as it is now
	at     place  // of the command that made it
	parent bool   // entries of its batch lie in it
}

func (e *entry) isDir() bool { return e.Attr.Mode&ondisk.ModeFmt == ondisk.ModeDir }

// batch gathers new inodes with their content, and attributes of others, to be made as one operation. It belongs to the
// receiver until it is shipped, and to the pipeline from then on.
type batch struct {
	inode.Batch
	csum    ondisk.CsumType
	entries []*entry
	dirs    map[ondisk.ObjectID]*entry // directories among them
	attrs   map[ondisk.ObjectID]int    // inodes of Attrs
	attrsAt []place                    // of the last command for each of Attrs
	buf     []byte                     // pooled
	used    int                        // bytes of buf
	xattrs  int                        // bytes of extended attributes that entries have been given
	open    *entry                     // the file at the end of buf, whose content may go on growing
	inline  int                        // InlineLimit
}

func newBatch(pool *disk.Pool, tree *inode.FileTree) *batch {
	return &batch{
		Batch: inode.Batch{Exclusive: true}, csum: tree.Csum(), inline: tree.InlineLimit(), buf: pool.Get(batchData),
		dirs: map[ondisk.ObjectID]*entry{}, attrs: map[ondisk.ObjectID]int{},
	}
}

func (b *batch) empty() bool { return len(b.entries) == 0 && len(b.Attrs) == 0 }

// full reports whether the next command may not find room.
func (b *batch) full() bool { return len(b.entries) >= batchEntries || len(b.Attrs) >= batchAttrs }

func (b *batch) add(e *entry) {
	b.seal()
	e.b = b
	b.entries = append(b.entries, e)
	if e.isDir() {
		b.dirs[e.Ino] = e
	}
}

// gains takes note that a directory gets an entry of the batch, which the command at a place has made.
func (b *batch) gains(dir ondisk.ObjectID, now ondisk.Timespec, at place) {
	if e := b.dirs[dir]; e != nil {
		e.parent = true
	}
	if _, ok := b.attrs[dir]; ok { // from before; otherwise making the entry does it
		b.touch(dir, now, at)
	}
}

// touch makes the modification time of a directory that of now.
func (b *batch) touch(dir ondisk.ObjectID, now ondisk.Timespec, at place) {
	b.setAttrs(dir, inode.SetAttr{Modify: &now}, at)
}

// last reports whether e is the entry whose content may grow.
func (b *batch) last(e *entry) bool {
	return e.b == b && e == b.entries[len(b.entries)-1] && e.Inline == nil && e.Attr.Mode&ondisk.ModeFmt == ondisk.ModeReg
}

// held is how many bytes of buf the content of e takes.
func (b *batch) held(e *entry) int {
	if e != b.open {
		return 0
	}
	return b.used - e.DataOff
}

// room opens the content of e, the last entry, and reports whether n bytes more have room. If not, e and its content
// belong to the next batch.
func (b *batch) room(e *entry, n int) bool {
	if e != b.open {
		b.seal()
		b.open, e.DataOff = e, b.used
	}
	return alignUp(b.used+n) <= len(b.buf)
}

// grow appends plain data to the open file.
func (b *batch) grow(data []byte) {
	e := b.open
	if n := len(e.Parts); n > 0 {
		if e.Parts[n-1].Algorithm != ondisk.CompressNone {
			e.Parts = append(e.Parts, inode.BulkPart{Encoded: inode.Encoded{Off: int64(e.Size)}, DataOff: b.used})
			n++
		}
		e.Parts[n-1].Len += int64(len(data))
	}
	b.used += copy(b.buf[b.used:], data)
	e.Size += uint64(len(data))
}

// growFrame appends a compressed frame to the open file, which ends with a sector.
func (b *batch) growFrame(f *frame) {
	e := b.open
	if e.Size > 0 && e.Parts == nil {
		e.Parts = []inode.BulkPart{{Encoded: inode.Encoded{Len: int64(e.Size)}, DataOff: e.DataOff}}
	}
	e.Parts = append(e.Parts, inode.BulkPart{Encoded: f.encoded(), DataOff: b.used, Disk: alignUp(len(f.data))})
	b.used += copy(b.buf[b.used:], f.data)
	b.fill()
	e.Size += uint64(f.n)
}

// fill adds zeros up to the end of the sector.
func (b *batch) fill() {
	end := alignUp(b.used)
	clear(b.buf[b.used:end])
	b.used = end
}

// moveOpen moves the open file, which is the last entry, to an empty batch.
func (b *batch) moveOpen(to *batch) {
	e, n := b.open, len(b.entries)-1
	content := b.buf[e.DataOff:b.used]
	b.entries, b.used, b.open = b.entries[:n], e.DataOff, nil
	to.add(e)
	for i := range e.Parts {
		e.Parts[i].DataOff -= e.DataOff
	}
	to.open, e.DataOff = e, 0
	to.used = copy(to.buf, content)
}

// seal ends the open file: it lies inline, or is filled up to whole sectors and checksummed.
func (b *batch) seal() {
	e := b.open
	if e == nil {
		return
	}
	b.open = nil
	if e.Parts == nil && int(e.Size) <= b.inline {
		e.Inline, b.used = bytes.Clone(b.buf[e.DataOff:b.used]), e.DataOff
		return
	}
	b.fill()
	for i := range e.Parts {
		if part := &e.Parts[i]; part.Algorithm == ondisk.CompressNone {
			part.Disk = alignUp(int(part.Len))
		}
	}
	for at := e.DataOff; at < b.used; at += sectorSize {
		n := len(b.Sums)
		b.Sums = slices.Grow(b.Sums, b.csum.Size())[:n+b.csum.Size()]
		b.csum.Sum(b.Sums[n:], b.buf[at:at+sectorSize])
	}
}

// takeOpen takes the content of the open file away, which has no parts, for it to be written behind the batch.
func (b *batch) takeOpen() []byte {
	e := b.open
	content := b.buf[e.DataOff:b.used]
	b.open, b.used, e.Size = nil, e.DataOff, 0
	return content
}

// setAttrs adds a change of attributes, or joins it with one that is there.
func (b *batch) setAttrs(ino ondisk.ObjectID, set inode.SetAttr, at place) {
	i, ok := b.attrs[ino]
	if !ok {
		b.attrs[ino] = len(b.Attrs)
		b.Attrs, b.attrsAt = append(b.Attrs, inode.AttrChange{Ino: ino, Set: set}), append(b.attrsAt, at)
		return
	}
	old := &b.Attrs[i].Set
	old.Mode, old.UID, old.GID = cmp.Or(set.Mode, old.Mode), cmp.Or(set.UID, old.UID), cmp.Or(set.GID, old.GID)
	old.Access, old.Modify, old.Birth = cmp.Or(set.Access, old.Access), cmp.Or(set.Modify, old.Modify), cmp.Or(set.Birth, old.Birth)
	b.attrsAt[i] = at
}

// close makes the Batch ready: the names of one directory stand together, and those of a directory that is new itself
// behind its own. There is no circle of directories: one with entries does not move within its batch.
func (b *batch) close() {
	b.seal()
	b.Data = b.buf[:b.used]
	in := map[ondisk.ObjectID][]*entry{}
	var order []ondisk.ObjectID
	for _, e := range b.entries {
		if in[e.Dir] == nil && b.dirs[e.Dir] == nil {
			order = append(order, e.Dir)
		}
		in[e.Dir] = append(in[e.Dir], e)
	}
	sorted := b.entries[:0:0]
	b.Entries = make([]inode.BulkEntry, 0, len(b.entries))
	for ; len(order) > 0; order = order[1:] {
		for _, e := range in[order[0]] {
			sorted, b.Entries = append(sorted, e), append(b.Entries, e.BulkEntry)
			if e.isDir() && in[e.Ino] != nil {
				order = append(order, e.Ino)
			}
		}
	}
	b.entries = sorted
}

func alignUp(n int) int { return (n + sectorSize - 1) &^ (sectorSize - 1) }
