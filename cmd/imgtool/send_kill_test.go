package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestSendKilled kills a send of a writable subvolume whose reader has stopped reading: nobody sees the snapshot that was
// taken for it, and the next writer gives its space back.
func TestSendKilled(t *testing.T) {
	dir := t.TempDir()
	img, big := filepath.Join(dir, "a.img"), filepath.Join(dir, "big")
	imgtool(t, "mkfs", "-q", "-b", "400M", img)
	imgtool(t, "subvolume", "create", "-q", img, "/s")
	if err := os.WriteFile(big, bytes.Repeat([]byte("data"), 10<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	imgtool(t, "put", img, big, "/s/big")
	subvolumes, used := state(t, img)
	cmd := exec.Command("imgtool", "send", "--force-ro-snapshot", img, "/s")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 1<<20)); err != nil { // it is sending, and has more than a pipe holds
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // how it ended is in ProcessState
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signal() != syscall.SIGKILL {
		t.Fatalf("not killed: %v", cmd.ProcessState)
	}
	checkImage(t, img)
	if n := orphans(t, img); n != 1 {
		t.Errorf("%d dead subvolumes in the image, want the snapshot", n)
	}
	if ls := imgtool(t, "ls", img); ls != "s\n" {
		t.Errorf("the image has %q", ls)
	}
	if got, _ := state(t, img); got != subvolumes {
		t.Errorf("subvolumes %q, want %q", got, subvolumes)
	}
	imgtool(t, "filesystem", "label", img, "opened") // the next writer
	if got, now := state(t, img); got != subvolumes || now != used {
		t.Errorf("after it was opened for writing: %q, in use:\n%swant:\n%s", got, now, used)
	}
	if n := orphans(t, img); n != 0 {
		t.Errorf("%d dead subvolumes after it was opened for writing", n)
	}
	checkImage(t, img)
}
