package extent

import (
	"bytes"
	"testing"

	"imgtool/engine/ondisk"
	"imgtool/freespace"
)

// FuzzFreeSpaceItems reads a block group's free space from items of any content: an error, or ranges that
// lie in the group, which an index then takes or refuses.
func FuzzFreeSpaceItems(f *testing.F) {
	const start, length = 64 << 20, 32 << 20
	g := &group{start: start, length: length}
	item := func(typ ondisk.ItemType, objectid, offset uint64, data []byte) []byte {
		b := make([]byte, ondisk.KeySize+2, ondisk.KeySize+2+len(data))
		ondisk.PutKey(b, ondisk.Key{ObjectID: ondisk.ObjectID(objectid), Type: typ, Offset: offset})
		b[ondisk.KeySize], b[ondisk.KeySize+1] = byte(len(data)), byte(len(data)>>8)
		return append(b, data...)
	}
	var info ondisk.FreeSpaceInfo
	info.SetExtentCount(2)
	head := item(ondisk.FreeSpaceInfoKey, start, length, info[:])
	f.Add(bytes.Join([][]byte{head, item(ondisk.FreeSpaceExtentKey, start, 4096, nil), item(ondisk.FreeSpaceExtentKey, start+1<<20, 1<<20, nil)}, nil))
	f.Add(append(head, item(ondisk.FreeSpaceBitmapKey, start, 8*4096, []byte{0xf0})...))
	f.Add(item(ondisk.FreeSpaceExtentKey, start+4096, ^uint64(0)-4095, nil))
	f.Add(item(ondisk.FreeSpaceBitmapKey, start+length-4096, bitmapRange, make([]byte, ondisk.FreeSpaceBitmapBytes)))
	f.Fuzz(func(t *testing.T, in []byte) {
		// The items of a leaf that treecheck has passed: its keys ascend, and lie in the range that is asked for.
		scan := func(from, to ondisk.Key, fn func(ondisk.Key, []byte) (bool, error)) error {
			last := from
			for in := in; len(in) >= ondisk.KeySize+2; {
				k := ondisk.GetKey(in)
				n := min(int(in[ondisk.KeySize])|int(in[ondisk.KeySize+1])<<8, len(in)-ondisk.KeySize-2)
				data := in[ondisk.KeySize+2:][:n]
				in = in[ondisk.KeySize+2+n:]
				if k.Compare(last) <= 0 || k.Compare(to) > 0 {
					continue
				}
				last = k
				if more, err := fn(k, data); !more || err != nil {
					return err
				}
			}
			return nil
		}
		_, free, err := g.collectFree(scan)
		if err != nil {
			return
		}
		for _, r := range free {
			if !g.holds(r.start, r.n) || r.n == 0 {
				t.Fatalf("range of %d bytes at %d leaves the group", r.n, r.start)
			}
		}
		_ = freespace.New(g.start, g.length, ondisk.SectorSize).Load(ranges(free)) // an error or success
	})
}

// ranges is a freespace.Source.
type ranges []addrRange

func (r ranges) LoadFree(add func(start, n uint64) error) error {
	for _, one := range r {
		if err := add(one.start, one.n); err != nil {
			return err
		}
	}
	return nil
}
