package hostile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"testing"

	"imgtool/engine/ondisk"
)

// enemy is an image that has been spoiled with a purpose.
type enemy struct {
	name   string
	notice []string // commands
	spoil  func(t *testing.T, im *image)
}

// enemies are images that are made to take for ever, or all memory there is. Whoever must notice says so with an error;
// the others may succeed, within the bounds.
var enemies = []enemy{
	{"a node of a tree leads to itself", []string{"check", "manifest"}, func(t *testing.T, im *image) {
		im.nodes(t, func(b ondisk.Block) {
			for i := range b.NrItems() {
				b.SetPtr(i, b.Key(i), b.Header().Bytenr(), b.Header().Generation())
			}
		})
	}},
	{"all pointers of a node lead to one leaf", []string{"check"}, func(t *testing.T, im *image) {
		im.nodes(t, func(b ondisk.Block) {
			for i := range b.NrItems() {
				b.SetPtr(i, b.Key(i), b.BlockPtr(0), b.PtrGeneration(0))
			}
		})
	}},
	{"a directory contains itself", []string{"check", "manifest", "get -r"}, func(t *testing.T, im *image) {
		im.entries(t, "beside", func(dir ondisk.ObjectID) ondisk.ObjectID { return dir })
	}},
	{"each directory has two names in the one above, 2^40 paths", []string{"check", "manifest", "get -r"}, func(t *testing.T, im *image) {
		below := map[ondisk.ObjectID]ondisk.ObjectID{}
		im.items(t, ondisk.FSTree, func(k ondisk.Key, item []byte) bool {
			if k.Type == ondisk.DirIndexKey {
				_ = ondisk.DirEntries(item, func(e ondisk.DirEntry) bool {
					if string(e.Name) == "below" {
						below[k.ObjectID] = e.Location().ObjectID
					}
					return true
				})
			}
			return k.Type == ondisk.DirIndexKey
		})
		im.entries(t, "beside", func(dir ondisk.ObjectID) ondisk.ObjectID { return below[dir] })
	}},
	{"a subvolume contains the one that it lies in", []string{"check"}, func(t *testing.T, im *image) {
		im.items(t, ondisk.FSTree, func(k ondisk.Key, item []byte) bool {
			return patchEntries(k, item, "sub", ondisk.Key{ObjectID: ondisk.ObjectID(ondisk.FSTree), Type: ondisk.RootItemKey, Offset: ^uint64(0)}, ondisk.FTDir)
		})
	}},
	{"a chunk wraps round the end of addresses", []string{"check", "scrub"}, func(t *testing.T, im *image) {
		im.items(t, ondisk.ChunkTree, func(k ondisk.Key, item []byte) bool {
			if k.Type == ondisk.ChunkItemKey {
				ondisk.AsChunk(item).SetLength(^uint64(0) - 65535)
			}
			return k.Type == ondisk.ChunkItemKey
		})
	}},
	{"chunks overlap", []string{"check", "scrub"}, func(t *testing.T, im *image) {
		im.items(t, ondisk.ChunkTree, func(k ondisk.Key, item []byte) bool {
			if k.Type == ondisk.ChunkItemKey {
				ondisk.AsChunk(item).SetLength(ondisk.AsChunk(item).Length() + 1<<30)
			}
			return k.Type == ondisk.ChunkItemKey
		})
	}},
	{"numbers of items lie", []string{"check", "scrub", "manifest"}, func(t *testing.T, im *image) {
		for i := range im.blocks {
			im.edit(t, i, func(b ondisk.Block) { b.SetNrItems(0x7fffffff) })
		}
	}},
	{"items are 4 GiB long", []string{"check", "scrub", "manifest"}, func(t *testing.T, im *image) {
		for i := range im.blocks {
			im.edit(t, i, func(b ondisk.Block) {
				if b.IsLeaf() {
					binary.LittleEndian.PutUint32(b[ondisk.HeaderSize+ondisk.KeySize+4:], 1<<32-1)
				}
			})
		}
	}},
	{"files of 2^63 bytes", []string{"check"}, func(t *testing.T, im *image) {
		im.inodes(t, func(i *ondisk.InodeItem) { i.SetSize(1 << 63) })
	}},
	{"files of 2^63-1 bytes", nil, func(t *testing.T, im *image) {
		im.inodes(t, func(i *ondisk.InodeItem) { i.SetSize(1<<63 - 1) })
	}},
	{"extents of 2^63 bytes", []string{"check"}, func(t *testing.T, im *image) {
		im.extents(t, func(e *ondisk.FileExtentItem) {
			e.SetNumBytes(1 << 63)
			e.SetRAMBytes(1 << 63)
			e.SetDiskNumBytes(1 << 63)
		})
	}},
	{"extents that unpack to 2^62 bytes", []string{"check", "manifest"}, func(t *testing.T, im *image) {
		im.extents(t, func(e *ondisk.FileExtentItem) {
			e.SetCompression(ondisk.CompressZlib)
			e.SetRAMBytes(1 << 62)
			e.SetNumBytes(1 << 62)
		})
	}},
	{"a decompression bomb in the tree", []string{"check"}, func(t *testing.T, im *image) {
		var bomb bytes.Buffer
		z := zlib.NewWriter(&bomb)
		for range 512 {
			_, _ = z.Write(make([]byte, 1024)) // into memory
		}
		_ = z.Close()
		im.items(t, 256, func(k ondisk.Key, item []byte) bool {
			if k.Type != ondisk.ExtentDataKey || len(item) <= ondisk.FileExtentInlineStart || item[20] != ondisk.FileExtentInline {
				return false
			}
			binary.LittleEndian.PutUint64(item[8:], 1<<40) // ram_bytes
			item[16] = ondisk.CompressZlib
			return copy(item[ondisk.FileExtentInlineStart:], bomb.Bytes()) == bomb.Len()
		})
	}},
	{"a superblock that wants everything", nil, func(t *testing.T, im *image) {
		im.super(t, func(sb *ondisk.SuperBlock) {
			sb.SetTotalBytes(1 << 63)
			sb.SetBytesUsed(1 << 63)
			sb.SetNumDevices(1 << 63)
			sb.SetNodeSize(1 << 31)
			sb.SetSysChunkArraySize(1<<32 - 1)
		})
	}},
}

// TestBounds reads each of them with every command.
func TestBounds(t *testing.T) {
	for _, e := range enemies {
		t.Run(e.name, func(t *testing.T) {
			im := newImage(t)
			e.spoil(t, im)
			said := readAll(t, im)
			for _, who := range e.notice {
				if said[who] == nil {
					t.Errorf("%s has not noticed", who)
				}
			}
			for who, err := range said {
				t.Logf("%s: %v", who, err)
			}
		})
	}
}

// nodes changes every block that is no leaf, of trees of files.
func (im *image) nodes(t *testing.T, f func(ondisk.Block)) {
	t.Helper()
	n := 0
	for i := range im.blocks {
		if b := im.read(t, i); !b.IsLeaf() && b.Header().Owner().IsFileTree() {
			im.edit(t, i, f)
			n++
		}
	}
	if n == 0 {
		t.Fatal("no tree has more than one level")
	}
}

// entries lets every name in the top tree lead to another inode, that of a directory; names keep their length.
func (im *image) entries(t *testing.T, name string, to func(dir ondisk.ObjectID) ondisk.ObjectID) {
	t.Helper()
	im.items(t, ondisk.FSTree, func(k ondisk.Key, item []byte) bool {
		return patchEntries(k, item, name, ondisk.Key{ObjectID: to(k.ObjectID), Type: ondisk.InodeItemKey}, ondisk.FTDir)
	})
}

// patchEntries changes what the entries of an item lead to: location at their start, type at byte 29.
func patchEntries(k ondisk.Key, item []byte, name string, to ondisk.Key, typ uint8) (hit bool) {
	if k.Type != ondisk.DirItemKey && k.Type != ondisk.DirIndexKey {
		return false
	}
	at := 0
	for at+30 <= len(item) {
		e := item[at:]
		data, n := int(binary.LittleEndian.Uint16(e[25:])), int(binary.LittleEndian.Uint16(e[27:]))
		if string(e[30:min(len(e), 30+n)]) == name {
			ondisk.PutKey(e, to)
			e[29] = typ
			hit = true
		}
		at += 30 + n + data
	}
	return hit
}

// inodes changes the inode items of all regular files.
func (im *image) inodes(t *testing.T, f func(*ondisk.InodeItem)) {
	t.Helper()
	im.items(t, 256, func(k ondisk.Key, item []byte) bool {
		if k.Type != ondisk.InodeItemKey || ondisk.AsInodeItem(item).Mode()&ondisk.ModeFmt != ondisk.ModeReg {
			return false
		}
		f(ondisk.AsInodeItem(item))
		return true
	})
}

// extents changes the extents of files that are not in the tree.
func (im *image) extents(t *testing.T, f func(*ondisk.FileExtentItem)) {
	t.Helper()
	im.items(t, 256, func(k ondisk.Key, item []byte) bool {
		if k.Type != ondisk.ExtentDataKey || len(item) != ondisk.FileExtentItemSize {
			return false
		}
		f(ondisk.AsFileExtentItem(item))
		return true
	})
}
