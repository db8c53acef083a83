package oracle

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SkipPrefix starts the text of every skip that is caused by a missing oracle. The summary of `make test` looks
// for it (engine/internal/testsum) and fails the run in CI, should a skip ever get past Required.
const SkipPrefix = "oracle missing: "

// Required tells whether a missing oracle fails the test instead of skipping it: in CI, and where
// IMGTOOL_ORACLE=required asks for it.
func Required() bool {
	ci, _ := strconv.ParseBool(os.Getenv("CI"))
	return ci || os.Getenv("IMGTOOL_ORACLE") == "required"
}

// Need makes sure that btrfs-progs and the named further tools are there. Otherwise it skips the test, or fails
// it if Required.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range append([]string{"btrfs", "mkfs.btrfs"}, tools...) {
		if _, err := lookTool(tool); err != nil {
			absent(t, fmt.Sprintf("no %s on this machine; run .ci/deps.sh", tool))
		}
	}
}

// NeedRoot is Need for tests that mount: the kernel must know btrfs, and this process must be able to use loop
// devices, to mount and to read the kernel's log.
func NeedRoot(t testing.TB, tools ...string) {
	t.Helper()
	Need(t, append([]string{"mount"}, tools...)...)
	if why := mountable(); why != "" {
		absent(t, why+"; run the tests as root on a Linux machine with btrfs and loop devices")
	}
}

// NeedProgs is Need for tests that only hold with a btrfs-progs of at least the given version.
func NeedProgs(t testing.TB, major, minor int) {
	t.Helper()
	Need(t)
	haveMajor, haveMinor := ProgsVersion(t)
	if haveMajor < major || haveMajor == major && haveMinor < minor {
		absent(t, fmt.Sprintf("btrfs-progs is %d.%d, want at least %d.%d; run .ci/deps.sh",
			haveMajor, haveMinor, major, minor))
	}
}

// ProgsVersion returns the version of the installed btrfs-progs.
func ProgsVersion(t testing.TB) (major, minor int) {
	t.Helper()
	Need(t)
	out := Run(t, "btrfs", "--version")
	if _, err := fmt.Sscanf(strings.TrimPrefix(out, "btrfs-progs "), "v%d.%d", &major, &minor); err != nil {
		t.Fatalf("oracle: cannot read the version of btrfs-progs from %q: %v", out, err)
	}
	return major, minor
}

// absent ends the test for a missing oracle.
func absent(t testing.TB, why string) {
	t.Helper()
	if Required() {
		t.Fatalf("%s%s (a failure because CI or IMGTOOL_ORACLE=required is set)", SkipPrefix, why)
	}
	t.Skip(SkipPrefix + why)
}

// lookTool finds a tool on PATH or in the directories of administrators' tools, which are not on every user's PATH.
func lookTool(name string) (string, error) {
	p, err := exec.LookPath(name)
	if err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if p := filepath.Join(dir, name); unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", err
}

// mountable says why this process cannot mount btrfs images, or "". Asked once a process.
var mountable = sync.OnceValue(func() string {
	if os.Geteuid() != 0 {
		return "mounting needs root"
	}
	if !kernelHasBtrfs() {
		return "the kernel has no btrfs"
	}
	for path, mode := range map[string]uint32{
		"/dev/loop-control": unix.R_OK | unix.W_OK,
		"/dev/kmsg":         unix.R_OK,
	} {
		if err := unix.Access(path, mode); err != nil {
			return fmt.Sprintf("no access to %s: %v", path, err)
		}
	}
	var caps [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &caps[0]); err == nil && caps[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return "root without CAP_SYS_ADMIN (a container?) cannot mount"
	}
	return ""
})

func kernelHasBtrfs() bool {
	known := func() bool {
		list, err := os.ReadFile("/proc/filesystems")
		return err == nil && strings.Contains(string(list), "\tbtrfs\n")
	}
	if known() {
		return true
	}
	if modprobe, err := lookTool("modprobe"); err == nil {
		_ = exec.Command(modprobe, "-q", "btrfs").Run() // known() tells whether it helped
	}
	return known()
}

// Soak tells whether the long variants of tests are wanted (IMGTOOL_SOAK=1, `make soak`).
func Soak() bool { return os.Getenv("IMGTOOL_SOAK") == "1" }

// Seed returns the seed of a randomised test and logs it: IMGTOOL_SEED if that is set, a fresh one otherwise.
func Seed(t testing.TB) int64 {
	t.Helper()
	seed := time.Now().UnixNano()
	if s := os.Getenv("IMGTOOL_SEED"); s != "" {
		n, err := strconv.ParseInt(s, 0, 64)
		if err != nil {
			t.Fatalf("oracle: IMGTOOL_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("seed: IMGTOOL_SEED=%d", seed)
	return seed
}
