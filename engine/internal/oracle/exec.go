package oracle

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Run executes a tool and returns what it printed to stdout; the test fails with everything it printed if it does
// not end with status 0.
func Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := RunErr(name, args...)
	if err != nil {
		t.Fatalf("oracle: %v", err)
	}
	return out
}

// RunErr is Run for tests that expect failure: the error carries the command, its status, stdout and stderr.
func RunErr(name string, args ...string) (string, error) {
	return runInput(nil, name, args...)
}

func runInput(stdin []byte, name string, args ...string) (string, error) {
	path, err := lookTool(name)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\nstdout:\n%s\nstderr:\n%s",
			name, strings.Join(args, " "), err, clip(stdout.Bytes()), clip(stderr.Bytes()))
	}
	return stdout.String(), nil
}

// clip keeps failure messages readable: a damaged image can make a checker print megabytes.
func clip(b []byte) string {
	const limit = 16 << 10
	if len(b) <= limit {
		return string(b)
	}
	return fmt.Sprintf("%s\n... (%d bytes in all)", b[:limit], len(b))
}

// Btrfs executes `btrfs args...` and returns its stdout.
func Btrfs(t testing.TB, args ...string) string {
	t.Helper()
	Need(t)
	return Run(t, "btrfs", args...)
}

// Mkfs makes the file img of size bytes (an existing file is cut to nothing first) and formats it with mkfs.btrfs
// and the given arguments, such as "-n", "4096", "--csum", "xxhash". It needs no root.
func Mkfs(t testing.TB, img string, size int64, args ...string) {
	t.Helper()
	MkfsMulti(t, []string{img}, size, args...)
}

// MkfsMulti is Mkfs for a file system over several devices of size bytes each.
func MkfsMulti(t testing.TB, imgs []string, size int64, args ...string) {
	t.Helper()
	Need(t)
	for _, img := range imgs {
		if err := blankFile(img, size); err != nil {
			t.Fatalf("oracle: %v", err)
		}
	}
	argv := append([]string{"-q", "-f"}, args...)
	Run(t, "mkfs.btrfs", append(argv, imgs...)...)
}

// blankFile makes path a file of size zero bytes, all of it a hole.
func blankFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close() // the error that matters is the first
		return err
	}
	return f.Close()
}

// combined executes a tool and returns stdout and stderr in the order in which they were printed.
func combined(name string, args ...string) (string, error) {
	path, err := lookTool(name)
	if err != nil {
		return "", err
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return string(out), err
}
