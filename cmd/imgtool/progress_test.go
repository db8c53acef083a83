package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal of 100 columns and returns its two ends.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 100}); err != nil {
		t.Fatal(err)
	}
	return master, slave
}

// TestProgress: a bar on a terminal while there is something to wait for, nothing elsewhere or with --quiet.
func TestProgress(t *testing.T) {
	img := filepath.Join(t.TempDir(), "a.img")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	master, slave := openTerminal(t)

	cmd := exec.Command("imgtool", "put", img, "-", "/file")
	cmd.Stderr = slave
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write(make([]byte, 5<<20)); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 0, 4096)
	for buf := make([]byte, 1024); !strings.Contains(string(shown), "put - 5.0 MiB"); {
		n, err := master.Read(buf)
		if err != nil {
			t.Fatalf("%v, so far: %q", err, shown)
		}
		if shown = append(shown, buf[:n]...); len(shown) > 1<<20 {
			t.Fatalf("no bar: %q", shown[:1000])
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	for _, args := range [][]string{{"put", img, "-", "/file"}, {"put", "-q", img, "-", "/file"}} {
		cmd := exec.Command("imgtool", args...)
		cmd.Stdin = bytes.NewReader(make([]byte, 1<<20))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("imgtool %q without a terminal: %v, %q", args, err, out)
		}
	}
}
