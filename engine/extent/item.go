package extent

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"imgtool/delayedref"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// extentItem is an EXTENT_ITEM or METADATA_ITEM taken apart: fixed part, tree_block_info where there is one, inline
// back references in the order of the disk.
type extentItem struct {
	refs  uint64
	gen   ondisk.Generation
	flags uint64
	info  []byte // tree_block_info, nil for data and skinny metadata
	owner []byte // an EXTENT_OWNER_REF, which precedes all others; carried through unchanged
	refsV []inlineRef
}

// inlineRef is one inline back reference.
type inlineRef struct {
	ref   delayedref.Ref // Level is not set
	count uint64
}

// refType is the item type of a kind: the numbers are the same.
func refType(k delayedref.Kind) ondisk.ItemType { return ondisk.ItemType(k) }

// order is what inline refs of one kind are sorted by, descending: the hash for EXTENT_DATA_REF, else root or parent
// (fs/btrfs/extent-tree.c, lookup_inline_extent_backref).
func order(r delayedref.Ref) uint64 {
	switch r.Kind {
	case delayedref.ExtentData:
		return dataRefHash(r)
	case delayedref.TreeBlock:
		return r.Root
	}
	return r.Parent
}

func dataRefHash(r delayedref.Ref) uint64 {
	return ondisk.ExtentDataRefHash(ondisk.TreeID(r.Root), ondisk.ObjectID(r.Objectid), r.Offset)
}

// compareInline orders inline refs: type ascending, then descending.
func compareInline(a, b delayedref.Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(order(b), order(a)))
}

func isData(k delayedref.Kind) bool { return k == delayedref.ExtentData || k == delayedref.SharedData }

// parseExtentItem takes an item apart. The errors are findings about disk content.
func parseExtentItem(item []byte, key ondisk.Key) (*extentItem, error) {
	e := new(extentItem)
	return e, e.parse(item, key)
}

// parse takes an item apart into e, whose memory is used again.
func (e *extentItem) parse(item []byte, key ondisk.Key) error {
	if len(item) < ondisk.ExtentItemSize {
		return corruptExtent(key.ObjectID, "extent item of %d bytes, at least %d expected", len(item), ondisk.ExtentItemSize)
	}
	h := ondisk.AsExtentItem(item)
	*e = extentItem{refs: h.Refs(), gen: h.Generation(), flags: h.Flags(), refsV: e.refsV[:0]}
	e.refsV = slices.Grow(e.refsV, len(item)/ondisk.ExtentInlineRefSize)
	if key.Type == ondisk.ExtentItemKey && e.flags&ondisk.ExtentFlagTreeBlock != 0 {
		end := ondisk.ExtentItemSize + ondisk.TreeBlockInfoSize
		if len(item) < end {
			return corruptExtent(key.ObjectID, "extent item of %d bytes has no room for its tree block info", len(item))
		}
		e.info = slices.Clone(item[ondisk.ExtentItemSize:end])
	}
	err := ondisk.InlineRefs(item, key.Type, func(r ondisk.InlineRef) bool {
		if r.Type == ondisk.ExtentOwnerRefKey {
			e.owner = slices.Clone(item[r.Off : r.Off+r.Len])
			return true
		}
		in := inlineRef{ref: delayedref.Ref{Kind: delayedref.Kind(r.Type)}, count: uint64(r.Count)}
		switch r.Type {
		case ondisk.TreeBlockRefKey:
			in.ref.Root = r.Offset
		case ondisk.ExtentDataRefKey:
			in.ref.Root, in.ref.Objectid, in.ref.Offset = uint64(r.Data.Root()), uint64(r.Data.ObjectID()), r.Data.Offset()
		default:
			in.ref.Parent = r.Offset
		}
		e.refsV = append(e.refsV, in)
		return true
	})
	if err != nil {
		return corruptExtent(key.ObjectID, "inline refs: %v", err)
	}
	return nil
}

func corruptExtent(addr ondisk.ObjectID, format string, args ...any) error {
	return &fserr.Corrupt{What: "extent", Root: uint64(ondisk.ExtentTree), Block: uint64(addr), Slot: fserr.NoSlot, Msg: fmt.Sprintf(format, args...)}
}

// size is the length of the encoded item.
func (e *extentItem) size() int {
	n := ondisk.ExtentItemSize + len(e.info) + len(e.owner)
	for i := range e.refsV {
		n += ondisk.InlineRefSize(refType(e.refsV[i].ref.Kind))
	}
	return n
}

func (e *extentItem) encode() []byte { return e.append(nil) }

// append encodes the item into the memory behind b, which it does not keep.
func (e *extentItem) append(b []byte) []byte {
	n := e.size()
	b = slices.Grow(b[:0], n)[:n]
	h := ondisk.AsExtentItem(b)
	h.SetRefs(e.refs)
	h.SetGeneration(e.gen)
	h.SetFlags(e.flags)
	at := ondisk.ExtentItemSize
	at += copy(b[at:], e.info)
	at += copy(b[at:], e.owner)
	for i := range e.refsV {
		at += putInlineRef(b[at:], &e.refsV[i])
	}
	return b
}

func putInlineRef(b []byte, r *inlineRef) int {
	t := refType(r.ref.Kind)
	b[0] = byte(t)
	switch r.ref.Kind {
	case delayedref.ExtentData:
		putDataRef(b[1:], r.ref, uint32(r.count))
	case delayedref.TreeBlock:
		binary.LittleEndian.PutUint64(b[1:], r.ref.Root)
	case delayedref.SharedBlock:
		binary.LittleEndian.PutUint64(b[1:], r.ref.Parent)
	case delayedref.SharedData:
		binary.LittleEndian.PutUint64(b[1:], r.ref.Parent)
		ondisk.AsSharedDataRef(b[ondisk.ExtentInlineRefSize:]).SetCount(uint32(r.count))
	}
	return ondisk.InlineRefSize(t)
}

func putDataRef(b []byte, r delayedref.Ref, count uint32) {
	d := ondisk.AsExtentDataRef(b)
	d.SetRoot(ondisk.TreeID(r.Root))
	d.SetObjectID(ondisk.ObjectID(r.Objectid))
	d.SetOffset(r.Offset)
	d.SetCount(count)
}

// inlineCount is how many references the item itself names; the rest have items of their own.
func (e *extentItem) inlineCount() uint64 {
	n := uint64(0)
	for i := range e.refsV {
		n += e.refsV[i].count
	}
	return n
}

func (e *extentItem) find(r delayedref.Ref) int {
	return slices.IndexFunc(e.refsV, func(in inlineRef) bool {
		in.ref.Level = r.Level
		return in.ref == r
	})
}

// insert puts a new inline ref where the order wants it: before the first that sorts behind it.
func (e *extentItem) insert(r delayedref.RefCount) {
	at := slices.IndexFunc(e.refsV, func(in inlineRef) bool { return compareInline(in.ref, r.Ref) > 0 })
	if at < 0 {
		at = len(e.refsV)
	}
	in := inlineRef{ref: r.Ref, count: uint64(r.Count)}
	in.ref.Level = 0
	e.refsV = slices.Insert(e.refsV, at, in)
}

// maxExtentItem is how large inline refs may make an extent item; more refs get items of their own
// (fs/btrfs/ctree.h, BTRFS_MAX_EXTENT_ITEM_SIZE).
func maxExtentItem(nodesize int) int { return ondisk.LeafDataSize(nodesize)>>4 - ondisk.ItemSize }

// change applies reference changes to the item and returns those that concern keyed ref items. Additions come first in
// refs. A ref is never both inline and keyed: none is added inline while the extent has keyed ones, and it has some
// exactly when the item counts more references than it names.
func (e *extentItem) change(addr ondisk.ObjectID, refs []delayedref.RefCount, limit int) (keyed []delayedref.RefCount, err error) {
	overflowed := e.refs > e.inlineCount()
	sum := int64(0)
	for _, r := range refs {
		sum += int64(r.Count)
		i := e.find(r.Ref)
		switch {
		case i >= 0:
			n := int64(e.refsV[i].count) + int64(r.Count)
			if n < 0 {
				return nil, corruptExtent(addr, "%v has count %d, cannot change by %d", r.Ref, e.refsV[i].count, r.Count)
			}
			if !isData(r.Kind) && n > 1 {
				return nil, corruptExtent(addr, "%v is there already", r.Ref)
			}
			if e.refsV[i].count = uint64(n); n == 0 {
				e.refsV = slices.Delete(e.refsV, i, i+1)
			}
		case r.Count < 0 && !overflowed:
			return nil, corruptExtent(addr, "%v is missing, cannot drop %d", r.Ref, -r.Count)
		case r.Count < 0, overflowed, len(keyed) > 0,
			e.size()+ondisk.InlineRefSize(refType(r.Kind)) >= limit:
			keyed = append(keyed, r)
		default:
			if !isData(r.Kind) && r.Count > 1 {
				return nil, corruptExtent(addr, "%v added %d times", r.Ref, r.Count)
			}
			e.insert(r)
		}
	}
	if sum < 0 && uint64(-sum) > e.refs {
		return nil, corruptExtent(addr, "refs %d, cannot change by %d", e.refs, sum)
	}
	e.refs += uint64(sum)
	if e.refs == 0 && len(e.refsV) > 0 {
		return nil, corruptExtent(addr, "no refs left, but %d inline, first %v", len(e.refsV), e.refsV[0].ref)
	}
	return keyed, nil
}
