package volume_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine/fserr"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/ondisk"
	"imgtool/engine/volume"
)

// The chunk and root tree roots of file systems made by mkfs.btrfs, on every readable profile: each copy is there and
// has the right checksum, on the devices in any order.
func TestProfilesOfMkfs(t *testing.T) {
	oracle.Need(t)
	for _, tc := range []struct {
		profile string
		devices int
		copies  int
	}{
		{"single", 1, 1}, {"dup", 1, 2}, {"single", 3, 1}, {"raid0", 3, 1}, {"raid1", 2, 2}, {"raid1c3", 3, 3}, {"raid1c4", 4, 4}, {"raid10", 4, 2},
	} {
		t.Run(fmt.Sprintf("%s-%d", tc.profile, tc.devices), func(t *testing.T) {
			dir := t.TempDir()
			var imgs []string
			for i := range tc.devices {
				imgs = append(imgs, filepath.Join(dir, fmt.Sprintf("img%d", i)))
			}
			oracle.MkfsMulti(t, imgs, 256<<20, "-m", tc.profile, "-d", tc.profile)
			var devs []disk.Device
			for i := range imgs {
				d, err := disk.Open(imgs[len(imgs)-1-i], disk.Options{ReadOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				devs = append(devs, d)
			}
			v, err := volume.Open(t.Context(), devs, volume.Options{})
			if err != nil {
				t.Fatal(err)
			}
			sb := v.Super()
			checkCopies(t, v, &sb, sb.ChunkRoot(), tc.copies)
			addChunks(t, v, &sb)
			checkCopies(t, v, &sb, sb.Root(), tc.copies)
			if m := v.Missing(); len(m) != 0 {
				t.Errorf("missing devices %v", m)
			}
		})
	}
}

// RAID5 and RAID6 are refused by name.
func TestParityIsRefused(t *testing.T) {
	oracle.Need(t)
	dir := t.TempDir()
	imgs := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b"), filepath.Join(dir, "c")}
	oracle.MkfsMulti(t, imgs, 256<<20, "-m", "raid5", "-d", "raid5")
	var devs []disk.Device
	for _, p := range imgs {
		d, err := disk.Open(p, disk.Options{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	if _, err := volume.Open(t.Context(), devs, volume.Options{}); !errors.Is(err, fserr.ErrUnsupported) {
		t.Errorf("opened: %v", err)
	}
}

func checkCopies(t *testing.T, v *volume.Volume, sb *ondisk.SuperBlock, addr ondisk.Logical, copies int) ondisk.Block {
	t.Helper()
	if n := v.Copies(addr); n != copies {
		t.Fatalf("block %d has %d copies, want %d", addr, n, copies)
	}
	b := make(ondisk.Block, sb.NodeSize())
	for i := range copies {
		if err := v.ReadCopy(t.Context(), addr, b, i); err != nil {
			t.Fatal(err)
		}
		if !sb.Checksum().BlockCsumOK(b) || b.Header().Bytenr() != addr {
			t.Fatalf("block %d copy %d is not there", addr, i)
		}
	}
	return b
}

// addChunks reads the chunk tree of a new file system, one leaf.
func addChunks(t *testing.T, v *volume.Volume, sb *ondisk.SuperBlock) {
	t.Helper()
	b := checkCopies(t, v, sb, sb.ChunkRoot(), v.Copies(sb.ChunkRoot()))
	if !b.IsLeaf() {
		t.Fatal("the chunk root is no leaf")
	}
	for i := range b.NrItems() {
		if k := b.Key(i); k.Type == ondisk.ChunkItemKey {
			if err := v.AddChunk(ondisk.Logical(k.Offset), b.Item(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
