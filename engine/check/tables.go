package check

import (
	"sync/atomic"

	"imgtool/engine/ondisk"
)

// parts is what one worker collects of the trees other than those of files.
type parts struct {
	chunks     []chunkItem
	devItems   []ondisk.DevItem
	devExtents []devExtent
	roots      []rootItem
	rootRefs   []rootRef
	orphans    []ondisk.TreeID
	cacheRefs  []dataRef
	extents    []extent
	keyed      []keyedRef
	groups     []group
	csums      []span
	infos      []freeInfo
	free       []freeSpan
	uuids      []uuidEntry
}

// tables is what the checker knows of those trees, each table sorted by address or id.
type tables struct {
	chunkRoot, rootRoot *treeRoot
	chunks              []chunkItem
	devItems            []ondisk.DevItem
	devExtents          []devExtent
	roots               []rootItem
	rootRefs            []rootRef // forward ones first, then backward
	orphans             map[ondisk.TreeID]bool
	defaultDir          ondisk.TreeID // what the name "default" leads to, 0 if there is none
	hasDefault          bool
	cacheRefs           []dataRef // of the root tree: the free-space caches of version 1
	extents             []extent
	extentAt            addrIndex // of extents, by address
	keyed               []keyedRef
	groups              []group
	csums               []span // with neighbours joined
	infos               []freeInfo
	free                []freeSpan
	uuids               []uuidEntry
	fileRoots           []*treeRoot
	dataBytes           atomic.Uint64
}

// span is a range of logical addresses.
type span struct {
	start, end uint64
}

// rootItem is a ROOT_ITEM, cut to what is needed.
type rootItem struct {
	treeRoot
	offset         uint64 // of its key
	refs           uint32
	rootDir        ondisk.ObjectID
	uuid, received ondisk.UUID
	dropKey        ondisk.Key
	dropLevel      uint8
	at             ondisk.Logical // block that holds it
}

// alive reports whether a user can reach the tree.
func (r *rootItem) alive() bool { return r.refs > 0 }

// rootRef is a ROOT_REF, or a ROOT_BACKREF turned round.
type rootRef struct {
	parent, child ondisk.TreeID
	back          bool
	dir           ondisk.ObjectID
	seq           uint64
	name          string
	at            ondisk.Logical
}

// uuidEntry is one number in an item of the uuid tree.
type uuidEntry struct {
	key ondisk.Key
	id  ondisk.TreeID
}
