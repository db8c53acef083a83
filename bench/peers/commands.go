package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tool runs a command and returns its output, without measuring.
func tool(ctx context.Context, name string, args ...string) (string, error) {
	out, err := command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// command also finds the tools of administrators, which are not on everybody's PATH.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if _, err := exec.LookPath(name); err != nil {
		for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				name = filepath.Join(dir, name)
				break
			}
		}
	}
	return exec.CommandContext(ctx, name, args...)
}

// timed runs a command and then syncs the image, for both sides alike.
func timed(ctx context.Context, img, name string, args ...string) (m measure, err error) {
	cmd := command(ctx, name, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	began := time.Now()
	if m.memory, err = runWatched(cmd); err != nil {
		return m, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out.Bytes()))
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		return m, err
	}
	err = errors.Join(f.Sync(), f.Close())
	m.took = time.Since(began)
	return m, err
}

// runWatched runs a command and returns the largest resident set that it had, as the kernel kept it (VmHWM) when it was last
// seen. Its rusage would not do: that begins with the resident set of this process, which starts it.
func runWatched(cmd *exec.Cmd) (peak int64, err error) {
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, highWater(cmd.Process.Pid))
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	err = cmd.Wait()
	close(done)
	<-watched
	return peak, err
}

// highWater is a process's VmHWM in bytes, 0 if it is not there.
func highWater(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return 0
	}
	return kib << 10
}

// sparse makes a file of a size with nothing in it.
func sparse(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

func oursMkfsEmpty(ctx context.Context, b *bench) (measure, error) {
	return b.mkfs(ctx, b.emptySize, b.imgtool, "mkfs", "-q")
}

func theirsMkfsEmpty(ctx context.Context, b *bench) (measure, error) {
	return b.mkfs(ctx, b.emptySize, "mkfs.btrfs", "-q")
}

func oursMkfsRootdir(ctx context.Context, b *bench) (measure, error) {
	if err := b.warm(); err != nil {
		return measure{}, err
	}
	return b.mkfs(ctx, rootdirSize, b.imgtool, "mkfs", "-q", "--rootdir", b.source)
}

func theirsMkfsRootdir(ctx context.Context, b *bench) (measure, error) {
	if err := b.warm(); err != nil {
		return measure{}, err
	}
	return b.mkfs(ctx, rootdirSize, "mkfs.btrfs", "-q", "--rootdir", b.source)
}

// rootdirSize is the size in bytes of an image that is filled from a directory.
const rootdirSize = 2 << 30

// mkfs times a mkfs command on an image that is made before.
func (b *bench) mkfs(ctx context.Context, size int64, name string, args ...string) (m measure, err error) {
	img := b.image()
	if err := sparse(img, size); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.Remove(img)) }()
	return timed(ctx, img, name, append(args, "-b", strconv.FormatInt(size, 10), img)...)
}

// warm reads the source once, so that it is in the page cache.
func (b *bench) warm() error {
	if b.source == "" {
		return errors.New("no --source directory was given")
	}
	return readAll(b.source)
}

// readAll reads the files below a directory.
func readAll(dir string) error {
	return filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		_, err = os.ReadFile(p)
		return err
	})
}
