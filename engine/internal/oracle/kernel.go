package oracle

import (
	"os"
	"strings"
)

// The methods of this file let the kernel change a mounted file system. Paths are relative to the mount; every one
// fails the test if the kernel refuses.

// Btrfs executes `btrfs args...`. Arguments that are to be paths of the mount are made with Path.
func (m *Mounted) Btrfs(args ...string) string {
	m.t.Helper()
	return Run(m.t, "btrfs", args...)
}

// KernelSync commits the running transaction and waits for it.
func (m *Mounted) KernelSync() {
	m.t.Helper()
	m.Btrfs("filesystem", "sync", m.Dir)
}

// KernelSubvolume creates a subvolume.
func (m *Mounted) KernelSubvolume(path string) {
	m.t.Helper()
	m.Btrfs("subvolume", "create", m.Path(path))
}

// KernelSnapshot creates a snapshot of the subvolume src at dst.
func (m *Mounted) KernelSnapshot(src, dst string, readOnly bool) {
	m.t.Helper()
	args := []string{"subvolume", "snapshot"}
	if readOnly {
		args = append(args, "-r")
	}
	m.Btrfs(append(args, m.Path(src), m.Path(dst))...)
}

// KernelDelete deletes subvolumes and waits until the cleaner has dropped their trees.
func (m *Mounted) KernelDelete(paths ...string) {
	m.t.Helper()
	args := []string{"subvolume", "delete", "--commit-after"}
	for _, p := range paths {
		args = append(args, m.Path(p))
	}
	m.Btrfs(args...)
	m.Btrfs("subvolume", "sync", m.Dir)
}

// KernelBalance relocates block groups: filters as in `btrfs balance start`, such as "-m" or "-dusage=50"; none means
// everything.
func (m *Mounted) KernelBalance(filters ...string) {
	m.t.Helper()
	args := []string{"balance", "start"}
	if len(filters) == 0 {
		args = append(args, "--full-balance")
	}
	for _, f := range filters {
		args = append(args, f)
		if strings.HasPrefix(f, "-s") {
			args = append(args, "--force") // the tool asks for it before it touches system chunks
		}
	}
	m.Btrfs(append(args, m.Dir)...)
}

// KernelScrub reads everything and verifies all checksums of all copies.
func (m *Mounted) KernelScrub() {
	m.t.Helper()
	m.Btrfs("scrub", "start", "-B", m.Dir)
}

// KernelSend returns the send stream of a read-only subvolume, incremental if parent is not empty. args are further
// flags of `btrfs send`.
func (m *Mounted) KernelSend(subvol, parent string, args ...string) []byte {
	m.t.Helper()
	f, err := os.CreateTemp("", dirPrefix+"stream-")
	if err != nil {
		m.t.Fatalf("oracle: %v", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	argv := append([]string{"send", "-q", "-f", f.Name()}, args...)
	if parent != "" {
		argv = append(argv, "-p", m.Path(parent))
	}
	m.Btrfs(append(argv, m.Path(subvol))...)
	stream, err := os.ReadFile(f.Name())
	if err != nil {
		m.t.Fatalf("oracle: %v", err)
	}
	return stream
}

// KernelReceive applies a send stream below the directory dir ("" for the root of the mount).
func (m *Mounted) KernelReceive(dir string, stream []byte) {
	m.t.Helper()
	if err := m.KernelReceiveErr(dir, stream); err != nil {
		m.t.Fatalf("oracle: %v", err)
	}
}

// KernelReceiveErr is KernelReceive for streams that may be refused.
func (m *Mounted) KernelReceiveErr(dir string, stream []byte) error {
	_, err := runInput(stream, "btrfs", "receive", m.Path(dir))
	return err
}
