package main

import (
	"bufio"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestMetricsAddr scrapes a command that is under way.
func TestMetricsAddr(t *testing.T) {
	img := filepath.Join(t.TempDir(), "a.img")
	imgtool(t, "mkfs", "-q", "-b", "200M", img)
	cmd := exec.Command("imgtool", "put", "--metrics-addr", "127.0.0.1:0", img, "-", "/file")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(line)
	if url == "" {
		t.Fatalf("no address in %q", line)
	}
	if _, err := in.Write(make([]byte, 20<<20)); err != nil { // the image is open, or this would not return
		t.Fatal(err)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`imgtool_btrfs_info{label="",uuid="`, `imgtool_btrfs_device_written_bytes_total{device="` + img + `"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("missing %s in:\n%s", want, text)
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := http.Get(url); err == nil {
		t.Error("it still answers when the command has ended")
	}
}
