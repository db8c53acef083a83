package inode

import (
	"context"
	"errors"
	"fmt"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// RootDir is the inode number of the top directory of every file tree.
const RootDir = ondisk.FirstFreeObjectID

const sectorSize = ondisk.SectorSize

// Source is one file tree to read from, current or of an old commit, with the data it refers to. Functions passed in
// may run under a lock: they neither read a tree nor block, and keep nothing of the item.
type Source interface {
	DataIO
	CsumReader
	// ID is the tree's.
	ID() ondisk.TreeID
	// View calls fn with the item of the key, fserr.ErrNotFound if there is none.
	View(ctx context.Context, key ondisk.Key, fn func(item []byte) error) error
	// SeekGE and SeekLE find the nearest item at or behind, at or before the key; ok is false if there is none. The item
	// is a copy.
	SeekGE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error)
	SeekLE(ctx context.Context, key ondisk.Key) (k ondisk.Key, item []byte, ok bool, err error)
	// Scan calls fn for the items from one key to another, both included, until it says no more.
	Scan(ctx context.Context, from, to ondisk.Key, fn func(k ondisk.Key, item []byte) (more bool, err error)) error
}

// liveSource is the current tree with the store's data.
type liveSource struct {
	Tree
	DataIO
	CsumReader
}

// Reader reads one file tree. It is safe for concurrent use; what it gives is as consistent as its Source: of a
// tree that others change, each call sees some state during the call.
type Reader struct {
	src  Source
	id   ondisk.TreeID
	csum ondisk.CsumType
	pool *disk.Pool
}

// ReaderOptions are what a Reader needs besides the tree.
type ReaderOptions struct {
	Csum ondisk.CsumType
	Pool *disk.Pool // for data that needs a buffer of its own; nil takes the Go heap
}

// NewReader reads the tree that src shows.
func NewReader(src Source, o ReaderOptions) *Reader {
	return &Reader{src: src, id: src.ID(), csum: o.Csum, pool: o.Pool}
}

// ID returns the tree's id.
func (r *Reader) ID() ondisk.TreeID { return r.id }

// Inode returns the inode item. fserr.ErrNotFound if there is no such inode.
func (r *Reader) Inode(ctx context.Context, ino ondisk.ObjectID) (ondisk.InodeItem, error) {
	var it ondisk.InodeItem
	err := r.src.View(ctx, inodeKey(ino), func(item []byte) error {
		if len(item) < ondisk.InodeItemSize {
			return r.corrupt(ino, "inode item of %d bytes", len(item))
		}
		it = *ondisk.AsInodeItem(item)
		return nil
	})
	if err != nil {
		return it, r.at(ino, err)
	}
	return it, nil
}

// at names the inode in an error from the tree. Findings about disk content already say where they are.
func (r *Reader) at(ino ondisk.ObjectID, err error) error {
	if err == nil || errors.Is(err, fserr.ErrCorrupt) {
		return err
	}
	return fmt.Errorf("inode %d of tree %v: %w", ino, r.id, err)
}

func (r *Reader) corrupt(ino ondisk.ObjectID, format string, args ...any) *fserr.Corrupt {
	return &fserr.Corrupt{What: "inode", Root: uint64(r.id), Slot: fserr.NoSlot, Ino: uint64(ino),
		Msg: fmt.Sprintf(format, args...)}
}

func inodeKey(ino ondisk.ObjectID) ondisk.Key {
	return ondisk.Key{ObjectID: ino, Type: ondisk.InodeItemKey}
}

func typeKey(ino ondisk.ObjectID, t ondisk.ItemType, off uint64) ondisk.Key {
	return ondisk.Key{ObjectID: ino, Type: t, Offset: off}
}

// MakeRdev and SplitRdev convert between a device's numbers and InodeItem.Rdev, which holds them as the kernel does
// inside (12 bits of major above 20 bits of minor, include/linux/kdev_t.h), not as stat(2) shows them.
func MakeRdev(major, minor uint32) uint64 { return uint64(major)<<20 | uint64(minor&(1<<20-1)) }

// SplitRdev is the inverse of MakeRdev.
func SplitRdev(rdev uint64) (major, minor uint32) {
	return uint32(rdev >> 20), uint32(rdev & (1<<20 - 1))
}

// getBuf returns a buffer of n bytes, aligned if there is a pool; putBuf takes it back.
func (r *Reader) getBuf(n int) []byte {
	if r.pool == nil || n > disk.MaxPooled {
		return make([]byte, n)
	}
	return r.pool.Get(n)
}

func (r *Reader) putBuf(b []byte) {
	if r.pool != nil && len(b) <= disk.MaxPooled {
		r.pool.Put(b)
	}
}

func alignDown(n uint64) uint64 { return n &^ (sectorSize - 1) }
func alignUp(n uint64) uint64   { return (n + sectorSize - 1) &^ (sectorSize - 1) }
