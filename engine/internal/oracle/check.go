package oracle

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// CheckOptions select how `btrfs check` looks at an image.
type CheckOptions struct {
	LowMem     bool // --mode=lowmem: the second, independent checker of btrfs-progs; slower
	NoDataCsum bool // leave out --check-data-csum, for images with a lot of data
}

// Check fails the test unless `btrfs check --readonly --check-data-csum` finds nothing wrong, with its output in the
// message, and imgtool's own checker neither. imgs are the devices of one file system; more than one needs root, since btrfs check finds the others
// only if they are block devices (they are attached to loop devices for the time of the check).
func Check(t testing.TB, imgs ...string) {
	t.Helper()
	CheckWith(t, CheckOptions{}, imgs...)
}

// CheckLowmem is Check with --mode=lowmem.
func CheckLowmem(t testing.TB, imgs ...string) {
	t.Helper()
	CheckWith(t, CheckOptions{LowMem: true}, imgs...)
}

// CheckWith is Check with options.
func CheckWith(t testing.TB, o CheckOptions, imgs ...string) {
	t.Helper()
	if err := CheckErr(t, o, imgs...); err != nil {
		t.Fatalf("oracle: btrfs check does not accept the image:\n%v", err)
	}
	if err := ownCheck(!o.NoDataCsum, imgs...); err != nil {
		t.Fatalf("oracle: btrfs check accepts the image, imgtool's own checker does not:\n%v", err)
	}
}

// CheckErr returns what `btrfs check` has against an image, or nil, for tests of damaged ones.
func CheckErr(t testing.TB, o CheckOptions, imgs ...string) error {
	t.Helper()
	Need(t)
	if len(imgs) == 0 {
		t.Fatalf("oracle: Check without an image")
	}
	for _, img := range imgs {
		if _, err := os.Stat(img); err != nil {
			t.Fatalf("oracle: Check: %v", err) // a mistake of the test, not a finding
		}
	}
	dev := imgs[0]
	if len(imgs) > 1 {
		loops := attachAll(t, imgs)
		defer detachAll(t, loops)
		for _, l := range loops {
			if err := scanDevice(l.Path); err != nil {
				t.Fatalf("oracle: %v", err)
			}
		}
		dev = loops[0].Path
	}
	args := []string{"check", "--readonly"}
	if !o.NoDataCsum {
		args = append(args, "--check-data-csum")
	}
	if o.LowMem {
		args = append(args, "--mode=lowmem")
	}
	out, err := combined("btrfs", append(args, dev)...)
	return judgeCheck(out, err)
}

// judgeCheck reads the verdict of btrfs check. Status 0 alone is not one: some findings (a device size that is no
// multiple of the sector size, a stale item in the device tree) are only printed.
func judgeCheck(out string, err error) error {
	if err != nil {
		return fmt.Errorf("%w\n%s", err, clip([]byte(out)))
	}
	for line := range strings.Lines(out) {
		if foreignScan(line) {
			continue
		}
		if strings.HasPrefix(line, "ERROR") || strings.HasPrefix(line, "WARNING") {
			return fmt.Errorf("status 0, but it says %q:\n%s", strings.TrimSpace(line), clip([]byte(out)))
		}
	}
	if !strings.Contains(out, "no error found") {
		return fmt.Errorf("status 0, but without the words \"no error found\":\n%s", clip([]byte(out)))
	}
	return nil
}

// foreignScan recognises that btrfs check, looking for the other members of a file system on all block devices of the
// machine, came across one that somebody else was just taking down. A member it could not read is "missing", and ends
// the check with a status.
func foreignScan(line string) bool {
	return strings.HasPrefix(line, "ERROR: cannot scan /dev/") || strings.HasPrefix(line, "ERROR: cannot open device /dev/")
}
