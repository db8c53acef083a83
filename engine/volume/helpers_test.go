package volume

import (
	"testing"

	"imgtool/disk"
	"imgtool/engine/ondisk"
)

var (
	testFSID = ondisk.UUID{0xF5, 1}
	testSize = int64(256 << 20)
)

func devUUID(id uint64) ondisk.UUID { return ondisk.UUID{0xDE, byte(id), byte(id >> 8)} }

// chunkItem makes a CHUNK_ITEM; the stripes give device and offset.
func chunkItem(typ, length uint64, sub int, stripes ...[2]uint64) []byte {
	item := make([]byte, ondisk.ChunkItemSize(len(stripes)))
	c := ondisk.AsChunk(item)
	c.SetLength(length)
	c.SetOwner(ondisk.ExtentTree)
	c.SetStripeLen(ondisk.StripeLen)
	c.SetType(typ)
	c.SetSectorSize(4096)
	c.SetNumStripes(uint16(len(stripes)))
	c.SetSubStripes(uint16(sub))
	for i, s := range stripes {
		p := ondisk.ChunkStripe(item, i)
		p.SetDevID(s[0])
		p.SetOffset(ondisk.Physical(s[1]))
		p.SetDevUUID(devUUID(s[0]))
	}
	return item
}

// sysEntry is an entry of sys_chunk_array.
func sysEntry(start uint64, item []byte) []byte {
	e := make([]byte, ondisk.KeySize, ondisk.KeySize+len(item))
	ondisk.PutKey(e, ondisk.Key{ObjectID: ondisk.FirstChunkObjectID, Type: ondisk.ChunkItemKey, Offset: start})
	return append(e, item...)
}

// testSuper makes the superblock of one device out of n, with one SYSTEM chunk at 1 MiB.
func testSuper(id, n uint64, gen ondisk.Generation) *ondisk.SuperBlock {
	sb := new(ondisk.SuperBlock)
	sb.SetMagic(ondisk.Magic)
	sb.SetFSID(testFSID)
	sb.SetBytenr(ondisk.SuperOffsets[0])
	sb.SetGeneration(gen)
	sb.SetSectorSize(4096)
	sb.SetNodeSize(16384)
	sb.SetNumDevices(n)
	it := sb.DevItem()
	it.SetDevID(id)
	it.SetUUID(devUUID(id))
	it.SetFSID(testFSID)
	it.SetTotalBytes(uint64(testSize))
	setSys(sb, sysEntry(1<<20, chunkItem(ondisk.BGSystem, 4<<20, 0, [2]uint64{1, 1 << 20})))
	return sb
}

func setSys(sb *ondisk.SuperBlock, arr []byte) {
	clear(sb.SysChunkArray())
	sb.SetSysChunkArraySize(uint32(copy(sb.SysChunkArray(), arr)))
}

// putSuper writes sb as the copy at off.
func putSuper(t testing.TB, dev disk.Device, sb *ondisk.SuperBlock, off ondisk.Physical) {
	t.Helper()
	c := *sb
	c.SetBytenr(off)
	c.UpdateCsum()
	if _, err := dev.WriteAt(t.Context(), c[:], int64(off)); err != nil {
		t.Fatal(err)
	}
}

// testVolume is a volume of n devices in memory, of which those listed in missing are not given.
func testVolume(t testing.TB, n int, missing ...uint64) (*Volume, map[uint64]*disk.Mem) {
	t.Helper()
	mems := map[uint64]*disk.Mem{}
	var devs []disk.Device
next:
	for id := uint64(1); id <= uint64(n); id++ {
		for _, m := range missing {
			if m == id {
				continue next
			}
		}
		m := disk.NewMem("mem"+string(rune('0'+id)), testSize)
		mems[id] = m
		putSuper(t, m, testSuper(id, uint64(n), 7), ondisk.SuperOffsets[0])
		devs = append(devs, m)
	}
	v, err := Open(t.Context(), devs, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return v, mems
}

func mustAdd(t testing.TB, v *Volume, start ondisk.Logical, item []byte) {
	t.Helper()
	if err := v.AddChunk(start, item); err != nil {
		t.Fatal(err)
	}
}
