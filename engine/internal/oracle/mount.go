package oracle

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// MountOption changes how Mount mounts.
type MountOption func(*mountConfig)

type mountConfig struct {
	options []string
	devices []string
	noisy   bool
}

// Opts adds options of mount -o: Opts("ro", "subvol=a", "compress=zstd").
func Opts(o ...string) MountOption {
	return func(c *mountConfig) { c.options = append(c.options, o...) }
}

// WithDevices names the further devices of a multi-device file system.
func WithDevices(imgs ...string) MountOption {
	return func(c *mountConfig) { c.devices = append(c.devices, imgs...) }
}

// AllowComplaints keeps Unmount from failing the test for what the kernel logged, for tests of damaged images.
func AllowComplaints() MountOption {
	return func(c *mountConfig) { c.noisy = true }
}

// Mounted is a btrfs image mounted by the kernel. Its methods are for the goroutine of the test.
type Mounted struct {
	Dir     string        // where it is mounted
	Devices []*LoopDevice // in the order given to Mount

	t    testing.TB
	dir  *mountDir
	log  *kmsg
	cfg  mountConfig
	seen []Message
	errs map[string]int64 // error counters when last looked at
	done bool
}

// Mount attaches img to a loop device and mounts it. It is unmounted by Unmount or at the end of the test.
func Mount(t testing.TB, img string, opts ...MountOption) *Mounted {
	t.Helper()
	m, err := TryMount(t, img, opts...)
	if err != nil {
		t.Fatalf("oracle: the kernel does not mount %s: %v", img, err)
	}
	return m
}

// TryMount is Mount for images that the kernel may refuse: the error has the words of mount and of the kernel's log.
func TryMount(t testing.TB, img string, opts ...MountOption) (*Mounted, error) {
	t.Helper()
	NeedRoot(t)
	m := &Mounted{t: t}
	for _, o := range opts {
		o(&m.cfg)
	}
	m.Devices = attachAll(t, append([]string{img}, m.cfg.devices...))
	var err error
	if m.log, err = openKmsg(); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	if m.dir, err = newMountDir(); err != nil {
		t.Fatalf("oracle: %v", err)
	}
	m.Dir = m.dir.mnt

	options := m.cfg.options
	for _, l := range m.Devices[1:] {
		options = append(options, "device="+l.Path)
	}
	argv := []string{"-t", "btrfs"}
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	if _, err := RunErr("mount", append(argv, m.Devices[0].Path, m.Dir)...); err != nil {
		m.release()
		return nil, fmt.Errorf("%w\nkernel:\n%s", err, lines(m.seen))
	}
	m.errs = errorCounters(m.Devices)
	t.Cleanup(m.Unmount) // runs before the cleanup that detaches the devices
	return m, nil
}

// Unmount unmounts, detaches the devices, and fails the test if the kernel logged anything of level warning or worse
// about them since the mount, any trace that mentions btrfs, or if an error counter of the devices has grown. Once it has returned, the image may be opened by
// others. Unmounting twice does nothing.
func (m *Mounted) Unmount() {
	m.t.Helper()
	if m.done {
		return
	}
	m.done = true
	m.count() // they go away with the mount
	if err := unmount(m.Dir); err != nil {
		m.t.Errorf("oracle: %v", err)
	}
	m.release()
	if bad := complaints(m.seen, m.names()); len(bad) > 0 && !m.cfg.noisy {
		m.t.Errorf("oracle: the kernel complains about %s:\n%s", m.Devices[0].Image, lines(bad))
	}
	if m.log.lost > 0 {
		m.t.Logf("oracle: the kernel's log was overwritten %d times before it was read: complaints may be lost", m.log.lost)
	}
}

// Complaints returns what the kernel logged of level warning or worse since the mount, and which error counters have
// grown, for use before and after Unmount.
func (m *Mounted) Complaints() []Message {
	m.t.Helper()
	if !m.done {
		m.count()
		m.collect()
	}
	return complaints(m.seen, m.names())
}

// release reads the log to its end and gives everything back but the mount itself.
func (m *Mounted) release() {
	m.t.Helper()
	detachAll(m.t, m.Devices)
	m.collect()
	m.log.close()
	if err := m.dir.remove(); err != nil {
		m.t.Errorf("oracle: %v", err)
	}
}

func (m *Mounted) collect() {
	m.t.Helper()
	more, err := m.log.drain()
	if err != nil {
		m.t.Errorf("oracle: %v", err)
	}
	m.seen = append(m.seen, more...)
}

// count adds to what was seen the error counters that have grown.
func (m *Mounted) count() {
	now := errorCounters(m.Devices)
	m.seen = append(m.seen, grown(m.errs, now)...)
	m.errs = now
}

func (m *Mounted) names() []string {
	var names []string
	for _, l := range m.Devices {
		names = append(names, l.Name())
	}
	return names
}

// unmount waits for those who still use the mount: a child that is just ending, an indexer of the machine. In the end
// it detaches the mount from the tree, so that the failed test does not spoil the next one.
func unmount(dir string) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(pollEvery) {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			_ = unix.Unmount(dir, unix.MNT_DETACH) // the error that matters is the first
			return fmt.Errorf("umount %s: %w", dir, err)
		}
	}
}

func lines(ms []Message) string {
	var b strings.Builder
	for _, m := range ms {
		fmt.Fprintf(&b, "  %v\n", m)
	}
	return b.String()
}

// Path joins names below the mount.
func (m *Mounted) Path(elem ...string) string {
	return filepath.Join(append([]string{m.Dir}, elem...)...)
}
