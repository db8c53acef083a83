package ondisk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLabel(t *testing.T) {
	sb := new(SuperBlock)
	long := strings.Repeat("l", LabelSize-1)
	for _, l := range []string{"", "home", long} {
		if err := sb.SetLabel(l); err != nil || sb.Label() != l {
			t.Errorf("%q: %q, %v", l, sb.Label(), err)
		}
	}
	for _, l := range []string{long + "l", "a\nb", "a\x00b"} {
		if err := sb.SetLabel(l); err == nil || sb.Label() != long {
			t.Errorf("%q is accepted", l)
		}
	}
	copy(sb.RawLabel(), bytes.Repeat([]byte{'x'}, LabelSize)) // without a NUL at its end
	if len(sb.Label()) != LabelSize {
		t.Error(len(sb.Label()))
	}
}

func TestMetadataFSID(t *testing.T) {
	sb := new(SuperBlock)
	sb.SetFSID(UUID{1})
	sb.SetMetadataUUID(UUID{2})
	if sb.MetadataFSID() != (UUID{1}) {
		t.Error("the metadata uuid counts without its feature")
	}
	sb.SetIncompatFlags(IncompatMetadataUUID | IncompatNoHoles)
	if sb.MetadataFSID() != (UUID{2}) || !sb.HasIncompat(IncompatNoHoles) || sb.HasIncompat(IncompatNoHoles|IncompatZoned) {
		t.Error("features")
	}
}

// TestRealSupers checks mkfs.btrfs' own checksums, with each algorithm.
func TestRealSupers(t *testing.T) {
	mkfs, err := exec.LookPath("mkfs.btrfs")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no mkfs.btrfs in CI")
		}
		t.Skip("no mkfs.btrfs")
	}
	for c := range CsumType(4) {
		img := filepath.Join(t.TempDir(), "img")
		if err := os.WriteFile(img, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(img, 128<<20); err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(c.String(), "64")
		if out, err := exec.Command(mkfs, "-q", "--csum", name, "-L", "my label", img).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		data, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		for i, off := range SuperOffsets[:2] {
			sb := AsSuperBlock(data[off:])
			if sb.Magic() != Magic || sb.Bytenr() != off || sb.Checksum() != c || !sb.CsumOK() || sb.Label() != "my label" || sb.TotalBytes() != 128<<20 {
				t.Errorf("%s copy %d: bytenr %d checksum %s %t label %q", c, i, sb.Bytenr(), sb.Checksum(), sb.CsumOK(), sb.Label())
			}
			sb.SetGeneration(sb.Generation() + 1)
			if sb.CsumOK() {
				t.Errorf("%s: a change passes", c)
			}
			if sb.UpdateCsum(); !sb.CsumOK() {
				t.Errorf("%s: own checksum refused", c)
			}
		}
	}
	if sb := new(SuperBlock); sb.CsumOK() {
		t.Error("a zeroed superblock passes")
	}
}

func TestBackups(t *testing.T) {
	sb := new(SuperBlock)
	for i := range NumBackupRoots {
		sb.Backup(i).SetTreeRoot(Logical(i + 1))
		sb.Backup(i).SetCsumRootLevel(uint8(i + 1))
	}
	for i := range NumBackupRoots {
		at := 2859 + i*RootBackupSize
		if le64(sb[at:]) != uint64(i+1) || sb[at+157] != byte(i+1) {
			t.Errorf("backup %d", i)
		}
	}
}

func TestTimespec(t *testing.T) {
	for _, want := range []time.Time{time.Unix(0, 0), time.Unix(-5, 999999999), time.Unix(1795335795, 513599757)} {
		ts := TimeOf(want)
		if !ts.Time().Equal(want) || ts.UnixNano() != want.UnixNano() {
			t.Errorf("%v: %v", want, ts.Time())
		}
		var b [TimespecSize]byte
		if putTimespec(b[:], ts); getTimespec(b[:]) != ts {
			t.Errorf("%v does not survive encoding", ts)
		}
	}
}
