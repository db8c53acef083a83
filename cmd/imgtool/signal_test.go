package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// imgtool runs the program, which testscript has put on PATH, and fails the test if it fails.
func imgtool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("imgtool", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("imgtool %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// interrupted starts a command, sends it a signal when middle has returned, and demands that it stops by that one signal, and
// says so.
func interrupted(t *testing.T, sig os.Signal, cmd *exec.Cmd, middle func() error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := middle(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	const message = "imgtool: cancelled; the image is at its last commit\n"
	if err := cmd.Wait(); exitStatus(err) != exitCancelled || stderr.String() != message {
		t.Errorf("%q, %v: %v, stderr %q, want status %d", cmd.Args, sig, err, &stderr, exitCancelled)
	}
}

// TestCancel interrupts a put in the middle: status 130, and the image is as it was.
func TestCancel(t *testing.T) {
	img := filepath.Join(t.TempDir(), "a.img")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	before := imgtool(t, "inspect-internal", "dump-super", img)
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := exec.Command("imgtool", "put", img, "-", "/file")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		interrupted(t, sig, cmd, func() error { // more than a pipe holds: then it is reading, and will wait for more
			_, err := in.Write(make([]byte, 8<<20))
			return err
		})
	}
	if after := imgtool(t, "inspect-internal", "dump-super", img); after != before {
		t.Errorf("the superblock has changed:\n%s", after)
	}
	if out := imgtool(t, "ls", img); out != "" {
		t.Errorf("ls: %q", out)
	}
	checkImage(t, img)
}

// TestSecondSignal: who does not want to wait for the clean stop sends another signal. The program is in a write to the
// host that never returns.
func TestSecondSignal(t *testing.T) {
	dir := t.TempDir()
	img, fifo := filepath.Join(dir, "a.img"), filepath.Join(dir, "fifo")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "put", img, big, "/big")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("imgtool", "get", img, "/big", fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	deadline := time.After(5 * time.Minute)
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case err := <-done:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
				t.Errorf("ended with %v, want to be killed by SIGINT", err)
			}
			return
		case <-tick.C:
			_ = cmd.Process.Signal(os.Interrupt) // it may just have ended
		case <-deadline:
			_ = cmd.Process.Kill()
			t.Fatal("signals do not end it")
		}
	}
}

// TestInUse: an image that another process has locked is refused, by name of the reason; readers share, and keep writers
// out.
func TestInUse(t *testing.T) {
	img := filepath.Join(t.TempDir(), "a.img")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	refused := func(commands ...[]string) {
		t.Helper()
		for _, args := range commands {
			out, err := exec.Command("imgtool", args...).CombinedOutput()
			if exitStatus(err) != exitFailed || !strings.Contains(string(out), "another process") || strings.Count(string(out), "\n") != 1 {
				t.Errorf("imgtool %q: %v, %q", args, err, out)
			}
		}
	}
	refused([]string{"ls", img}, []string{"mkdir", img, "/d"}, []string{"mkfs", "-f", img}, []string{"inspect-internal", "dump-super", img})
	imgtool(t, "ls", "--force-readonly", img)
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "ls", img)
	refused([]string{"mkdir", img, "/d"}, []string{"mkfs", "-f", img})
}

// TestMounted: an image that the kernel has mounted is refused, too.
func TestMounted(t *testing.T) {
	if os.Geteuid() != 0 || btrfsProgs() == "" {
		if required() {
			t.Fatal("oracle missing: mounting needs root")
		}
		t.Skip("oracle missing: mounting needs root")
	}
	dir := t.TempDir()
	img, mnt := filepath.Join(dir, "a.img"), filepath.Join(dir, "mnt")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", img, mnt).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	mounted := true
	umount := func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
		mounted = false
	}
	defer func() {
		if mounted {
			umount()
		}
	}()
	for _, args := range [][]string{{"ls", img}, {"put", img, img, "/d"}, {"mkfs", "-f", img}} {
		out, err := exec.Command("imgtool", args...).CombinedOutput()
		if exitStatus(err) != exitFailed || !strings.Contains(string(out), "loop") || !strings.Contains(string(out), mnt) {
			t.Errorf("imgtool %q: %v, %q", args, err, out)
		}
	}
	imgtool(t, "ls", "--force-readonly", img)
	umount()
}

// TestCancelSend interrupts a send whose reader has stopped reading, and takes the reader of another away: status 130, and
// 1, and the snapshot that was taken for the send is gone.
func TestCancelSend(t *testing.T) {
	dir := t.TempDir()
	img, big := filepath.Join(dir, "a.img"), filepath.Join(dir, "big")
	imgtool(t, "mkfs", "-q", "-b", "400M", img)
	imgtool(t, "subvolume", "create", "-q", img, "/s")
	if err := os.WriteFile(big, bytes.Repeat([]byte("data"), 10<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "put", img, big, "/s/big")
	for _, c := range []struct {
		name   string
		end    func(p *os.Process, out io.Closer) error
		status int
	}{
		{"interrupt", func(p *os.Process, _ io.Closer) error { return p.Signal(os.Interrupt) }, exitCancelled},
		{"broken pipe", func(_ *os.Process, out io.Closer) error { return out.Close() }, exitFailed},
	} {
		cmd := exec.Command("imgtool", "send", "--force-ro-snapshot", img, "/s")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil { // it is sending, and has more than a pipe holds
			t.Fatal(err)
		}
		if err := c.end(cmd.Process, out); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); exitStatus(err) != c.status {
			t.Errorf("%s: %v, want status %d", c.name, err, c.status)
		}
		if list := imgtool(t, "subvolume", "list", img); strings.Count(list, "\n") != 1 {
			t.Errorf("%s: subvolumes left:\n%s", c.name, list)
		}
	}
}

// TestCancelOutput interrupts commands whose reader has stopped reading, and a dump whose stream stands still. One signal
// is enough.
func TestCancelOutput(t *testing.T) {
	dir := t.TempDir()
	img, big, stream := filepath.Join(dir, "a.img"), filepath.Join(dir, "big"), filepath.Join(dir, "stream")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	if err := os.WriteFile(big, make([]byte, 4<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "put", img, big, "/big")
	imgtool(t, "subvolume", "snapshot", "-q", "-r", img, "/", "/s")
	imgtool(t, "send", "-q", "-f", stream, img, "/s")

	for _, args := range [][]string{{"cat", img, "/big"}, {"get", img, "/big", "-"}} {
		cmd := exec.Command("imgtool", args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		interrupted(t, os.Interrupt, cmd, func() error { // it is writing, and has more than a pipe holds
			_, err := io.ReadFull(out, make([]byte, 1))
			return err
		})
	}

	whole, err := os.ReadFile(stream)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("imgtool", "receive", "--dump")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	interrupted(t, os.Interrupt, cmd, func() error { // more than a pipe holds: it is reading
		_, err := in.Write(whole[:len(whole)-10])
		return err
	})
}
