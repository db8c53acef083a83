package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/ondisk"
)

const mirror1 = 64 << 20

func TestOpenChoosesTheCopy(t *testing.T) {
	other := ondisk.UUID{0xBB}
	foreign := func(gen ondisk.Generation) *ondisk.SuperBlock {
		sb := testSuper(1, 1, gen)
		sb.SetFSID(other)
		sb.DevItem().SetFSID(other)
		return sb
	}
	torn := func(dev *disk.Mem) {
		_, _ = dev.WriteAt(context.Background(), []byte{0xFF}, 65536+3000)
	}
	for _, tc := range []struct {
		name    string
		primary *ondisk.SuperBlock
		mirror  *ondisk.SuperBlock
		damage  func(*disk.Mem)
		copy    int
		gen     ondisk.Generation // 0: error
	}{
		{name: "primary alone", primary: testSuper(1, 1, 5), gen: 5},
		{name: "same generation", primary: testSuper(1, 1, 5), mirror: testSuper(1, 1, 5), gen: 5},
		{name: "mirror is older", primary: testSuper(1, 1, 5), mirror: testSuper(1, 1, 4), gen: 5},
		{name: "mirror is newer", primary: testSuper(1, 1, 5), mirror: testSuper(1, 1, 6), gen: 6},
		{name: "mirror of an older file system", primary: testSuper(1, 1, 5), mirror: foreign(600), gen: 5},
		{name: "torn primary", primary: testSuper(1, 1, 5), mirror: testSuper(1, 1, 4), damage: torn, gen: 4},
		{name: "no primary", mirror: testSuper(1, 1, 4), gen: 4},
		{name: "torn primary, no mirror", primary: testSuper(1, 1, 5), damage: torn},
		{name: "mirror asked for", primary: testSuper(1, 1, 5), mirror: testSuper(1, 1, 4), copy: 1, gen: 4},
		{name: "mirror asked for, none there", primary: testSuper(1, 1, 5), copy: 1},
		{name: "mirror beyond the end asked for", primary: testSuper(1, 1, 5), copy: 2},
		{name: "copy 3", primary: testSuper(1, 1, 5), copy: 3},
		{name: "nothing at all"},
	} {
		m := disk.NewMem("mem", testSize)
		if tc.primary != nil {
			putSuper(t, m, tc.primary, 65536)
		}
		if tc.mirror != nil {
			putSuper(t, m, tc.mirror, mirror1)
		}
		if tc.damage != nil {
			tc.damage(m)
		}
		v, err := Open(t.Context(), []disk.Device{m}, Options{Copy: tc.copy})
		if (err == nil) != (tc.gen != 0) {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if err == nil {
			if sb := v.Super(); sb.Generation() != tc.gen || sb.FSID() != testFSID {
				t.Errorf("%s: generation %d of %s", tc.name, sb.Generation(), sb.FSID())
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	sys := func(sb *ondisk.SuperBlock, arr ...[]byte) {
		var all []byte
		for _, a := range arr {
			all = append(all, a...)
		}
		setSys(sb, all)
	}
	good := chunkItem(ondisk.BGSystem, 4<<20, 0, [2]uint64{1, 1 << 20})
	for _, tc := range []struct {
		name, msg string
		change    func(sb *ondisk.SuperBlock)
	}{
		{"magic", "bad magic", func(sb *ondisk.SuperBlock) { sb.SetMagic(1) }},
		{"checksum type", "unknown checksum type 9", func(sb *ondisk.SuperBlock) { sb.SetCsumType(9) }},
		{"sectorsize 0", "sectorsize 0", func(sb *ondisk.SuperBlock) { sb.SetSectorSize(0) }},
		{"sectorsize 512", "sectorsize 512", func(sb *ondisk.SuperBlock) { sb.SetSectorSize(512) }},
		{"nodesize 12288", "nodesize 12288", func(sb *ondisk.SuperBlock) { sb.SetNodeSize(12288) }},
		{"nodesize 128K", "nodesize 131072", func(sb *ondisk.SuperBlock) { sb.SetNodeSize(131072) }},
		{"nodesize below sectorsize", "nodesize 4096", func(sb *ondisk.SuperBlock) { sb.SetSectorSize(8192); sb.SetNodeSize(4096) }},
		{"no devices", "no devices", func(sb *ondisk.SuperBlock) { sb.SetNumDevices(0) }},
		{"dev_item of another", "dev_item has fsid", func(sb *ondisk.SuperBlock) { sb.DevItem().SetFSID(ondisk.UUID{1}) }},
		{"array too long", "sys_chunk_array of 2049 bytes", func(sb *ondisk.SuperBlock) { sb.SetSysChunkArraySize(2049) }},
		{"array far too long", "sys_chunk_array of 4294967295 bytes", func(sb *ondisk.SuperBlock) { sb.SetSysChunkArraySize(1<<32 - 1) }},
		{"cut array", "bytes left", func(sb *ondisk.SuperBlock) { sb.SetSysChunkArraySize(50) }},
		{"cut second entry", "sys_chunk_array at 97: 40 bytes left", func(sb *ondisk.SuperBlock) { sys(sb, sysEntry(1<<20, good), make([]byte, 40)) }},
		{"wrong key", "unexpected key", func(sb *ondisk.SuperBlock) { sb.SysChunkArray()[8] = 1 }},
		{"stripes lie", "65535 stripes do not fit", func(sb *ondisk.SuperBlock) { ondisk.AsChunk(sb.SysChunkArray()[17:]).SetNumStripes(65535) }},
		{"no stripes", "0 stripes", func(sb *ondisk.SuperBlock) { ondisk.AsChunk(sb.SysChunkArray()[17:]).SetNumStripes(0) }},
		{"data chunk", "not SYSTEM", func(sb *ondisk.SuperBlock) { ondisk.AsChunk(sb.SysChunkArray()[17:]).SetType(ondisk.BGData) }},
		{"overlap", "overlaps chunk 1048576", func(sb *ondisk.SuperBlock) {
			sys(sb, sysEntry(1<<20, good), sysEntry(2<<20, chunkItem(ondisk.BGSystem, 4<<20, 0, [2]uint64{1, 9 << 20})))
		}},
	} {
		m := disk.NewMem("mem", testSize)
		sb := testSuper(1, 1, 5)
		tc.change(sb)
		if sb.Checksum().Valid() {
			putSuper(t, m, sb, 65536)
		} else if _, err := m.WriteAt(t.Context(), sb[:], 65536); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), []disk.Device{m}, Options{})
		if !errors.Is(err, fserr.ErrCorrupt) || !strings.Contains(err.Error(), tc.msg) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.msg)
		}
	}
	m := disk.NewMem("small", 65536)
	if _, err := Open(t.Context(), []disk.Device{m}, Options{}); !errors.Is(err, fserr.ErrCorrupt) || !strings.Contains(err.Error(), "small: ") {
		t.Errorf("a device without room: %v", err)
	}
	if _, err := Open(t.Context(), nil, Options{}); !errors.Is(err, fserr.ErrInvalid) {
		t.Errorf("no device: %v", err)
	}
}

func TestOpenCheckSuper(t *testing.T) {
	m := disk.NewMem("mem", testSize)
	putSuper(t, m, testSuper(1, 1, 5), 65536)
	putSuper(t, m, testSuper(1, 1, 4), mirror1)
	no := errors.New("no")
	v, err := Open(t.Context(), []disk.Device{m}, Options{CheckSuper: func(sb *ondisk.SuperBlock) error {
		if sb.Bytenr() == 65536 {
			return no
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if sb := v.Super(); sb.Generation() != 4 {
		t.Errorf("generation %d", sb.Generation())
	}
	if _, err := Open(t.Context(), []disk.Device{m}, Options{CheckSuper: func(*ondisk.SuperBlock) error { return no }}); !errors.Is(err, no) {
		t.Error(err)
	}
}

func TestOpenSeveralDevices(t *testing.T) {
	mem := func(sb *ondisk.SuperBlock) disk.Device {
		m := disk.NewMem(fmt.Sprintf("mem%d", sb.DevItem().DevID()), testSize)
		putSuper(t, m, sb, 65536)
		return m
	}
	alien := testSuper(3, 2, 5)
	alien.SetFSID(ondisk.UUID{8})
	alien.DevItem().SetFSID(ondisk.UUID{8})
	for _, tc := range []struct {
		name string
		devs []disk.Device
		msg  string
	}{
		{"in any order, newest speaks", []disk.Device{mem(testSuper(2, 2, 5)), mem(testSuper(1, 2, 6))}, ""},
		{"one missing", []disk.Device{mem(testSuper(2, 2, 6))}, ""},
		{"twice the same", []disk.Device{mem(testSuper(2, 2, 5)), mem(testSuper(2, 2, 5))}, "both device 2"},
		{"too many", []disk.Device{mem(testSuper(1, 1, 5)), mem(testSuper(2, 1, 5))}, "2 devices given"},
		{"of two file systems", []disk.Device{mem(testSuper(1, 2, 5)), mem(alien)}, "give the devices of one file system"},
	} {
		v, err := Open(t.Context(), tc.devs, Options{})
		if tc.msg != "" {
			if err == nil || !strings.Contains(err.Error(), tc.msg) {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if sb := v.Super(); sb.Generation() != 6 {
			t.Errorf("%s: generation %d", tc.name, sb.Generation())
		}
		for i, d := range v.Devices() {
			if d.UUID != devUUID(d.DevID) || d.TotalBytes != uint64(testSize) || d.Dev.Name() != fmt.Sprintf("mem%d", d.DevID) {
				t.Errorf("%s: device %d is %+v", tc.name, i, d)
			}
		}
	}
}

func TestWriteSuper(t *testing.T) {
	v, mems := testVolume(t, 2)
	if err := mems[2].Truncate(testSize / 8); err != nil { // 32 MiB: no mirror there
		t.Fatal(err)
	}
	it := testSuper(2, 2, 0).DevItem()
	it.SetTotalBytes(uint64(testSize / 8))
	it.SetBytesUsed(222)
	if err := v.SetDevItem(it); err != nil {
		t.Fatal(err)
	}
	sb := testSuper(1, 2, 8)
	sb.DevItem().SetBytesUsed(111)
	sb.SetBytesUsed(333)
	want := *sb
	if err := v.WriteSuper(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if *sb != want {
		t.Error("the caller's superblock was changed")
	}
	if got := v.Super(); got.Generation() != 8 || got.BytesUsed() != 333 {
		t.Errorf("Super() has generation %d", got.Generation())
	}
	for _, c := range []struct {
		dev  uint64
		off  int64
		used uint64
	}{{1, 65536, 111}, {1, mirror1, 111}, {2, 65536, 222}} {
		var got ondisk.SuperBlock
		if _, err := mems[c.dev].ReadAt(t.Context(), got[:], c.off); err != nil {
			t.Fatal(err)
		}
		if !got.CsumOK() || got.Generation() != 8 || got.Bytenr() != ondisk.Physical(c.off) || got.DevItem().DevID() != c.dev ||
			got.DevItem().BytesUsed() != c.used || got.DevItem().UUID() != devUUID(c.dev) {
			t.Errorf("device %d at %d: csum %v gen %d bytenr %d devid %d used %d", c.dev, c.off, got.CsumOK(), got.Generation(),
				uint64(got.Bytenr()), got.DevItem().DevID(), got.DevItem().BytesUsed())
		}
	}
	it.SetDevID(9)
	if err := v.SetDevItem(it); err == nil {
		t.Error("the item of a device that is not here was taken")
	}
}

// Whatever a power cut leaves of the writes of two commits, torn by sector, one of their superblocks can be opened.
func TestWriteSuperSurvivesPowerCuts(t *testing.T) {
	base := disk.NewMem("mem", testSize)
	putSuper(t, base, testSuper(1, 1, 7), 65536)
	putSuper(t, base, testSuper(1, 1, 7), mirror1)
	rec := disk.NewRecorder(base.Clone())
	v, err := Open(t.Context(), []disk.Device{rec}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for gen := ondisk.Generation(8); gen <= 9; gen++ {
		if err := v.Flush(t.Context()); err != nil { // the commit's flush of its blocks (I1)
			t.Fatal(err)
		}
		sb := testSuper(1, 1, gen)
		// Something in every sector, so that a torn copy has a wrong checksum.
		for i := 600; i < ondisk.SuperSize; i += 512 {
			sb[i] = byte(gen)
		}
		if err := v.WriteSuper(t.Context(), sb); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[ondisk.Generation]int{}
	for n := range rec.Len() + 1 {
		for seed := range uint64(300) {
			img, err := rec.CrashImage(base, n, seed)
			if err != nil {
				t.Fatal(err)
			}
			w, err := Open(t.Context(), []disk.Device{img}, Options{})
			if err != nil {
				t.Fatalf("after %d entries, seed %d: %v", n, seed, err)
			}
			sb := w.Super()
			seen[sb.Generation()]++
		}
	}
	if len(seen) != 3 || seen[7] == 0 || seen[8] == 0 || seen[9] == 0 {
		t.Errorf("generations found: %v", seen)
	}
}
