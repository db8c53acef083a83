package send_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"imgtool/disk"
	"imgtool/engine"
	"imgtool/engine/fserr"
	"imgtool/engine/inode"
	"imgtool/engine/internal/oracle"
	"imgtool/engine/mkfs"
	"imgtool/engine/ondisk"
	"imgtool/engine/sendstream"
	"imgtool/engine/subvol"
)

// TestGaps sends files whose data lies between that of others, which is bad: it is read in large pieces, and what is not
// sent does no harm. What is sent and bad is found, always the same of several.
func TestGaps(t *testing.T) {
	ctx := t.Context()
	mem := disk.NewMem(filepath.Base(t.Name()), 160<<20)
	fs, err := engine.FormatDevice(ctx, mem, engine.FormatOptions{Options: mkfs.Default()})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	seed := oracle.Seed(t)
	rng := rand.New(rand.NewPCG(uint64(seed), 3))
	var trees [2]*inode.FileTree
	for i, name := range []string{"sent", "other"} {
		id, err := fs.CreateSubvolume(ctx, name, subvol.CreateOptions{})
		must(err)
		trees[i], err = fs.Subvolume(ctx, id)
		must(err)
	}
	// Files of both subvolumes in turn, each beginning with a mark by which it is found on the device.
	marks := [2][][]byte{}
	for i := range 120 {
		who := i % 2
		data := make([]byte, 4096*(1+rng.IntN(5)))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		ino, err := trees[who].Create(ctx, inode.RootDir, fmt.Sprint("file", i), inode.Attr{Mode: 0o644})
		must(err)
		_, err = trees[who].WriteAt(ctx, ino, data, 0)
		must(err)
		marks[who] = append(marks[who], data[:64])
	}
	_, err = fs.Snapshot(ctx, "sent", "snap", true)
	must(err)
	must(fs.Commit(ctx))
	raw := mem.Clone()
	must(fs.Close())
	mine, others := placesOf(t, raw, marks[0]), placesOf(t, raw, marks[1])

	send := func(bad []int64, rule disk.Rule) ([]byte, error) {
		dev := disk.NewFaults(raw.Clone(), uint64(seed))
		fs, err := engine.OpenDevices(ctx, []disk.Device{dev}, engine.OpenOptions{ReadOnly: true})
		must(err)
		var rules []disk.Rule
		for _, at := range bad {
			rule.Off, rule.Len, rule.Ops = at, 4096, []disk.Op{disk.OpRead}
			rules = append(rules, rule)
		}
		dev.SetRules(rules...)
		var out bytes.Buffer
		err = fs.Send(ctx, &out, engine.SendOptions{Path: "snap"})
		must(fs.Close())
		return out.Bytes(), err
	}
	flip := func(places []int64) {
		t.Helper()
		var b [1]byte
		for _, at := range places {
			_, err := raw.ReadAt(ctx, b[:], at+2000)
			must(err)
			b[0] ^= 1
			_, err = raw.WriteAt(ctx, b[:], at+2000)
			must(err)
		}
	}
	quiet, err := send(nil, disk.Rule{})
	must(err)
	broken := errors.New("medium error")
	got, err := send(others, disk.Rule{Err: broken})
	if err != nil || !bytes.Equal(got, quiet) {
		t.Errorf("seed %d: with unreadable places in between: %v, equal %v", seed, err, bytes.Equal(got, quiet))
	}
	for range 5 {
		_, err := send(mine[len(mine)/3:], disk.Rule{Err: broken})
		first := ondisk.FirstFreeObjectID + 1 + ondisk.ObjectID(len(mine)/3)
		if want := fmt.Sprintf("data of inode %d ", first); !errors.Is(err, broken) || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("seed %d: %v, want the error of inode %d, which comes first", seed, err, first)
		}
	}
	flip(mine[len(mine)/2:])
	for range 5 {
		_, err := send(nil, disk.Rule{})
		first := ondisk.FirstFreeObjectID + 1 + ondisk.ObjectID(len(mine)/2)
		var c *fserr.Corrupt
		if !errors.As(err, &c) || c.Ino != uint64(first) {
			t.Errorf("seed %d: %v, want a finding in inode %d, which comes first", seed, err, first)
		}
	}
	flip(mine[len(mine)/2:])
	flip(others)
	if got, err := send(nil, disk.Rule{}); err != nil || !bytes.Equal(got, quiet) {
		t.Errorf("seed %d: with other bytes in between: %v", seed, err)
	}
}

// placesOf finds the sectors of a device that begin with the marks.
func placesOf(t *testing.T, dev disk.Device, marks [][]byte) []int64 {
	t.Helper()
	at := map[string]int64{}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < dev.Size(); off += int64(len(buf)) {
		if _, err := dev.ReadAt(t.Context(), buf, off); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(buf); n += 4096 {
			at[string(buf[n:n+64])] = off + int64(n)
		}
	}
	var list []int64
	for i, m := range marks {
		place, ok := at[string(m)]
		if !ok {
			t.Fatalf("the data of file %d is not on the device", i)
		}
		list = append(list, place)
	}
	return list
}

// TestChecksums reads streams of file systems of each kind of checksum, with files of all lengths about a sector's:
// the checksums of the commands are right, and the data is what was written.
func TestChecksums(t *testing.T) {
	ctx := t.Context()
	for _, csum := range []ondisk.CsumType{ondisk.CRC32C, ondisk.XXHash64, ondisk.SHA256, ondisk.Blake2b} {
		for _, version := range []uint32{1, 2} {
			o := mkfs.Default()
			o.Csum = csum
			fs, err := engine.FormatDevice(ctx, disk.NewMem(filepath.Base(t.Name()), 160<<20), engine.FormatOptions{Options: o})
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatalf("%v, version %d: %v", csum, version, err)
				}
			}
			must(err)
			id, err := fs.CreateSubvolume(ctx, "a", subvol.CreateOptions{})
			must(err)
			tree, err := fs.Subvolume(ctx, id)
			must(err)
			var all []byte
			rng := rand.New(rand.NewPCG(uint64(csum), uint64(version)))
			for i, n := range []int{1, 100, 4095, 4096, 4097, 8192, 50000, 48 << 10, 128<<10 + 1, 300000} {
				data := make([]byte, n)
				for j := range data {
					data[j] = byte(rng.Uint32())
				}
				ino, err := tree.Create(ctx, inode.RootDir, fmt.Sprint(i), inode.Attr{Mode: 0o644})
				must(err)
				_, err = tree.WriteAt(ctx, ino, data, 0)
				must(err)
				all = append(all, data...)
			}
			_, err = fs.Snapshot(ctx, "a", "s", true)
			must(err)
			var out bytes.Buffer
			so := engine.SendOptions{Path: "s"}
			so.Version = version
			must(fs.Send(ctx, &out, so))
			must(fs.Close())
			r := sendstream.NewReader(&out)
			must(r.Begin())
			var got []byte
			for done := false; !done; {
				c, err := r.Next() // which verifies its checksum
				must(err)
				if c.Cmd == sendstream.CmdWrite {
					got = append(got, c.Bytes(sendstream.AttrData)...)
				}
				done = c.Cmd == sendstream.CmdEnd
			}
			if !bytes.Equal(got, all) {
				t.Errorf("%v, version %d: the stream has %d bytes of data, or others than the %d written", csum, version, len(got), len(all))
			}
		}
	}
}
