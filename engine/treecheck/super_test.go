package treecheck

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

// testSuper is a valid superblock with one SYSTEM chunk.
func testSuper() *ondisk.SuperBlock {
	sb := new(ondisk.SuperBlock)
	sb.SetMagic(ondisk.Magic)
	sb.SetBytenr(ondisk.SuperOffsets[0])
	sb.SetFSID(testFSID)
	sb.DevItem().SetFSID(testFSID)
	sb.SetGeneration(testGen)
	sb.SetRoot(30 * mib)
	sb.SetChunkRoot(22 * mib)
	sb.SetTotalBytes(1 << 30)
	sb.SetBytesUsed(6 * 16384)
	sb.SetNumDevices(1)
	sb.SetSectorSize(4096)
	sb.SetNodeSize(16384)
	sb.SetLeafSize(16384)
	sb.SetStripeSize(4096)
	sb.SetIncompatFlags(WriteIncompat &^ ondisk.IncompatMetadataUUID)
	sb.SetCompatROFlags(WriteCompatRO)
	setArray(sb, sysEntry(22*mib, chunk(ondisk.BGSystem|ondisk.BGDup, 8*mib, 1, 22*mib, 30*mib)))
	return sb
}

func sysEntry(start uint64, item []byte) []byte {
	b := make([]byte, ondisk.KeySize, ondisk.KeySize+len(item))
	ondisk.PutKey(b, key(ondisk.FirstChunkObjectID, ondisk.ChunkItemKey, start))
	return append(b, item...)
}

func setArray(sb *ondisk.SuperBlock, entries ...[]byte) {
	all := bytes.Join(entries, nil)
	sb.SetSysChunkArraySize(uint32(len(all)))
	copy(sb.SysChunkArray(), all)
}

var superDamages = []struct {
	want string
	edit func(sb *ondisk.SuperBlock)
}{
	{"invalid magic", func(sb *ondisk.SuperBlock) { sb.SetMagic(1) }},
	{"invalid bytenr, have 4096", func(sb *ondisk.SuperBlock) { sb.SetBytenr(4096) }},
	{"unknown checksum algorithm, have 4", func(sb *ondisk.SuperBlock) { sb.SetCsumType(4) }},
	{"dev_item fsid does not match", func(sb *ondisk.SuperBlock) { sb.SetFSID(ondisk.UUID{7}) }},
	{"dev_item fsid does not match", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatMetadataUUID) }},
	{"a change of the fsid was not finished", func(sb *ondisk.SuperBlock) { sb.SetFlags(ondisk.SuperFlagChangingFSID) }},
	{"invalid sectorsize, have 2048", func(sb *ondisk.SuperBlock) { sb.SetSectorSize(2048) }},
	{"invalid sectorsize, have 5000", func(sb *ondisk.SuperBlock) { sb.SetSectorSize(5000) }},
	{"invalid nodesize, have 2048", func(sb *ondisk.SuperBlock) { sb.SetNodeSize(2048) }},
	{"invalid nodesize, have 131072", func(sb *ondisk.SuperBlock) { sb.SetNodeSize(131072) }},
	{"invalid leafsize, have 4096 expect 16384", func(sb *ondisk.SuperBlock) { sb.SetLeafSize(4096) }},
	{"invalid stripesize, have 0", func(sb *ondisk.SuperBlock) { sb.SetStripeSize(0) }},
	{"invalid tree_root level, have 8", func(sb *ondisk.SuperBlock) { sb.SetRootLevel(8) }},
	{"invalid chunk_root level, have 9", func(sb *ondisk.SuperBlock) { sb.SetChunkRootLevel(9) }},
	{"invalid log_root level, have 8", func(sb *ondisk.SuperBlock) { sb.SetLogRootLevel(8) }},
	{"invalid tree_root block, have 0", func(sb *ondisk.SuperBlock) { sb.SetRoot(0) }},
	{"invalid chunk_root block, have 1", func(sb *ondisk.SuperBlock) { sb.SetChunkRoot(1) }},
	{"invalid log_root block, have 512", func(sb *ondisk.SuperBlock) { sb.SetLogRoot(512) }},
	{"invalid bytes_used, have 98303 expect at least 98304", func(sb *ondisk.SuperBlock) { sb.SetBytesUsed(6*16384 - 1) }},
	{"invalid number of devices, have 0", func(sb *ondisk.SuperBlock) { sb.SetNumDevices(0) }},
	{"invalid generation, have 0", func(sb *ondisk.SuperBlock) { sb.SetGeneration(0) }},
	{"system chunk array too big, have 2049 max 2048", func(sb *ondisk.SuperBlock) { sb.SetSysChunkArraySize(2049) }},
	{"system chunk array too small, have 96 min 97", func(sb *ondisk.SuperBlock) { sb.SetSysChunkArraySize(96) }},
	{"block-group-tree feature requires", func(sb *ondisk.SuperBlock) { sb.SetCompatROFlags(ondisk.CompatROBlockGroupTree) }},
	{"block-group-tree feature requires", func(sb *ondisk.SuperBlock) { sb.SetIncompatFlags(ondisk.IncompatMixedBackref) }},
}

func TestSuper(t *testing.T) {
	for i, off := range ondisk.SuperOffsets {
		sb := testSuper()
		sb.SetBytenr(off)
		if err := Super(sb); err != nil {
			t.Errorf("copy %d: %v", i, err)
		}
	}
	for _, d := range superDamages {
		sb := testSuper()
		d.edit(sb)
		err := Super(sb)
		if err == nil || !strings.Contains(err.Error(), d.want) || !errors.Is(err, fserr.ErrCorrupt) || !strings.HasPrefix(err.Error(), "corrupt super: ") {
			t.Errorf("have %v expect %q", err, d.want)
		}
	}
}

func TestFeatures(t *testing.T) {
	for _, d := range []struct {
		incompat, compatRO uint64
		write              bool
		want               string
	}{
		{ondisk.IncompatRaid56, 0, false, "unsupported to read: incompat feature RAID56"},
		{ondisk.IncompatZoned | ondisk.IncompatExtentTreeV2 | 1<<60, 0, false, "incompat feature ZONED, EXTENT_TREE_V2, 0x1000000000000000"},
		{ondisk.IncompatMixedGroups | ondisk.IncompatSimpleQuota, 0, false, ""},
		{ondisk.IncompatMixedGroups, 0, true, "unsupported to write: incompat feature MIXED_GROUPS"},
		{ondisk.IncompatSimpleQuota, 0, true, "incompat feature SIMPLE_QUOTA"},
		{0, 1 << 40, false, ""},
		{0, 1 << 40, true, "compat_ro feature 0x10000000000; open the image read-only"},
	} {
		sb := testSuper()
		sb.SetIncompatFlags(sb.IncompatFlags() | d.incompat)
		sb.SetCompatROFlags(sb.CompatROFlags() | d.compatRO)
		err := Features(sb, d.write)
		if d.want == "" {
			if err != nil {
				t.Error(err)
			}
		} else if err == nil || !strings.Contains(err.Error(), d.want) || !errors.Is(err, fserr.ErrUnsupported) {
			t.Errorf("have %v expect %q", err, d.want)
		}
	}
	sb := testSuper()
	sb.SetSectorSize(16384)
	if err := Super(sb); !errors.Is(err, fserr.ErrUnsupported) || !strings.Contains(err.Error(), "sector size 16384") {
		t.Errorf("sector size 16384: %v", err)
	}
}

func TestSysChunkArray(t *testing.T) {
	good := func(start uint64) []byte { return sysEntry(start, chunk(ondisk.BGSystem, 8*mib, 1, 22*mib)) }
	patch := func(at int, v byte) []byte { b := good(8 * mib); b[at] = v; return b }
	for _, d := range []struct {
		entries [][]byte
		n       int // entries seen
		want    string
	}{
		{[][]byte{good(8 * mib)}, 1, ""},
		{[][]byte{good(8 * mib), good(16 * mib), good(24 * mib)}, 3, ""},
		{[][]byte{good(8 * mib), {1, 2, 3}}, 1, "sys_chunk_array offset 97: short entry, have 3 bytes expect at least 97"},
		{[][]byte{patch(8, 1)}, 0, "unexpected key (256 INODE_ITEM 8388608)"},
		{[][]byte{patch(0, 1)}, 0, "unexpected key"},
		{[][]byte{patch(ondisk.KeySize+44, 2)}, 0, "chunk item crosses the array's end, have 129 boundary 97"},
		{[][]byte{patch(ondisk.KeySize+44, 0), good(8 * mib)}, 0, "corrupt chunk: root=3, chunk_start=8388608, invalid chunk item size, have 48"},
		{[][]byte{sysEntry(8*mib, chunk(ondisk.BGData, 8*mib, 1, 0))}, 0, "invalid chunk type 0x1, expect a SYSTEM chunk"},
		{[][]byte{sysEntry(8*mib+1, chunk(ondisk.BGSystem, 8*mib, 1, 0))}, 0, "invalid chunk logical"},
	} {
		sb := testSuper()
		setArray(sb, d.entries...)
		n := 0
		err := SysChunkArray(sb, func(start ondisk.Logical, item []byte) error {
			n++
			if start != ondisk.Logical(n*8*mib) || ondisk.AsChunk(item).Length() != 8*mib || len(item) != ondisk.ChunkItemSize(1) {
				t.Errorf("entry %d: start %d, %d bytes", n, start, len(item))
			}
			return nil
		})
		if n != d.n {
			t.Errorf("%q: %d entries, expect %d", d.want, n, d.n)
		}
		if (err == nil) != (d.want == "") || (err != nil && (!strings.Contains(err.Error(), d.want) || !errors.Is(err, fserr.ErrCorrupt))) {
			t.Errorf("have %v expect %q", err, d.want)
		}
	}
	sb := testSuper()
	sb.SetSysChunkArraySize(math.MaxUint32)
	if err := SysChunkArray(sb, nil); err == nil || !strings.Contains(err.Error(), "at most 2048 fit") {
		t.Error(err)
	}
	stop := errors.New("stop")
	if err := SysChunkArray(testSuper(), func(ondisk.Logical, []byte) error { return stop }); err != stop {
		t.Error(err)
	}
}

func TestChunkBySuper(t *testing.T) {
	sb := testSuper()
	if err := Chunk(8*mib, chunk(ondisk.BGData|ondisk.BGRaid0, 8*mib, 1, 0, mib, 2*mib), sb); err != nil {
		t.Error(err)
	}
	err := Chunk(8*mib, chunk(ondisk.BGData|ondisk.BGMetadata, 8*mib, 1, 0), sb)
	if err == nil || err.Error() != "corrupt chunk: root=3, chunk_start=8388608, mixed chunk type in non-mixed mode: 0x5" {
		t.Error(err)
	}
	sb.SetIncompatFlags(sb.IncompatFlags() | ondisk.IncompatMixedGroups)
	if err := Chunk(8*mib, chunk(ondisk.BGData|ondisk.BGMetadata, 8*mib, 1, 0), sb); err != nil {
		t.Error(err)
	}
}
