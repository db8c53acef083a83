package treecheck

import (
	"fmt"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// Context is what the blocks of one file system have in common. Block only reads it, so one Context may serve any
// number of goroutines as long as nobody changes it. NodeSize and SectorSize are required; every other zero field
// means "not known" and drops the checks that need it.
type Context struct {
	NodeSize   int             // bytes of a tree block
	SectorSize int             // bytes, a power of two
	Csum       ondisk.CsumType // length of the entries of EXTENT_CSUM items

	FSID          ondisk.UUID // what headers carry: SuperBlock.MetadataFSID
	ChunkTreeUUID ondisk.UUID // compared only when Write is set: the kernel never looks at it on reading

	Incompat uint64 // feature bits of the superblock
	CompatRO uint64

	// MaxGeneration is the newest generation that may stand anywhere in a block: that of the last transaction that
	// was started.
	MaxGeneration ondisk.Generation

	// Write adds what only a block of our own making must fulfil; images written by old kernels may not.
	Write bool
}

// FromSuper returns the context of the file system that sb describes, for reading. Its MaxGeneration is one above the
// superblock's, for the log tree and the transaction that follows.
func FromSuper(sb *ondisk.SuperBlock) *Context {
	return &Context{
		NodeSize: int(sb.NodeSize()), SectorSize: int(sb.SectorSize()), Csum: sb.Checksum(),
		FSID: sb.MetadataFSID(), Incompat: sb.IncompatFlags(), CompatRO: sb.CompatROFlags(),
		MaxGeneration: sb.Generation() + 1,
	}
}

// Block checks one tree block, whatever its bytes are. The error is a *fserr.Corrupt.
func Block(b ondisk.Block, c *Context) error {
	if len(b) != c.NodeSize || len(b) < ondisk.HeaderSize+ondisk.KeyPtrSize {
		return fserr.Corruptf("block", 0, 0, "invalid block size, have %d expect %d", len(b), c.NodeSize)
	}
	k := checker{b: b, c: c, slot: fserr.NoSlot, align: uint64(c.SectorSize) - 1}
	if err := k.header(); err != nil {
		return err
	}
	if b.Level() == 0 {
		if err := k.leaf(); err != nil {
			return err
		}
		return nil
	}
	if err := k.node(); err != nil {
		return err
	}
	return nil
}

// checker carries one block through its checks. It stays on the stack: no method may let it escape. key, prev and item
// describe the slot under inspection; prev is the zero key at slot 0.
type checker struct {
	b         ondisk.Block
	c         *Context
	slot      int
	key, prev ondisk.Key
	item      []byte
	align     uint64 // sector size less one
}

func (k *checker) aligned(v uint64) bool { return v&k.align == 0 }

// errorf makes the finding. Callers convert their values themselves, so that nothing is boxed on the good path.
func (k *checker) errorf(format string, args ...any) *fserr.Corrupt {
	h := k.b.Header()
	what := "leaf"
	if h.Level() != 0 {
		what = "node"
	}
	return &fserr.Corrupt{What: what, Root: uint64(h.Owner()), Block: uint64(h.Bytenr()), Slot: k.slot, Msg: fmt.Sprintf(format, args...)}
}

// inof is errorf for items whose key begins with an inode number.
func (k *checker) inof(format string, args ...any) *fserr.Corrupt {
	e := k.errorf(format, args...)
	e.Ino = uint64(k.key.ObjectID)
	return e
}

func (k *checker) header() *fserr.Corrupt {
	h := k.b.Header()
	if h.Level() >= ondisk.MaxLevel {
		return k.errorf("invalid level, have %d expect [0, %d]", h.Level(), ondisk.MaxLevel-1)
	}
	if h.Bytenr() == 0 || !k.aligned(uint64(h.Bytenr())) {
		return k.errorf("invalid bytenr, have %d expect a multiple of %d", uint64(h.Bytenr()), k.c.SectorSize)
	}
	if h.Owner() == 0 {
		return k.errorf("invalid owner, root 0 is not defined")
	}
	if !k.c.FSID.IsZero() && h.FSID() != k.c.FSID {
		return k.errorf("invalid fsid, have %s expect %s", h.FSID(), k.c.FSID)
	}
	if k.c.Write && !k.c.ChunkTreeUUID.IsZero() && h.ChunkTreeUUID() != k.c.ChunkTreeUUID {
		return k.errorf("invalid chunk tree uuid, have %s expect %s", h.ChunkTreeUUID(), k.c.ChunkTreeUUID)
	}
	if k.future(h.Generation()) || h.Generation() == 0 {
		return k.errorf("invalid generation, have %d expect [1, %d]", uint64(h.Generation()), uint64(k.c.MaxGeneration))
	}
	if r := k.b.BackrefRev(); r != ondisk.BackrefRevMixed {
		return k.errorf("invalid backref revision, have %d expect %d", r, ondisk.BackrefRevMixed)
	}
	return nil
}

// future reports a generation beyond the newest one that was ever started.
func (k *checker) future(g ondisk.Generation) bool {
	return k.c.MaxGeneration != 0 && g > k.c.MaxGeneration
}

func (k *checker) node() *fserr.Corrupt {
	nr, maxPtrs := k.b.Header().NrItems(), ondisk.MaxPtrs(len(k.b))
	if nr == 0 || uint64(nr) > uint64(maxPtrs) {
		return k.errorf("invalid nritems, have %d expect [1, %d]", nr, maxPtrs)
	}
	gen := k.b.Header().Generation()
	for k.slot = 0; k.slot < int(nr); k.slot++ {
		k.key = k.b.Key(k.slot)
		if k.slot > 0 && k.prev.Compare(k.key) >= 0 {
			return k.errorf("bad key order, prev %s current %s", k.prev, k.key)
		}
		ptr := uint64(k.b.BlockPtr(k.slot))
		if ptr == 0 {
			return k.errorf("invalid NULL node pointer")
		}
		if !k.aligned(ptr) {
			return k.errorf("unaligned pointer, have %d should be aligned to %d", ptr, k.c.SectorSize)
		}
		// A child is never changed without its parent, so its generation cannot be newer.
		if g := k.b.PtrGeneration(k.slot); g == 0 || g > gen {
			return k.errorf("invalid pointer generation, have %d expect [1, %d]", uint64(g), uint64(gen))
		}
		k.prev = k.key
	}
	return nil
}

func (k *checker) leaf() *fserr.Corrupt {
	nr, space := k.b.Header().NrItems(), uint64(ondisk.LeafDataSize(len(k.b)))
	if nr == 0 {
		return k.emptyLeaf()
	}
	if uint64(nr)*ondisk.ItemSize > space {
		return k.errorf("invalid nritems, have %d expect [0, %d]", nr, space/ondisk.ItemSize)
	}
	end := space
	for k.slot = 0; k.slot < int(nr); k.slot++ {
		k.key = k.b.Key(k.slot)
		if k.prev.Compare(k.key) >= 0 {
			return k.errorf("bad key order, prev %s current %s", k.prev, k.key)
		}
		off, size := uint64(k.b.ItemOffset(k.slot)), uint64(k.b.ItemSize(k.slot))
		if off+size != end {
			return k.errorf("invalid item end, have %d expect %d", off+size, end)
		}
		if headers := uint64(nr) * ondisk.ItemSize; off < headers {
			return k.errorf("slot overlaps with its data, item end %d data start %d", headers, off)
		}
		k.item = k.b.Item(k.slot)
		if err := k.content(); err != nil {
			return err
		}
		k.prev, end = k.key, off
	}
	return nil
}

// emptyLeaf: a leaf without items is the root of an empty tree, and some trees are never empty. The owner of a block
// of a relocation tree says nothing.
func (k *checker) emptyLeaf() *fserr.Corrupt {
	if k.b.Flags()&ondisk.HeaderFlagReloc != 0 {
		return nil
	}
	switch o := k.b.Header().Owner(); o {
	case ondisk.RootTree, ondisk.ChunkTree, ondisk.ExtentTree, ondisk.DevTree, ondisk.FSTree, ondisk.DataRelocTree:
		return k.errorf("invalid root, root %d must never be empty", int64(o))
	}
	return nil
}

// content dispatches to the checks of the item's type. Unknown types are left alone, as the kernel does.
func (k *checker) content() *fserr.Corrupt {
	switch k.key.Type {
	case ondisk.InodeItemKey:
		return k.inodeItem()
	case ondisk.InodeRefKey:
		return k.inodeRef()
	case ondisk.InodeExtrefKey:
		return k.inodeExtref()
	case ondisk.DirItemKey, ondisk.DirIndexKey, ondisk.XattrItemKey:
		return k.dirItem()
	case ondisk.ExtentDataKey:
		return k.extentData()
	case ondisk.ExtentCsumKey:
		return k.extentCsum()
	case ondisk.RootItemKey:
		return k.rootItem()
	case ondisk.RootRefKey, ondisk.RootBackrefKey:
		return k.rootRef()
	case ondisk.ExtentItemKey, ondisk.MetadataItemKey:
		return k.extentItem()
	case ondisk.TreeBlockRefKey, ondisk.SharedBlockRefKey, ondisk.SharedDataRefKey, ondisk.ExtentDataRefKey:
		return k.keyedRef()
	case ondisk.BlockGroupItemKey:
		return k.blockGroup()
	case ondisk.FreeSpaceInfoKey, ondisk.FreeSpaceExtentKey, ondisk.FreeSpaceBitmapKey:
		return k.freeSpace()
	case ondisk.ChunkItemKey:
		return k.chunkItem()
	case ondisk.DevItemKey:
		return k.devItem()
	case ondisk.DevExtentKey:
		return k.devExtent()
	default:
		return k.otherItem()
	}
}

// size demands an exact item size.
func (k *checker) size(want int) *fserr.Corrupt {
	if len(k.item) != want {
		return k.errorf("invalid item size for %s, have %d expect %d", k.key.Type, len(k.item), want)
	}
	return nil
}
