package send

import (
	"context"
	"slices"

	"imgtool/engine/commitview"
	"imgtool/engine/ondisk"
)

// SmallSegments makes segments of n bytes until undo is called: then a short stream is many of them.
func SmallSegments(n int) (undo func()) {
	old := segmentSize
	segmentSize = n
	return func() { segmentSize = old }
}

// KeepLeaves has the copies of n leaves of a tree kept until undo is called.
func KeepLeaves(n int) (undo func()) {
	old := keptLeaves
	keptLeaves = n
	return func() { keptLeaves = old }
}

// Segments is how many segments a send has.
const Segments = segments

// Lookups are the look-ups in one read-only subvolume as a send makes them.
type Lookups struct {
	s *sender
	t *tree
}

// OpenLookups opens a tree for look-ups.
func OpenLookups(ctx context.Context, fs FS, id ondisk.TreeID) (*Lookups, error) {
	s := &sender{db: fs.DB(), subvols: fs.Subvols(), ctx: ctx, stats: new(Stats)}
	t, err := openTree(ctx, s, id)
	return &Lookups{s, t}, err
}

func (l *Lookups) Close()                    { l.s.close() }
func (l *Lookups) Quiesce() error            { return l.s.quiesce() }
func (l *Lookups) Leave()                    { l.s.leave() }
func (l *Lookups) Stats() *Stats             { return l.s.stats }
func (l *Lookups) View() *commitview.View    { return l.t.view }
func (l *Lookups) Kept() (leaves, inUse int) { return len(l.t.leaves), l.inUse() }

// inUse counts the kept leaves that somebody besides the list stands in.
func (l *Lookups) inUse() (n int) {
	for _, leaf := range l.t.leaves {
		if leaf.users != 1 {
			n++
		}
	}
	return n
}

// Spare is how many buffers for blocks are not in use.
func (l *Lookups) Spare() int { return len(l.t.spare) }

// Find looks one item up and returns a copy of it.
func (l *Lookups) Find(k ondisk.Key) (data []byte, found bool, err error) {
	found, err = l.t.find(k, func(item []byte) error {
		data = slices.Clone(item)
		return nil
	})
	return data, found, err
}

// Each goes through the items from one key to another.
func (l *Lookups) Each(from, to ondisk.Key, ahead int, fn func(k ondisk.Key, item []byte) (bool, error)) error {
	return l.t.each(from, to, ahead, func(it *item) (bool, error) { return fn(it.key, it.data) })
}

// LastExtent returns where the last extent that begins at or before an offset begins.
func (l *Lookups) LastExtent(ino ondisk.ObjectID, off uint64) (start uint64, ok bool, err error) {
	e, ok, err := l.t.lastExtent(ino, off)
	return e.start, ok, err
}
